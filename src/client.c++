// SPDX-License-Identifier: Apache-2.0
#include "hybrid/client.hpp"

#include "hybrid/request_timeouts.hpp"

#include <arpa/inet.h>
#include <cstring>
#include <new>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>

namespace hybrid {

namespace {

/// FNV-1a.
void mix(std::uint64_t &hash, std::string_view bytes)
{
    for (const char byte : bytes)
        hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
}

} // namespace

void ClientCloser::operator()(Client *client) const
{
    if (client->state() != ConnState::Closed)
        client->end(ConnEvent::Kill, CloseReason::Unknown);
    if (!client->live())
        close(client->fd());
    delete client; // its session has the socket, if a module has not taken it
}

ClientPtr owner_of(Timed &item)
{
    return ClientPtr(static_cast<Client *>(&item));
}

ClientPtr owner_of(Runnable &work)
{
    return ClientPtr(static_cast<Client *>(&work));
}

Client::Client(const Peer &peer, Slot &slot, Run turn)
    : Runnable(turn), Kept(peer.fd), slot_(slot), peer_(peer), arriving_(peer.fd, peer.expects, peer.inside),
      server_(peer.server ? peer.server : ap_server_conf)
{
}

ClientPtr Client::accept(const Peer &peer, Slot &slot, Run turn)
{
    auto *client = new (std::nothrow) Client(peer, slot, turn);
    if (client)
        slot.opened();
    return ClientPtr(client);
}

ClientPtr Client::adopt(const Parcel *parcel, int fd, const sockaddr_in6 &address, Slot &slot, Run turn)
{
    Peer peer;
    peer.fd = fd;
    peer.expects = parcel ? static_cast<Expects>(parcel->expects) : Expects::Request;
    peer.inside = parcel ? static_cast<Expects>(parcel->inside) : Expects::Nothing;
    peer.address.v6 = address;
    ClientPtr client = accept(peer, slot, turn);
    if (!client)
        return client;
    const bool kept_alive = !parcel || parcel->kept_alive;
    if (kept_alive)
        client->arriving_.resume(0, false, !parcel || parcel->lowat);
    else
        client->arriving_.resume(parcel->begins, parcel->in_body, parcel->lowat);
    if (parcel) {
        client->keepalives_ = parcel->keepalives;
        client->server_ = server_of(parcel->server);
        client->log_id_ = parcel->log_id;
    }
    if (kept_alive) {
        client->transit(ConnEvent::Adopted);
        client->expires = parcel ? parcel->expires : kNever;
    }
    return client;
}

Parcel Client::parcel() const
{
    Parcel parcel;
    parcel.kept_alive = state_ == ConnState::KeepAlive || (state_ == ConnState::Ready && keepalives_ > 0);
    parcel.expects = static_cast<std::uint8_t>(arriving_.expects());
    parcel.inside = static_cast<std::uint8_t>(arriving_.inside());
    parcel.lowat = arriving_.sets_lowat();
    parcel.keepalives = keepalives_;
    parcel.server = key_of(server_);
    parcel.expires = idle_until();
    parcel.begins = arriving_.begins();
    parcel.in_body = arriving_.in_body();
    if (log_id_.size() < sizeof parcel.log_id)
        std::memcpy(parcel.log_id, log_id_.c_str(), log_id_.size());
    return parcel;
}

// A server_rec is another one in the next generation, and may be gone there.
std::uint64_t Client::key_of(const server_rec *server)
{
    std::uint64_t hash = 0xcbf29ce484222325U;
    mix(hash, server->server_hostname ? server->server_hostname : "");
    for (const server_addr_rec *address = server->addrs; address; address = address->next) {
        mix(hash, address->virthost ? address->virthost : "");
        mix(hash, {reinterpret_cast<const char *>(&address->host_port), sizeof address->host_port});
    }
    return hash;
}

const server_rec *Client::server_of(std::uint64_t key)
{
    for (const server_rec *server = ap_server_conf; server; server = server->next)
        if (key_of(server) == key)
            return server;
    return ap_server_conf;
}

void Client::transit(ConnEvent event)
{
    ap_assert(!facts(event).ends);
    step(event);
}

void Client::end(ConnEvent event, CloseReason reason)
{
    if (!reason_)
        reason_ = reason;
    step(event);
    if (state_ == ConnState::Closed)
        slot_.ended(*reason_);
}

void Client::step(ConnEvent event)
{
    const auto to = next_state(state_, event);
    ap_assert(to.has_value());
    if (APLOGtrace6(ap_server_conf))
        ap_log_error(APLOG_MARK, APLOG_TRACE6, 0, ap_server_conf, "client %d: [%s] -- %s --> [%s]%s%s", fd(),
                     facts(state_).name, facts(event).name, facts(*to).name, reason_ ? ": " : "",
                     reason_ ? facts(*reason_).words : "");
    slot_.moved(state_, *to);
    if (facts(*to).owner == ConnOwner::RunQueue && state_ != *to)
        came_from_ = state_;
    if (to == ConnState::Ready && state_ == ConnState::Arriving)
        arriving_.forget();
    ap_assert(to != ConnState::KeepAlive || arriving_.at_rest());
    state_ = *to;
}

bool Client::between_requests() const
{
    return state_ == ConnState::Ready && !arriving_.timed_out() && (!live() || came_from_ == ConnState::KeepAlive);
}

void Client::make_dormant(int keepalives, const char *log_id)
{
    keepalives_ = keepalives;
    if (log_id)
        log_id_ = log_id;
    session_.reset();
}

Progress Client::probe(const RequestLimits &limits)
{
    using Acquaintance = Arriving::Acquaintance;
    const Acquaintance acquaintance = live()            ? Acquaintance::Present
                                      : keepalives_ > 0 ? Acquaintance::Former
                                                        : Acquaintance::None;
    return arriving_.probe(limits, acquaintance);
}

bool Client::input_waits() const
{
    char byte;
    return recv(fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

Duration Client::request_timeout() const
{
    if (arriving_.shakes_hands())
        return RequestTimeouts::handshake(server_);
    return arriving_.in_body() ? RequestTimeouts::body(server_, arriving_.received())
                               : RequestTimeouts::head(server_, arriving_.received());
}

std::string Client::describe(Duration length) const
{
    return describe(server_->server_hostname ? server_->server_hostname : "", "", length);
}

std::string Client::describe(const std::string &host, const std::string &request, Duration length) const
{
    char address[INET6_ADDRSTRLEN] = "?";
    const bool v4 = peer_.address.any.sa_family == AF_INET;
    inet_ntop(peer_.address.any.sa_family,
              v4 ? static_cast<const void *>(&peer_.address.v4.sin_addr) : &peer_.address.v6.sin6_addr, address,
              sizeof address);
    return std::string("client ") + address + ":" +
           std::to_string(ntohs(v4 ? peer_.address.v4.sin_port : peer_.address.v6.sin6_port)) + ", host " +
           (host.empty() ? "-" : host) + ", request \"" + (request.empty() ? "-" : request) + "\", " +
           facts(state_).words + ", " + std::to_string(length / seconds(1)) + " s";
}

} // namespace hybrid
