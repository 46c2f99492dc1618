// SPDX-License-Identifier: Apache-2.0
// How an HTTP/2 connection ends without loss when its child does.
//
// mod_http2 has a goodbye of its own: as soon as the MPM says that it is stopping, the client is told to open no more
// streams, and the next one that comes is taken for an error, although it may have been on its way. All that are open
// end with it. So mod_http2 is never told. A connection is closed when it has had no stream open for a moment:
// mod_http2 says then which stream was the last, without an error, and what the client has sent after that it can
// safely ask again elsewhere. A client that always has a stream open hears from the MPM that it should open no more:
// GOAWAY with the highest number that a stream can have takes nothing back (RFC 9113, 6.8).
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/httpd.hpp"

#include <atomic>

namespace hybrid {

/// Of one connection. Who has the connection, unless said otherwise.
class Goodbye {
  public:
    /// How long a connection without a stream is not idle yet: the client may just be about to open the next ones of a
    /// page (Chromium loses those that it has put off when GOAWAY comes in between).
    static constexpr Duration kPause = milliseconds(500);
    static constexpr Duration kShortPause = milliseconds(100); ///< when there has been no such pause for long
    /// How long a fresh connection is given for its first stream.
    static constexpr Duration kFirstTime = seconds(1);

    /// mod_http2 has taken `c` over: requests come on streams.
    static bool concerns(const conn_rec *c);

    /// A stream has come. Any thread.
    void stream_begun() { fresh_.store(false, std::memory_order_relaxed); }
    /// None has: the first ones are about to come, and mod_http2 may not have begun to speak.
    bool fresh() const { return fresh_.load(std::memory_order_relaxed); }

    /// Tells the client to open no more streams, once. On a worker, between two frames of mod_http2's, but not before
    /// its first; may wait for the client for Timeout, as mod_http2 does.
    void say(conn_rec *c);
    bool said() const { return said_; }

  private:
    std::atomic<bool> fresh_{true};
    bool said_ = false;
};

} // namespace hybrid
