// SPDX-License-Identifier: Apache-2.0
// The parent's life: bind, serve until a signal says otherwise, then restart or stop (event_run() and
// server_main_loop() in server/mpm/event/event.c).
#pragma once

#include "hybrid/children.hpp"

namespace hybrid {

/// The parent's only thread (T19). One life: from open_logs to the end of run().
class Parent {
  public:
    /// Made in, and destroyed with, `pconf`. `reclaimed` is a C function that calls children().on_gone() of this
    /// object: httpd's ap_reclaim_child_processes() has no baton.
    static Parent *make(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf);

    /// open_logs hook: binds the listening sockets while messages still reach the console. OK or !OK.
    int open_logs(server_rec *server);
    /// mpm hook: DONE stop, OK restart, else failure. In one-process mode it does not return.
    int run(apr_pool_t *plog, server_rec *server);

    Children &children() { return children_; }

  private:
    Parent(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf)
        : config_(config), retained_(retained), reclaimed_(reclaimed), pconf_(pconf), children_(config, retained, pconf)
    {
    }
    void serve();
    void wait(apr_proc_t &process, apr_exit_why_e &why, int &status);
    bool on_exit(const apr_proc_t &process, apr_exit_why_e why, int status);
    bool on_fatal(const apr_proc_t &process, int slot);
    bool give_up_if_sick();
    int stop_now();
    int stop_within_limit();
    int stop_gracefully(Time cutoff, Duration more);
    int restart();

    Config &config_;
    Retained &retained_;
    ap_reclaim_callback_fn_t *const reclaimed_;
    apr_pool_t *const pconf_;
    Children children_;
    bool child_fatal_ = false;
    bool told_of_sick_ = false;
    int successive_kills_ = 0;
    Time serve_until_ = kNever;
    Time monitored_at_ = now();
};

} // namespace hybrid
