// SPDX-License-Identifier: Apache-2.0
// The waiting room: whoever waits for input, for room to write, or for its time to pass, and for nobody's worker. Wakes
// the thread that polls in time for the first of them, and for callbacks that are due. Knows no httpd.
#pragma once

#include "hybrid/conn_state.hpp"
#include "hybrid/deadlines.hpp"
#include "hybrid/mutex.hpp"
#include "hybrid/poller.hpp"
#include "hybrid/role.hpp"
#include "hybrid/timers.hpp"

#include <atomic>
#include <optional>
#include <span>
#include <vector>

namespace hybrid {

/// What can be kept: a descriptor in a state that is polled (conn_state.def), of which there is one deadline.
class Kept : public Timed, public PollTarget {
  public:
    explicit Kept(int fd) : PollTarget(Kind::Client), fd_(fd) {}
    int fd() const { return fd_; }
    ConnState state() const { return state_; }

  protected:
    ConnState state_ = kConnEntry;

  private:
    const int fd_;
};

/// What is kept is owned by the Keeper, until it is taken out again, which only the thread that polls does: so that one
/// may look at it meanwhile.
class Keeper {
  public:
    Keeper() = default;
    Keeper(const Keeper &) = delete;

    /// Makes the descriptors. errno or 0. Before anything else.
    [[nodiscard]] int open() { return poller_.open(); }
    /// For descriptors that are not kept: sockets that listen.
    Poller &poller() { return poller_; }
    /// Readable when wait() would return at once.
    int fd() const { return poller_.fd(); }
    /// Any thread: ends the sleep of the thread that polls.
    void wake() { poller_.wake(); }

    /// Any thread: keeps `client`, whose owner gives it up with this call, until `what` is so, `length` from now at
    /// most. From then on the thread that polls may have it, and may have closed it. errno: it can't be polled, and is
    /// the caller's as before. Requires: its state is the one it waits in.
    [[nodiscard]] int keep(Kept &client, Interest what, Duration length, Time now,
                           Deadlines::Length kind = Deadlines::Length::Usual) EXCLUDES(mu_);
    /// The same for one that has been taken out and polled for the same as before; the time counts from `since`.
    void keep_on(Kept &client, Duration length, Time since, Deadlines::Length kind = Deadlines::Length::Usual)
        REQUIRES(polling) EXCLUDES(mu_);
    /// Takes it out: it is the caller's. What it was polled for stays armed, so that keeping it again costs little;
    /// whoever closes it or sends it away calls forget() first.
    void take(Kept &client) REQUIRES(polling) EXCLUDES(mu_);
    /// Any thread that owns it: no event of it is reported any more.
    void forget(Kept &client) EXCLUDES(mu_);

    struct Heard {
        PollTarget *target; ///< that the event concerns; nullptr: nobody
        Kept *kept;         ///< the same, if it is kept
        bool taken;         ///< it has been taken out
    };
    /// Whose event is it? One that is kept is taken out, unless `stays(it)`.
    template <typename Stays>
    Heard hear(const epoll_event &event, Stays stays) REQUIRES(polling) EXCLUDES(mu_)
    {
        const Lock lock(mu_); // who kept it has let go of it; who closes it has not yet, or it has been forgotten
        PollTarget *target = poller_.target_of(event);
        if (!target || target->kind != PollTarget::Kind::Client)
            return {target, nullptr, false};
        auto &client = static_cast<Kept &>(*target);
        if (!concerns(client))
            return {nullptr, nullptr, false};
        const bool taken = !stays(client);
        if (taken)
            room(client.state()).remove(client);
        return {target, &client, taken};
    }
    /// Polls once more for one that is kept and has had its only event (Interest::ReadableOnce). errno or 0.
    [[nodiscard]] int hear_again(Kept &client) REQUIRES(polling)
    {
        return poller_.arm(client.fd(), client, Interest::ReadableOnce);
    }

    /// One whose time has passed, taken out; nullptr: there is none.
    Kept *take_expired(Time now) REQUIRES(polling) EXCLUDES(mu_);
    /// Those that wait in this state; in order, see Deadlines. WaitIo and WriteCompletion are one.
    void collect(ConnState state, std::vector<Timed *> &kept) REQUIRES(polling) EXCLUDES(mu_);
    /// Those that nobody has called set_seen() for since they were kept.
    void collect_unseen(ConnState state, std::vector<Timed *> &kept) REQUIRES(polling) EXCLUDES(mu_);
    void set_seen(Kept &client) REQUIRES(polling) EXCLUDES(mu_);
    /// Whoever lingers has `length` from now, however long it was before.
    void limit_lingering(Duration length, Time now) REQUIRES(polling) EXCLUDES(mu_);

    /// Any thread: calls `what(kept)` for each that waits in this state; nobody can take them meanwhile.
    template <typename What>
    void for_each(ConnState state, What what) EXCLUDES(mu_)
    {
        const Lock lock(mu_);
        std::vector<Timed *> kept;
        room(state).collect(kept);
        for (const Timed *item : kept)
            what(static_cast<const Kept &>(*item));
    }

    /// Any thread.
    void add_timer(Time due, TimedCallback callback) EXCLUDES(mu_);
    /// A callback that is due, taken out.
    std::optional<TimedCallback> take_due(Time now) REQUIRES(polling) EXCLUDES(mu_);
    Time next_timer() const EXCLUDES(mu_);

    /// When the first of all this is due, or `due`, if that is earlier: sleep() ends then. What is kept with an earlier
    /// deadline from now on wakes it.
    Time plan_sleep(Time due) REQUIRES(polling) EXCLUDES(mu_);
    std::span<const epoll_event> sleep() REQUIRES(polling);
    std::span<const epoll_event> look() REQUIRES(polling) { return poller_.wait(0); }
    /// The last of these two was ended by wake(), or would have been.
    bool woken() const REQUIRES(polling) { return poller_.woken(); }

  private:
    bool concerns(Kept &client) REQUIRES(polling, mu_);
    Deadlines &room(ConnState state) REQUIRES(mu_);

    Poller poller_;
    std::atomic<Time> sleeps_until_{0}; // 0: the thread that polls is awake
    mutable Mutex mu_;
    Deadlines idle_ GUARDED_BY(mu_);     // KeepAlive
    Deadlines io_ GUARDED_BY(mu_);       // WaitIo, WriteCompletion
    Deadlines linger_ GUARDED_BY(mu_);   // Lingering
    Deadlines arriving_ GUARDED_BY(mu_); // Arriving
    Timers timers_ GUARDED_BY(mu_);
};

} // namespace hybrid
