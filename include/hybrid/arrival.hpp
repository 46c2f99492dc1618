// SPDX-License-Identifier: Apache-2.0
// Is a request here, or how much more of it is wanted? Decides that from the bytes a client has sent so far, and
// nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hybrid {

/// What the first bytes of a client amount to.
struct Arrival {
    enum class State : std::uint8_t {
        Partial, ///< a head, or what belongs to it, is not whole
        Body,    ///< the head is, but of the body more is to come
        Whole,   ///< nothing to wait for: a request, or something that httpd answers at once
    };
    State state;
    std::size_t wanted; ///< unless whole: looking again is in vain before there are so many bytes; more than there are
    std::size_t head = 0; ///< Body: so many of the bytes are the head's
};

/// What httpd refuses as soon as it sees it (ap_read_request() in server/protocol.c): for that nobody waits.
struct RequestLimits {
    std::size_t most = 32 * 1024;  ///< bytes that are waited for; a receive buffer holds more
    std::size_t line = 8190;       ///< LimitRequestLine
    std::size_t field_size = 8190; ///< LimitRequestFieldSize
    std::size_t fields = 100;      ///< LimitRequestFields; 0: no limit
    bool strict = true;            ///< HttpProtocolOptions Strict: lines end with CR LF
    bool proxy_header = false;     ///< a PROXY header before the request is skipped: there is a module that reads it
    bool only_http = true;         ///< no module is there that speaks another protocol
    bool http2_preface = true;     ///< is waited for: there is a module that wants to see all of it
};

/// Where the bytes come from: that makes a difference for lines that don't end.
enum class Carrier : std::uint8_t { Socket, Tls };

/// The first byte may be of a request, or of an empty line before it; else it is TLS, or nonsense.
bool may_begin_request(char first);

/// HTTP/1. Of a body so much as fits into `limits.most` bytes is waited for, unless the
/// client expects an answer first (Expect).
Arrival look_at_request(std::string_view bytes, const RequestLimits &limits, Carrier carrier = Carrier::Socket);

/// TLS: the first record. Bytes that are no handshake are whole: mod_ssl has something to say to them.
Arrival look_at_record(std::string_view bytes, const RequestLimits &limits);

} // namespace hybrid
