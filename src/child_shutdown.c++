// SPDX-License-Identifier: Apache-2.0
// How a child ends: gracefully, when its time is over, or at once.
#include "hybrid/child.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <cstdlib>
#include <poll.h>

namespace hybrid {

namespace {

/// How long workers in module code may take to come back when the child has to end at once. The parent kills after
/// nine seconds (ap_reclaim_child_processes() in server/mpm_unix.c); nobody should wait for that.
constexpr Duration kPatience = milliseconds(250);

/// For clients of HTTP/2 that always want something. Most pages are there by then, so that nothing of them has to be
/// asked again.
constexpr Duration kBusyTime = seconds(5);

constexpr std::size_t kMostHolders = 100; // lines in the log

/// It may be.
bool readable(int fd, int time)
{
    struct pollfd wait = {fd, POLLIN, 0};
    const int ready = poll(&wait, 1, time);
    if (ready < 0)
        apr_sleep(milliseconds(time));
    return ready != 0;
}

} // namespace

bool Child::hides_end()
{
    Session *session = workers_ ? workers_->served_here() : nullptr;
    if (!session || !session->http2())
        return false;
    if (loop_->desperate(now()) && !session->goodbye().fresh())
        session->goodbye().say(session->record());
    return true;
}

// Connections are to end, within `limit` (0: no limit).
void Child::part(Duration limit)
{
    loop_->part(limit > 0 ? std::min(kBusyTime, limit / 4) : kBusyTime);
}

void Child::end_gracefully(bool hands_over)
{
    if (ending_ != Ending::None)
        return;
    ending_ = Ending::Graceful;
    if (birth_.config.drain_limit > 0)
        ends_by_ = later(now(), birth_.config.drain_limit);
    set_mpm_state(birth_.retained, AP_MPMQ_STOPPING); // from now on answers say "Connection: close"
    part(birth_.config.drain_limit);
    loop_->drain(hands_over);
    ap_run_child_stopping(pchild_, 1);
}

// GracefulRestartTimeout. Who is to blame?
void Child::end_overdue()
{
    ends_by_ = kNever;
    if (ending_ == Ending::Now)
        return;
    std::vector<std::string> holders;
    workers_->describe(holders, now());
    loop_->describe(holders, now());
    const std::size_t shown = std::min(holders.size(), kMostHolders);
    for (std::size_t i = 0; i < shown; ++i)
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                     HYBLOGNO(0012) "GracefulRestartTimeout is over, ending without waiting for %s",
                     holders[i].c_str());
    if (holders.size() > shown)
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                     HYBLOGNO(0013) "GracefulRestartTimeout is over, ending without waiting for %d more",
                     static_cast<int>(holders.size() - shown));
    end_now();
}

void Child::end_now()
{
    if (ending_ == Ending::Now)
        return;
    ending_ = Ending::Now;
    set_mpm_state(birth_.retained, AP_MPMQ_STOPPING);
    loop_->stop();
    scheduler_->stop();
    workers_->stop_rejecting(true);
    workers_->hang_up();
    ap_run_child_stopping(pchild_, 0);
}

// True when no worker is left. While draining, those that are left have nothing to do but perhaps a module's timed
// callback, which gets as long as a client does (Timeout), or GracefulRestartTimeout. Told to end at once, they get a
// moment to come back from what they do.
bool Child::wait_for_workers()
{
    Time give_up = std::min(ends_by_, later(now(), ap_server_conf->timeout));
    workers_->stop_rejecting(ending_ == Ending::Now);
    while (workers_->running() > 0) {
        if (ending_ == Ending::Now) {
            give_up = std::min(give_up, later(now(), kPatience));
            workers_->hang_up(); // again: one may just have taken a socket
        }
        if (now() >= give_up)
            return false;
        if (readable(signals_.get(), 5))
            on_signal();
    }
    return true;
}

void Child::exit_child(int code)
{
    set_mpm_state(birth_.retained, AP_MPMQ_STOPPING);
    if (ending_ == Ending::None)
        ap_run_child_stopping(pchild_, 0);
    apr_pool_destroy(pchild_);
    if (slot_)
        slot_->end_rest();
    if (birth_.before_exit)
        birth_.before_exit(birth_.parent_object);
    exit(code);
}

} // namespace hybrid
