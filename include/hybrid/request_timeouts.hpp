// SPDX-License-Identifier: Apache-2.0
// How long a client may take for a request: mod_reqtimeout's settings, which that module applies only while a worker
// reads.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/httpd.hpp"

namespace hybrid {

/// A server's settings; -1: not set. Configuration, constant after that.
class RequestTimeouts {
  public:
    /// The module's server configuration: made, and a virtual host's laid over the main server's.
    static void *create(apr_pool_t *pool, server_rec *);
    static void *merge(apr_pool_t *pool, void *base, void *over);
    /// RequestReadTimeout, as mod_reqtimeout reads it, which says what is wrong with it; an error if that is not
    /// loaded.
    static const char *set(cmd_parms *cmd, const char *argument);

    /// What `server` gives a client for the TLS handshake.
    static Duration handshake(const server_rec *server);
    /// What `server` gives a client that has sent `bytes` of a head so far, from its first one on (or of the
    /// connection); and of a body, from when the head was there. Whole seconds.
    static Duration head(const server_rec *server, std::size_t bytes);
    static Duration body(const server_rec *server, std::size_t bytes);

  private:
    struct Stage {
        int timeout = -1;
        int most = 0;
        int rate = 0;
        Duration allows(std::size_t bytes, Duration otherwise) const;
        void set(const char *value);
    };
    static const RequestTimeouts &of(const server_rec *server);

    Stage handshake_;
    Stage head_;
    Stage body_;
};

} // namespace hybrid
