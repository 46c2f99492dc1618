// SPDX-License-Identifier: Apache-2.0
// What the loop does with clients that no worker need have: those that have not sent a whole request yet, and
// sleepers.
#include "hybrid/loop.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

// A dormant connection wakes up when its request is here.
void Loop::on_accepted(ClientPtr client)
{
    if (client->arriving().checked()) {
        client->transit(ConnEvent::IoReady);
        return push(std::move(client));
    }
    if (client->state() == ConnState::KeepAlive)
        return park_adopted(std::move(client));
    const bool is_new = client->arriving().begins() == 0;
    if (is_new)
        client->arriving().begin(now());
    switch (client->probe(limits_)) {
    case Progress::Complete:
        client->arriving().set_checked(true);
        return make_runnable(std::move(client), ConnEvent::IoReady);
    case Progress::Closed:
        return close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
    default:
        if (!is_new || client->arriving().holds_part())
            return keep_arriving(std::move(client));
        const Duration length = client->request_timeout();
        park(std::move(client), Interest::Readable, length);
    }
}

void Loop::keep_arriving(ClientPtr client)
{
    const Time due = later(client->arriving().begins(), client->request_timeout());
    keep_until(std::move(client), due);
}

// Dormant, or with half of a request. It stays parked, with the deadline it has, until a whole request is here, or the
// time of another part of it begins.
void Loop::on_arriving(Client &parked)
{
    if (seen_mode_ != Mode::Serve && may_hand_over(now()) && Session::make_movable(parked, dormancy_) &&
        hand_over_kept(parked) != Handed::Back)
        return;
    const Time begun = parked.arriving().begins();
    const Progress progress = parked.probe(limits_);
    const bool waits = progress != Progress::Complete && progress != Progress::Closed;
    if (waits && parked.arriving().begins() == begun)
        return;
    ClientPtr client = take_out(parked);
    if (waits) {
        if (client->state() == ConnState::KeepAlive)
            client->transit(ConnEvent::Begun);
        const Duration length = client->request_timeout();
        return keeper_.keep_on(*client.release(), length, parked.arriving().begins(), Deadlines::Length::Odd);
    }
    if (progress == Progress::Closed)
        return close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
    client->arriving().set_checked(true);
    make_runnable(std::move(client), ConnEvent::IoReady);
}

void Loop::make_runnable(ClientPtr client, ConnEvent event)
{
    client->transit(event);
    push(std::move(client));
}

// Idle for a while: its memory is better used elsewhere. It is armed, and stays so.
void Loop::make_dormant(ClientPtr client, Duration rest, Time now)
{
    if (Session::release(*client, dormancy_) && dormant_since_trim_.fetch_add(1) + 1 == kManyDormant)
        callbacks_.notify(callbacks_.child);
    keeper_.keep_on(*client.release(), rest, now);
}

// Unless it has sent enough to be given more time, httpd answers what is here, if that can be answered: 408 to half a
// request.
void Loop::on_request_timeout(ClientPtr client, Time now)
{
    client->arriving().count_unread();
    const Duration left = later(client->arriving().begins(), client->request_timeout()) - now;
    if (left > 0)
        return keeper_.keep_on(*client.release(), left, now, Deadlines::Length::Odd);
    expire_request(std::move(client));
}

void Loop::expire_request(ClientPtr client)
{
    client->arriving().set_timed_out();
    client->arriving().set_checked(true);
    make_runnable(std::move(client), ConnEvent::Late);
}

} // namespace hybrid
