// SPDX-License-Identifier: Apache-2.0
#include "hybrid/children.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <new>
#include <unistd.h>
#include <utility>

namespace hybrid {

// New buckets start at the highest rate so far, so that they fill as quickly as the others.
void Children::set_buckets(ap_listen_rec **records, int buckets)
{
    buckets_.assign(records, records + buckets);
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
        retained_.staffing[i] = {rate, 0, 0};
    mpm.num_buckets = buckets;
}

// At once, also while an old generation is still there. What can't be started for want of slots is as soon as a child
// has left one.
void Children::start(int wanted)
{
    const std::vector<int> slots = free_slots(look_at_all(), wanted);
    to_start_ = 0;
    for (const int slot : slots)
        if (!make(slot))
            return;
    to_start_ = wanted - static_cast<int>(slots.size());
    if (to_start_ > 0)
        ask_for_slots(to_start_);
}

// True: there are slots to be used.
bool Children::on_news()
{
    if (former_serves_ && (anybody_up() || to_start_ > 0)) {
        former_serves_ = false;
        retire_former();
        ask_for_slots(to_start_);
    }
    return take_slots();
}

// Of the running generation. One whose first worker is only about to start may still fail (W25), and takes nobody's
// clients yet.
bool Children::anybody_up()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        for (int row = 0; serves(slot) && row < config_.threads_per_child; ++row)
            if (const int status = ap_get_scoreboard_worker_from_indexes(slot, row)->status;
                status >= SERVER_READY && status < SERVER_GRACEFUL)
                return true;
    return false;
}

// Those that serve now do so until a new child is there for their clients: one whose modules take long to start, or
// which never comes up, makes nobody wait. Unless the new one waits for their slots.
void Children::replace_former()
{
    former_serves_ = true;
    on_news();
}

void Children::replace(int slot)
{
    if (to_start_ > 0 && make(slot))
        --to_start_;
}

bool Children::make(int slot)
{
    retained_.max_daemon_used = std::max(retained_.max_daemon_used, slot + 1);
    const process_score &score = *ap_get_scoreboard_process(slot);
    if (score.pid != 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                     APLOGNO(03455) "BUG: Scoreboard slot %d should be empty but is in use by pid %" APR_PID_T_FMT,
                     slot, score.pid);
        return false;
    }
    const int number = free_number(slot);
    const Child::Birth birth = {
        config_,
        retained_,
        pconf_,
        buckets_[slot % bucket_count()],
        slot,
        number,
        getpid(),
        goodbye_,
        config_.one_process ? -1 : retained_.calls,
        nullptr,
        nullptr,
    };
    if (config_.one_process) {
        Child::Birth here = birth;
        here.before_exit = [](void *self) { static_cast<Children *>(self)->leave_one_process(); };
        here.parent_object = this;
        note_started(slot, number, getpid());
        here_ = new Child(here);
        here_->main();
    }
    Child::block_signals();
    retained_.makes_child = pthread_self();
    const pid_t pid = fork();
    retained_.makes_child = {};
    if (pid == 0) {
#if AP_HAS_THREAD_LOCAL
        ap_thread_current_after_fork();
#endif
        for (ap_listen_rec *records : buckets_)
            if (records != birth.listeners)
                ap_close_listeners_ex(records);
        here_ = new Child(birth);
        here_->main();
    }
    const int error = errno;
    Child::unblock_signals();
    if (pid < 0) {
        ap_log_error(APLOG_MARK, APLOG_ERR, error, ap_server_conf, APLOGNO(00481) "fork: Unable to fork new process");
        apr_sleep(apr_time_from_sec(10)); // no loop of forks when the system is at its limit (P14)
        return false;
    }
    note_started(slot, number, pid);
    return true;
}

void Children::leave_one_process()
{
    on_gone(0, 0, 0);
    // Quietly: the user may have changed since it was written, and then may not remove it (M07).
    apr_file_remove(ap_server_root_relative(pconf_, ap_pid_fname), pconf_);
}

void Children::note_started(int slot, int number, pid_t pid)
{
    retained_.numbers[number] = pid;
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
void Children::uncount_quiescing(int slot)
{
    process_score &score = *ap_get_scoreboard_process(slot);
    if (!Slot::advance(score, kServing, kUncounted) && !Slot::advance(score, kEnding, kUncounted))
        return;
    --retained_.active_daemons;
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 "Child %d quiescing: pid %d, gen %d, active %d/%d, total %d/%d/%d", slot, static_cast<int>(score.pid),
                 static_cast<int>(score.generation), retained_.active_daemons, config_.active_limit,
                 retained_.total_daemons, retained_.max_daemon_used, config_.server_limit);
}

bool Children::serves(int slot)
{
    const SlotView view = look_at(slot);
    return view.occupied && view.current && !view.quiescing;
}

void Children::on_gone(int slot, pid_t pid, ap_generation_t generation)
{
    if (slot == kNoSlot) {
        give_number_back(pid);
        --retained_.slotless_daemons;
        ap_run_child_status(ap_server_conf, pid, generation, kNoSlot, MPM_CHILD_EXITED);
        ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                     "Child without a slot stopped: pid %d, gen %d, %d of these are left", static_cast<int>(pid),
                     static_cast<int>(generation), retained_.slotless_daemons);
        return;
    }
    const process_score &score = *ap_get_scoreboard_process(slot);
    give_number_back(score.pid);
    ap_run_child_status(ap_server_conf, score.pid, score.generation, slot, MPM_CHILD_EXITED);
    if (score.quiescing < kUncounted)
        --retained_.active_daemons;
    --retained_.total_daemons;
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 "Child %d stopped: pid %d, gen %d, active %d/%d, total %d/%d/%d, quiescing %d", slot,
                 static_cast<int>(score.pid), static_cast<int>(score.generation), retained_.active_daemons,
                 config_.active_limit, retained_.total_daemons, retained_.max_daemon_used, config_.server_limit,
                 score.quiescing);
    clear(slot);
}

void Children::clear(int slot)
{
    for (int row = 0; row < config_.thread_limit; ++row) // it may have had more threads than are configured now (B14)
        if (ap_get_scoreboard_worker_from_indexes(slot, row)->status != SERVER_DEAD)
            ap_update_child_status_from_indexes(slot, row, SERVER_DEAD, nullptr);
    process_score &score = *ap_get_scoreboard_process(slot);
    score.not_accepting = 0;
    score.quiescing = kServing;
    score.pid = 0;
}

// Children that end may take as long as they like, but not the slots that others need (K07): they go on without.
void Children::ask_for_slots(int wanted)
{
    std::vector<int> ending;
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid == 0)
            continue;
        if (score.quiescing == kVacateRequested)
            --wanted;
        else if (score.quiescing == kUncounted || score.quiescing == kQuiet)
            ending.push_back(slot);
    }
    std::ranges::stable_sort(ending, {}, [](int slot) { return ap_get_scoreboard_process(slot)->generation; });
    for (const int slot : ending) {
        process_score &score = *ap_get_scoreboard_process(slot);
        if (wanted-- <= 0)
            return;
        if (Slot::advance(score, kUncounted, kVacateRequested) || Slot::advance(score, kQuiet, kVacateRequested))
            ap_mpm_safe_kill(score.pid, AP_SIG_GRACEFUL);
    }
}

// True: some have gone on without. httpd keeps an eye on them from now on, so that a stop ends them, too.
bool Children::take_slots()
{
    bool taken = false;
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid == 0 || __atomic_load_n(&score.quiescing, __ATOMIC_ACQUIRE) != kVacated)
            continue;
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf,
                     HYBLOGNO(0011) "child %d (generation %d) ends without a slot in the scoreboard: another needs it",
                     static_cast<int>(score.pid), static_cast<int>(score.generation));
        ap_run_child_status(ap_server_conf, score.pid, score.generation, slot, MPM_CHILD_LOST_SLOT);
        ap_register_extra_mpm_process(score.pid, score.generation);
        ++retained_.slotless_daemons;
        --retained_.total_daemons;
        clear(slot);
        taken = true;
    }
    return taken;
}

void Children::retire(int slot, int signal)
{
    const process_score &score = *ap_get_scoreboard_process(slot);
    const bool serves = score.quiescing == kServing;
    uncount_quiescing(slot);
    if (serves)
        ap_mpm_safe_kill(score.pid, signal);
}

void Children::retire_all(int signal)
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        if (ap_get_scoreboard_process(slot)->pid != 0)
            retire(slot, signal);
}

void Children::say_goodbye()
{
    goodbye_ = true;
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        if (const pid_t pid = ap_get_scoreboard_process(slot)->pid; pid != 0)
            ap_mpm_safe_kill(pid, Child::kGoodbye);
}

void Children::retire_former()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid != 0 && score.generation != retained_.mpm->my_generation)
            retire(slot);
    }
}

void Children::force_quiescing()
{
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot) {
        const process_score &score = *ap_get_scoreboard_process(slot);
        if (score.pid != 0 && score.quiescing != kServing)
            ap_mpm_safe_kill(score.pid, Child::kCloseIdle);
    }
}

// As the kernel knows them (CONFIG_PROC_CHILDREN): modules start processes in many ways, with and without APR, and from
// threads of their own.
bool Children::only_our_processes() const
{
    std::error_code error;
    bool known = false;
    for (std::filesystem::directory_iterator thread("/proc/self/task", error), end; !error && thread != end;
         thread.increment(error)) {
        std::ifstream file(thread->path() / "children");
        known |= file.is_open();
        for (apr_proc_t process{}; file >> process.pid;)
            if (ap_find_child_by_pid(&process) < 0 && !without_slot(process.pid))
                return false;
    }
    return known && !error;
}

// One of ours that httpd keeps an eye on: it can only be asked so.
bool Children::without_slot(pid_t pid)
{
    ap_generation_t generation;
    const bool ours = ap_unregister_extra_mpm_process(pid, &generation);
    if (ours)
        ap_register_extra_mpm_process(pid, generation);
    return ours;
}

bool Children::any_left()
{
    if (retained_.slotless_daemons > 0)
        return true;
    for (int slot = 0; slot < retained_.max_daemon_used; ++slot)
        if (ap_get_scoreboard_process(slot)->pid != 0)
            return true;
    return false;
}

} // namespace hybrid
