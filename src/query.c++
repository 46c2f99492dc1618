// SPDX-License-Identifier: Apache-2.0
#include "hybrid/query.hpp"

namespace hybrid {

namespace {

struct RunMode {
    bool one_process;
    bool foreground;
    bool no_detach;
};

RunMode run_mode()
{
    if (ap_exists_config_define("DEBUG")) // -X
        return {true, true, false};
    return {ap_exists_config_define("ONE_PROCESS") != 0, ap_exists_config_define("FOREGROUND") != 0,
            ap_exists_config_define("NO_DETACH") != 0};
}

int detach(const RunMode &mode, apr_pool_t *pconf)
{
    if (mode.one_process || mode.foreground)
        return OK;
    ap_fatal_signal_setup(ap_server_conf, pconf); // crashes from now on go to the error log
    const apr_status_t rv = apr_proc_detach(mode.no_detach ? APR_PROC_DETACH_FOREGROUND : APR_PROC_DETACH_DAEMONIZE);
    if (rv == APR_SUCCESS)
        return OK;
    ap_log_error(APLOG_MARK, APLOG_CRIT, rv, nullptr, APLOGNO(00496) "apr_proc_detach failed");
    return HTTP_INTERNAL_SERVER_ERROR;
}

} // namespace

int begin_configuration(Retained &retained, Config &config, apr_pool_t *pconf)
{
    const RunMode mode = run_mode();
    set_mpm_state(retained, AP_MPMQ_STARTING);
    ++retained.mpm->module_loads;
    if (retained.mpm->module_loads == 2)
        if (const int rc = detach(mode, pconf); rc != OK)
            return rc;
    ap_listen_pre_config();
    config = Config();
    config.one_process = mode.one_process;
    ap_extended_status = 0;
    return OK;
}

int answer_query(int code, const Config &config, const Retained &retained, int *result, apr_status_t *rv)
{
    *rv = APR_SUCCESS;
    switch (code) {
    case AP_MPMQ_MAX_DAEMON_USED:
        *result = retained.max_daemon_used;
        break;
    case AP_MPMQ_IS_THREADED:
        *result = AP_MPMQ_STATIC;
        break;
    case AP_MPMQ_IS_FORKED:
        *result = AP_MPMQ_DYNAMIC;
        break;
    case AP_MPMQ_IS_ASYNC:
        *result = 1;
        break;
    case AP_MPMQ_HARD_LIMIT_DAEMONS:
        *result = config.server_limit;
        break;
    case AP_MPMQ_HARD_LIMIT_THREADS:
        *result = config.thread_limit;
        break;
    case AP_MPMQ_MAX_THREADS:
        *result = config.threads_per_child;
        break;
    case AP_MPMQ_MIN_SPARE_DAEMONS:
    case AP_MPMQ_MAX_SPARE_DAEMONS:
        *result = 0;
        break;
    case AP_MPMQ_MIN_SPARE_THREADS:
        *result = config.min_spare_threads;
        break;
    case AP_MPMQ_MAX_SPARE_THREADS:
        *result = config.max_spare_threads;
        break;
    case AP_MPMQ_MAX_REQUESTS_DAEMON:
        *result = ap_max_requests_per_child;
        break;
    case AP_MPMQ_MAX_DAEMONS:
        *result = config.active_limit;
        break;
    case AP_MPMQ_MPM_STATE:
        *result = mpm_state(retained);
        break;
    case AP_MPMQ_GENERATION:
        *result = retained.mpm->my_generation;
        break;
#if defined(AP_MPMQ_CAN_WAITIO) && defined(HYBRID_HAVE_CONN_STATE_ASYNC_WAITIO)
    case AP_MPMQ_CAN_WAITIO:
        *result = 1;
        break;
#endif
    default:
        *rv = APR_ENOTIMPL;
        break;
    }
    return OK;
}

} // namespace hybrid
