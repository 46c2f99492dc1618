// The threads that run modules' code.
#pragma once

#include "hybrid/httpd.hpp"
#include "hybrid/mutex.hpp"
#include "hybrid/scheduler.hpp"
#include "hybrid/slot.hpp"

#include <deque>

namespace hybrid {

struct Config;
class Listener;

/// One thread, and the row of the scoreboard that shows it. Its own thread's, unless said otherwise.
class Worker {
  public:
    Worker(int worker_row, Slot &child_slot, Scheduler &child_scheduler, Listener &child_listener)
        : row(worker_row), slot(child_slot), listener(child_listener), scheduler(child_scheduler)
    {
    }

    /// Says which socket the turn is about, -1 when it is over, for hang_up().
    void set_socket(int fd) EXCLUDES(mu_);
    /// Any thread: shuts that socket down, so that whoever blocks on it comes back. It is not closed, for its number
    /// could then be somebody else's (T33).
    void hang_up() EXCLUDES(mu_);

    /// The thread's body.
    void run();

    const int row;
    Slot &slot;
    Listener &listener;
    Scheduler &scheduler;
    apr_thread_t *thread = nullptr;
    ap_generation_t generation = 0;

  private:
    Mutex mu_;
    int fd_ GUARDED_BY(mu_) = -1;
};

/// Child's main thread.
class Workers {
  public:
    Workers(const Config &config, Slot &slot, Scheduler &scheduler, Listener &listener);

    /// Starts threads until there are `wanted`. False: there could be no more; said in the log, and final.
    bool start(int wanted, apr_threadattr_t *attributes, apr_pool_t *pool, ap_generation_t generation);
    void hang_up();
    /// Waits for threads that are leaving or have left.
    void join();

  private:
    std::deque<Worker> workers_;
    int started_ = 0;
};

} // namespace hybrid
