#include "hybrid/listener.hpp"

#include "hybrid/config.hpp"
#include "hybrid/workers.hpp"

#include <algorithm>
#include <malloc.h>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kReviewPeriod = seconds(1); // suspended connections, for modules with threads of their own
constexpr unsigned kManySleepers = 100;
constexpr Duration kTrimPeriod = seconds(1);
constexpr int kLingerReads = 16; // before others have their turn

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
    : slot_(slot), scheduler_(scheduler), callbacks_(callbacks), dormancy_(config.dormant), channel_(channel),
      tls_filter_(config.tls_filter), most_waiting_(config.max_waiting),
      acceptor_(config, slot, scheduler, pools, poller_, channel,
                {[](void *self, ConnectionPtr connection) {
                     static_cast<Listener *>(self)->on_accepted(std::move(connection));
                 },
                 this, callbacks.turn,
                 [](void *self, int count) { static_cast<Listener *>(self)->shed_oldest(count); }})
{
}

void Listener::round(Worker &self)
{
    const Time t = now();
    if (!begin_round(t))
        return;
    if (unattended_.exchange(false))
        slot_.set_accepting(!acceptor_.pausing());
    acceptor_.reconsider(t);
    const std::span<const epoll_event> events = wait(self, t);
    take_in(events, now());
}

Listener::Attendance Listener::attend()
{
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
    give_memory_back(now);
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

// What many sleepers have left is in pieces between what others still have: the C library does not give it back by
// itself.
void Listener::give_memory_back(Time now)
{
    if (asleep_ < kManySleepers || now < trim_at_)
        return;
    asleep_ = 0;
    trim_at_ = later(now, kTrimPeriod);
    malloc_trim(0);
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

void Listener::nobody_polls()
{
    unattended_.store(true);
    slot_.set_accepting(false);
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
    {
        Lock lock(mu_); // who parked it has let go of it; who drops it has not yet, or the poller has forgotten it
        target = poller_.target_of(event);
        if (!target || (target->kind == PollTarget::Kind::Client && !take(static_cast<Connection &>(*target))))
            return;
    }
    if (target->kind == PollTarget::Kind::Listen)
        acceptor_.on_readable(*target, now);
    else
        on_ready(static_cast<Connection &>(*target));
}

// Is it parked, so that the event concerns us? A connection stays armed while a worker has it (its client goes on
// sending, or goes away, while a handler is blocked): then nobody needs to hear that, until it is parked again.
bool Listener::take(Connection &connection)
{
    if (!connection.queued()) {
        poller_.forget(connection.fd(), connection);
        return false;
    }
    if (poller_.stale(connection))
        return false;
    const ConnState state = connection.state();
    if (state == ConnState::Lingering)
        poller_.spent(connection);
    if (state != ConnState::Lingering && state != ConnState::Arriving && connection.opened())
        deadlines_of(state).remove(connection);
    return true;
}

void Listener::on_ready(Connection &connection)
{
    const ConnState state = connection.state();
    if (state == ConnState::Lingering)
        return on_lingering(connection);
    if (state == ConnState::Arriving && connection.needs_worker_to_look()) {
        {
            Lock lock(mu_);
            arriving_.remove(connection);
        }
        return wake_up(connection, ConnEvent::IoReady);
    }
    if (state == ConnState::Arriving || !connection.opened())
        return on_arriving(connection);
    if (state == ConnState::KeepAlive && seen_mode_ != Mode::Serve && may_hand_over(now()) &&
        connection.movable(dormancy_)) {
        if (!hand_over(connection))
            settle_idle(ConnectionPtr(&connection));
        return;
    }
    if (state != ConnState::WriteCompletion)
        connection.mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    connection.transit(ConnEvent::IoReady);
    scheduler_.push(connection);
}

// Reads away what the client still sends. The deadline stays what it was (S18).
void Listener::on_lingering(Connection &connection)
{
    connection.transit(ConnEvent::IoReady);
    char nowhere[8 * 1024];
    apr_status_t rv = APR_SUCCESS;
    for (int i = 0; i < kLingerReads && rv == APR_SUCCESS; ++i) {
        apr_size_t length = sizeof nowhere;
        rv = apr_socket_recv(connection.socket(), nowhere, &length);
    }
    const bool more = rv == APR_SUCCESS || APR_STATUS_IS_EAGAIN(rv);
    if (more && poller_.arm(connection.fd(), connection, Interest::ReadableOnce) == 0)
        return;
    {
        Lock lock(mu_);
        linger_.remove(connection);
    }
    connection.transit(ConnEvent::PeerGone);
    drop(ConnectionPtr(&connection));
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

void Listener::park(ConnectionPtr connection, Interest what, Duration length)
{
    Connection &parked = *connection;
    if (parked.state() == ConnState::Lingering && mode_.load() != Mode::Serve)
        length = std::min(length, kEndLingerTime);
    int error;
    bool wake;
    {
        // Armed under the lock: the listener may have the connection, and close it, the moment this is released.
        Lock lock(mu_);
        Deadlines &deadlines = deadlines_of(parked.state());
        deadlines.add(parked, length, now());
        wake = parked.expires < sleeps_until_.load();
        error = poller_.arm(parked.fd(), parked, what);
        if (error)
            deadlines.remove(parked);
        else
            static_cast<void>(connection.release()); // it is the listener's now
    }
    if (error) {
        ap_log_cerror(APLOG_MARK, APLOG_ERR, error, parked.record(),
                      HYBLOGNO(0004) "can't poll the connection, closing it");
        return drop(std::move(connection));
    }
    if (mode_.load() != Mode::Serve) {
        hand_over_at_.store(0);
        wake = true;
    }
    if (wake)
        poller_.wake();
}

void Listener::hold(ConnectionPtr connection)
{
    suspended_.hold(std::move(connection));
    poller_.wake(); // it may be let go already, and is looked at once per second from now on
}

void Listener::drop(ConnectionPtr connection)
{
    {
        Lock lock(mu_);
        poller_.forget(connection->fd(), *connection);
    }
    connection.reset();
    if (acceptor_.pausing() || mode_.load() != Mode::Serve)
        poller_.wake();
}

void Listener::give_back_released()
{
    for (ConnectionPtr &connection : suspended_.take_released()) {
        connection->transit(ConnEvent::Resumed);
        scheduler_.push(*connection.release());
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
        Connection &connection = static_cast<Connection &>(*item);
        if (connection.state() == ConnState::Arriving)
            too_late(connection, now);
        else if (const Duration rest = connection.take_rest();
                 rest > 0 && connection.state() == ConnState::KeepAlive && !hurried())
            lie_down(connection, rest, now);
        else
            begin_close(connection, ConnEvent::Expired);
    }
}

// A worker flushes and shuts it down; one that lingers already is dropped.
void Listener::begin_close(Connection &connection, ConnEvent event)
{
    if (!connection.opened()) { // no worker is needed, but if something has come just now
        if (!connection.input_waits())
            return drop(ConnectionPtr(&connection));
        connection.set_looked(true);
        return wake_up(connection, ConnEvent::IoReady);
    }
    if (connection.state() == ConnState::KeepAlive)
        apr_table_setn(connection.record()->notes, "short-lingering-close", "1");
    connection.transit(event);
    if (connection.state() == ConnState::Closed)
        drop(ConnectionPtr(&connection));
    else
        scheduler_.push(connection);
}

} // namespace hybrid
