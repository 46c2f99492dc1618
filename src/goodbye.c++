// SPDX-License-Identifier: Apache-2.0
#include "hybrid/goodbye.hpp"

#include <cstring>
#include <utility>

namespace hybrid {

namespace {

// Length, type, flags, stream 0; the last stream that may be taken, no error.
constexpr char kGoAway[] = "\0\0\x08\x07\0\0\0\0\0"
                           "\x7f\xff\xff\xff\0\0\0\0";

} // namespace

bool Goodbye::concerns(const conn_rec *c)
{
    const char *protocol = ap_get_protocol(const_cast<conn_rec *>(c));
    return !std::strcmp(protocol, "h2") || !std::strcmp(protocol, "h2c");
}

void Goodbye::say(conn_rec *c)
{
    if (std::exchange(said_, true))
        return;
    ap_log_cerror(APLOG_MARK, APLOG_TRACE6, 0, c, "asks the client to open no more streams");
    apr_bucket_brigade *bb = apr_brigade_create(c->pool, c->bucket_alloc);
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_immortal_create(kGoAway, sizeof kGoAway - 1, c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_flush_create(c->bucket_alloc));
    static_cast<void>(ap_pass_brigade(c->output_filters, bb)); // a broken connection is mod_http2's to notice
    apr_brigade_destroy(bb);
}

} // namespace hybrid
