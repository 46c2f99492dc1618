// SPDX-License-Identifier: Apache-2.0
// Owns every socket nobody works on: it accepts, hears readiness, keeps the deadlines and the timers, and hands what is
// due to the scheduler. It is no thread but a role: the worker that polls, one at a time, has it for a round, and then
// goes on with what it has found itself. It never waits for a worker (K11), and a connection whose turn has come waits
// for one however long that takes: nothing is closed because all are busy (K01).
#pragma once

#include "hybrid/acceptor.hpp"
#include "hybrid/client.hpp"
#include "hybrid/dormancy.hpp"
#include "hybrid/keeper.hpp"
#include "hybrid/look_again.hpp"
#include "hybrid/pools.hpp"
#include "hybrid/role.hpp"
#include "hybrid/suspended.hpp"

#include <atomic>
#include <span>

namespace hybrid {

class Loop {
  public:
    /// What a worker runs for a connection, and how the child's main thread hears that it should look at crowded(),
    /// wants_drain(), many_dormant() and ended(); any thread may call `notify`.
    struct Callbacks {
        Runnable::Run turn;
        void (*notify)(void *child);
        void *child;
        /// A connection whose next request is to be answered with 503 can be taken over, at the moment; and is. Child's
        /// main thread.
        bool (*can_reject)(void *child);
        void (*reject)(void *child, Runnable &client);
    };

    Loop(const Config &config, Slot &slot, Scheduler &scheduler, Pools &pools, Channel channel,
         const Callbacks &callbacks);
    Loop(const Loop &) = delete;

    /// Opens the poller; from then on timers can be added. errno or 0. Child's main thread.
    [[nodiscard]] int open() { return keeper_.open(); }
    /// Registers the listening sockets. errno or 0. Child's main thread, before run().
    [[nodiscard]] int listen(ap_listen_rec *listeners) { return acceptor_.open(listeners); }
    /// One look at everything, and a sleep if there is nothing to do. Requires: the scheduler has told this worker to
    /// poll.
    void round(Worker &self) EXCLUDES(polling);
    /// The same without a sleep, while all workers are blocked: takes no new connections, and sends those that wait to
    /// children with idle workers. Child's main thread. Requires: Scheduler::poll_in_place() was true.
    struct Unattended {
        Time again_at;   ///< at the latest; sooner when poll_fd() is readable
        bool wants_help; ///< some wait, and no worker is idle anywhere
    };
    Unattended round_unattended() EXCLUDES(polling);
    int poll_fd() const { return keeper_.fd(); }

    // Any thread from here on.

    /// Takes over a connection a worker is done with for now, in a polled state: `what` is waited for, `length` at
    /// most. False: that can't be polled, and has been closed.
    bool park(ClientPtr client, Interest what, Duration length, Deadlines::Length kind = Deadlines::Length::Usual);
    /// The same for one in Arriving: for as long as its client may take for the request.
    void keep_arriving(ClientPtr client);
    /// Takes over a connection in Suspended.
    void suspend(ClientPtr client);
    /// Closes the socket of a connection in Closed.
    void drop(ClientPtr client);

    /// httpd's ap_mpm_register_timed_callback(): runs on a worker, `delay` from now or later.
    void add_timer(Duration delay, TimedCallback callback);

    /// Ends the sleep of the thread that polls.
    void wake() { keeper_.wake(); }

    /// No worker is left that could poll, until one comes back: the scoreboard says so. Child's main thread.
    void note_unpolled();

    /// From now on connections of HTTP/2 end when they have had no stream for a moment; after `patience` a shorter one
    /// is enough; after twice that, clients are asked to open no more.
    void part(Duration patience);
    bool parting() const { return parts_at_.load() != kNever; }
    bool impatient(Time now) const { return now >= parts_at_.load(); }
    bool desperate(Time now) const { return now >= despairs_at_.load(); }
    /// Some of them may have been parked as if nothing had happened.
    void look_again_for_http2();

    /// No new connections; ended() when the last one has gone. Idle ones go to other children, if `hands_over`. Those
    /// that can't are drained in place: each stays until its next answer, which says "Connection: close", or its
    /// KeepAliveTimeout (K04).
    void drain(bool hands_over);
    /// While draining: close those idle ones that can't move, now, and don't look who takes the others.
    void force_drain() { set_mode(Mode::Forced); }
    /// ended() at once, when somebody polls.
    void stop() { set_mode(Mode::Stop); }
    /// Idle connections go to sleep after a while.
    bool dormancy_enabled() const { return dormancy_.possible(); }
    Pools &pools() const { return pools_; }
    ap_filter_rec_t *tls_filter() const { return tls_filter_; }
    const RequestLimits &limits() const { return limits_; }
    /// An idle connection has no future here, nor elsewhere.
    bool closes_idle() const { return mode_.load() >= Mode::Forced && !(hands_over() && dormancy_.possible()); }

    /// Adds a line for each connection that keeps a child which ends, but those that workers have.
    void describe(std::vector<std::string> &lines, Time now);

    bool crowded() const { return acceptor_.crowded(); }
    bool wants_drain() const { return wants_drain_.load(); }
    /// So many connections have gone to sleep that their memory, in pieces between what others have, is worth giving
    /// back to the system; reset_dormant() begins to count anew.
    bool many_dormant() const { return dormant_since_trim_.load() >= kManyDormant; }
    void reset_dormant() { dormant_since_trim_.store(0); }
    bool ended() const { return ended_.load(); }

  private:
    enum class Mode { Serve, Drain, Forced, Stop };
    static constexpr unsigned kManyDormant = 100;
    static constexpr Duration kEndLingerTime = seconds(2); // for every lingering close once the child ends (S20)
    struct TimerTask;

    bool begin_round(Time now) REQUIRES(polling);
    void dispatch(std::span<const epoll_event> events, Time now) REQUIRES(polling);
    bool hand_over_waiting(Time now) REQUIRES(polling);
    void reject_waiting(Time now) REQUIRES(polling);
    bool send(const Parcel &parcel, ClientPtr &client);
    bool hand_over(ClientPtr &client);
    enum class Handed { Over, Back, Closed };
    Handed hand_over_kept(Client &parked) REQUIRES(polling);
    bool may_hand_over(Time now) REQUIRES(polling);
    void hand_over_all(Time now) REQUIRES(polling);
    static bool between_requests(void *self, Runnable &work);
    int hand_over_queued(int most);
    void park_adopted(ClientPtr client);
    bool keep_until(ClientPtr client, Time until);

    bool hands_over() const { return hands_over_.load() && channel_; }
    void set_mode(Mode mode);
    void end() REQUIRES(polling);
    void follow_mode(Time now) REQUIRES(polling);
    void tell_if_quiet() REQUIRES(polling);
    bool drained(Time now) REQUIRES(polling);
    Time next_due(Time now) REQUIRES(polling);
    std::span<const epoll_event> wait(Worker &self, Time now) REQUIRES(polling);
    std::span<const epoll_event> look(Time begin) REQUIRES(polling);
    void on_accepted(ClientPtr client) REQUIRES(polling);
    void on_event(const epoll_event &event, Time now) REQUIRES(polling);
    static bool stays_kept(const Client &client);
    ClientPtr take_out(Client &parked) REQUIRES(polling);
    void on_ready(ClientPtr client) REQUIRES(polling);
    void on_kept_ready(Client &parked) REQUIRES(polling);
    void on_lingering(Client &parked) REQUIRES(polling);
    void on_arriving(Client &parked) REQUIRES(polling);
    void make_dormant(ClientPtr client, Duration rest, Time now) REQUIRES(polling);
    void expire_request(ClientPtr client);
    void on_request_timeout(ClientPtr client, Time now) REQUIRES(polling);
    void make_runnable(ClientPtr client, ConnEvent event);
    void push(ClientPtr client) { scheduler_.push(*client.release()); }
    void expire(Time now) REQUIRES(polling);
    CloseReason why_expired(const Client &client) const;
    void run_timers(Time now) REQUIRES(polling);
    void resume_released();
    void make_room(int count) REQUIRES(polling);
    void shed_http2(Time now) REQUIRES(polling);
    void shed_idle() REQUIRES(polling);
    void shed_oldest(int count) REQUIRES(polling);
    void shed_silent() REQUIRES(polling);
    void shed(Client &parked) REQUIRES(polling);
    void begin_close(ClientPtr client, ConnEvent event, CloseReason reason);
    void close(ClientPtr client, ConnEvent event, CloseReason reason);
    void drop_unpolled(ClientPtr client, int error);

    Slot &slot_;
    Scheduler &scheduler_;
    Pools &pools_;
    const Callbacks callbacks_;
    const Dormancy dormancy_;
    const RequestLimits limits_;
    const Channel channel_;
    ap_filter_rec_t *const tls_filter_;
    const std::size_t most_waiting_; // 0: no bound
    Keeper keeper_;
    Acceptor acceptor_;
    Suspended suspended_;
    std::atomic<Mode> mode_{Mode::Serve};
    std::atomic<bool> hands_over_{false}; // while draining
    std::atomic<Time> hand_over_at_{0};   // idle ones, next time
    std::atomic<Time> parts_at_{kNever};
    std::atomic<Time> despairs_at_{kNever};
    std::atomic<bool> sheds_http2_{false}; // next time
    std::atomic<bool> wants_drain_{false};
    std::atomic<unsigned> dormant_since_trim_{0};
    std::atomic<bool> ended_{false};

    std::atomic<bool> unattended_{false};
    std::atomic<Time> unpolled_quiet_until_{0};

    std::atomic<bool> polled_{false}; // see Polls
    Mode seen_mode_ GUARDED_BY(polling) = Mode::Serve;
    Time orphaned_since_ GUARDED_BY(polling) = kNever;
    bool shed_silent_ GUARDED_BY(polling) = false;
    Time looked_elsewhere_at_ GUARDED_BY(polling) = 0; // who else serves
    bool elsewhere_ GUARDED_BY(polling) = false;
    Time hand_over_waiting_at_ GUARDED_BY(polling) = 0;
    Time refusal_told_at_ GUARDED_BY(polling) = 0;
    LookAgain look_again_ GUARDED_BY(polling);
};

} // namespace hybrid
