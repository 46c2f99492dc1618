// Ready work in, worker turns out. Workers without work park on a stack: the one that parked last, with the warmest
// caches, is woken first, and always exactly one. Knows no httpd type.
#pragma once

#include "hybrid/mutex.hpp"

#include <cstddef>

namespace hybrid {

class Worker;

/// A hook in whatever a worker can run: a connection's turn, a timed callback. In at most one queue.
struct Runnable {
    using Run = void (*)(Runnable &self, Worker &worker) noexcept;
    explicit Runnable(Run run_function) : run(run_function) {}

    Run run;
    Runnable *next = nullptr;
};

/// Any thread. The Runnables are handed over with push() and handed on by take(): whoever holds one owns it.
class Scheduler {
  public:
    /// Called, with the scheduler locked, when a worker parks after tell_when_parked(): must not block or call back.
    struct ParkHook {
        void (*function)(void *baton) = nullptr;
        void *baton = nullptr;
    };
    Scheduler() = default;
    Scheduler(const Scheduler &) = delete;
    Scheduler &operator=(const Scheduler &) = delete;

    /// Queues `work`, behind everything queued before. Wakes the worker that parked last, if one is parked.
    void push(Runnable &work) EXCLUDES(mu_);

    /// Counts a worker in; its thread must then call take() until that says nullptr. leave() takes it back when the
    /// thread could not be made.
    void enter() EXCLUDES(mu_);
    void leave() EXCLUDES(mu_);

    /// The next piece of work for the calling worker; parks it while there is none. nullptr: leave, and don't call
    /// again (the worker is counted out).
    Runnable *take() EXCLUDES(mu_);

    /// Lets workers leave, idle ones first and oldest first, until at most `workers` are left. Work that is queued is
    /// still done as long as one is left.
    void limit(std::size_t workers) EXCLUDES(mu_);

    /// Every worker leaves as soon as its turn is over; what is queued is not run.
    void stop() EXCLUDES(mu_);

    /// The hook is called the next time a worker parks, once.
    void tell_when_parked(ParkHook hook) EXCLUDES(mu_);

    struct Load {
        std::size_t workers; ///< counted in and not yet out
        std::size_t parked;  ///< of these, idle
        std::size_t queued;  ///< work waiting for a worker
    };
    Load load() const EXCLUDES(mu_);

  private:
    struct Parked {
        Parked *below = nullptr;
        Parked *above = nullptr;
        Runnable *work = nullptr;
        bool leave = false;
        Condition woken;
    };

    bool surplus() const REQUIRES(mu_) { return workers_ > limit_ || stopped_; }
    void unpark(Parked &worker) REQUIRES(mu_);

    mutable Mutex mu_;
    Runnable *first_ GUARDED_BY(mu_) = nullptr;
    Runnable *last_ GUARDED_BY(mu_) = nullptr;
    Parked *top_ GUARDED_BY(mu_) = nullptr;
    Parked *bottom_ GUARDED_BY(mu_) = nullptr;
    std::size_t queued_ GUARDED_BY(mu_) = 0;
    std::size_t parked_ GUARDED_BY(mu_) = 0;
    std::size_t workers_ GUARDED_BY(mu_) = 0;
    std::size_t limit_ GUARDED_BY(mu_) = static_cast<std::size_t>(-1);
    bool stopped_ GUARDED_BY(mu_) = false;
    ParkHook park_hook_ GUARDED_BY(mu_);
};

} // namespace hybrid
