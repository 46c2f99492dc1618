#include "hybrid/listener.hpp"

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
struct Listener::TimerTask : Runnable {
    TimerTask(Listener &owner, TimedCallback what) : Runnable(run_on_worker), listener(owner), callback(what) {}

    static void run_on_worker(Runnable &self, Worker &worker) noexcept
    {
        const std::unique_ptr<TimerTask> task(static_cast<TimerTask *>(&self));
        worker.slot.worker_status(worker.row, SERVER_BUSY_WRITE); // it is not idle (K22)
        const auto ticket = task->listener.suspended_.callback_begins();
        task->callback.function(task->callback.baton);
        task->listener.suspended_.callback_ended(ticket);
        task->listener.give_back_released();
    }

    Listener &listener;
    const TimedCallback callback;
};

Listener::Listener(const Config &config, Slot &slot, Scheduler &scheduler, Pools &pools, Channel channel,
                   const Callbacks &callbacks)
    : slot_(slot), scheduler_(scheduler), pools_(pools), callbacks_(callbacks), dormancy_(config.dormant),
      limits_(read_request_limits(ap_server_conf)), channel_(channel), tls_filter_(config.tls_filter),
      most_waiting_(config.max_waiting), acceptor_(config, slot, scheduler, poller_, channel,
                                                   {[](void *self, ClientPtr client) {
                                                        Polls::inherited();
                                                        static_cast<Listener *>(self)->on_accepted(std::move(client));
                                                    },
                                                    this, callbacks.turn,
                                                    [](void *self, int count) {
                                                        Polls::inherited();
                                                        static_cast<Listener *>(self)->make_room(count);
                                                    }})
{
}

void Listener::round(Worker &self)
{
    const Polls role(polled_);
    const Time t = now();
    if (!begin_round(t))
        return;
    if (unattended_.exchange(false))
        slot_.set_accepting(!acceptor_.pausing());
    acceptor_.reconsider(t);
    const std::span<const epoll_event> events = wait(self, t);
    take_in(events, now());
    if (seen_mode_ == Mode::Hurry)
        tell_if_quiet();
}

Listener::Attendance Listener::attend()
{
    const Polls role(polled_);
    const Time t = now();
    if (!begin_round(t))
        return {t, false};
    take_in(poller_.wait(0), t);
    const bool waits_in_vain = hand_over_waiting(t);
    refuse_waiting(t);
    const Time due = std::min(next_due(t), later(t, kReviewPeriod));
    return {scheduler_.others_wait() ? std::min(due, hand_over_waiting_at_) : due, waits_in_vain};
}

// False: the listener has ended.
bool Listener::begin_round(Time now)
{
    if (ended_.load())
        return false;
    follow_mode(now);
    if (seen_mode_ != Mode::Stop && (seen_mode_ == Mode::Serve || !drained(now)))
        return true;
    end();
    return false;
}

void Listener::take_in(std::span<const epoll_event> events, Time now)
{
    const bool was_crowded = crowded();
    for (const epoll_event &event : events)
        on_event(event, now);
    expire(now);
    run_timers(now);
    give_back_released();
    if ((acceptor_.used_up() && !wants_drain_.exchange(true)) || (crowded() && !was_crowded))
        callbacks_.notify(callbacks_.child);
}

// Sleeps only when there is nothing to do, here or in the queue; and after another look, if that is worth it.
std::span<const epoll_event> Listener::wait(Worker &self, Time now)
{
    std::span<const epoll_event> events = poller_.wait(0);
    if (events.empty() && !poller_.woken() && look_again_.worth_it())
        events = look(now);
    if (!events.empty() || poller_.woken() || next_due(now) <= now || !scheduler_.may_sleep())
        return events;
    self.rest();
    events = poller_.wait(sleeps_until_.load());
    sleeps_until_.store(0);
    scheduler_.awake();
    return events;
}

std::span<const epoll_event> Listener::look(Time begin)
{
    for (Time before = now();;) {
        const std::span<const epoll_event> events = poller_.wait(0);
        if (!events.empty()) {
            look_again_.found();
            return events;
        }
        const Time t = now();
        if (poller_.woken() || t - before > LookAgain::kGap || t - begin > LookAgain::kLength ||
            scheduler_.others_wait()) {
            look_again_.in_vain();
            return events;
        }
        before = t;
    }
}

// In this order: a worker that comes back just now undoes both in its next round (W18).
void Listener::nobody_polls()
{
    slot_.set_accepting(false);
    unattended_.store(true);
}

Time Listener::next_due(Time now)
{
    Time due = unattended_.load() ? kNever : acceptor_.next_due();
    if (seen_mode_ != Mode::Serve)
        due = std::min(due, hand_over_at_.load());
    if (!suspended_.empty() || orphaned_since_ != kNever)
        due = std::min(due, later(now, kReviewPeriod));
    Lock lock(mu_);
    due = std::min({due, idle_.next(), io_.next(), linger_.next(), arriving_.next(), timers_.next()});
    sleeps_until_.store(due);
    return due;
}

void Listener::on_event(const epoll_event &event, Time now)
{
    PollTarget *target;
    ClientPtr ready;
    {
        Lock lock(mu_); // who parked it has let go of it; who drops it has not yet, or the poller has forgotten it
        target = poller_.target_of(event);
        if (!target)
            return;
        if (target->kind == PollTarget::Kind::Client) {
            auto &client = static_cast<Client &>(*target);
            if (!concerns_us(client))
                return;
            if (!stays_parked(client))
                ready = unpark(client);
        }
    }
    if (target->kind == PollTarget::Kind::Listen)
        acceptor_.on_readable(*target, now);
    else if (ready)
        on_ready(std::move(ready));
    else
        on_parked_ready(static_cast<Client &>(*target));
}

// Is it parked, so that the event concerns us? A connection stays armed while a worker has it (its client goes on
// sending, or goes away, while a handler is blocked): then nobody needs to hear that, until it is parked again.
bool Listener::concerns_us(Client &client)
{
    if (!client.queued()) {
        poller_.forget(client.fd(), client);
        return false;
    }
    if (client.state() == ConnState::Lingering) {
        // It has one event, so that one counts, also if it may be of the time before: reading decides (W02).
        if (!poller_.stale(client))
            poller_.spent(client);
        return true;
    }
    return !poller_.stale(client);
}

// Its deadline may be what it was when it has been looked at.
bool Listener::stays_parked(const Client &client)
{
    const ConnState state = client.state();
    if (state == ConnState::Arriving)
        return !client.arriving().encrypted();
    return state == ConnState::Lingering || !client.live();
}

ClientPtr Listener::unpark(Client &parked)
{
    deadlines_of(parked.state()).remove(parked);
    return owner_of(static_cast<Timed &>(parked));
}

void Listener::on_parked_ready(Client &parked)
{
    if (parked.state() == ConnState::Lingering)
        on_lingering(parked);
    else
        on_arriving(parked);
}

void Listener::on_ready(ClientPtr client)
{
    const ConnState state = client->state();
    if (state == ConnState::KeepAlive && seen_mode_ != Mode::Serve && may_hand_over(now()) &&
        Session::make_movable(*client, dormancy_)) {
        if (!hand_over(client))
            settle_idle(std::move(client));
        return;
    }
    client->transit(ConnEvent::IoReady);
    push(std::move(client));
}

Deadlines &Listener::deadlines_of(ConnState state)
{
    switch (state) {
    case ConnState::KeepAlive:
        return idle_;
    case ConnState::Lingering:
        return linger_;
    case ConnState::Arriving:
        return arriving_;
    default:
        return io_;
    }
}

bool Listener::park(ClientPtr client, Interest what, Duration length, Deadlines::Length kind)
{
    Client &parked = *client;
    if (parked.state() == ConnState::Lingering && mode_.load() != Mode::Serve)
        length = std::min(length, kEndLingerTime);
    int error;
    bool wake;
    {
        // Armed under the lock: the listener may have the connection, and close it, the moment this is released.
        Lock lock(mu_);
        Deadlines &deadlines = deadlines_of(parked.state());
        deadlines.add(parked, length, now(), kind);
        wake = parked.expires < sleeps_until_.load();
        error = poller_.arm(parked.fd(), parked, what);
        if (error)
            deadlines.remove(parked);
        else
            static_cast<void>(client.release()); // it is the listener's now
    }
    if (error) {
        drop_unpolled(std::move(client), error);
        return false;
    }
    if (mode_.load() != Mode::Serve) {
        hand_over_at_.store(0);
        wake = true;
    }
    if (wake)
        poller_.wake();
    return true;
}

void Listener::hold(ClientPtr client)
{
    suspended_.hold(std::move(client));
    poller_.wake(); // it may be let go already, and is looked at once per second from now on
}

void Listener::give_back_released()
{
    for (ClientPtr &client : suspended_.take_released()) {
        client->transit(ConnEvent::Resumed);
        push(std::move(client));
    }
}

void Listener::add_timer(Duration delay, TimedCallback callback)
{
    bool wake;
    {
        Lock lock(mu_);
        const Time due = later(now(), std::max<Duration>(delay, 0));
        timers_.add(due, callback);
        wake = due < sleeps_until_.load();
    }
    if (wake)
        poller_.wake();
}

void Listener::run_timers(Time now)
{
    for (;;) {
        std::optional<TimedCallback> due;
        {
            Lock lock(mu_);
            due = timers_.pop_due(now);
        }
        if (!due)
            return;
        scheduler_.push(*new TimerTask(*this, *due));
    }
}

// An idle connection of HTTP/2 that is to end has less time than KeepAliveTimeout.
CloseReason Listener::why_expired(const Client &client) const
{
    if (client.state() != ConnState::KeepAlive)
        return CloseReason::IoTimeout;
    return parting() && client.live() && client.session()->http2() ? CloseReason::ChildEnds : CloseReason::IdleTimeout;
}

void Listener::expire(Time now)
{
    for (;;) {
        Timed *item;
        {
            Lock lock(mu_);
            item = idle_.pop_expired(now);
            if (!item)
                item = io_.pop_expired(now);
            if (!item)
                item = linger_.pop_expired(now);
            if (!item)
                item = arriving_.pop_expired(now);
        }
        if (!item)
            return;
        ClientPtr client = owner_of(*item);
        if (client->state() == ConnState::Arriving)
            too_late(std::move(client), now);
        else if (const Duration rest = client->take_sleep();
                 rest > 0 && client->state() == ConnState::KeepAlive && !hurried())
            lie_down(std::move(client), rest, now);
        else
            begin_close(std::move(client), ConnEvent::Expired, why_expired(*client));
    }
}

} // namespace hybrid
