// SPDX-License-Identifier: Apache-2.0
#include "hybrid/status.hpp"

#include <cstring>

namespace hybrid {

namespace {

void print(request_rec *r, const char *name, std::uint64_t value)
{
    ap_rprintf(r, "%s: %" APR_UINT64_T_FMT "\n", name, static_cast<apr_uint64_t>(value));
}

} // namespace

int show_status(request_rec *r, const Retained &retained)
{
    if (!r->handler || std::strcmp(r->handler, "hybrid-status") != 0)
        return DECLINED;
    r->allowed |= AP_METHOD_BIT << M_GET;
    if (r->method_number != M_GET)
        return DECLINED;
    // Ends first, so that a client which comes and goes meanwhile seems to be open, and none has ended that never was.
    std::uint64_t ended[kCloseReasons.size()] = {};
    std::uint64_t all = 0;
    std::uint64_t opened = 0;
    for (int row = 0; row < counts_rows(retained); ++row)
        for (std::size_t reason = 0; reason < kCloseReasons.size(); ++reason)
            ended[reason] += counts_of(retained, row).ended_so_far(static_cast<CloseReason>(reason));
    for (const std::uint64_t count : ended)
        all += count;
    for (int row = 0; row < counts_rows(retained); ++row)
        opened += counts_of(retained, row).opened_so_far();

    ap_set_content_type(r, "text/plain; charset=ISO-8859-1");
    apr_table_setn(r->headers_out, "Cache-Control", "no-store");
    print(r, "ClientsOpened", opened);
    print(r, "ClientsEnded", all);
    for (std::size_t reason = 0; reason < kCloseReasons.size(); ++reason)
        print(r, apr_pstrcat(r->pool, "Ended", kCloseReasons[reason].name, nullptr), ended[reason]);
    return OK;
}

} // namespace hybrid
