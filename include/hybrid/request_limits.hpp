// SPDX-License-Identifier: Apache-2.0
// What httpd's configuration says of requests that are too large, and of who else reads from clients.
#pragma once

#include "hybrid/arrival.hpp"
#include "hybrid/httpd.hpp"

namespace hybrid {

/// The smallest limits of all virtual hosts: which one a request is for is not known before its head is here. Child,
/// after the configuration.
RequestLimits read_request_limits(const server_rec *servers);

/// What core's input filter reads from this connection is what its request is made of: no filter
/// decrypts it or changes it otherwise. Worker that has it.
bool reads_plainly(const conn_rec *c);

} // namespace hybrid
