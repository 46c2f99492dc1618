// SPDX-License-Identifier: Apache-2.0
#include "hybrid/request_limits.hpp"

#include <algorithm>
#include <iterator>
#include <string_view>

namespace hybrid {

namespace {

using namespace std::literals;

// Filters that leave what clients say as it is. (mod_remoteip's takes the PROXY header off, which arrival knows.)
constexpr std::string_view kPlainInput[] = {"core_in"sv, "reqtimeout"sv, "log_input_output"sv, "dumpio_in"sv,
                                            "remoteip_input"sv};

// Modules with a process_connection hook that leave plain HTTP to http_core.
constexpr std::string_view kHttpOnly[] = {"http_core.c"sv, "mod_ssl.c"sv, "mod_http2.c"sv, "mod_reqtimeout.c"sv};

/// Every APR_HOOK's link begins like this one.
bool others_speak()
{
    const apr_array_header_t *hooks = ap_hook_get_process_connection();
    for (int i = 0; hooks && i < hooks->nelts; ++i) {
        const char *name = APR_ARRAY_IDX(hooks, i, ap_LINK_process_connection_t).szName;
        if (!name || std::find(std::begin(kHttpOnly), std::end(kHttpOnly), name) == std::end(kHttpOnly))
            return true;
    }
    return false;
}

/// The smaller one; 0 is no limit.
std::size_t smaller(std::size_t limit, int other)
{
    return other > 0 && (limit == 0 || static_cast<std::size_t>(other) < limit) ? other : limit;
}

} // namespace

RequestLimits read_request_limits(const server_rec *servers)
{
    RequestLimits limits;
    limits.line = limits.field_size = limits.fields = 0;
    limits.proxy_header = ap_find_linked_module("mod_remoteip.c") != nullptr;
    limits.http2_preface = ap_find_linked_module("mod_http2.c") != nullptr;
    limits.only_http = !others_speak();
    for (const server_rec *server = servers; server; server = server->next) {
        const auto *core = static_cast<core_server_config *>(ap_get_core_module_config(server->module_config));
        limits.line = smaller(limits.line, server->limit_req_line);
        limits.field_size = smaller(limits.field_size, server->limit_req_fieldsize);
        limits.fields = smaller(limits.fields, server->limit_req_fields);
        limits.strict = limits.strict && core->http_conformance != AP_HTTP_CONFORMANCE_UNSAFE;
    }
    return limits;
}

bool reads_plainly(const conn_rec *c)
{
    for (const ap_filter_t *filter = c->input_filters; filter; filter = filter->next) {
        const std::string_view name = filter->frec->name; // its length is looked for once: this is asked per request
        if (std::find(std::begin(kPlainInput), std::end(kPlainInput), name) == std::end(kPlainInput))
            return false;
    }
    return true;
}

} // namespace hybrid
