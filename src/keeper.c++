// SPDX-License-Identifier: Apache-2.0
#include "hybrid/keeper.hpp"

#include <algorithm>

namespace hybrid {

Deadlines &Keeper::room(ConnState state)
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

int Keeper::keep(Kept &client, Interest what, Duration length, Time now, Deadlines::Length kind)
{
    bool wakes;
    {
        // Armed under the lock: the thread that polls may have the client, and close it, the moment this is released.
        const Lock lock(mu_);
        Deadlines &deadlines = room(client.state());
        deadlines.add(client, length, now, kind);
        wakes = client.expires < sleeps_until_.load();
        if (const int error = poller_.arm(client.fd(), client, what)) {
            deadlines.remove(client);
            return error;
        }
    }
    if (wakes)
        poller_.wake();
    return 0;
}

void Keeper::keep_on(Kept &client, Duration length, Time since, Deadlines::Length kind)
{
    const Lock lock(mu_);
    room(client.state()).add(client, length, since, kind);
}

void Keeper::take(Kept &client)
{
    const Lock lock(mu_);
    room(client.state()).remove(client);
}

void Keeper::forget(Kept &client)
{
    const Lock lock(mu_);
    poller_.forget(client.fd(), client);
}

// A client stays armed while a worker has it (it goes on sending, or goes away, while a handler is blocked): then
// nobody needs to hear that, until it is kept again.
bool Keeper::concerns(Kept &client)
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

Kept *Keeper::take_expired(Time now)
{
    const Lock lock(mu_);
    for (Deadlines *deadlines : {&idle_, &io_, &linger_, &arriving_})
        if (Timed *item = deadlines->pop_expired(now))
            return static_cast<Kept *>(item);
    return nullptr;
}

void Keeper::collect(ConnState state, std::vector<Timed *> &kept)
{
    const Lock lock(mu_);
    room(state).collect(kept);
}

void Keeper::collect_unseen(ConnState state, std::vector<Timed *> &kept)
{
    const Lock lock(mu_);
    room(state).collect_unseen(kept);
}

void Keeper::set_seen(Kept &client)
{
    const Lock lock(mu_);
    client.seen = true;
}

void Keeper::limit_lingering(Duration length, Time now)
{
    const Lock lock(mu_);
    std::vector<Timed *> lingering;
    while (Timed *item = linger_.pop_expired(kNever))
        lingering.push_back(item);
    for (Timed *item : lingering)
        linger_.add(*item, length, now);
}

void Keeper::add_timer(Time due, TimedCallback callback)
{
    bool wakes;
    {
        const Lock lock(mu_);
        timers_.add(due, callback);
        wakes = due < sleeps_until_.load();
    }
    if (wakes)
        poller_.wake();
}

std::optional<TimedCallback> Keeper::take_due(Time now)
{
    const Lock lock(mu_);
    return timers_.pop_due(now);
}

Time Keeper::next_timer() const
{
    const Lock lock(mu_);
    return timers_.next();
}

Time Keeper::plan_sleep(Time due)
{
    const Lock lock(mu_);
    due = std::min({due, idle_.next(), io_.next(), linger_.next(), arriving_.next(), timers_.next()});
    sleeps_until_.store(due);
    return due;
}

std::span<const epoll_event> Keeper::sleep()
{
    const std::span<const epoll_event> events = poller_.wait(sleeps_until_.load());
    sleeps_until_.store(0);
    return events;
}

} // namespace hybrid
