// The parent: forks children, watches how many are idle, reaps them, and ends or replaces them on restart and stop
// (event_run() and server_main_loop() in server/mpm/event/event.c).
#pragma once

#include "hybrid/child.hpp"
#include "hybrid/config.hpp"
#include "hybrid/retained.hpp"

#include <vector>

namespace hybrid {

/// The parent's only thread (T19). One life: from open_logs to the end of run().
class Parent {
  public:
    /// Made in, and destroyed with, `pconf`. `reclaimed` is a C function that calls on_child_gone() of this object:
    /// httpd's ap_reclaim_child_processes() has no baton.
    static Parent *make(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf);

    /// open_logs hook: binds the listening sockets while messages still reach the console. OK or !OK.
    int open_logs(server_rec *server);
    /// mpm hook: DONE stop, OK restart, else failure. In one-process mode it does not return.
    int run(apr_pool_t *plog, server_rec *server);

    /// A child has been reaped. `slot` is kNoSlot for one that has none any more.
    void on_child_gone(int slot, pid_t pid, ap_generation_t generation);

    /// The child that lives in this process: after fork(), or in one-process mode. nullptr in a real parent.
    Child *child() const { return child_; }

  private:
    Parent(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf)
        : config_(config), retained_(retained), reclaimed_(reclaimed), pconf_(pconf)
    {
    }
    int bucket_count() const { return retained_.mpm->num_buckets; }
    void size_staffing(int buckets);
    void start_children(int wanted);
    bool make_child(int slot);
    void note_started(int slot, pid_t pid);
    void account_quiescing(int slot);
    void leave_one_process();
    void serve();
    bool on_exit(const apr_proc_t &process, apr_exit_why_e why, int status);
    bool on_fatal(const apr_proc_t &process, int slot);
    void maintain();
    bool give_up_if_sick();
    std::vector<SlotView> look_at_slots();
    SlotView look_at(int slot);
    void carry_out(const StaffingPlan &plan, const StaffingMemory &memory);
    void say(const StaffingPlan &plan, const StaffingMemory &memory);
    void retire(int slot);
    void retire_former();
    void hurry_quiescing();
    int stop_now();
    int stop_gracefully();
    bool any_child_left();
    int restart();

    Config &config_;
    Retained &retained_;
    ap_reclaim_callback_fn_t *const reclaimed_;
    apr_pool_t *const pconf_;
    std::vector<ap_listen_rec *> buckets_;
    Child *child_ = nullptr;
    bool child_fatal_ = false;
    bool had_healthy_child_ = false;
    int to_start_ = 0;
    int successive_kills_ = 0;
};

} // namespace hybrid
