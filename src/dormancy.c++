// SPDX-License-Identifier: Apache-2.0
#include "hybrid/dormancy.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace hybrid {

namespace {

using namespace std::literals;

// Modules whose connection hooks are known: they keep nothing between requests of HTTP/1 without TLS, or show that they
// do.
constexpr std::string_view kKnown[] = {
    "core.c"sv,      "http_core.c"sv,  "mod_reqtimeout.c"sv, "mod_logio.c"sv,      "mod_ssl.c"sv,
    "mod_http2.c"sv, "mod_dumpio.c"sv, "mod_remoteip.c"sv,   "mod_mpm_hybrid.c"sv,
};
constexpr std::string_view kKeepNothing[] = {"core.c"sv, "mod_reqtimeout.c"sv, "mod_logio.c"sv, "mod_mpm_hybrid.c"sv};
constexpr std::string_view kFilters[] = {
    "reqtimeout"sv, "log_input_output"sv, "core_in"sv, "core"sv, "dumpio_in"sv, "dumpio_out"sv, "hybrid_output"sv,
};
constexpr std::string_view kImpersonal[] = {"basic"sv, "bearer"sv, "digest"sv};

template <typename Names>
bool among(const Names &names, std::string_view name)
{
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

/// Every APR_HOOK's link begins like this one.
const char *unknown(const apr_array_header_t *hooks)
{
    using Link = ap_LINK_pre_connection_t;
    for (int i = 0; hooks && i < hooks->nelts; ++i) {
        const char *name = APR_ARRAY_IDX(hooks, i, Link).szName;
        if (!name || !among(kKnown, name))
            return name ? name : "(unnamed)";
    }
    return nullptr;
}

/// A module that may keep something on connections; nullptr: none does.
const char *keeper()
{
    for (const apr_array_header_t *hooks :
         {ap_hook_get_create_connection(), ap_hook_get_pre_connection(), ap_hook_get_process_connection(),
          ap_hook_get_pre_close_connection(), ap_hook_get_suspend_connection(), ap_hook_get_resume_connection()})
        if (const char *name = unknown(hooks))
            return name;
    // "LuaScope conn" keeps a whole interpreter in the connection's pool. .htaccess may say so, too.
    return ap_find_linked_module("mod_lua.c") ? "mod_lua.c" : nullptr;
}

bool known(const ap_filter_t *filter)
{
    for (; filter; filter = filter->next)
        if (!among(kFilters, filter->frec->name))
            return false;
    return true;
}

bool personal_scheme(const char *header)
{
    if (!header)
        return false;
    return std::none_of(std::begin(kImpersonal), std::end(kImpersonal), [header](std::string_view scheme) {
        return !strncasecmp(header, scheme.data(), scheme.size());
    });
}

int on_challenge(void *found, const char *, const char *value)
{
    if (!strncasecmp(value, "NTLM", 4) || !strncasecmp(value, "Negotiate", 9) || !strncasecmp(value, "Kerberos", 8))
        *static_cast<bool *>(found) = true;
    return 1;
}

} // namespace

Dormancy::Dormancy(bool wanted) : possible_(wanted)
{
    const char *name = wanted ? keeper() : nullptr;
    if (!name)
        return;
    possible_ = false;
    ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf,
                 HYBLOGNO(0010) "idle connections keep their memory: %s may keep something there", name);
}

bool Dormancy::rebuildable(const conn_rec *c) const
{
    if (!possible_ || c->keepalive != AP_CONN_KEEPALIVE || c->data_in_input_filters || c->data_in_output_filters ||
        c->clogging_input_filters || !apr_is_empty_table(c->notes))
        return false;
    // Core asks for the client's names once (HostnameLookups, IdentityCheck).
    if (c->remote_host || c->remote_logname || c->double_reverse)
        return false;
    if (std::strcmp(ap_get_protocol(const_cast<conn_rec *>(c)), AP_PROTOCOL_HTTP1) != 0 || !known(c->input_filters) ||
        !known(c->output_filters))
        return false;
    for (const module *m = ap_top_module; m; m = m->next)
        if (ap_get_module_config(c->conn_config, m) && !among(kKeepNothing, m->name))
            return false;
    return true;
}

bool Dormancy::personal(const request_rec *r)
{
    bool challenged = false;
    if (r->status == HTTP_UNAUTHORIZED || r->status == HTTP_PROXY_AUTHENTICATION_REQUIRED)
        for (const apr_table_t *headers : {r->headers_out, r->err_headers_out})
            apr_table_do(on_challenge, &challenged, headers, "WWW-Authenticate", "Proxy-Authenticate", nullptr);
    return challenged || personal_scheme(apr_table_get(r->headers_in, "Authorization")) ||
           personal_scheme(apr_table_get(r->headers_in, "Proxy-Authorization"));
}

} // namespace hybrid
