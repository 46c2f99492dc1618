// SPDX-License-Identifier: Apache-2.0
#include "hybrid/child.hpp"

#include "hybrid/turn.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#ifdef HYBRID_HAVE_MALLOC_TRIM
#include <malloc.h>
#endif
#include <new>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace hybrid {

namespace {

constexpr Duration kTrimDelay = seconds(1);        // more may go to sleep at the same time
constexpr Duration kSparePeriod = seconds(30);     // threads that were not needed for so long are ended
constexpr Duration kBlindPause = milliseconds(10); // between looks, while the system has no memory for poll(2)

sigset_t watched_signals()
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, AP_SIG_GRACEFUL);
    sigaddset(&set, AP_SIG_GRACEFUL_STOP);
    sigaddset(&set, Child::kCloseIdle);
    sigaddset(&set, Child::kGoodbye);
    return set;
}

/// What has been counted since the last time.
std::uint64_t take_count(const Fd &counter)
{
    std::uint64_t count = 0;
    return read(counter.get(), &count, sizeof count) == sizeof count ? count : 0;
}

} // namespace

void Child::block_signals()
{
    const sigset_t set = watched_signals();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void Child::unblock_signals()
{
    const sigset_t set = watched_signals();
    pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

Child::Child(const Birth &birth) : birth_(birth) {}

void Child::main()
{
    prepare();
    make_runtime();
    ap_run_child_init(pchild_, ap_server_conf);
    start_threads();
    if (birth_.goodbye)
        part(birth_.config.goodbye_time);
    set_mpm_state(birth_.retained, birth_.goodbye ? AP_MPMQ_STOPPING : AP_MPMQ_RUNNING);
    serve();
    if (!wait_for_workers()) {
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf,
                     HYBLOGNO(0005) "%d worker(s) still in a handler, ending without them",
                     static_cast<int>(workers_->running()));
        slot_->end_rest();
        if (birth_.before_exit)
            birth_.before_exit(birth_.parent_object);
        _exit(0);
    }
    workers_->join();
    exit_child(0);
}

// In the order of child_main() in server/mpm/event/event.c: as root first, signals before anybody's threads.
void Child::prepare()
{
    set_mpm_state(birth_.retained, AP_MPMQ_STARTING);
    ap_fatal_signal_child_setup(ap_server_conf);
    apr_pool_create(&pchild_, birth_.pconf);
    apr_pool_tag(pchild_, "pchild");
#if defined(HYBRID_HAVE_AP_THREAD_MAIN_CREATE)
    if (!birth_.config.one_process) {
        apr_thread_t *thread = nullptr;
        if (const apr_status_t rv = ap_thread_main_create(&thread, pchild_)) {
            ap_log_error(APLOG_MARK, APLOG_EMERG, rv, ap_server_conf,
                         APLOGNO(10377) "Couldn't initialize child main thread");
            exit_child(APEXIT_CHILDFATAL);
        }
    }
#endif
    ap_reopen_scoreboard(pchild_, nullptr, 0);
    if (ap_run_drop_privileges(pchild_, ap_server_conf))
        exit_child(APEXIT_CHILDFATAL);
    follow_parent();
    if (const apr_status_t rv = apr_setup_signal_thread()) {
        ap_log_error(APLOG_MARK, APLOG_EMERG, rv, ap_server_conf, APLOGNO(00479) "Couldn't initialize signal thread");
        exit_child(APEXIT_CHILDFATAL);
    }
    watch_signals();
}

// Nobody would reap, restart or stop this child without its parent, and its port would stay taken (K20). After the
// change of user, which forgets the request.
void Child::follow_parent()
{
    if (birth_.config.one_process)
        return;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != birth_.parent)
        raise(SIGTERM); // it was gone before we asked; held back until serve() reads it
}

void Child::watch_signals()
{
    sigset_t set = watched_signals();
    if (birth_.config.one_process) {
        sigdelset(&set, AP_SIG_GRACEFUL); // blocked, hence ignored (M06)
        sigdelset(&set, AP_SIG_GRACEFUL_STOP);
        sigdelset(&set, kCloseIdle);
        sigdelset(&set, kGoodbye);
        sigaddset(&set, SIGINT);
    }
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signals_ = Fd(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    notify_fd_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    watchdog_fd_ = Fd(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
    if (!signals_ || !notify_fd_ || !watchdog_fd_) {
        ap_log_error(APLOG_MARK, APLOG_ALERT, errno, ap_server_conf,
                     HYBLOGNO(0006) "can't make the descriptors a child needs");
        exit_child(APEXIT_CHILDSICK);
    }
}

// Before child_init, where modules may ask for timers already (S31). pruntime is made before any connection's pool,
// hence destroyed after them, which matters in one-process mode where pchild goes first (T28).
void Child::make_runtime()
{
    const Config &config = birth_.config;
    apr_pool_create(&pruntime_, birth_.pconf);
    apr_pool_tag(pruntime_, "mpm_runtime");

    const Scheduler::Hooks hooks = {
        [](void *child) { static_cast<Child *>(child)->loop_->wake(); },
        [](void *child) { static_cast<Child *>(child)->watch(); },
        this,
    };
    scheduler_ = std::make_unique<Scheduler>(config.tokens_per_child, hooks);
    slot_ = std::make_unique<Slot>(birth_.slot, birth_.number, config.thread_limit, birth_.retained.mpm->num_buckets,
                                   *birth_.retained.shared, counts_of(birth_.retained, birth_.number));
    pools_ = std::make_unique<Pools>(birth_.pconf);
    const Loop::Callbacks callbacks = {
        Turn::run,
        [](void *child) {
            const std::uint64_t one = 1;
            [[maybe_unused]] const auto n = write(static_cast<Child *>(child)->notify_fd_.get(), &one, sizeof one);
        },
        this,
        [](void *child) { return static_cast<Child *>(child)->workers_->can_reject(); },
        [](void *child, Runnable &connection) { static_cast<Child *>(child)->workers_->reject(connection); },
    };
    const Retained &retained = birth_.retained;
    const bool made = !config.one_process && retained.channel_from != 0;
    const Channel channel = made ? Channel(retained.channel_to, retained.channel_from) : Channel();
    loop_ = std::make_unique<Loop>(config, *slot_, *scheduler_, *pools_, channel, callbacks);
    workers_ = std::make_unique<Workers>(config, *slot_, *scheduler_, *loop_);
    if (const int error = loop_->open()) {
        ap_log_error(APLOG_MARK, APLOG_ALERT, error, ap_server_conf,
                     HYBLOGNO(0008) "can't make the listener's descriptors");
        exit_child(APEXIT_CHILDSICK);
    }
}

void Child::start_threads()
{
    apr_threadattr_t *attributes;
    apr_threadattr_create(&attributes, pruntime_);
    apr_threadattr_detach_set(attributes, 0);
    if (ap_thread_stacksize != 0) {
        const apr_status_t rv = apr_threadattr_stacksize_set(attributes, ap_thread_stacksize);
        if (rv != APR_SUCCESS && rv != APR_ENOTIMPL)
            ap_log_error(APLOG_MARK, APLOG_WARNING, rv, ap_server_conf,
                         APLOGNO(02436) "WARNING: ThreadStackSize of %" APR_SIZE_T_FMT
                                        " is inappropriate, using default",
                         ap_thread_stacksize);
    }
    if (const int error = loop_->listen(birth_.listeners)) {
        ap_log_error(APLOG_MARK, APLOG_ALERT, error, ap_server_conf, HYBLOGNO(0007) "can't poll the listening sockets");
        exit_child(APEXIT_CHILDSICK);
    }
    workers_->open(attributes, pruntime_, birth_.retained.mpm->my_generation);
    for (int i = 0; i < birth_.config.tokens_per_child; ++i)
        if (!workers_->start_one() && i == 0)
            exit_child(APEXIT_CHILDSICK); // lets the parent decide how bad it is (P13)
    if (birth_.config.max_waiting > 0)
        workers_->can_reject(); // while threads can be had
    workers_->show_all();
    call_parent(kNews);
}

// Also the scheduler's caretaker, see watchdog.hpp.
void Child::serve()
{
    struct pollfd waits[] = {{signals_.get(), POLLIN, 0},
                             {notify_fd_.get(), POLLIN, 0},
                             {watchdog_fd_.get(), POLLIN, 0},
                             {loop_->poll_fd(), POLLIN, 0}};
    const int kept = birth_.config.tokens_per_child;
    Time review_at = later(now(), kSparePeriod);
    while (!loop_->ended() && ending_ != Ending::Now) {
        Time until = std::min({ends_by_, trim_at_, workers_->reap() > kept ? review_at : kNever});
        if (polls_in_place_)
            until = std::min(until, poll_in_place());
        const Duration left = std::max<Duration>(0, until - now());
        const int ready = poll(waits, polls_in_place_ ? 4 : 3,
                               until == kNever ? -1 : static_cast<int>((left + 999) / milliseconds(1)));
        const bool blind = ready < 0 && errno != EINTR;
        if (blind)
            apr_sleep(kBlindPause);
        if (now() >= review_at) {
            scheduler_->retire_unneeded(kept);
            review_at = later(now(), kSparePeriod);
        }
        if (now() >= trim_at_)
            trim_memory();
        if (now() >= ends_by_)
            end_overdue();
        if (ready <= 0 && !blind)
            continue;
        if ((blind || waits[2].revents) && take_count(watchdog_fd_))
            on_tick();
        if ((blind || waits[1].revents) && take_count(notify_fd_))
            on_notice();
        if (blind || waits[0].revents)
            on_signal();
    }
}

void Child::on_notice()
{
    if (loop_->wants_drain()) {
        end_gracefully(true);
        call_parent(kHelp); // there should be others for its clients
    }
    if (loop_->crowded())
        call_parent(kHelp);
    if (ending_ == Ending::Graceful)
        call_parent(kNews); // perhaps it is quiet
    if (trim_at_ == kNever && loop_->many_dormant())
        trim_at_ = later(now(), kTrimDelay);
}

// The C library does not do so by itself, and it takes a while: no worker should have to wait for that.
void Child::trim_memory()
{
    trim_at_ = kNever;
    loop_->reset_dormant();
#ifdef HYBRID_HAVE_MALLOC_TRIM
    malloc_trim(0);
#endif
}

// Any thread. A dead man's switch: while pieces of work are short, it is put off again and again, and nobody wakes up.
void Child::watch()
{
    const Time t = now();
    if (t >= watchdog_rearm_at_.load(std::memory_order_relaxed))
        tick_after(t);
}

void Child::tick_after(Time t)
{
    watchdog_rearm_at_.store(t + Watchdog::kTick / 2, std::memory_order_relaxed);
    const struct itimerspec once = {{0, 0}, {0, Watchdog::kTick * 1000}};
    timerfd_settime(watchdog_fd_.get(), 0, &once, nullptr);
}

void Child::on_tick()
{
    if (scheduler_->tick(holders_))
        tick_after(now());
    for (const Scheduler::Holder &holder : holders_)
        if (static_cast<Worker *>(holder.runner)->should_yield_token(holder.run))
            scheduler_->detach(holder);
    while (scheduler_->short_of_workers()) {
        if (workers_->start_one())
            continue;
        loop_->note_unpolled();
        call_parent(kHelp);
        polls_in_place_ = polls_in_place_ || scheduler_->poll_in_place();
        if (!polls_in_place_)
            loop_->wake(); // one has just come back
        break;
    }
}

// All workers are blocked, and no other can be had: somebody must go on polling. Returns when that is due again.
Time Child::poll_in_place()
{
    if (!scheduler_->no_worker_available() || workers_->start_one()) {
        polls_in_place_ = false;
        scheduler_->stand_down();
        return kNever;
    }
    const Loop::Unattended attendance = loop_->round_unattended();
    if (attendance.wants_help)
        call_parent(kHelp);
    return attendance.again_at;
}

void Child::call_parent(std::uint64_t what)
{
    [[maybe_unused]] const auto n = write(birth_.parent_calls, &what, sizeof what);
}

void Child::on_signal()
{
    signalfd_siginfo info;
    while (read(signals_.get(), &info, sizeof info) == sizeof info) {
        const auto signal = static_cast<int>(info.ssi_signo);
        if (signal == kGoodbye) {
            set_mpm_state(birth_.retained, AP_MPMQ_STOPPING);
            part(birth_.config.goodbye_time);
            continue;
        }
        if (signal != AP_SIG_GRACEFUL && signal != AP_SIG_GRACEFUL_STOP && signal != kCloseIdle) {
            end_now();
            continue;
        }
        end_gracefully(signal != AP_SIG_GRACEFUL_STOP);
        if (signal == kCloseIdle && ending_ == Ending::Graceful) {
            loop_->part(0);
            loop_->force_drain();
        }
        if (slot_->vacate_requested()) {
            slot_->vacate();
            call_parent(kNews);
        }
    }
}

apr_status_t Child::add_timer(Duration delay, TimedCallback callback)
{
    loop_->add_timer(delay, callback);
    return APR_SUCCESS;
}

} // namespace hybrid
