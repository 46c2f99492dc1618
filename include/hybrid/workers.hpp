// SPDX-License-Identifier: Apache-2.0
// The threads that run modules' code.
#pragma once

#include "hybrid/httpd.hpp"
#include "hybrid/mutex.hpp"
#include "hybrid/scheduler.hpp"
#include "hybrid/slot.hpp"
#include "hybrid/thread_probe.hpp"
#include "hybrid/watchdog.hpp"

#include <atomic>

#include <deque>
#include <optional>
#include <string>
#include <vector>

namespace hybrid {

struct Config;
class Client;
class Loop;
class Session;

/// A row of the scoreboard, and the thread it shows, if there is one at the moment. That thread's, unless said
/// otherwise.
class Worker : public Runner {
  public:
    enum class Kind { Regular, Rejecting };
    Worker(int worker_row, Slot &child_slot, Scheduler &child_scheduler, Loop &child_loop,
           Kind worker_kind = Kind::Regular)
        : row(worker_row), kind(worker_kind), slot(child_slot), loop(child_loop), scheduler(child_scheduler)
    {
    }

    /// Says whom the turn is about, nobody when it is over, for those below.
    void set_client(const Client *client) EXCLUDES(mu_);
    /// Whose process_connection hooks it runs; nullptr when they are over. For Workers::served_here().
    void set_served(Session *session) { served_ = session; }
    /// Any thread: what it is at, in words; empty: nothing.
    std::string describe(Time now) EXCLUDES(mu_);
    /// Any thread: shuts its client's socket down, so that whoever blocks on it comes back. It is not closed, for its
    /// number could then be somebody else's (T33).
    void hang_up() EXCLUDES(mu_);

    /// The thread's body.
    void run();

    /// About to wait for work: the row says so.
    void rest();

    /// Child's main thread, while the worker is at the piece of work `number`, once per tick.
    bool should_yield_token(std::uint64_t number);

    const int row;
    const Kind kind;
    Slot &slot;
    Loop &loop;
    Scheduler &scheduler;
    apr_thread_t *thread = nullptr;

  private:
    friend class Workers;
    bool rests_ = true;
    ThreadProbe probe_;
    Watchdog watchdog_;          // child's main thread's
    apr_pool_t *pool_ = nullptr; // child's main thread's: there is a thread
    std::atomic<bool> left_{false};
    std::atomic<pthread_t> tid_{};
    Session *served_ = nullptr; // this thread's only

    Mutex mu_;
    const Client *client_ GUARDED_BY(mu_) = nullptr;
    Time since_ GUARDED_BY(mu_) = 0;
};

/// The child's threads, made when they are needed. Child's main thread.
class Workers {
  public:
    Workers(const Config &config, Slot &slot, Scheduler &scheduler, Loop &loop);

    /// Where threads come from, and what generation they show.
    void open(apr_threadattr_t *attributes, apr_pool_t *pool, ap_generation_t generation);
    /// Rows without a thread say "ready", too: each can have one at once.
    void show_all();
    /// Starts one more thread. False: there are ThreadsPerChild already, or there can't be more, which is said once.
    bool start_one();
    /// Clears away the threads that have left; how many are there still?
    int reap();

    /// MaxWaitingRequests: there is a worker that does nothing else than reject(). If it can't be started, that is said
    /// once and tried again every second.
    bool can_reject();
    /// Its worker answers the connection's next request with 503. Requires: can_reject() was true.
    void reject(Runnable &connection);
    /// No more of that; at once, or when what it has been given is answered.
    void stop_rejecting(bool at_once);
    /// Threads that are not out yet, of any kind.
    std::size_t running() const { return scheduler_.load().workers + reject_queue_.load().workers; }

    void hang_up();
    /// Any thread: whose process_connection hooks it is that run on it; nullptr: nobody's.
    Session *served_here() const;
    /// Adds a line for each worker that is at something.
    void describe(std::vector<std::string> &lines, Time now);
    /// Waits for threads that are leaving or have left.
    void join();

  private:
    apr_status_t start(Worker &worker);
    void join(Worker &worker);

    Scheduler &scheduler_;
    Scheduler reject_queue_; // has a poller for ever: nobody
    std::deque<Worker> workers_;
    std::optional<Worker> rejector_;
    apr_threadattr_t *attributes_ = nullptr;
    apr_pool_t *pool_ = nullptr;
    ap_generation_t generation_ = 0;
    Time again_at_ = 0;          // after a failure: not before
    Time rejector_again_at_ = 0; // the same, for the one that refuses
};

} // namespace hybrid
