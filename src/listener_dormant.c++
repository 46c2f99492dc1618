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
        return scheduler_.push(*connection.release());
    }
    if (connection->state() == ConnState::KeepAlive)
        return settle_idle(std::move(connection));
    const Time begins = connection->begins() ? connection->begins() : now();
    switch (connection->look()) {
    case Connection::Here::Whole:
        connection->set_looked(true);
        return wake_up(*connection.release(), ConnEvent::IoReady);
    case Connection::Here::Gone:
        connection->transit(ConnEvent::PeerGone);
        return drop(std::move(connection));
    default:
        park_arriving(std::move(connection), begins);
    }
}

void Listener::park_arriving(ConnectionPtr connection, Time begins)
{
    connection->begin_request(begins);
    const Duration passed = (now() - begins) / seconds(1) * seconds(1);
    const Duration length = std::max<Duration>(connection->request_timeout() - passed, 0);
    park(std::move(connection), Interest::Readable, length);
}

// Dormant, or with half of a request. It stays parked, with the deadline it has, until a whole request is here.
void Listener::on_arriving(Connection &connection)
{
    if (seen_mode_ != Mode::Serve && may_hand_over(now()) && connection.movable(dormancy_) && hand_over(connection))
        return;
    const bool was_idle = connection.state() == ConnState::KeepAlive;
    const bool had_head = connection.awaits_body();
    const Connection::Here here = connection.look();
    if (here == Connection::Here::Nothing)
        return;
    const bool begins = was_idle ? here == Connection::Here::Part || here == Connection::Here::Head
                                 : here == Connection::Here::Head && !had_head;
    if (here == Connection::Here::Part && !begins)
        return;
    if (here == Connection::Here::Head && !begins)
        return;
    {
        Lock lock(mu_);
        deadlines_of(connection.state()).remove(connection);
        if (begins) {
            if (was_idle)
                connection.transit(ConnEvent::Begun);
            connection.begin_request(now());
            return arriving_.add(connection, connection.request_timeout(), connection.begins());
        }
    }
    if (here == Connection::Here::Gone)
        return drop(ConnectionPtr(&connection));
    connection.set_looked(true);
    wake_up(connection, ConnEvent::IoReady);
}

void Listener::wake_up(Connection &connection, ConnEvent event)
{
    if (connection.opened())
        connection.mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    connection.transit(event);
    scheduler_.push(connection);
}

// Idle for a while: its memory is better used elsewhere.
void Listener::lie_down(Connection &connection, Duration rest, Time now)
{
    asleep_ += connection.sleep(dormancy_);
    Lock lock(mu_);
    idle_.add(connection, rest, now);
}

// Unless it has sent enough to be given more time, httpd answers what is here, if that can be answered: 408 to half a
// request.
void Listener::too_late(Connection &connection, Time now)
{
    const Duration left = later(connection.begins(), connection.request_timeout()) - now;
    if (left > 0) {
        Lock lock(mu_);
        return arriving_.add(connection, (left + seconds(1) - 1) / seconds(1) * seconds(1), now);
    }
    give_up_arriving(connection);
}

void Listener::give_up_arriving(Connection &connection)
{
    connection.set_late();
    connection.set_looked(true);
    wake_up(connection, ConnEvent::Expired);
}

} // namespace hybrid
