// SPDX-License-Identifier: Apache-2.0
// A child from fork to exit: drop privileges, start, serve, drain.
//
// The parent speaks to it by signals, each to one process: AP_SIG_GRACEFUL means end gracefully, others take the
// clients over, AP_SIG_GRACEFUL_STOP the same, but there are no others, kCloseIdle means end gracefully and close idle
// connections that can't move, SIGTERM means end now, whatever else is going on (K06). doc/notes has why not httpd's
// pipe of death.
#pragma once

#include "hybrid/config.hpp"
#include "hybrid/fd.hpp"
#include "hybrid/loop.hpp"
#include "hybrid/pools.hpp"
#include "hybrid/scheduler.hpp"
#include "hybrid/slot.hpp"
#include "hybrid/workers.hpp"

#include <atomic>
#include <csignal>
#include <memory>
#include <vector>

namespace hybrid {

/// Main thread, unless said otherwise. Made after fork(), never destroyed: the process ends first.
class Child {
  public:
    struct Birth {
        const Config &config;
        Retained &retained;
        apr_pool_t *pconf;
        ap_listen_rec *listeners; ///< of this child's bucket
        int slot;
        int number; ///< the slot's, or another one: no other child has it
        pid_t parent;
        bool goodbye;     ///< as if kGoodbye had come
        int parent_calls; ///< an eventfd: see Children::wait_for_call()
        /// One-process mode: what the parent, that is this process, does before it exits. Else nullptr.
        void (*before_exit)(void *parent_object);
        void *parent_object;
    };

    static constexpr int kCloseIdle = SIGUSR2;
    /// Serve on, but answers say "Connection: close": the server is about to stop.
    static constexpr int kGoodbye = SIGURG;
    /// What a child adds to its parent's eventfd: it wants more children to be started; it is up, or something else
    /// that its slot says has changed.
    static constexpr std::uint64_t kHelp = 1;
    static constexpr std::uint64_t kNews = std::uint64_t{1} << 32;

    explicit Child(const Birth &birth);

    /// First part: everything up to dropping privileges and child_init; then serves until told otherwise. Exits.
    [[noreturn]] void main();

    /// A child that ends answers "stopping" to mpm_query, but not to mod_http2 (goodbye.hpp). True on a worker's thread
    /// that is at a connection of HTTP/2; if that has been busy for too long, its client has now been asked to open no
    /// more streams.
    bool hides_end();

    /// httpd's ap_mpm_register_timed_callback(). Any thread.
    apr_status_t add_timer(Duration delay, TimedCallback callback);

    /// Signals a child waits for are held back from before fork() until they can be read, so that none is lost.
    /// Parent, around fork().
    static void block_signals();
    static void unblock_signals();

  private:
    enum class Ending { None, Graceful, Now };

    void prepare();
    void watch_signals();
    void follow_parent();
    void make_runtime();
    void start_threads();
    void serve();
    void watch();
    void tick_after(Time t);
    void on_tick();
    Time poll_in_place();
    void on_notice();
    void trim_memory();
    void end_overdue();
    void call_parent(std::uint64_t what);
    void on_signal();
    void part(Duration limit);
    void end_gracefully(bool hands_over);
    void end_now();
    bool wait_for_workers();
    [[noreturn]] void exit_child(int code);

    const Birth birth_;
    apr_pool_t *pchild_ = nullptr;
    apr_pool_t *pruntime_ = nullptr;
    Ending ending_ = Ending::None;
    bool polls_in_place_ = false;
    Time ends_by_ = kNever;
    Time trim_at_ = kNever;
    Fd signals_;
    Fd notify_fd_;
    Fd watchdog_fd_;
    std::atomic<Time> watchdog_rearm_at_{0}; // the next tick is put off from then on
    std::vector<Scheduler::Holder> holders_;

    // Made by make_runtime(), in this order.
    std::unique_ptr<Slot> slot_;
    std::unique_ptr<Scheduler> scheduler_;
    std::unique_ptr<Pools> pools_;
    std::unique_ptr<Loop> loop_;
    std::unique_ptr<Workers> workers_;
};

} // namespace hybrid
