#include "hybrid/parent.hpp"

#include <algorithm>
#include <cerrno>
#include <new>

namespace hybrid {

Parent *Parent::make(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf)
{
    auto *parent = new Parent(config, retained, reclaimed, pconf);
    const auto destroy = [](void *self) -> apr_status_t {
        delete static_cast<Parent *>(self);
        return APR_SUCCESS;
    };
    apr_pool_cleanup_register(pconf, parent, destroy, apr_pool_cleanup_null);
    return parent;
}

int Parent::open_logs(server_rec *server)
{
    // The reverse of pre_config: only the first time around the console is there.
    const bool startup = retained_.mpm->module_loads == 1;
    const int flags = startup ? APLOG_STARTUP : 0;
    server_rec *const where = startup ? nullptr : server;

    if (ap_setup_listeners(ap_server_conf) < 1) {
        ap_log_error(APLOG_MARK, APLOG_ALERT | flags, 0, where, "no listening sockets available, shutting down");
        return !OK;
    }
    int buckets = 0;
    if (config_.one_process)
        buckets = 1;
    else if (retained_.mpm->was_graceful)
        buckets = retained_.mpm->num_buckets; // preserved (H05)
    ap_listen_rec **records = nullptr;
    if (const apr_status_t rv = ap_duplicate_listeners(pconf_, ap_server_conf, &records, &buckets)) {
        ap_log_error(APLOG_MARK, APLOG_CRIT | flags, rv, where, "could not duplicate listeners");
        return !OK;
    }
    buckets_.assign(records, records + buckets);
    size_staffing(buckets);
    return OK;
}

// New buckets start at the highest rate so far, so that they fill as quickly as the others.
void Parent::size_staffing(int buckets)
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    if (mpm.max_buckets < buckets || !retained_.staffing) {
        mpm.max_buckets = std::max(buckets, mpm.max_buckets * 2);
        auto *more = static_cast<StaffingMemory *>(apr_pcalloc(ap_pglobal, mpm.max_buckets * sizeof(StaffingMemory)));
        if (retained_.staffing)
            std::copy_n(retained_.staffing, mpm.num_buckets, more);
        else
            mpm.num_buckets = 0;
        retained_.staffing = more;
    }
    int rate = 1;
    for (int i = 0; i < mpm.num_buckets; ++i)
        rate = std::max(rate, retained_.staffing[i].spawn_rate);
    for (int i = mpm.num_buckets; i < buckets; ++i)
        retained_.staffing[i] = {rate, 0};
    mpm.num_buckets = buckets;
}

int Parent::run(apr_pool_t *plog, server_rec *server)
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    ap_log_pid(pconf_, ap_pid_fname);
    if (!mpm.was_graceful) {
        if (ap_run_pre_mpm(server->process->pool, SB_SHARED) != OK) {
            set_mpm_state(retained_, AP_MPMQ_STOPPING);
            return !OK;
        }
        ap_scoreboard_image->global->running_generation = mpm.my_generation;
    }
    ap_unixd_mpm_set_signals(pconf_, config_.one_process);
    config_.fit_buckets(bucket_count());
    if (mpm.was_graceful)
        for (int i = 0; i < bucket_count(); ++i)
            retained_.staffing[i].hold_off = 10; // no exponential spawning while the old generation ends (P06)
    start_children(config_.start_servers);
    if (mpm.was_graceful)
        retire_former(); // only now that the new ones are on their way: no moment without anybody who accepts (K05)

    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                 APLOGNO(00489) "%s configured -- resuming normal operations", ap_get_server_description());
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf, APLOGNO(00490) "Server built: %s", ap_get_server_built());
    ap_log_command_line(plog, server);
    ap_log_mpm_common(server);

    set_mpm_state(retained_, AP_MPMQ_RUNNING);
    serve();
    set_mpm_state(retained_, AP_MPMQ_STOPPING);
    if (mpm.shutdown_pending)
        return mpm.is_ungraceful ? stop_now() : stop_gracefully();
    return restart();
}

// At once, also while an old generation is still there. What can't be started for want of slots is as soon as a child
// has gone, and the idle connections of those that end are given up for it.
void Parent::start_children(int wanted)
{
    const std::vector<int> slots = free_slots(look_at_slots(), wanted);
    to_start_ = 0;
    for (const int slot : slots)
        if (!make_child(slot))
            return;
    to_start_ = wanted - static_cast<int>(slots.size());
    if (to_start_ > 0)
        hurry_quiescing();
}

bool Parent::make_child(int slot)
{
    retained_.max_daemon_used = std::max(retained_.max_daemon_used, slot + 1);
    const process_score &score = *ap_get_scoreboard_process(slot);
    if (score.pid != 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                     APLOGNO(03455) "BUG: Scoreboard slot %d should be empty but is in use by pid %" APR_PID_T_FMT,
                     slot, score.pid);
        return false;
    }
    const Child::Birth birth = {
        config_, retained_, pconf_, buckets_[slot % bucket_count()], slot, getpid(), nullptr, nullptr,
    };
    if (config_.one_process) {
        Child::Birth here = birth;
        here.before_exit = [](void *self) { static_cast<Parent *>(self)->leave_one_process(); };
        here.parent_object = this;
        note_started(slot, getpid());
        child_ = new Child(here);
        child_->main();
    }
    Child::block_signals();
    const pid_t pid = fork();
    if (pid == 0) {
#if AP_HAS_THREAD_LOCAL
        ap_thread_current_after_fork();
#endif
        for (ap_listen_rec *records : buckets_)
            if (records != birth.listeners)
                ap_close_listeners_ex(records);
        child_ = new Child(birth);
        child_->main();
    }
    const int error = errno;
    Child::unblock_signals();
    if (pid < 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, error, ap_server_conf, APLOGNO(00481) "fork: Unable to fork new process");
        apr_sleep(apr_time_from_sec(10)); // no loop of forks when the system is at its limit (P14)
        return false;
    }
    note_started(slot, pid);
    return true;
}

void Parent::leave_one_process()
{
    on_child_gone(0, 0, 0);
    // Quietly: the user may have changed since it was written, and then may not remove it (M07).
    apr_file_remove(ap_server_root_relative(pconf_, ap_pid_fname), pconf_);
}

void Parent::note_started(int slot, pid_t pid)
{
    const ap_generation_t generation = retained_.mpm->my_generation;
    process_score &score = *ap_get_scoreboard_process(slot);
    ++retained_.total_daemons;
    ++retained_.active_daemons;
    score.pid = pid;
    score.generation = generation;
    ap_run_child_status(ap_server_conf, pid, generation, slot, MPM_CHILD_STARTED);
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 "Child %d started: pid %d, gen %d, active %d/%d, total %d/%d/%d", slot, static_cast<int>(pid),
                 static_cast<int>(generation), retained_.active_daemons, config_.active_limit, retained_.total_daemons,
                 retained_.max_daemon_used, config_.server_limit);
}

// A child that ends gracefully counts as active no more, once (P16).
void Parent::account_quiescing(int slot)
{
    process_score &score = *ap_get_scoreboard_process(slot);
    const char before = __atomic_exchange_n(&score.quiescing, static_cast<char>(kAccounted), __ATOMIC_SEQ_CST);
    if (before == kAccounted)
        return;
    --retained_.active_daemons;
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 "Child %d quiescing: pid %d, gen %d, active %d/%d, total %d/%d/%d", slot, static_cast<int>(score.pid),
                 static_cast<int>(score.generation), retained_.active_daemons, config_.active_limit,
                 retained_.total_daemons, retained_.max_daemon_used, config_.server_limit);
}

void Parent::on_child_gone(int slot, pid_t pid, ap_generation_t generation)
{
    if (slot == kNoSlot) {
        ap_run_child_status(ap_server_conf, pid, generation, kNoSlot, MPM_CHILD_EXITED);
        return;
    }
    process_score &score = *ap_get_scoreboard_process(slot);
    pid = score.pid;
    generation = score.generation;
    for (int row = 0; row < config_.thread_limit; ++row) // it may have had more threads than are configured now (B14)
        if (ap_get_scoreboard_worker_from_indexes(slot, row)->status != SERVER_DEAD)
            ap_update_child_status_from_indexes(slot, row, SERVER_DEAD, nullptr);
    ap_run_child_status(ap_server_conf, pid, generation, slot, MPM_CHILD_EXITED);
    if (score.quiescing != kAccounted)
        --retained_.active_daemons;
    --retained_.total_daemons;
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 "Child %d stopped: pid %d, gen %d, active %d/%d, total %d/%d/%d, quiescing %d", slot,
                 static_cast<int>(pid), static_cast<int>(generation), retained_.active_daemons, config_.active_limit,
                 retained_.total_daemons, retained_.max_daemon_used, config_.server_limit, score.quiescing);
    score.not_accepting = 0;
    score.quiescing = kServing;
    score.pid = 0;
}

void Parent::serve()
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    while (!mpm.restart_pending && !mpm.shutdown_pending) {
        apr_exit_why_e why;
        int status;
        apr_proc_t process;
        ap_wait_or_timeout(&why, &status, &process, pconf_, ap_server_conf);
        if (process.pid != -1) {
            if (!on_exit(process, why, status))
                continue;
        } else {
            successive_kills_ = 0;
        }
        if (to_start_ > 0)
            start_children(to_start_); // they are not idle yet: no look at the others in this round
        else
            maintain();
    }
}

// True when the loop should look at the children's number right away: after a death by a signal, which is a crash,
// but not after more than two in a row, which would be a flood (P11).
bool Parent::on_exit(const apr_proc_t &process, apr_exit_why_e why, int status)
{
    apr_proc_t reaped = process;
    const int processed = ap_process_child_status(&reaped, why, status);
    const int slot = ap_find_child_by_pid(&reaped);
    if (processed == APEXIT_CHILDFATAL && on_fatal(process, slot))
        return false;
    if (processed == APEXIT_CHILDSICK)
        retained_.sick_child_detected = 1;
    if (slot >= 0) {
        on_child_gone(slot, 0, 0);
        if (processed == APEXIT_CHILDSICK)
            retained_.staffing[slot % bucket_count()].spawn_rate = 1;
        else if (to_start_ > 0 && make_child(slot))
            --to_start_;
    } else if (apr_proc_other_child_alert(&reaped, APR_OC_REASON_DEATH, status) != 0 && retained_.mpm->was_graceful) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                     APLOGNO(00488) "long lost child came home! (pid %ld)", static_cast<long>(process.pid));
    }
    if (slot < 0 || !APR_PROC_CHECK_SIGNALED(why))
        return false;
    if (++successive_kills_ >= 3) {
        if (successive_kills_ % 10 == 3)
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                         APLOGNO(10392) "children are killed successively!");
        return false;
    }
    ++to_start_;
    return true;
}

// A child that could not start for a reason that will not go away. True: the server ends. One of an old generation may
// just have lost a race with the restart (PR 39311).
bool Parent::on_fatal(const apr_proc_t &process, int slot)
{
    if (slot < 0 || ap_get_scoreboard_process(slot)->generation == retained_.mpm->my_generation) {
        retained_.mpm->shutdown_pending = 1;
        child_fatal_ = true;
        return true;
    }
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                 APLOGNO(00487) "Ignoring fatal error in child of previous generation (pid %ld).",
                 static_cast<long>(process.pid));
    retained_.sick_child_detected = 1;
    return false;
}

SlotView Parent::look_at(int slot)
{
    const process_score &score = *ap_get_scoreboard_process(slot);
    SlotView view;
    view.occupied = score.pid != 0;
    if (!view.occupied)
        return view;
    view.quiescing = score.quiescing != kServing;
    view.accepting = !score.not_accepting;
    view.current = score.generation == retained_.mpm->my_generation;
    view.connections = score.connections;
    bool up = false;
    for (int row = 0; row < config_.threads_per_child; ++row) {
        const int status = ap_get_scoreboard_worker_from_indexes(slot, row)->status;
        view.idle += status == SERVER_STARTING || status == SERVER_READY;
        view.active += status >= SERVER_READY && status < SERVER_GRACEFUL;
        up |= status >= SERVER_READY;
    }
    if (!up)
        view.idle = config_.threads_per_child; // it was started a while ago, and more forks would not help it
    else if (view.active > 0)
        had_healthy_child_ = true;
    return view;
}

std::vector<SlotView> Parent::look_at_slots()
{
    std::vector<SlotView> slots(config_.server_limit);
    int last = -1;
    for (int i = 0; i < config_.server_limit; ++i) {
        slots[i] = look_at(i);
        if (slots[i].occupied)
            last = i;
        if (slots[i].occupied && slots[i].quiescing)
            account_quiescing(i);
    }
    retained_.max_daemon_used = last + 1;
    return slots;
}

void Parent::maintain()
{
    const std::vector<SlotView> slots = look_at_slots();
    if (give_up_if_sick())
        return;
    for (int bucket = 0; bucket < bucket_count(); ++bucket) {
        const StaffingLimits limits = {
            bucket_count(),
            config_.active_limit,
            config_.max_request_workers,
            config_.min_spare_threads,
            config_.max_spare_threads,
            retained_.active_daemons,
            retained_.total_daemons,
        };
        StaffingMemory &memory = retained_.staffing[bucket];
        carry_out(plan_staffing(limits, slots, bucket, memory), memory);
    }
}

// A child fell ill before any was ever well: the server would never come up (P13).
bool Parent::give_up_if_sick()
{
    if (!retained_.sick_child_detected)
        return false;
    if (had_healthy_child_) {
        retained_.sick_child_detected = 0;
        return false;
    }
    retained_.mpm->shutdown_pending = 1;
    child_fatal_ = true;
    ap_log_error(APLOG_MARK, APLOG_ALERT, 0, ap_server_conf,
                 APLOGNO(02324) "A resource shortage or other unrecoverable failure was encountered before any child "
                                "process initialized successfully... httpd is exiting!");
    return true;
}

void Parent::carry_out(const StaffingPlan &plan, const StaffingMemory &memory)
{
    say(plan, memory);
    if (plan.retire >= 0)
        retire(plan.retire);
    for (const int slot : plan.spawn)
        make_child(slot);
    if (plan.note == StaffingNote::ScoreboardFull)
        hurry_quiescing();
}

void Parent::say(const StaffingPlan &plan, const StaffingMemory &memory)
{
    switch (plan.note) {
    case StaffingNote::AtMaxRequestWorkers:
        if (!std::exchange(retained_.maxclients_reported, 1))
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                         APLOGNO(00484) "server reached MaxRequestWorkers setting, consider raising the "
                                        "MaxRequestWorkers setting");
        break;
    case StaffingNote::NearMaxRequestWorkers:
        if (!std::exchange(retained_.near_maxclients_reported, 1))
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                         APLOGNO(10159) "server is within MinSpareThreads of MaxRequestWorkers, consider raising the "
                                        "MaxRequestWorkers setting");
        break;
    case StaffingNote::ScoreboardFull:
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                     APLOGNO(03490) "scoreboard is full, not at MaxRequestWorkers.Increase ServerLimit.");
        break;
    case StaffingNote::Busy:
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf,
                     APLOGNO(00486) "server seems busy, (you may need to increase StartServers, ThreadsPerChild or "
                                    "Min/MaxSpareThreads), spawning %d children, there are around %d idle threads, %d "
                                    "active children, and %d children that are shutting down",
                     static_cast<int>(plan.spawn.size()), plan.idle, retained_.active_daemons, retained_.total_daemons);
        break;
    case StaffingNote::AtActiveLimit:
        ap_log_error(APLOG_MARK, APLOG_TRACE1, 0, ap_server_conf,
                     "server is at active daemons limit: active %d/%d, rate %d", retained_.active_daemons,
                     config_.active_limit, memory.spawn_rate);
        break;
    case StaffingNote::None:
        break;
    }
}

void Parent::retire(int slot)
{
    const process_score &score = *ap_get_scoreboard_process(slot);
    if (score.quiescing == kServing)
        ap_mpm_safe_kill(score.pid, AP_SIG_GRACEFUL);
    account_quiescing(slot);
}

void Parent::retire_former()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid != 0 && score.generation != retained_.mpm->my_generation)
            retire(slot);
    }
}

// To a child that is ending already the signal means: make haste.
void Parent::hurry_quiescing()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid != 0 && score.quiescing != kServing)
            ap_mpm_safe_kill(score.pid, AP_SIG_GRACEFUL);
    }
}

int Parent::stop_now()
{
    ap_reclaim_child_processes(1, reclaimed_); // SIGTERM first
    if (!child_fatal_) {
        ap_remove_pid(pconf_, ap_pid_fname);
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf, APLOGNO(00491) "caught SIGTERM, shutting down");
    }
    return DONE;
}

int Parent::stop_gracefully()
{
    ap_close_listeners();
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        if (ap_get_scoreboard_process(slot)->pid != 0)
            retire(slot);
    ap_relieve_child_processes(reclaimed_);
    if (!child_fatal_) {
        ap_remove_pid(pconf_, ap_pid_fname);
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                     APLOGNO(00492) "caught " AP_SIG_GRACEFUL_STOP_STRING ", shutting down gracefully");
    }
    const Time cutoff = ap_graceful_shutdown_timeout ? later(now(), seconds(ap_graceful_shutdown_timeout)) : kNever;
    retained_.mpm->shutdown_pending = 0;
    do { // a signal ends the sleep early
        apr_sleep(std::clamp<Duration>(cutoff - now(), 0, apr_time_from_sec(1)));
        ap_relieve_child_processes(reclaimed_);
    } while (!retained_.mpm->shutdown_pending && any_child_left() && now() < cutoff);
    ap_reclaim_child_processes(1, reclaimed_);
    return DONE;
}

bool Parent::any_child_left()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        if (ap_get_scoreboard_process(slot)->pid != 0)
            return true;
    return false;
}

int Parent::restart()
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    ++mpm.my_generation;
    ap_scoreboard_image->global->running_generation = mpm.my_generation;
    if (!mpm.is_ungraceful) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                     APLOGNO(00493) AP_SIG_GRACEFUL_STRING " received.  Doing graceful restart");
        // The children serve on while the configuration is read; run() retires them.
    } else {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                     APLOGNO(00494) "SIGHUP received.  Attempting to restart");
        ap_reclaim_child_processes(1, reclaimed_);
    }
    return OK;
}

} // namespace hybrid
