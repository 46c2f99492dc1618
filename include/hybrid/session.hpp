// SPDX-License-Identifier: Apache-2.0
// What httpd knows of a client: pool, socket, conn_rec, and the request at hand.
#pragma once

#include "hybrid/client.hpp"
#include "hybrid/client_io.hpp"
#include "hybrid/dormancy.hpp"
#include "hybrid/goodbye.hpp"
#include "hybrid/httpd.hpp"
#include "hybrid/pools.hpp"

#include <string>

namespace hybrid {

class TlsInput;

/// Its client's, and in its own pool. Whoever owns the client calls this.
class Session {
  public:
    /// Makes the session of a client that has none, and runs the hooks of a new connection; on the worker of `row`.
    /// What comes back is ap_pre_connection()'s: OK, DONE, or why not (then close the client).
    static int revive(Client &client, Pools &pools, apr_thread_t *thread, int row, ap_filter_rec_t *tls_filter);
    /// Between two requests: ends the client's session, and keeps the socket, if `dormancy` has nothing against that.
    /// False: it has. Loop.
    static bool release(Client &client, const Dormancy &dormancy);
    /// Nobody could tell if the client went on in another child: it has no session, or it has been released for that.
    /// Requires: no worker has it. Loop.
    static bool make_movable(Client &client, const Dormancy &dormancy);

    /// The session of a conn_rec; nullptr for one that is not ours (H21) or a secondary one.
    static Session *of(const conn_rec *c);

    /// The client changes hands between a thread and the MPM: tells the modules (R15, R16).
    void suspend();
    void resume(apr_thread_t *thread, int row);

    Client &client() const { return client_; }
    conn_rec *record() const { return c_; }
    conn_state_t &mailbox() { return mailbox_; }
    apr_socket_t *socket() const { return socket_; }

    /// How much of a request is here, asked of httpd's own filters, which keep what they have read. On a worker.
    Progress probe(const RequestLimits &limits);

    /// It speaks HTTP/2.
    bool http2() const { return Goodbye::concerns(c_); }
    Goodbye &goodbye() { return goodbye_; }

    /// client_io's.
    ReadMemo &input() { return input_; }
    void set_output(void *output) { output_ = output; }
    void *output() const { return output_; }

    /// One line about it, for people. It waits for input or output.
    std::string describe(Duration length) const;

    /// Hook bodies; on the thread that has the client.
    static void on_pre_read_request(request_rec *r, conn_rec *c);
    static int on_post_read_request(request_rec *r, int retry_after);
    static void on_protocol_switch(const conn_rec *c, const server_rec *s);

  private:
    friend struct SessionEnder;
    Session(Client &client, Pools &pools, apr_pool_t *pool) : client_(client), pools_(pools), pool_(pool) {}
    bool make_socket();
    Progress probe_plain(const RequestLimits &limits);
    Progress probe_encrypted(const RequestLimits &limits);
    static apr_status_t on_pool_cleanup(void *self);
    static apr_status_t on_request_cleanup(void *request);

    Client &client_;
    Pools &pools_;
    apr_pool_t *const pool_;
    apr_socket_t *socket_ = nullptr;
    conn_rec *c_ = nullptr;
    request_rec *request_ = nullptr;
    ap_sb_handle_t *sbh_ = nullptr;
    apr_bucket_alloc_t *buckets_ = nullptr;
    apr_bucket_brigade *peeked_ = nullptr; // empty between the calls
    void *output_ = nullptr;
    TlsInput *tls_ = nullptr;
    conn_state_t mailbox_{};
    ReadMemo input_;
    Goodbye goodbye_;
    bool suspended_ = false; // as far as the modules know
    bool personal_ = false;  // an authentication belongs to it
};

/// Gives a secondary connection (a stream of HTTP/2) a state of its own, so that it does not share its master's (H24),
/// which hears that a stream has begun. pre_connection hook, on a thread of mod_http2.
void adopt_secondary(conn_rec *c);

} // namespace hybrid
