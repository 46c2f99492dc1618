// SPDX-License-Identifier: Apache-2.0
// A client: a socket, who is at its other end, and what is known of the two without httpd. What httpd knows of it is
// its Session, which it has while that is needed; without one it is dormant.
#pragma once

#include "hybrid/arriving.hpp"
#include "hybrid/channel.hpp"
#include "hybrid/close_reason.hpp"
#include "hybrid/conn_state.hpp"
#include "hybrid/keeper.hpp"
#include "hybrid/scheduler.hpp"
#include "hybrid/slot.hpp"

#include <cstdint>
#include <memory>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <utility>

namespace hybrid {

class Client;
class Session;

struct ClientCloser {
    void operator()(Client *client) const;
};
/// Whoever holds it owns the client; dropping it ends the session and closes the socket.
using ClientPtr = std::unique_ptr<Client, ClientCloser>;

struct SessionEnder {
    void operator()(Session *session) const;
};
using SessionPtr = std::unique_ptr<Session, SessionEnder>;

/// The client behind a hook that the caller has just taken out of its queue. Requires: it was put there with release(),
/// and is a client's.
ClientPtr owner_of(Timed &item);
ClientPtr owner_of(Runnable &work);

/// Who has connected.
struct Peer {
    int fd = -1;
    Expects expects = Expects::Nothing;
    Expects inside = Expects::Nothing;
    const sockaddr *local = nullptr;    ///< the listening socket's address, if it is bound to one
    const server_rec *server = nullptr; ///< whose timeouts count; nullptr: the main server's
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
    } address{};
};

/// Exactly one owner at a time, and only the owner calls anything here; owners are a worker's turn, the scheduler's
/// queue, and the keeper (conn_state.def says which, for each state).
class Client : public Runnable, public Kept {
  public:
    /// Takes an accepted socket. `turn` is what a worker runs on it. Loop. nullptr: no memory.
    static ClientPtr accept(const Peer &peer, Slot &slot, Run turn);
    /// Takes one over that another child has sent, Arriving or in KeepAlive; without a parcel it is one between two
    /// requests of which nothing is known. Requires: the parcel is plausible. Loop. nullptr: no memory.
    static ClientPtr adopt(const Parcel *parcel, int fd, const sockaddr_in6 &address, Slot &slot, Run turn);
    /// What is said of it on its way. Requires: it has no session.
    Parcel parcel() const;

    /// Where the state changes; asserts that the table knows the step. An event that ends the client, or goes on with
    /// that, comes with a reason, of which the first counts.
    void transit(ConnEvent event);
    void end(ConnEvent event, CloseReason reason);
    std::optional<CloseReason> reason() const { return reason_; }
    /// While it waits for a worker, and in the turn that follows: the state it was in before.
    ConnState came_from() const { return came_from_; }
    /// In Ready: a request begins with its next turn, and nothing of it has been read.
    bool between_requests() const;

    Session *session() const { return session_.get(); }
    bool live() const { return session_ != nullptr; }
    void set_session(SessionPtr session) { session_ = std::move(session); }
    /// Back to a socket and what follows from it. The session has let go of the socket.
    void make_dormant(int keepalives, const char *log_id);
    /// Requests so far, and its name in the error log, as the last session knew them.
    int keepalives() const { return keepalives_; }
    const std::string &log_id() const { return log_id_; }

    const Peer &peer() const { return peer_; }
    Slot &slot() const { return slot_; }
    Arriving &arriving() { return arriving_; }
    const Arriving &arriving() const { return arriving_; }
    /// Looks how much of a request is in the kernel: Arriving::probe().
    Progress probe(const RequestLimits &limits);
    /// The client has sent something that nobody has read: asks the kernel.
    bool input_waits() const;

    /// The virtual host that is in charge at the moment, and what it says.
    const server_rec *server() const { return server_; }
    void set_server(const server_rec *server) { server_ = server; }
    Duration timeout() const { return server_->timeout; }
    Duration keep_alive_timeout() const { return server_->keep_alive_timeout; }
    /// How long its request may take in all, from arriving().begins() on, considering what has come so far.
    Duration request_timeout() const;

    /// How long it stays idle after it could have been made dormant.
    void set_sleep_after(Duration length) { sleeps_for_ = length; }
    Duration take_sleep() { return std::exchange(sleeps_for_, 0); }
    /// When its idleness ends; kNever if that is no longer known.
    Time idle_until() const { return later(expires, sleeps_for_); }

    /// Its requests are answered with 503 (MaxWaitingRequests).
    void set_rejected(bool rejected) { rejected_ = rejected; }
    bool rejected() const { return rejected_; }

    /// One line about it, for people: who, what, for how long. Also for threads that do not own it, while it lives.
    std::string describe(const std::string &host, const std::string &request, Duration length) const;
    std::string describe(Duration length) const;

  private:
    friend struct ClientCloser;
    Client(const Peer &peer, Slot &slot, Run turn);
    void step(ConnEvent event);
    static std::uint64_t key_of(const server_rec *server);
    static const server_rec *server_of(std::uint64_t key);

    Slot &slot_;
    Peer peer_;
    Arriving arriving_;
    ConnState came_from_ = kConnEntry;
    std::optional<CloseReason> reason_; // once it is about to end
    bool rejected_ = false;
    int keepalives_ = 0;
    std::string log_id_;
    Duration sleeps_for_ = 0;
    const server_rec *server_;
    SessionPtr session_;
};

} // namespace hybrid
