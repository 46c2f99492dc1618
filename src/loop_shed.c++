// SPDX-License-Identifier: Apache-2.0
// How connections that no worker has come to their end: closed by us, lingering, shed when something has run out.
#include "hybrid/loop.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

constexpr int kLingerReads = 16;             // before others have their turn
constexpr Duration kLeastAge = seconds(1);   // who has just been at work, or begun, is not shed
constexpr Duration kQuietTime = seconds(60); // between two messages about clients that can't be polled

} // namespace

// Reads away what the client still sends. The deadline stays what it was (S18).
void Loop::on_lingering(Client &parked)
{
    parked.transit(ConnEvent::IoReady);
    char nowhere[8 * 1024];
    apr_status_t rv = APR_SUCCESS;
    for (int i = 0; i < kLingerReads && rv == APR_SUCCESS; ++i) {
        apr_size_t length = sizeof nowhere;
        rv = apr_socket_recv(parked.session()->socket(), nowhere, &length);
    }
    const bool more = rv == APR_SUCCESS || APR_STATUS_IS_EAGAIN(rv);
    if (more && keeper_.hear_again(parked) == 0)
        return;
    ClientPtr client = take_out(parked);
    close(std::move(client), ConnEvent::PeerGone, CloseReason::ClientClosed);
}

// A client is lost, because nobody would hear it: what has run out is short for all, so that is said now and then.
void Loop::drop_unpolled(ClientPtr client, int error)
{
    const Time t = now();
    Time quiet_until = unpolled_quiet_until_.load();
    if (t >= quiet_until && unpolled_quiet_until_.compare_exchange_strong(quiet_until, later(t, kQuietTime)))
        ap_log_error(APLOG_MARK, APLOG_ERR, error, ap_server_conf,
                     HYBLOGNO(0004) "can't poll a connection, closing it: %s", client->describe(0).c_str());
    close(std::move(client), ConnEvent::Kill, CloseReason::NotPolled);
}

void Loop::close(ClientPtr client, ConnEvent event, CloseReason reason)
{
    client->end(event, reason);
    drop(std::move(client));
}

void Loop::drop(ClientPtr client)
{
    keeper_.forget(*client);
    client.reset();
    if (acceptor_.pausing() || mode_.load() != Mode::Serve)
        keeper_.wake();
}

// A worker flushes and shuts it down; one that lingers already is dropped.
void Loop::begin_close(ClientPtr client, ConnEvent event, CloseReason reason)
{
    if (!client->live()) { // no worker is needed, but if something has come just now
        if (!client->input_waits())
            return close(std::move(client), ConnEvent::Dropped, reason);
        client->arriving().set_checked(true);
        return make_runnable(std::move(client), ConnEvent::IoReady);
    }
    client->end(event, reason);
    if (client->state() == ConnState::Closed)
        drop(std::move(client));
    else
        push(std::move(client));
}

// Those that other children will take stay for that.
void Loop::shed_idle()
{
    std::vector<Timed *> idle;
    keeper_.collect(ConnState::KeepAlive, idle);
    for (Timed *item : idle) {
        auto &parked = static_cast<Client &>(*item);
        if ((hands_over() && !parked.live()) || parked.input_waits())
            continue;
        ClientPtr client = take_out(parked);
        begin_close(std::move(client), ConnEvent::Shed, CloseReason::ChildEnds);
    }
}

// Half requests first that are a second old, because their clients take what others need (W15). While there are enough
// of them that soon will be, nobody else has to go. Then idle ones, who is next to go in any case first; then those
// that have connected without a word. What has a worker, or says something, or did so just now, goes on.
void Loop::shed_oldest(int count)
{
    const Time t = now();
    std::vector<Timed *> halves;
    std::vector<Timed *> idle;
    {
        std::vector<Timed *> arriving;
        std::vector<Timed *> silent;
        keeper_.collect(ConnState::Arriving, arriving);
        keeper_.collect(ConnState::KeepAlive, idle);
        for (Timed *item : arriving)
            (static_cast<Client *>(item)->arriving().holds_part() ? halves : silent).push_back(item);
        for (std::vector<Timed *> *list : {&idle, &silent})
            std::ranges::sort(*list, {}, [](const Timed *item) { return item->expires; });
        idle.insert(idle.end(), silent.begin(), silent.end());
    }
    const bool enough = static_cast<int>(halves.size()) >= count;
    std::ranges::sort(halves, {},
                      [](const Timed *item) { return static_cast<const Client *>(item)->arriving().begins(); });
    for (auto item = halves.begin(); item != halves.end() && count > 0; ++item, --count) {
        auto &client = static_cast<Client &>(**item);
        if (t - client.arriving().begins() < kLeastAge)
            break;
        shed(client);
    }
    for (auto item = idle.begin(); item != idle.end() && count > 0 && !enough; ++item) {
        auto &client = static_cast<Client &>(**item);
        const Time since = client.state() == ConnState::KeepAlive ? client.idle_until() - client.keep_alive_timeout()
                                                                  : client.expires - client.length;
        if (t - since < kLeastAge || client.input_waits())
            continue;
        shed(client);
        --count;
    }
}

void Loop::shed(Client &parked)
{
    ClientPtr client = take_out(parked);
    if (Session::make_movable(*client, dormancy_))
        close(std::move(client), ConnEvent::Dropped, CloseReason::Shed); // no goodbye, no lingering
    else if (client->state() == ConnState::KeepAlive)
        begin_close(std::move(client), ConnEvent::Shed, CloseReason::Shed);
    else
        expire_request(std::move(client));
}

// Those that have not said a word can go, too.
void Loop::shed_silent()
{
    if (hands_over())
        return;
    std::vector<Timed *> arriving;
    keeper_.collect(ConnState::Arriving, arriving);
    for (Timed *item : arriving) {
        auto &parked = static_cast<Client &>(*item);
        if (parked.live() || parked.input_waits())
            continue;
        ClientPtr client = take_out(parked);
        close(std::move(client), ConnEvent::Dropped, CloseReason::ChildEnds);
    }
}

} // namespace hybrid
