// SPDX-License-Identifier: Apache-2.0
#include "hybrid/parent.hpp"

#include <algorithm>
#include <csignal>
#include <new>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kMonitorPeriod = seconds(10);
constexpr int kChildDescriptors = 9;        // that a child makes for itself
constexpr Duration kQuietTime = seconds(1); // new requests wait so long for those in work

void mask_stop_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGTERM, SIGINT, AP_SIG_GRACEFUL_STOP})
        sigaddset(&set, signal);
    pthread_sigmask(how, &set, nullptr);
}

// At a restart, clearing pconf resets what the signal handlers have noted (unset_signals() in os/unix/unixd.c). A stop
// that comes just then would be forgotten, so it is held back: from here until Parent's own cleanup, which was
// registered earlier, hence runs later.
apr_status_t hold_stop_signals(void *retained)
{
    mask_stop_signals(SIG_BLOCK);
    const auto *mpm = static_cast<ap_unixd_mpm_retained_data *>(retained);
    if (mpm->shutdown_pending)
        raise(mpm->is_ungraceful ? SIGTERM : AP_SIG_GRACEFUL_STOP);
    return APR_SUCCESS;
}

void say_limit(Duration limit)
{
    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                 HYBLOGNO(0016) "caught SIGTERM, shutting down gracefully, within %.10g seconds",
                 static_cast<double>(limit) / seconds(1));
}

} // namespace

Parent *Parent::make(Config &config, Retained &retained, ap_reclaim_callback_fn_t *reclaimed, apr_pool_t *pconf)
{
    auto *parent = new Parent(config, retained, reclaimed, pconf);
    const auto destroy = [](void *self) -> apr_status_t {
        delete static_cast<Parent *>(self);
        mask_stop_signals(SIG_UNBLOCK);
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
    if (const int clients = Acceptor::most_clients(config_.threads_per_child) - kChildDescriptors;
        startup && clients < 1) {
        ap_log_error(
            APLOG_MARK, APLOG_CRIT | flags, 0, where,
            HYBLOGNO(0019) "the limit of open files (ulimit -n) leaves no descriptor for clients: it has to be "
                           "higher by %d at least",
            2 * (1 - clients));
        return !OK;
    }
    children_.share();
    children_.set_buckets(records, buckets);
    return OK;
}

int Parent::run(apr_pool_t *plog, server_rec *server)
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    if (const int error = children_.open()) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, error, ap_server_conf,
                     HYBLOGNO(0009) "can't make the descriptor that children call by");
        return !OK;
    }
    ap_log_pid(pconf_, ap_pid_fname);
    if (!mpm.was_graceful) {
        if (ap_run_pre_mpm(server->process->pool, SB_SHARED) != OK) {
            set_mpm_state(retained_, AP_MPMQ_STOPPING);
            return !OK;
        }
        ap_scoreboard_image->global->running_generation = mpm.my_generation;
    }
    ap_unixd_mpm_set_signals(pconf_, config_.one_process);
    config_.fit_buckets(mpm.num_buckets);
    if (mpm.was_graceful)
        for (int i = 0; i < mpm.num_buckets; ++i)
            retained_.staffing[i].hold_off = 10; // no exponential spawning while the old generation ends (P06)
    children_.start(config_.start_servers);
    if (mpm.was_graceful)
        children_.replace_former(); // no moment without anybody who accepts (K05)

    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                 APLOGNO(00489) "%s configured -- resuming normal operations", ap_get_server_description());
    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf, HYBLOGNO(0035) "mod_mpm_hybrid %s, built for Apache %s",
                 kVersion, AP_SERVER_BASEREVISION);
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf, APLOGNO(00490) "Server built: %s", ap_get_server_built());
    ap_log_command_line(plog, server);
    ap_log_mpm_common(server);

    set_mpm_state(retained_, AP_MPMQ_RUNNING);
    serve();
    if (mpm.shutdown_pending && mpm.is_ungraceful && !child_fatal_ && config_.stop_limit > 0)
        return stop_within_limit();
    set_mpm_state(retained_, AP_MPMQ_STOPPING);
    if (!mpm.shutdown_pending)
        return restart();
    if (!mpm.is_ungraceful)
        mpm.shutdown_pending = 0; // from now on another signal means: at once
    if (mpm.is_ungraceful)
        return stop_now();
    ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                 APLOGNO(00492) "caught " AP_SIG_GRACEFUL_STOP_STRING ", shutting down gracefully");
    return stop_gracefully(ap_graceful_shutdown_timeout ? later(now(), seconds(ap_graceful_shutdown_timeout)) : kNever,
                           config_.stop_limit);
}

void Parent::serve()
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    while (!mpm.restart_pending && !mpm.shutdown_pending && now() < serve_until_) {
        apr_exit_why_e why;
        int status;
        apr_proc_t process;
        wait(process, why, status);
        if (process.pid != -1) {
            if (!on_exit(process, why, status))
                continue;
        } else {
            successive_kills_ = 0;
        }
        if (children_.still_to_start() > 0)
            children_.start(children_.still_to_start()); // not idle yet: no look at the others in this round
        else if (!give_up_if_sick())
            children_.maintain();
    }
}

// As ap_wait_or_timeout() in server/mpm_common.c, but a child that has no more workers for its clients ends the sleep.
void Parent::wait(apr_proc_t &process, apr_exit_why_e &why, int &status)
{
    if (now() >= later(monitored_at_, kMonitorPeriod)) {
        monitored_at_ = now();
        ap_run_monitor(pconf_, ap_server_conf);
    }
    const apr_status_t rv = apr_proc_wait_all_procs(&process, &status, &why, APR_NOWAIT, pconf_);
#if AP_MODULE_MAGIC_AT_LEAST(20120211, 80)
    ap_update_global_status();
#endif
    if (APR_STATUS_IS_CHILD_DONE(rv))
        return;
    process.pid = -1;
    if (!APR_STATUS_IS_EINTR(rv))
        children_.wait_for_call(seconds(1));
}

// True when the loop should look at the children's number right away: after the death by a signal, which is a crash, of
// one that served, but not after more than two in a row, which would be a flood (P11).
bool Parent::on_exit(const apr_proc_t &process, apr_exit_why_e why, int status)
{
    apr_proc_t reaped = process;
    const int processed = ap_process_child_status(&reaped, why, status);
    const int slot = ap_find_child_by_pid(&reaped);
    if (processed == APEXIT_CHILDFATAL && on_fatal(process, slot))
        return false;
    if (processed == APEXIT_CHILDSICK)
        retained_.sick_child_detected = 1;
    const bool served = slot >= 0 && children_.serves(slot);
    if (slot >= 0) {
        children_.on_gone(slot, 0, 0);
        if (processed == APEXIT_CHILDSICK)
            children_.go_slowly(slot);
        else
            children_.replace(slot);
    } else if (ap_generation_t generation; ap_unregister_extra_mpm_process(process.pid, &generation)) {
        children_.on_gone(kNoSlot, process.pid, generation);
    } else if (apr_proc_other_child_alert(&reaped, APR_OC_REASON_DEATH, status) != 0 && retained_.mpm->was_graceful) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                     APLOGNO(00488) "long lost child came home! (pid %ld)", static_cast<long>(process.pid));
    }
    if (!served || !APR_PROC_CHECK_SIGNALED(why))
        return false;
    if (++successive_kills_ >= 3) {
        if (successive_kills_ % 10 == 3)
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                         APLOGNO(10392) "children are killed successively!");
        return false;
    }
    children_.want_one_more();
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

// A child fell ill before any was ever well: the server would never come up (P13).
bool Parent::give_up_if_sick()
{
    if (!retained_.sick_child_detected)
        return false;
    if (retained_.mpm->was_graceful && !children_.anybody_up()) { // there was a server before, and there is to be one
        retained_.sick_child_detected = 0;                        // (W25)
        if (!std::exchange(told_of_sick_, true))
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                         HYBLOGNO(0018) "the new children can't start, which is tried again every second; those of the "
                                        "former generation %s",
                         children_.former_serve() ? "serve on" : "have been told to end");
        return false;
    }
    if (children_.had_healthy_one()) {
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

int Parent::stop_now()
{
    ap_reclaim_child_processes(1, reclaimed_); // SIGTERM first
    if (!child_fatal_) {
        ap_remove_pid(pconf_, ap_pid_fname);
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf, APLOGNO(00491) "caught SIGTERM, shutting down");
    }
    return DONE;
}

// StopGracefully. What balances the load needs a while to hear that this server goes, and sends clients until then. The
// next SIGTERM ends the patience.
int Parent::stop_within_limit()
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    const Time begin = now();
    mpm.shutdown_pending = 0;
    mpm.is_ungraceful = 0;
    say_limit(config_.stop_limit);
    if (config_.goodbye_time > 0) {
        serve_until_ = later(begin, config_.goodbye_time);
        children_.say_goodbye();
        serve();
        if (mpm.shutdown_pending && mpm.is_ungraceful) {
            set_mpm_state(retained_, AP_MPMQ_STOPPING);
            return stop_now();
        }
        mpm.shutdown_pending = 0; // asked to stop gracefully: that it does
    }
    set_mpm_state(retained_, AP_MPMQ_STOPPING);
    return stop_gracefully(later(begin, config_.stop_limit), 0);
}

// The first signal that says "stop" is patient for `more` time, if that is not 0: service managers send SIGWINCH and
// then SIGTERM at once (W21). The next one ends the server.
int Parent::stop_gracefully(Time cutoff, Duration more)
{
    ap_close_listeners();
    children_.retire_all(AP_SIG_GRACEFUL_STOP);
    ap_relieve_child_processes(reclaimed_);
    if (!child_fatal_)
        ap_remove_pid(pconf_, ap_pid_fname);
    do { // a signal ends the sleep early
        apr_sleep(std::clamp<Duration>(cutoff - now(), 0, apr_time_from_sec(1)));
        ap_relieve_child_processes(reclaimed_);
        if (more > 0 && retained_.mpm->shutdown_pending) {
            retained_.mpm->shutdown_pending = 0;
            cutoff = std::min(cutoff, later(now(), more));
            say_limit(std::exchange<Duration>(more, 0));
        }
    } while (!retained_.mpm->shutdown_pending && children_.any_left() && now() < cutoff);
    ap_reclaim_child_processes(1, reclaimed_);
    return DONE;
}

int Parent::restart()
{
    ap_unixd_mpm_retained_data &mpm = *retained_.mpm;
    apr_pool_pre_cleanup_register(pconf_, &mpm, hold_stop_signals);
    ++mpm.my_generation;
    ap_scoreboard_image->global->running_generation = mpm.my_generation;
    if (!mpm.is_ungraceful) {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                     APLOGNO(00493) AP_SIG_GRACEFUL_STRING " received.  Doing graceful restart");
        // The children serve on while the configuration is read, and run() retires them. Unless the configuration has
        // started programs: these end with it, and a request must not meet a child that has lost them (a RewriteMap
        // program's, a mod_wsgi daemon's, a line for a piped log).
        if (!children_.only_our_processes()) {
            children_.retire_all(AP_SIG_GRACEFUL);
            children_.force_quiescing();
            children_.wait_until_quiet(kQuietTime); // what is in work may need the programs, too (W20)
        }
    } else {
        ap_log_error(APLOG_MARK, APLOG_NOTICE, 0, ap_server_conf,
                     APLOGNO(00494) "SIGHUP received.  Attempting to restart");
        ap_reclaim_child_processes(1, reclaimed_);
    }
    return OK;
}

} // namespace hybrid
