// SPDX-License-Identifier: Apache-2.0
// What httpd reads a client's connection from and writes it to: core's socket and core's output filter, with fewer
// system calls on the way (doc/notes/2026-11-21-client-io.md).
#pragma once

#include "hybrid/httpd.hpp"

#include <utility>

namespace hybrid {

class Session;

/// What reads from the socket have brought. After each answer core looks whether the next request is there already
/// (ap_check_pipeline() in modules/http/http_request.c), before the answer is written. It need not ask the kernel when
/// the last read gave all there was: what comes after it is seen when the client is parked.
class ReadMemo {
  public:
    void begin_request() { answered_ = false; }
    void set_answered() { answered_ = true; }

    /// While Session::probe() reads.
    void begin_peeking()
    {
        peeking_ = true;
        drained_ = false;
    }
    void end_peeking() { peeking_ = false; }

    void set_drained(bool drained) { drained_ = drained; }
    /// A read would bring nothing. True once after such a read and an answer; only once, because modules that poll the
    /// socket themselves (mod_http2) must not be told so for ever.
    bool take_drained() { return peeking_ ? drained_ : answered_ && std::exchange(drained_, false); }

    /// A read has brought the client's end, or an error: all that comes is in httpd's filters.
    void set_ended() { ended_ = true; }
    bool ended() const { return ended_; }

  private:
    bool drained_ = false;
    bool answered_ = false; // the last request, as far as core's filters
    bool ended_ = false;
    bool peeking_ = false;
};

/// Registers the output filter; for register_hooks, on the main thread, whenever the module is loaded. What it returns
/// lives as long as the configuration.
ap_filter_rec_t *register_client_output();

/// Gives a connection of ours the filter; others (H21, HTTP/2's streams) are left alone. pre_connection hook, on the
/// worker that opens the connection.
void add_client_output(conn_rec *c, ap_filter_rec_t *filter);

/// When core has written what it had: gives it more of what the filter holds back of a large file, as far as the socket
/// takes it. data_in_output_filters says whether there is still more. Worker that has the connection.
apr_status_t write_held(const Session &session);

/// Seeds core's input filter with the socket. insert_network_bucket hook, on the thread that reads first. OK, or
/// AP_DECLINED for connections that are not ours.
apr_status_t insert_client_socket(conn_rec *c, apr_bucket_brigade *bb);

} // namespace hybrid
