// SPDX-License-Identifier: Apache-2.0
#include "hybrid/loop.hpp"

#include "hybrid/config.hpp"
#include "hybrid/request_limits.hpp"
#include "hybrid/session.hpp"
#include "hybrid/workers.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kReviewPeriod = seconds(1); // suspended connections, for modules with threads of their own

} // namespace

/// A timed callback on its way to a worker.
struct Loop::TimerTask : Runnable {
    TimerTask(Loop &owner, TimedCallback what) : Runnable(run_on_worker), loop(owner), callback(what) {}

    static void run_on_worker(Runnable &self, Worker &worker) noexcept
    {
        const std::unique_ptr<TimerTask> task(static_cast<TimerTask *>(&self));
        worker.slot.worker_status(worker.row, SERVER_BUSY_WRITE); // it is not idle (K22)
        const auto ticket = task->loop.suspended_.callback_begins();
        task->callback.function(task->callback.baton);
        task->loop.suspended_.callback_ended(ticket);
        task->loop.resume_released();
    }

    Loop &loop;
    const TimedCallback callback;
};

Loop::Loop(const Config &config, Slot &slot, Scheduler &scheduler, Pools &pools, Channel channel,
           const Callbacks &callbacks)
    : slot_(slot), scheduler_(scheduler), pools_(pools), callbacks_(callbacks), dormancy_(config.dormant),
      limits_(read_request_limits(ap_server_conf)), channel_(channel), tls_filter_(config.tls_filter),
      most_waiting_(config.max_waiting), acceptor_(config, slot, scheduler, keeper_.poller(), channel,
                                                   {[](void *self, ClientPtr client) {
                                                        Polls::inherited();
                                                        static_cast<Loop *>(self)->on_accepted(std::move(client));
                                                    },
                                                    this, callbacks.turn,
                                                    [](void *self, int count) {
                                                        Polls::inherited();
                                                        static_cast<Loop *>(self)->make_room(count);
                                                    }})
{
}

void Loop::round(Worker &self)
{
    const Polls role(polled_);
    const Time t = now();
    if (!begin_round(t))
        return;
    if (unattended_.exchange(false))
        slot_.set_accepting(!acceptor_.pausing());
    acceptor_.reconsider(t);
    const std::span<const epoll_event> events = wait(self, t);
    dispatch(events, now());
    if (seen_mode_ == Mode::Forced)
        tell_if_quiet();
}

Loop::Unattended Loop::round_unattended()
{
    const Polls role(polled_);
    const Time t = now();
    if (!begin_round(t))
        return {t, false};
    dispatch(keeper_.look(), t);
    const bool waits_in_vain = hand_over_waiting(t);
    reject_waiting(t);
    const Time due = std::min(next_due(t), later(t, kReviewPeriod));
    return {scheduler_.others_wait() ? std::min(due, hand_over_waiting_at_) : due, waits_in_vain};
}

// False: the loop has ended.
bool Loop::begin_round(Time now)
{
    if (ended_.load())
        return false;
    follow_mode(now);
    if (seen_mode_ != Mode::Stop && (seen_mode_ == Mode::Serve || !drained(now)))
        return true;
    end();
    return false;
}

void Loop::dispatch(std::span<const epoll_event> events, Time now)
{
    const bool was_crowded = crowded();
    for (const epoll_event &event : events)
        on_event(event, now);
    expire(now);
    run_timers(now);
    resume_released();
    if ((acceptor_.used_up() && !wants_drain_.exchange(true)) || (crowded() && !was_crowded))
        callbacks_.notify(callbacks_.child);
}

// Sleeps only when there is nothing to do, here or in the queue; and after another look, if that is worth it.
std::span<const epoll_event> Loop::wait(Worker &self, Time now)
{
    std::span<const epoll_event> events = keeper_.look();
    if (events.empty() && !keeper_.woken() && look_again_.worth_it())
        events = look(now);
    if (!events.empty() || keeper_.woken() || next_due(now) <= now || !scheduler_.may_sleep())
        return events;
    self.rest();
    events = keeper_.sleep();
    scheduler_.awake();
    return events;
}

std::span<const epoll_event> Loop::look(Time begin)
{
    for (Time before = now();;) {
        const std::span<const epoll_event> events = keeper_.look();
        if (!events.empty()) {
            look_again_.found();
            return events;
        }
        const Time t = now();
        if (keeper_.woken() || t - before > LookAgain::kGap || t - begin > LookAgain::kLength ||
            scheduler_.others_wait()) {
            look_again_.in_vain();
            return events;
        }
        before = t;
    }
}

// In this order: a worker that comes back just now undoes both in its next round (W18).
void Loop::note_unpolled()
{
    slot_.set_accepting(false);
    unattended_.store(true);
}

Time Loop::next_due(Time now)
{
    Time due = unattended_.load() ? kNever : acceptor_.next_due();
    if (seen_mode_ != Mode::Serve)
        due = std::min(due, hand_over_at_.load());
    if (!suspended_.empty() || orphaned_since_ != kNever)
        due = std::min(due, later(now, kReviewPeriod));
    return keeper_.plan_sleep(due);
}

void Loop::on_event(const epoll_event &event, Time now)
{
    const Keeper::Heard heard =
        keeper_.hear(event, [](const Kept &kept) { return stays_kept(static_cast<const Client &>(kept)); });
    if (!heard.target)
        return;
    if (!heard.kept)
        acceptor_.on_readable(*heard.target, now);
    else if (heard.taken)
        on_ready(owner_of(static_cast<Timed &>(*heard.kept)));
    else
        on_kept_ready(static_cast<Client &>(*heard.kept));
}

// Its deadline may be what it was when it has been looked at.
bool Loop::stays_kept(const Client &client)
{
    const ConnState state = client.state();
    if (state == ConnState::Arriving)
        return !client.arriving().encrypted();
    return state == ConnState::Lingering || !client.live();
}

ClientPtr Loop::take_out(Client &parked)
{
    keeper_.take(parked);
    return owner_of(static_cast<Timed &>(parked));
}

void Loop::on_kept_ready(Client &parked)
{
    if (parked.state() == ConnState::Lingering)
        on_lingering(parked);
    else
        on_arriving(parked);
}

void Loop::on_ready(ClientPtr client)
{
    const ConnState state = client->state();
    if (state == ConnState::KeepAlive && seen_mode_ != Mode::Serve && may_hand_over(now()) &&
        Session::make_movable(*client, dormancy_)) {
        if (!hand_over(client))
            park_adopted(std::move(client));
        return;
    }
    client->transit(ConnEvent::IoReady);
    push(std::move(client));
}

bool Loop::park(ClientPtr client, Interest what, Duration length, Deadlines::Length kind)
{
    if (client->state() == ConnState::Lingering && mode_.load() != Mode::Serve)
        length = std::min(length, kEndLingerTime);
    Client &parked = *client.release();
    if (const int error = keeper_.keep(parked, what, length, now(), kind)) {
        drop_unpolled(owner_of(static_cast<Timed &>(parked)), error);
        return false;
    }
    if (mode_.load() != Mode::Serve) {
        hand_over_at_.store(0);
        keeper_.wake();
    }
    return true;
}

void Loop::suspend(ClientPtr client)
{
    suspended_.suspend(std::move(client));
    keeper_.wake(); // it may be let go already, and is looked at once per second from now on
}

void Loop::resume_released()
{
    for (ClientPtr &client : suspended_.take_released()) {
        client->transit(ConnEvent::Resumed);
        push(std::move(client));
    }
}

void Loop::add_timer(Duration delay, TimedCallback callback)
{
    keeper_.add_timer(later(now(), std::max<Duration>(delay, 0)), callback);
}

void Loop::run_timers(Time now)
{
    while (const std::optional<TimedCallback> due = keeper_.take_due(now))
        scheduler_.push(*new TimerTask(*this, *due));
}

// An idle connection of HTTP/2 that is to end has less time than KeepAliveTimeout.
CloseReason Loop::why_expired(const Client &client) const
{
    const bool idle = client.state() == ConnState::KeepAlive;
    if (parting() && client.live() && client.session()->http2() && (idle || client.session()->goodbye().fresh()))
        return CloseReason::ChildEnds;
    return idle ? CloseReason::IdleTimeout : CloseReason::IoTimeout;
}

void Loop::expire(Time now)
{
    while (Kept *expired = keeper_.take_expired(now)) {
        ClientPtr client = owner_of(static_cast<Timed &>(*expired));
        const CloseReason reason = why_expired(*client);
        if (client->state() == ConnState::Arriving)
            on_request_timeout(std::move(client), now);
        else if (const Duration rest = client->take_sleep();
                 rest > 0 && client->state() == ConnState::KeepAlive && !closes_idle())
            make_dormant(std::move(client), rest, now);
        else
            begin_close(std::move(client), ConnEvent::Expired, reason);
    }
}

} // namespace hybrid
