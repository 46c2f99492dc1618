// Is a request here yet? Looks at the first bytes a client has sent, so that no worker is held before there is
// something to do. Decides nothing about the request: whatever is not plainly an HTTP/1 request in the making is for
// httpd to see at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hybrid {

/// What a look at the first bytes says.
struct Arrival {
    enum class State : std::uint8_t {
        Partial, ///< a head, or what belongs to it, is not whole
        Body,    ///< the head is, but of the body more is to come
        Whole,   ///< nothing to wait for: a request, or something that httpd must judge
    };
    State state;
    std::size_t wanted; ///< unless whole: a look is in vain before there are so many bytes; more than were looked at
};

/// HTTP/1, on a connection without TLS. What waits is bounded by `most` bytes: so many, and it is whole. Of a body so
/// much as fits is waited for, unless the client expects an answer first (Expect). A PROXY header before the request is
/// skipped.
Arrival look_at_request(std::string_view bytes, std::size_t most);

/// TLS: the first record. Bytes that are no handshake are whole: mod_ssl has something to say to them.
Arrival look_at_record(std::string_view bytes, std::size_t most);

} // namespace hybrid
