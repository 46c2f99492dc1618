// How a connection leaves its child, and arrives in another.
#include "hybrid/connection.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <string_view>
#include <sys/socket.h>

namespace hybrid {

namespace {

/// FNV-1a.
void mix(std::uint64_t &hash, std::string_view bytes)
{
    for (const char byte : bytes)
        hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3U;
}

} // namespace

// A server_rec is another one in the next generation, and may be gone there.
std::uint64_t Connection::key_of(const server_rec *server)
{
    std::uint64_t hash = 0xcbf29ce484222325U;
    mix(hash, server->server_hostname ? server->server_hostname : "");
    for (const server_addr_rec *address = server->addrs; address; address = address->next) {
        mix(hash, address->virthost ? address->virthost : "");
        mix(hash, {reinterpret_cast<const char *>(&address->host_port), sizeof address->host_port});
    }
    return hash;
}

const server_rec *Connection::server_of(std::uint64_t key)
{
    for (const server_rec *server = ap_server_conf; server; server = server->next)
        if (key_of(server) == key)
            return server;
    return ap_server_conf;
}

bool Connection::movable(const Dormancy &dormancy)
{
    if (opened())
        return (state_ == ConnState::KeepAlive || was_idle_) && sleep(dormancy);
    return !late_;
}

Parcel Connection::parcel() const
{
    Parcel parcel;
    parcel.kept_alive = state_ == ConnState::KeepAlive || (state_ == ConnState::Ready && keepalives_ > 0);
    parcel.expects = static_cast<std::uint8_t>(peer_.expects);
    parcel.inside = static_cast<std::uint8_t>(peer_.inside);
    parcel.lowat = awaited_ != 1;
    parcel.keepalives = keepalives_;
    parcel.server = key_of(timeouts_of_);
    parcel.expires = idle_until();
    parcel.begins = begins_;
    parcel.in_body = in_body_;
    if (log_id_.size() < sizeof parcel.log_id)
        std::memcpy(parcel.log_id, log_id_.c_str(), log_id_.size());
    return parcel;
}

ConnectionPtr Connection::adopt(const Parcel *parcel, int fd, const sockaddr_in6 &address, Pools &pools, Slot &slot,
                                Run turn)
{
    Peer peer;
    peer.fd = fd;
    peer.expects = parcel ? static_cast<Expects>(parcel->expects) : Expects::Request;
    peer.inside = parcel ? static_cast<Expects>(parcel->inside) : Expects::Nothing;
    peer.address.v6 = address;
    ConnectionPtr connection = accept(peer, pools, slot, turn);
    if (!connection)
        return connection;
    if (!parcel || parcel->lowat) {
        connection->awaited_ = 0;
        connection->await(1);
    }
    if (parcel) {
        connection->keepalives_ = parcel->keepalives;
        connection->timeouts_of_ = server_of(parcel->server);
        connection->begins_ = parcel->begins;
        connection->in_body_ = parcel->in_body;
        connection->log_id_ = parcel->log_id;
    }
    if (!parcel || parcel->kept_alive) {
        connection->transit(ConnEvent::Adopted);
        connection->begins_ = 0;
        connection->in_body_ = false;
        connection->expires = parcel ? parcel->expires : kNever;
    }
    return connection;
}

} // namespace hybrid
