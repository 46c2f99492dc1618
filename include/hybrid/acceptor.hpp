// SPDX-License-Identifier: Apache-2.0
// Where a child's connections come from, its listening sockets and other children: when they are taken, how many at a
// time, and what an error means.
#pragma once

#include "hybrid/channel.hpp"
#include "hybrid/client.hpp"
#include "hybrid/fd.hpp"
#include "hybrid/poller.hpp"
#include "hybrid/role.hpp"

#include <algorithm>
#include <atomic>
#include <climits>
#include <deque>

namespace hybrid {

struct Config;

class Acceptor {
  public:
    /// What becomes of a connection that has arrived; whose `turn` workers run.
    struct Callbacks {
        void (*arrived)(void *loop, ClientPtr client);
        void *loop;
        Runnable::Run turn;
        /// Something has run out that connections take: gives up so many that have a place elsewhere, or that nobody
        /// would miss.
        void (*make_room)(void *loop, int count);
    };
    Acceptor(const Config &config, Slot &slot, Scheduler &scheduler, Poller &poller, Channel channel,
             const Callbacks &callbacks);
    Acceptor(const Acceptor &) = delete;

    /// So many clients there are descriptors for, as things are in this process, when a child with so many workers
    /// leaves what its requests need. Parent and child.
    static int most_clients(int workers);

    /// Registers the sockets. errno or 0. Child's main thread, before the loop runs.
    [[nodiscard]] int open(ap_listen_rec *listeners);

    /// Takes what is there, several at a time, and hands it to the scheduler. Stops listening after an error that says
    /// something has run out (K14), and for a moment at a time while most workers are blocked.
    void on_readable(PollTarget &socket, Time now) REQUIRES(polling);
    /// Listens again when that is due. Call it before every wait.
    void reconsider(Time now) REQUIRES(polling);
    /// When to call reconsider() at the latest.
    Time next_due() const REQUIRES(polling) { return std::min(again_at_.load(), aside_until_); }

    /// So many connections more the child with the fewest could have.
    unsigned room_elsewhere() const REQUIRES(polling);

    /// Closes this child's copies of the sockets, for good. What has come by then is taken, because it may have woken
    /// us and nobody else; or stays for those who open the sockets next.
    enum class Waiting { AreTaken, Stay };
    void close(Time now, Waiting waiting) REQUIRES(polling);

    /// MaxConnectionsPerChild have been accepted.
    bool used_up() const REQUIRES(polling) { return accepts_left_ <= 0; }

    /// Any thread: most workers are blocked, and clients wait for others.
    bool crowded() const { return crowded_.load(); }

    /// Any thread: pausing, and a connection's end may be what is needed to go on.
    bool pausing() const { return again_at_.load() != kNever; }

  private:
    static constexpr unsigned kNobody = UINT_MAX;
    static constexpr Duration kFullPause = milliseconds(100); // before one that is nearly full looks again
    struct Socket : PollTarget {
        explicit Socket(ap_listen_rec *r) : PollTarget(Kind::Listen), record(r) {}
        ap_listen_rec *record; ///< nullptr: the channel
        int fd = -1;
        Expects expects = Expects::Nothing;
        const sockaddr *local = nullptr;
        const server_rec *server = nullptr;
    };

    bool accept_one(Socket &socket, Time now) REQUIRES(polling);
    ClientPtr take_client(Socket &socket, Time now) REQUIRES(polling);
    ClientPtr take_parcel(Time now) REQUIRES(polling);
    ClientPtr adopt(const Parcel *parcel, Fd fd, const sockaddr_in6 &address, Time now) REQUIRES(polling);
    void drop_parcel(Time now) REQUIRES(polling);
    void on_error(apr_status_t status, Time now) REQUIRES(polling);
    void pause(apr_status_t status, Time now) REQUIRES(polling);
    void stop_listening(Duration length, Time now, const char *why) REQUIRES(polling);
    int room() const REQUIRES(polling);
    bool ahead(Time now) REQUIRES(polling);
    bool nearly_full() const REQUIRES(polling);
    void take_nudge(Time now) REQUIRES(polling);
    bool take(Socket &socket, Time now) REQUIRES(polling);
    void let_others(Socket &socket, bool more, Time now) REQUIRES(polling);
    void step_aside(Duration length, bool more, Time now) REQUIRES(polling);
    void come_back(Time now) REQUIRES(polling);
    bool listen_again(bool to_channel, Time now) REQUIRES(polling);
    bool descriptors_left(const Socket &socket) REQUIRES(polling);

    const Config &config_;
    Slot &slot_;
    Scheduler &scheduler_;
    Poller &poller_;
    const Channel channel_;
    const Callbacks callbacks_;
    std::deque<Socket> sockets_; // they stay where they are: epoll points at them; the channel comes last, if any
    ap_listen_rec *listeners_ = nullptr;
    int accepts_left_ GUARDED_BY(polling);
    std::atomic<Time> again_at_{kNever}; // after an error: not before
    std::atomic<bool> crowded_{false};
    Duration pause_ GUARDED_BY(polling) = 0;
    unsigned dropped_ GUARDED_BY(polling) = 0; // parcels that made no sense
    Time drop_told_at_ GUARDED_BY(polling) = 0;
    int descriptor_limit_; // connections get numbers below this, files that requests need the rest
    int most_connections_ = INT_MAX;
    /// The listening sockets are left to others, not what comes from other children.
    Time aside_until_ GUARDED_BY(polling) = kNever;
    unsigned waits_for_ GUARDED_BY(polling) = kNobody; // who had so many connections has been given a moment
    Time waits_again_at_ GUARDED_BY(polling) = 0;
    unsigned fewest_elsewhere_ GUARDED_BY(polling) = 0;
    Time counted_elsewhere_at_ GUARDED_BY(polling) = 0;
    bool near_limit_ GUARDED_BY(polling) = false;
    bool closed_ GUARDED_BY(polling) = false;
};

} // namespace hybrid
