// What a listener does with connections that no worker need have: those that have not yet sent a whole request, and
// sleepers.
#include "hybrid/listener.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

// A dormant connection wakes up when its request is here.
void Listener::on_accepted(ClientPtr client)
{
    if (client->arriving().checked()) {
        client->transit(ConnEvent::IoReady);
        return push(std::move(client));
    }
    if (client->state() == ConnState::KeepAlive)
        return settle_idle(std::move(client));
    const bool is_new = client->arriving().begins() == 0;
    if (is_new)
        client->arriving().begin(now());
    switch (client->probe(limits_)) {
    case Progress::Complete:
        client->arriving().set_checked(true);
        return wake_up(std::move(client), ConnEvent::IoReady);
    case Progress::Closed:
        return close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
    default:
        if (!is_new || client->arriving().holds_part())
            return park_arriving(std::move(client));
        const Duration length = client->request_timeout();
        park(std::move(client), Interest::Readable, length);
    }
}

void Listener::park_arriving(ClientPtr client)
{
    const Time due = later(client->arriving().begins(), client->request_timeout());
    park_until(std::move(client), due);
}

// Dormant, or with half of a request. It stays parked, with the deadline it has, until a whole request is here, or the
// time of another part of it begins.
void Listener::on_arriving(Client &parked)
{
    if (seen_mode_ != Mode::Serve && may_hand_over(now()) && Session::make_movable(parked, dormancy_) &&
        hand_over_parked(parked) != Handed::Back)
        return;
    const Time begun = parked.arriving().begins();
    const Progress progress = parked.probe(limits_);
    const bool waits = progress != Progress::Complete && progress != Progress::Closed;
    if (waits && parked.arriving().begins() == begun)
        return;
    ClientPtr client = unpark(parked);
    if (waits) {
        if (client->state() == ConnState::KeepAlive)
            client->transit(ConnEvent::Begun);
        const Duration length = client->request_timeout();
        return keeper_.keep_on(*client.release(), length, parked.arriving().begins(), Deadlines::Length::Odd);
    }
    if (progress == Progress::Closed)
        return close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
    client->arriving().set_checked(true);
    wake_up(std::move(client), ConnEvent::IoReady);
}

void Listener::wake_up(ClientPtr client, ConnEvent event)
{
    client->transit(event);
    push(std::move(client));
}

// Idle for a while: its memory is better used elsewhere. It is armed, and stays so.
void Listener::lie_down(ClientPtr client, Duration rest, Time now)
{
    if (Session::release(*client, dormancy_) && asleep_.fetch_add(1) + 1 == kManyAsleep)
        callbacks_.notify(callbacks_.child);
    keeper_.keep_on(*client.release(), rest, now);
}

// Unless it has sent enough to be given more time, httpd answers what is here, if that can be answered: 408 to half a
// request.
void Listener::too_late(ClientPtr client, Time now)
{
    client->arriving().count_unread();
    const Duration left = later(client->arriving().begins(), client->request_timeout()) - now;
    if (left > 0)
        return keeper_.keep_on(*client.release(), left, now, Deadlines::Length::Odd);
    give_up_arriving(std::move(client));
}

void Listener::give_up_arriving(ClientPtr client)
{
    client->arriving().set_timed_out();
    client->arriving().set_checked(true);
    wake_up(std::move(client), ConnEvent::Late);
}

} // namespace hybrid
