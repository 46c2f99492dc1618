// What httpd reads a client's connection from and writes it to: core's socket and core's output filter, with fewer
// system calls on the way (doc/notes/2026-11-21-client-io.md).
#pragma once

#include "hybrid/httpd.hpp"

namespace hybrid {

class Connection;

/// Registers the output filter; for register_hooks, on the main thread, whenever the module is loaded. What it returns
/// lives as long as the configuration.
ap_filter_rec_t *register_client_output();

/// Gives a connection of ours the filter; others (H21, HTTP/2's streams) are left alone. pre_connection hook, on the
/// worker that opens the connection.
void add_client_output(conn_rec *c, ap_filter_rec_t *filter);

/// When core has written what it had: gives it more of what the filter holds back of a large file, as far as the socket
/// takes it. data_in_output_filters says whether there is still more. Worker that has the connection.
apr_status_t write_held(const Connection &connection);

/// Seeds core's input filter with the socket. insert_network_bucket hook, on the thread that reads first. OK, or
/// AP_DECLINED for connections that are not ours.
apr_status_t insert_client_socket(conn_rec *c, apr_bucket_brigade *bb);

} // namespace hybrid
