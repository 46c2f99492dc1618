// SPDX-License-Identifier: Apache-2.0
// The door: hooks, directives, the module record. No logic.

#include "hybrid/child.hpp"
#include "hybrid/client_io.hpp"
#include "hybrid/config.hpp"
#include "hybrid/parent.hpp"
#include "hybrid/query.hpp"
#include "hybrid/request_timeouts.hpp"
#include "hybrid/retained.hpp"
#include "hybrid/session.hpp"
#include "hybrid/status.hpp"
#include "hybrid/tls_input.hpp"

#include <cstddef>
#include <cstdlib>
#include <new>
#include <pthread.h>

namespace {

using namespace hybrid;

/// What hooks need and httpd does not hand them: the module's only variable. Set anew by every pre_config, because the
/// module may or may not have been loaded anew for it (T20).
struct Door {
    Retained *retained;
    Parent *parent; // made by open_logs
    ap_filter_rec_t *client_output;
    ap_filter_rec_t *tls_input;
    bool follows_forks;
    Config config;
};
Door door;

Child *child()
{
    return door.parent ? door.parent->children().here() : nullptr;
}

} // namespace

extern "C" {

// Hooks, in the order they run.

static void hybrid_forked() noexcept
{
    Children::disown(*door.retained);
}

static int hybrid_pre_config(apr_pool_t *pconf, apr_pool_t *, apr_pool_t *) noexcept
{
    door.retained = &find_retained();
    door.parent = nullptr;
    // Once for each time the module is loaded: the C library forgets it when the module is unloaded, or, as musl does,
    // unloads nothing.
    if (!door.follows_forks && pthread_atfork(nullptr, nullptr, hybrid_forked) == 0)
        door.follows_forks = true;
    if (!door.follows_forks) {
        ap_log_error(APLOG_MARK, APLOG_CRIT, APR_ENOMEM, nullptr, HYBLOGNO(0026) "can't follow what modules fork");
        return HTTP_INTERNAL_SERVER_ERROR;
    }
    return begin_configuration(*door.retained, door.config, pconf);
}

static int hybrid_check_config(apr_pool_t *, apr_pool_t *, apr_pool_t *, server_rec *s) noexcept
{
    door.config.tls_filter = door.tls_input;
    door.config.check(*door.retained, door.retained->mpm->module_loads == 1, s);
    return OK;
}

static void hybrid_on_reclaimed(int slot, pid_t pid, ap_generation_t generation) noexcept
{
    door.parent->children().on_gone(slot, pid, generation);
}

static int hybrid_open_logs(apr_pool_t *pconf, apr_pool_t *, apr_pool_t *, server_rec *s) noexcept
{
    door.parent = Parent::make(door.config, *door.retained, hybrid_on_reclaimed, pconf);
    return door.parent->open_logs(s);
}

static int hybrid_mpm(apr_pool_t *, apr_pool_t *plog, server_rec *s) noexcept
{
    return door.parent->run(plog, s);
}

static int hybrid_mpm_query(int code, int *result, apr_status_t *rv) noexcept
{
    const Retained &retained = door.retained ? *door.retained : find_retained(); // apache2 -V asks before pre_config
    const int rc = answer_query(code, door.config, retained, result, rv);
    if (code == AP_MPMQ_MPM_STATE && *result == AP_MPMQ_STOPPING && child() && child()->hides_end())
        *result = AP_MPMQ_RUNNING;
    return rc;
}

static const char *hybrid_mpm_get_name() noexcept
{
    return "hybrid";
}

static apr_status_t hybrid_timed_callback(apr_time_t delay, ap_mpm_callback_fn_t *function, void *baton) noexcept
{
    return child() ? child()->add_timer(delay, {function, baton}) : APR_ENOTIMPL;
}

static int hybrid_pre_connection(conn_rec *c, void *) noexcept
{
    adopt_secondary(c);
    add_client_output(c, door.client_output);
    return OK;
}

static apr_status_t hybrid_insert_network_bucket(conn_rec *c, apr_bucket_brigade *bb, apr_socket_t *) noexcept
{
    return insert_client_socket(c, bb);
}

static int hybrid_protocol_switch(conn_rec *c, request_rec *r, server_rec *s, const char *) noexcept
{
    if (!r && s) // a switch by TLS: from now on it is this server's connection (H23)
        Session::on_protocol_switch(c, s);
    return DECLINED;
}

static void hybrid_pre_read_request(request_rec *r, conn_rec *c) noexcept
{
    Session::on_pre_read_request(r, c);
}

static int hybrid_post_read_request(request_rec *r) noexcept
{
    return Session::on_post_read_request(r, door.config.retry_after);
}

static int hybrid_handler(request_rec *r) noexcept
{
    return show_status(r, *door.retained);
}

static void hybrid_register_hooks(apr_pool_t *pool)
{
    ap_register_provider(pool, "mpm", "hybrid", kVersion, &mpm_hybrid_module); // mod_info shows these, nobody calls it
    // Before core's open_logs redirects stderr, or messages would not reach the console (H02).
    static const char *const before_core[] = {"core.c", nullptr};
    ap_hook_pre_config(hybrid_pre_config, nullptr, nullptr, APR_HOOK_REALLY_FIRST);
    ap_hook_check_config(hybrid_check_config, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_open_logs(hybrid_open_logs, nullptr, before_core, APR_HOOK_REALLY_FIRST);
    ap_hook_mpm(hybrid_mpm, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_mpm_query(hybrid_mpm_query, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_mpm_get_name(hybrid_mpm_get_name, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_mpm_register_timed_callback(hybrid_timed_callback, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_pre_connection(hybrid_pre_connection, nullptr, nullptr, APR_HOOK_REALLY_FIRST);
    ap_hook_insert_network_bucket(hybrid_insert_network_bucket, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_protocol_switch(hybrid_protocol_switch, nullptr, nullptr, APR_HOOK_REALLY_FIRST);
    ap_hook_pre_read_request(hybrid_pre_read_request, nullptr, nullptr, APR_HOOK_MIDDLE);
    ap_hook_post_read_request(hybrid_post_read_request, nullptr, nullptr, APR_HOOK_REALLY_FIRST);
    ap_hook_handler(hybrid_handler, nullptr, nullptr, APR_HOOK_MIDDLE);
    door.client_output = register_client_output();
    door.tls_input = TlsInput::register_filter();
}

// Directives. cmd->info is the place of the number in Config.

static const char *hybrid_set_number(cmd_parms *cmd, void *, const char *argument) noexcept
{
    if (const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY))
        return error;
    if (!ap_cstr_casecmp(cmd->cmd->name, "MaxClients"))
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, nullptr,
                     APLOGNO(00521) "MaxClients is deprecated, use MaxRequestWorkers instead.");
    *reinterpret_cast<int *>(reinterpret_cast<char *>(&door.config) + reinterpret_cast<std::size_t>(cmd->info)) =
        std::atoi(argument); // as mpm_event reads numbers (D14)
    return nullptr;
}

static const char *hybrid_set_factor(cmd_parms *cmd, void *, const char *argument) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : Config::check_factor(argument);
}

static const char *hybrid_set_tokens(cmd_parms *cmd, void *, const char *all, const char *per_child) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : door.config.set_tokens(all, per_child);
}

static const char *hybrid_set_waiting(cmd_parms *cmd, void *, const char *most, const char *retry_after) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : door.config.set_waiting(most, retry_after);
}

static const char *hybrid_set_drain(cmd_parms *cmd, void *, const char *limit) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : door.config.set_drain(limit);
}

static const char *hybrid_set_stop(cmd_parms *cmd, void *, const char *limit, const char *goodbye) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : door.config.set_stop(limit, goodbye);
}

static const char *hybrid_set_await(cmd_parms *cmd, void *, const char *argument) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    return error ? error : door.config.set_await(argument);
}

static const char *hybrid_set_dormant(cmd_parms *cmd, void *, int on) noexcept
{
    const char *error = ap_check_cmd_context(cmd, GLOBAL_ONLY);
    if (!error)
        door.config.dormant = on;
    return error;
}

static const char *hybrid_set_request_timeouts(cmd_parms *cmd, void *, const char *argument) noexcept
{
    return RequestTimeouts::set(cmd, argument);
}

static void *hybrid_create_server_config(apr_pool_t *pool, server_rec *s) noexcept
{
    return RequestTimeouts::create(pool, s);
}

static void *hybrid_merge_server_config(apr_pool_t *pool, void *base, void *over) noexcept
{
    return RequestTimeouts::merge(pool, base, over);
}

#define HYBRID_NUMBER(name, member, help)                                                                              \
    AP_INIT_TAKE1(name, hybrid_set_number, reinterpret_cast<void *>(offsetof(Config, member)), RSRC_CONF, help)

static const command_rec hybrid_directives[] = {
    LISTEN_COMMANDS,
    HYBRID_NUMBER("StartServers", start_servers, "Number of child processes launched at server startup"),
    HYBRID_NUMBER("ServerLimit", server_limit, "Maximum number of child processes for this run of Apache"),
    HYBRID_NUMBER("MinSpareThreads", min_spare_threads, "Minimum number of idle threads, to handle request spikes"),
    HYBRID_NUMBER("MaxSpareThreads", max_spare_threads, "Maximum number of idle threads"),
    HYBRID_NUMBER("MaxClients", max_request_workers, "Deprecated name of MaxRequestWorkers"),
    HYBRID_NUMBER("MaxRequestWorkers", max_request_workers, "Maximum number of threads alive at the same time"),
    HYBRID_NUMBER("ThreadsPerChild", threads_per_child, "Number of threads each child creates"),
    HYBRID_NUMBER("ThreadLimit", thread_limit,
                  "Maximum number of worker threads per child process for this run of Apache - Upper limit for "
                  "ThreadsPerChild"),
    AP_INIT_TAKE1("GracefulRestartTimeout", hybrid_set_drain, nullptr, RSRC_CONF,
                  "Time after which a child that ends gracefully ends what is left; 0: it takes as long as it takes"),
    AP_INIT_TAKE1("AsyncRequestWorkerFactor", hybrid_set_factor, nullptr, RSRC_CONF,
                  "Accepted for mpm_event's sake; idle connections need no workers"),
    AP_INIT_TAKE12(
        "RunTokens", hybrid_set_tokens, nullptr, RSRC_CONF,
        "How many workers run at the same time: over all children (auto: as many as there are cores to use), "
        "and in one child (1)"),
    AP_INIT_TAKE1(
        "AwaitRequest", hybrid_set_await, nullptr, RSRC_CONF,
        "What of a request must be here before a worker begins with it: body (so far as it fits), head or off"),
    AP_INIT_TAKE12("StopGracefully", hybrid_set_stop, nullptr, RSRC_CONF,
                   "SIGTERM ends the server gracefully, within this time; for the first of it (second argument) the "
                   "server goes on "
                   "serving and says goodbye"),
    AP_INIT_TAKE12(
        "MaxWaitingRequests", hybrid_set_waiting, nullptr, RSRC_CONF,
        "How many requests may wait for a worker in each child, and the time that others are told to come back "
        "after (503)"),
    AP_INIT_FLAG("DormantConnections", hybrid_set_dormant, nullptr, RSRC_CONF,
                 "Idle connections give their memory back, where that can't be noticed"),
    AP_INIT_RAW_ARGS("RequestReadTimeout", hybrid_set_request_timeouts, nullptr, RSRC_CONF,
                     "mod_reqtimeout's, understood here, too, for clients that no worker reads from"),
    AP_GRACEFUL_SHUTDOWN_TIMEOUT_COMMAND,
    {},
};

#pragma GCC diagnostic ignored "-Wmissing-field-initializers" // httpd's record grows at its end
module AP_MODULE_DECLARE_DATA mpm_hybrid_module = {
    // MPM20_MODULE_STUFF, but for the name: that is the file's there, and <IfModule> and mod_info want a .c at its end.
    MODULE_MAGIC_NUMBER_MAJOR,
    MODULE_MAGIC_NUMBER_MINOR,
    -1,
    "mod_mpm_hybrid.c",
    nullptr,
    nullptr,
    MODULE_MAGIC_COOKIE,
    nullptr,
    nullptr,
    nullptr,
    hybrid_create_server_config,
    hybrid_merge_server_config,
    hybrid_directives,
    hybrid_register_hooks,
};

} // extern "C"
