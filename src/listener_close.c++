// How connections that no worker has come to their end: closed by us, lingering, shed when something has run out.
#include "hybrid/listener.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

constexpr int kLingerReads = 16;             // before others have their turn
constexpr Duration kLeastAge = seconds(1);   // who has just been at work, or begun, is not shed
constexpr Duration kQuietTime = seconds(60); // between two messages about clients that can't be polled

} // namespace

// Reads away what the client still sends. The deadline stays what it was (S18).
void Listener::on_lingering(Connection &parked)
{
    parked.transit(ConnEvent::IoReady);
    char nowhere[8 * 1024];
    apr_status_t rv = APR_SUCCESS;
    for (int i = 0; i < kLingerReads && rv == APR_SUCCESS; ++i) {
        apr_size_t length = sizeof nowhere;
        rv = apr_socket_recv(parked.socket(), nowhere, &length);
    }
    const bool more = rv == APR_SUCCESS || APR_STATUS_IS_EAGAIN(rv);
    if (more && poller_.arm(parked.fd(), parked, Interest::ReadableOnce) == 0)
        return;
    ConnectionPtr connection;
    {
        Lock lock(mu_);
        connection = unpark(parked);
    }
    close(std::move(connection), ConnEvent::PeerGone, CloseReason::ClientClosed);
}

// A client is lost, because nobody would hear it: what has run out is short for all, so that is said now and then.
void Listener::drop_unpolled(ConnectionPtr connection, int error)
{
    const Time t = now();
    Time quiet_until = unpolled_quiet_until_.load();
    if (t >= quiet_until && unpolled_quiet_until_.compare_exchange_strong(quiet_until, later(t, kQuietTime)))
        ap_log_error(APLOG_MARK, APLOG_ERR, error, ap_server_conf,
                     HYBLOGNO(0004) "can't poll a connection, closing it: %s", connection->describe(0).c_str());
    close(std::move(connection), ConnEvent::Kill, CloseReason::NotPolled);
}

void Listener::close(ConnectionPtr connection, ConnEvent event, CloseReason reason)
{
    connection->end(event, reason);
    drop(std::move(connection));
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

// A worker flushes and shuts it down; one that lingers already is dropped.
void Listener::begin_close(ConnectionPtr connection, ConnEvent event, CloseReason reason)
{
    if (!connection->opened()) { // no worker is needed, but if something has come just now
        if (!connection->input_waits())
            return close(std::move(connection), ConnEvent::Dropped, reason);
        connection->set_looked(true);
        return wake_up(std::move(connection), ConnEvent::IoReady);
    }
    if (connection->state() == ConnState::KeepAlive)
        apr_table_setn(connection->record()->notes, "short-lingering-close", "1");
    connection->end(event, reason);
    if (connection->state() == ConnState::Closed)
        drop(std::move(connection));
    else
        push(std::move(connection));
}

// Those that other children will take stay for that.
void Listener::shed_idle()
{
    std::vector<Timed *> idle;
    {
        Lock lock(mu_);
        idle_.collect(idle);
    }
    for (Timed *item : idle) {
        auto &parked = static_cast<Connection &>(*item);
        if ((hands_over() && !parked.opened()) || parked.input_waits())
            continue;
        ConnectionPtr connection;
        {
            Lock lock(mu_);
            connection = unpark(parked);
        }
        begin_close(std::move(connection), ConnEvent::Shed, CloseReason::ChildEnds);
    }
}

// Half requests first that are a second old, because their clients take what others need (W15). While there are enough
// of them that soon will be, nobody else has to go. Then idle ones, who is next to go in any case first; then those
// that have connected without a word. What has a worker, or says something, or did so just now, goes on.
void Listener::shed_oldest(int count)
{
    const Time t = now();
    std::vector<Timed *> halves;
    std::vector<Timed *> idle;
    {
        Lock lock(mu_);
        std::vector<Timed *> arriving;
        std::vector<Timed *> silent;
        arriving_.collect(arriving);
        idle_.collect(idle);
        for (Timed *item : arriving)
            (static_cast<Connection *>(item)->holds_part() ? halves : silent).push_back(item);
        for (std::vector<Timed *> *list : {&idle, &silent})
            std::ranges::sort(*list, {}, [](const Timed *item) { return item->expires; });
        idle.insert(idle.end(), silent.begin(), silent.end());
    }
    const bool enough = static_cast<int>(halves.size()) >= count;
    std::ranges::sort(halves, {}, [](const Timed *item) { return static_cast<const Connection *>(item)->begins(); });
    for (auto item = halves.begin(); item != halves.end() && count > 0; ++item, --count) {
        auto &connection = static_cast<Connection &>(**item);
        if (t - connection.begins() < kLeastAge)
            break;
        shed(connection);
    }
    for (auto item = idle.begin(); item != idle.end() && count > 0 && !enough; ++item) {
        auto &connection = static_cast<Connection &>(**item);
        const Time since = connection.state() == ConnState::KeepAlive
                               ? connection.idle_until() - connection.keep_alive_timeout()
                               : connection.expires - connection.length;
        if (t - since < kLeastAge || connection.input_waits())
            continue;
        shed(connection);
        --count;
    }
}

void Listener::shed(Connection &parked)
{
    ConnectionPtr connection;
    {
        Lock lock(mu_);
        connection = unpark(parked);
    }
    if (connection->movable(dormancy_))
        close(std::move(connection), ConnEvent::Dropped, CloseReason::Shed); // no goodbye, no lingering
    else if (connection->state() == ConnState::KeepAlive)
        begin_close(std::move(connection), ConnEvent::Shed, CloseReason::Shed);
    else
        give_up_arriving(std::move(connection));
}

// Those that have not said a word can go, too.
void Listener::shed_silent()
{
    if (hands_over())
        return;
    std::vector<Timed *> arriving;
    {
        Lock lock(mu_);
        arriving_.collect(arriving);
    }
    for (Timed *item : arriving) {
        auto &parked = static_cast<Connection &>(*item);
        if (parked.opened() || parked.input_waits())
            continue;
        ConnectionPtr connection;
        {
            Lock lock(mu_);
            connection = unpark(parked);
        }
        close(std::move(connection), ConnEvent::Dropped, CloseReason::ChildEnds);
    }
}

} // namespace hybrid
