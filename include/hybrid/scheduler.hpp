// SPDX-License-Identifier: Apache-2.0
// Who runs? Ready work in, workers' turns out. To run anything, or to wait for events, a worker needs one of a few run
// tokens: as many as keep this child's share of the cores busy. Who has one takes the next piece of work, runs it to
// its end, and looks again; when nothing is left it polls for more, itself, so that no work changes threads on its way.
// The others are parked on a stack: the one that parked last, with the warmest caches, is woken first, and always
// exactly one. A token whose holder is blocked is taken away from it, and goes to another worker (watchdog.hpp says
// when). Knows no httpd type and no clock.
#pragma once

#include "hybrid/mutex.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hybrid {

class Worker;

/// A hook in whatever a worker can run: a connection's turn, a timed callback. In at most one queue.
struct Runnable {
    using Run = void (*)(Runnable &self, Worker &worker) noexcept;
    explicit Runnable(Run run_function) : run(run_function) {}

    Run run;
    Runnable *next = nullptr;
};

/// A worker as the scheduler sees it; the scheduler's lock protects it.
class Runner {
  private:
    friend class Scheduler;
    enum class Place : std::uint8_t {
        Away,      ///< on its way to the first next(), or counted out
        Parked,    ///< without a token and without work
        Granted,   ///< woken, with a token
        Dismissed, ///< woken, without one
        Polling,   ///< fetches work, with a token
        Running,   ///< runs something, with a token
        Detached,  ///< runs something without a token, which another worker has now
    };
    Runner *below_ = nullptr;
    Runner *above_ = nullptr;
    std::uint64_t run_ = 0; // counts its pieces of work
    Place place_ = Place::Away;
    bool retired_ = false;
    Condition woken_;
};

/// Any thread, unless said otherwise. The Runnables are handed over with push() and handed on by next(): whoever holds
/// one owns it.
class Scheduler {
  public:
    /// What the scheduler needs from outside. Called without its lock, on any thread.
    struct Hooks {
        void (*wake_poller)(void *baton); ///< ends the sleep that may_sleep() allowed, now or when it begins
        /// Call tick() a moment from now, not from an earlier call: with one token its holder is seen to get on, and
        /// asks for every piece of work; with more, one of them could hide another, so who watches is asked once.
        void (*watch)(void *baton);
        void *baton;
    };

    Scheduler(std::size_t tokens, const Hooks &hooks) : tokens_(tokens), hooks_(hooks) {}
    Scheduler(const Scheduler &) = delete;
    Scheduler &operator=(const Scheduler &) = delete;

    /// Queues `work`, behind everything queued before, and sees to it that somebody runs it.
    void push(Runnable &work) EXCLUDES(mu_);

    /// Is anything waiting that a worker could go on with, were the caller to stop here?
    bool others_wait() const EXCLUDES(mu_);

    /// Counts a worker in; its thread must then do what next() says until that is Leave. unregister_worker() takes it
    /// back when the thread could not be made.
    void register_worker() EXCLUDES(mu_);
    void unregister_worker() EXCLUDES(mu_);

    enum class Act {
        Run,   ///< run `work`, and come back
        Poll,  ///< fetch work: push() what is ready, and come back. Nobody else polls meanwhile
        Park,  ///< call park(), and come back
        Leave, ///< end the thread: the worker is counted out
    };
    struct Next {
        Act act;
        Runnable *work;
    };
    /// The calling worker's thread: what it does next.
    Next next(Runner &self) EXCLUDES(mu_);
    void park(Runner &self) EXCLUDES(mu_);

    /// May the thread that polls sleep until something happens? If so, it calls awake() afterwards.
    bool may_sleep() EXCLUDES(mu_);
    void awake() EXCLUDES(mu_);

    /// A piece of work somebody with a token is at.
    struct Holder {
        Runner *runner;
        std::uint64_t run;
    };
    /// Who was asked to watch: the holders to look at. False: nobody needs to be watched any more, and the hook says
    /// when that changes; else tick again a moment from now.
    bool tick(std::vector<Holder> &holders) EXCLUDES(mu_);
    /// Takes the token from one that tick() gave, if it is still at that piece of work.
    void detach(const Holder &holder) EXCLUDES(mu_);
    /// A token is free and wanted, and no worker is there to have it: one more could go to work at once.
    bool short_of_workers() const EXCLUDES(mu_);

    /// Who looks after the scheduler polls itself, because it is short of workers and can't have another. True: nobody
    /// else polls until stand_down(), which is due when no_worker_available() is not true any more; the hook
    /// wake_poller tells.
    bool poll_in_place() EXCLUDES(mu_);
    bool no_worker_available() const EXCLUDES(mu_);
    void stand_down() EXCLUDES(mu_);
    /// Takes out of the queue the first piece of work, or the last, that `wanted` agrees to, which is called with the
    /// lock held; nullptr: there is none.
    enum class End { First, Last };
    Runnable *pull(End end, bool (*wanted)(void *baton, Runnable &work), void *baton) EXCLUDES(mu_);

    /// Lets parked workers leave that were not needed since the last call, but for `keep` workers in all.
    void retire_unneeded(std::size_t keep) EXCLUDES(mu_);
    /// Workers leave when nothing is queued any more.
    void finish() EXCLUDES(mu_);
    /// Every worker leaves as soon as its turn is over; what is queued is not run.
    void stop() EXCLUDES(mu_);

    struct Load {
        std::size_t workers;           ///< counted in and not yet out
        std::size_t at_work;           ///< of these, running something
        std::size_t parked;            ///< of these, with nothing to do
        std::size_t queued;            ///< work waiting for a worker
        std::size_t turns_since_block; ///< pieces of work begun since somebody last lost its token
    };
    Load load() const EXCLUDES(mu_);

  private:
    using Place = Runner::Place;

    bool wanted() const REQUIRES(mu_) { return first_ || !poller_; }
    bool stop_running(Runner &self) REQUIRES(mu_);
    Next choose(Runner &self, bool token) REQUIRES(mu_);
    Runnable *pop() REQUIRES(mu_);
    void hand_on() REQUIRES(mu_);
    void take_out(Runner &runner, Place place) REQUIRES(mu_);
    void dismiss_parked() REQUIRES(mu_);
    bool leaves(Runner &self) REQUIRES(mu_);

    mutable Mutex mu_;
    const std::size_t tokens_;
    const Hooks hooks_;
    Runnable *first_ GUARDED_BY(mu_) = nullptr;
    Runnable *last_ GUARDED_BY(mu_) = nullptr;
    std::size_t queued_ GUARDED_BY(mu_) = 0;
    std::size_t before_poll_ GUARDED_BY(mu_) = 0; // so much of the queue is run before the next look for more
    std::size_t holders_ GUARDED_BY(mu_) = 0;     // workers with a token
    Runner *poller_ GUARDED_BY(mu_) = nullptr;
    bool poller_sleeps_ GUARDED_BY(mu_) = false; // the poller
    Runner stand_in_;                            // what polls, if it is not a worker
    bool relieved_ GUARDED_BY(mu_) = false;      // since then a worker has come back
    bool watched_ GUARDED_BY(mu_) = false;
    Runner *top_ GUARDED_BY(mu_) = nullptr; // of the stack of parked ones
    Runner *bottom_ GUARDED_BY(mu_) = nullptr;
    std::size_t parked_ GUARDED_BY(mu_) = 0;
    std::size_t least_parked_ GUARDED_BY(mu_) = 0; // since the last retire_unneeded()
    std::size_t workers_ GUARDED_BY(mu_) = 0;
    std::size_t arriving_ GUARDED_BY(mu_) = 0; // of these, not yet seen
    std::size_t at_work_ GUARDED_BY(mu_) = 0;
    std::vector<Runner *> running_ GUARDED_BY(mu_); // those at work with a token
    std::size_t turns_since_block_ GUARDED_BY(mu_) = 0;
    bool finishing_ GUARDED_BY(mu_) = false;
    bool stopped_ GUARDED_BY(mu_) = false;
};

} // namespace hybrid
