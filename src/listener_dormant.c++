// What a listener does with connections that no worker need have: those that have not yet sent a whole request, and
// sleepers.
#include "hybrid/listener.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

// A dormant connection wakes up when its request is here.
void Listener::on_accepted(ConnectionPtr connection)
{
    if (connection->looked()) {
        connection->transit(ConnEvent::IoReady);
        return push(std::move(connection));
    }
    if (connection->state() == ConnState::KeepAlive)
        return settle_idle(std::move(connection));
    const bool is_new = connection->begins() == 0;
    if (is_new)
        connection->begin_request(now());
    switch (connection->look(limits_)) {
    case Connection::Here::Whole:
        connection->set_looked(true);
        return wake_up(std::move(connection), ConnEvent::IoReady);
    case Connection::Here::Gone:
        return close(std::move(connection), ConnEvent::PeerGone, CloseReason::ClientClosed);
    default:
        if (!is_new || connection->holds_part())
            return park_arriving(std::move(connection));
        const Duration length = connection->request_timeout();
        park(std::move(connection), Interest::Readable, length);
    }
}

void Listener::park_arriving(ConnectionPtr connection)
{
    const Time due = later(connection->begins(), connection->request_timeout());
    park_until(std::move(connection), due);
}

// Dormant, or with half of a request. It stays parked, with the deadline it has, until a whole request is here, or the
// time of another part of it begins.
void Listener::on_arriving(Connection &parked)
{
    if (seen_mode_ != Mode::Serve && may_hand_over(now()) && parked.movable(dormancy_) &&
        hand_over_parked(parked) != Handed::Back)
        return;
    const Time begun = parked.begins();
    const Connection::Here here = parked.look(limits_);
    const bool waits = here != Connection::Here::Whole && here != Connection::Here::Gone;
    if (waits && parked.begins() == begun)
        return;
    ConnectionPtr connection;
    {
        Lock lock(mu_);
        connection = unpark(parked);
        if (waits) {
            if (connection->state() == ConnState::KeepAlive)
                connection->transit(ConnEvent::Begun);
            const Duration length = connection->request_timeout();
            return arriving_.add(*connection.release(), length, parked.begins(), Deadlines::Length::Odd);
        }
    }
    if (here == Connection::Here::Gone)
        return close(std::move(connection), ConnEvent::PeerGone, CloseReason::ClientClosed);
    connection->set_looked(true);
    wake_up(std::move(connection), ConnEvent::IoReady);
}

void Listener::wake_up(ConnectionPtr connection, ConnEvent event)
{
    if (connection->opened())
        connection->mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    connection->transit(event);
    push(std::move(connection));
}

// Idle for a while: its memory is better used elsewhere. It is armed, and stays so.
void Listener::lie_down(ConnectionPtr connection, Duration rest, Time now)
{
    if (connection->sleep(dormancy_) && asleep_.fetch_add(1) + 1 == kManyAsleep)
        callbacks_.notify(callbacks_.child);
    Lock lock(mu_);
    idle_.add(*connection.release(), rest, now);
}

// Unless it has sent enough to be given more time, httpd answers what is here, if that can be answered: 408 to half a
// request.
void Listener::too_late(ConnectionPtr connection, Time now)
{
    connection->count_unread();
    const Duration left = later(connection->begins(), connection->request_timeout()) - now;
    if (left > 0) {
        Lock lock(mu_);
        return arriving_.add(*connection.release(), left, now, Deadlines::Length::Odd);
    }
    give_up_arriving(std::move(connection));
}

void Listener::give_up_arriving(ConnectionPtr connection)
{
    connection->set_late();
    connection->set_looked(true);
    wake_up(std::move(connection), ConnEvent::Late);
}

} // namespace hybrid
