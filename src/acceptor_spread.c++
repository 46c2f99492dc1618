// SPDX-License-Identifier: Apache-2.0
// How an acceptor leaves clients to other children: so that each has its share, and who is nearly full has room for
// what has nowhere else to go.
#include "hybrid/acceptor.hpp"

#include "hybrid/config.hpp"

namespace hybrid {

namespace {

constexpr Duration kCountPeriod = milliseconds(1);  // of other children's connections
constexpr Duration kTurn = milliseconds(1);         // others have it
constexpr Duration kImpatience = milliseconds(100); // when they didn't use it

} // namespace

// Have I got clearly more connections than another child? Of all that wait for a client only one is woken, and it is
// the same one again and again: all clients that come while nothing much is going on gather there, and another child
// idles when they begin to ask.
bool Acceptor::ahead(Time now)
{
    if (now >= counted_elsewhere_at_ + kCountPeriod) {
        counted_elsewhere_at_ = now;
        fewest_elsewhere_ = slot_.fewest_elsewhere(Slot::Among::Bucket);
    }
    const unsigned mine = slot_.connections();
    return mine > fewest_elsewhere_ && mine - fewest_elsewhere_ > 1 + fewest_elsewhere_ / 2;
}

// The next client is theirs. If more are here already, one that sleeps is woken for them, and gets a moment; but not
// again for a while if it does not use that.
void Acceptor::let_others(Socket &socket, bool more, Time now)
{
    if (socket.record && more && channel_ && now >= waits_again_at_ && slot_.somebody_sleeps(slot_.connections())) {
        waits_for_ = slot_.fewest_elsewhere(Slot::Among::Bucket);
        return step_aside(kTurn, more, now);
    }
    if (socket.record && aside_until_ != kNever)
        return; // it is not in the queue at all
    if (const int error = poller_.requeue(socket.fd, socket))
        pause(error, now);
}

// Others have more room: what comes from other children, and files that requests open, shall find some here.
bool Acceptor::nearly_full() const
{
    const unsigned enough = most_connections_ - most_connections_ / 16;
    return slot_.connections() >= enough && slot_.fewest_elsewhere(Slot::Among::Bucket) < enough;
}

unsigned Acceptor::room_elsewhere() const
{
    const unsigned fewest = channel_ ? slot_.fewest_elsewhere(Slot::Among::All) : UINT_MAX;
    return fewest < static_cast<unsigned>(most_connections_) ? most_connections_ - fewest : 0;
}

// If more has come by now, nobody else has been woken for it.
void Acceptor::step_aside(Duration length, bool more, Time now)
{
    for (Socket &socket : sockets_)
        if (socket.record)
            poller_.forget(socket.fd, socket);
    aside_until_ = later(now, length);
    if (!more || !channel_)
        return;
    if (const int error = poller_.requeue(channel_.from(), sockets_.back())) // or the nudge would wake us
        return pause(error, now);
    channel_.nudge();
}

void Acceptor::come_back(Time now)
{
    if (waits_for_ != kNobody && slot_.fewest_elsewhere(Slot::Among::Bucket) == waits_for_)
        waits_again_at_ = later(now, kImpatience);
    waits_for_ = kNobody;
    aside_until_ = nearly_full() ? later(now, kFullPause) : kNever;
    if (aside_until_ == kNever)
        listen_again(false, now);
}

// What others were woken for, and left. Who accepts no more passes it on.
void Acceptor::take_nudge(Time now)
{
    if (closed_)
        return channel_.nudge();
    for (Socket &socket : sockets_) {
        if (!socket.record || pausing())
            continue;
        if (take(socket, now))
            let_others(socket, true, now);
        else if (aside_until_ != kNever)
            aside_until_ = now;
    }
}

} // namespace hybrid
