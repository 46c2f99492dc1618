// How an HTTP/2 connection ends without loss when its child does.
//
// mod_http2 has a goodbye of its own: as soon as the MPM says that it is stopping, the client is told to open no more
// streams, and the next one that comes is taken for an error, although it may have been on its way. All that are open
// end with it. So mod_http2 is never told. The MPM says it to the client instead: GOAWAY with the highest number that a
// stream can have takes nothing back (RFC 9113, 6.8). What the client has sent before it hears that is served, what it
// wants next it asks on another connection, and the connection is closed when it has been idle for a round trip; then
// mod_http2 says which stream was the last.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/httpd.hpp"

#include <atomic>

namespace hybrid {

/// Of one connection. Who has the connection, unless said otherwise.
class Goodbye {
  public:
    /// How long a fresh connection is given for its first stream, and one that has heard the goodbye for what was on
    /// its way.
    static constexpr Duration kRoundTrip = seconds(1);
    /// How long a connection without a stream is not idle yet: the client may just be about to open the next ones of a
    /// page (Chromium loses those that it has put off when GOAWAY comes in between).
    static constexpr Duration kPause = milliseconds(500);

    /// mod_http2 has taken `c` over: requests come on streams.
    static bool concerns(const conn_rec *c);

    /// A stream has come. Any thread.
    void stream_begun()
    {
        fresh_.store(false, std::memory_order_relaxed);
        quiet_.store(false, std::memory_order_relaxed);
    }
    /// None has for kPause: when it is said, or when it was asked before that long.
    void set_quiet() { quiet_.store(true, std::memory_order_relaxed); }
    bool take_quiet() { return quiet_.exchange(true, std::memory_order_relaxed); }
    /// None has. Then it is not told to go: its first requests are about to come, and mod_http2 may not have begun to
    /// speak (the first frame must be SETTINGS).
    bool fresh() const { return fresh_.load(std::memory_order_relaxed); }

    /// Tells the client, once. On a worker, between two frames of mod_http2's; may wait for the client for Timeout, as
    /// mod_http2 does.
    void say(conn_rec *c, Time now);
    bool said() const { return said_at_ != kNever; }
    /// How long the connection stays, if it is idle. Requires: said().
    Duration stays(Time now) const;

  private:
    std::atomic<bool> fresh_{true};
    std::atomic<bool> quiet_{false};
    Time said_at_ = kNever;
};

} // namespace hybrid
