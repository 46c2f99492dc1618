// SPDX-License-Identifier: Apache-2.0
// How a connection gets from one child to another: a socket between all children of all generations, over which its
// descriptor travels with the facts that are known of it.
#pragma once

#include "hybrid/clock.hpp"

#include <cstdint>
#include <netinet/in.h>
#include <type_traits>

namespace hybrid {

/// What is said of a connection that travels. Sender and receiver may have been built from different versions of this
/// file, after an upgrade and a reload: then the receiver knows nothing but the descriptor.
struct Parcel {
    static constexpr std::uint32_t kFamily = 0x48594200; ///< of all versions
    static constexpr std::uint32_t kVersion = kFamily + 3;
    static constexpr std::int32_t kMostRequests = 1 << 30;

    std::uint32_t version = kVersion;
    std::uint8_t kept_alive = 0; ///< 1: it is between two requests, else before its first
    std::uint8_t expects = 0;    ///< Expects
    std::uint8_t inside = 0;
    std::uint8_t lowat = 0;      ///< 1: SO_RCVLOWAT is set
    std::int32_t keepalives = 0; ///< requests so far
    std::uint32_t in_body = 0;   ///< 1: the head of its request is whole, begins is when it was
    std::uint64_t server = 0;    ///< of whose timeouts it has: see Client
    Time expires = kNever;       ///< the monotonic clock is the same in all processes
    Time begins = 0;             ///< its request, of which a part is here
    char log_id[32] = {};        ///< of the error log, ends with a zero; empty: it has none, or a longer one

    /// Nothing in it is what no sender says. `kinds`: how many values of Expects there are.
    bool plausible(Time now, unsigned kinds) const;
};

static_assert(std::is_trivially_copyable_v<Parcel> && std::has_unique_object_representations_v<Parcel>);

/// The address of the client at the other end, an IPv4 one, too. errno or 0: ENOTCONN when the client has gone, EBADMSG
/// when `fd` is no stream socket of IP.
[[nodiscard]] int find_client(int fd, sockaddr_in6 &address);

/// Any thread. The ends are the process's, for its whole life.
class Channel {
  public:
    /// No channel: everything fails with ENOTCONN.
    Channel() = default;
    Channel(int to, int from) : to_(to), from_(from) {}

    /// Makes the ends, which children inherit. errno or 0.
    [[nodiscard]] static int make(int &to, int &from);

    explicit operator bool() const { return from_ >= 0; }
    /// To be polled for parcels.
    int from() const { return from_; }

    /// The connection is on its way when this is 0, and the caller's descriptor is to be closed, without a shutdown.
    /// Else errno: the channel is full (EAGAIN), or too many descriptors are on their way somewhere (ETOOMANYREFS).
    /// Nobody may poll `fd` any more: its events would go on coming here.
    [[nodiscard]] int send(const Parcel &parcel, int fd) const;

    /// Wakes one of those that poll: what somebody else was woken for is left undone.
    void nudge() const;

    struct Received {
        int error;       ///< errno or 0; ENOMSG for a nudge; EBADMSG for what is no parcel, and has been dropped
        int fd;          ///< the caller's now, if there is no error
        bool understood; ///< else the sender is of another version, and the parcel says nothing
    };
    /// Exactly one descriptor comes with a parcel, or nothing does. Requires: a descriptor is free, or the connection
    /// is lost (EMFILE).
    Received receive(Parcel &parcel) const;

  private:
    int to_ = -1;
    int from_ = -1;
};

} // namespace hybrid
