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
    static constexpr std::uint32_t kVersion = 0x48594201;

    std::uint32_t version = kVersion;
    bool kept_alive = false;  ///< it is between two requests, else before its first
    std::uint8_t expects = 0; ///< Expects
    std::uint8_t inside = 0;
    bool lowat = false;        ///< SO_RCVLOWAT is set
    int keepalives = 0;        ///< requests so far
    std::uint64_t server = 0;  ///< of whose timeouts it has: see Connection
    Time expires = kNever;     ///< the monotonic clock is the same in all processes
    Time begins = 0;           ///< its request, of which a part is here
    sockaddr_in6 address = {}; ///< the client's; an IPv4 one, too
};

static_assert(std::is_trivially_copyable_v<Parcel>);

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
        int error;       ///< errno or 0; ENOMSG for a nudge
        int fd;          ///< the caller's now, if there is no error
        bool understood; ///< else the parcel says nothing
    };
    /// Requires: a descriptor is free, or the connection is lost.
    Received receive(Parcel &parcel) const;

  private:
    int to_ = -1;
    int from_ = -1;
};

} // namespace hybrid
