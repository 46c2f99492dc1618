// SPDX-License-Identifier: Apache-2.0
#include "hybrid/config.hpp"

#include "hybrid/cores.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>

namespace hybrid {

namespace {

/// Where a clamp's message goes: the console at the first start, the error log at a restart (D21).
struct Clamp {
    bool startup;
    const server_rec *server;

    /// Both texts take the same arguments in the same order; the second may take fewer.
    template <typename... Args>
    void warn(const char *at_startup, const char *at_restart, Args... args) const
    {
        if (startup)
            ap_log_error(APLOG_MARK, APLOG_WARNING | APLOG_STARTUP, 0, nullptr, at_startup, args...);
        else
            ap_log_error(APLOG_MARK, APLOG_WARNING, 0, server, at_restart, args...);
    }
};

void clamp_server_limit(const Clamp &clamp, int &limit, Retained &retained)
{
    constexpr int max = Config::kMaxServerLimit;
    if (limit > max) {
        clamp.warn(APLOGNO(00497) "WARNING: ServerLimit of %d exceeds compile-time "
                                  "limit of %d servers, decreasing to %d.",
                   APLOGNO(00498) "ServerLimit of %d exceeds compile-time limit "
                                  "of %d, decreasing to match",
                   limit, max, max);
        limit = max;
    } else if (limit < 1) {
        clamp.warn(APLOGNO(00499) "WARNING: ServerLimit of %d not allowed, "
                                  "increasing to 1.",
                   APLOGNO(00500) "ServerLimit of %d not allowed, increasing to 1", limit);
        limit = 1;
    }
    if (!retained.first_server_limit) {
        retained.first_server_limit = limit;
    } else if (limit != retained.first_server_limit) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, clamp.server,
                     APLOGNO(00501) "changing ServerLimit to %d from original value of %d "
                                    "not allowed during restart",
                     limit, retained.first_server_limit);
        limit = retained.first_server_limit;
    }
}

void clamp_thread_limit(const Clamp &clamp, int &limit, Retained &retained)
{
    constexpr int max = Config::kMaxThreadLimit;
    if (limit > max) {
        clamp.warn(APLOGNO(00502) "WARNING: ThreadLimit of %d exceeds compile-time "
                                  "limit of %d threads, decreasing to %d.",
                   APLOGNO(00503) "ThreadLimit of %d exceeds compile-time limit "
                                  "of %d, decreasing to match",
                   limit, max, max);
        limit = max;
    } else if (limit < 1) {
        clamp.warn(APLOGNO(00504) "WARNING: ThreadLimit of %d not allowed, "
                                  "increasing to 1.",
                   APLOGNO(00505) "ThreadLimit of %d not allowed, increasing to 1", limit);
        limit = 1;
    }
    if (!retained.first_thread_limit) {
        retained.first_thread_limit = limit;
    } else if (limit != retained.first_thread_limit) {
        ap_log_error(APLOG_MARK, APLOG_WARNING, 0, clamp.server,
                     APLOGNO(00506) "changing ThreadLimit to %d from original value of %d "
                                    "not allowed during restart",
                     limit, retained.first_thread_limit);
        limit = retained.first_thread_limit;
    }
}

void clamp_threads_per_child(const Clamp &clamp, int &threads, int limit)
{
    if (threads > limit) {
        clamp.warn(APLOGNO(00507) "WARNING: ThreadsPerChild of %d exceeds ThreadLimit "
                                  "of %d threads, decreasing to %d. "
                                  "To increase, please see the ThreadLimit directive.",
                   APLOGNO(00508) "ThreadsPerChild of %d exceeds ThreadLimit "
                                  "of %d, decreasing to match",
                   threads, limit, limit);
        threads = limit;
    } else if (threads < 1) {
        clamp.warn(APLOGNO(00509) "WARNING: ThreadsPerChild of %d not allowed, "
                                  "increasing to 1.",
                   APLOGNO(00510) "ThreadsPerChild of %d not allowed, increasing to 1", threads);
        threads = 1;
    }
}

void clamp_workers(const Clamp &clamp, Config &config)
{
    int &workers = config.max_request_workers;
    const int threads = config.threads_per_child;
    if (workers < threads) {
        clamp.warn(APLOGNO(00511) "WARNING: MaxRequestWorkers of %d is less than "
                                  "ThreadsPerChild of %d, increasing to %d. "
                                  "MaxRequestWorkers must be at least as large "
                                  "as the number of threads in a single server.",
                   APLOGNO(00512) "MaxRequestWorkers of %d is less than ThreadsPerChild "
                                  "of %d, increasing to match",
                   workers, threads, threads);
        workers = threads;
    }
    int &children = config.active_limit;
    children = workers / threads;
    if (workers % threads) {
        const int multiple = children * threads;
        clamp.warn(APLOGNO(00513) "WARNING: MaxRequestWorkers of %d is not an integer "
                                  "multiple of ThreadsPerChild of %d, decreasing to nearest "
                                  "multiple %d, for a maximum of %d servers.",
                   APLOGNO(00514) "MaxRequestWorkers of %d is not an integer multiple "
                                  "of ThreadsPerChild of %d, decreasing to nearest "
                                  "multiple %d",
                   workers, threads, multiple, children);
        workers = multiple;
    }
    const int limit = config.server_limit;
    if (children > limit) {
        clamp.warn(APLOGNO(00515) "WARNING: MaxRequestWorkers of %d would require %d servers "
                                  "and would exceed ServerLimit of %d, decreasing to %d. "
                                  "To increase, please see the ServerLimit directive.",
                   APLOGNO(00516) "MaxRequestWorkers of %d would require %d servers and "
                                  "exceed ServerLimit of %d, decreasing to %d",
                   workers, children, limit, limit * threads);
        children = limit;
        workers = limit * threads;
    }
}

void clamp_start_and_spare(const Clamp &clamp, Config &config)
{
    if (config.start_servers < 1) {
        clamp.warn(APLOGNO(00517) "WARNING: StartServers of %d not allowed, "
                                  "increasing to 1.",
                   APLOGNO(00518) "StartServers of %d not allowed, increasing to 1", config.start_servers);
        config.start_servers = 1;
    }
    if (config.min_spare_threads < 1) {
        clamp.warn(APLOGNO(00519) "WARNING: MinSpareThreads of %d not allowed, "
                                  "increasing to 1 to avoid almost certain server "
                                  "failure. Please read the documentation.",
                   APLOGNO(00520) "MinSpareThreads of %d not allowed, increasing to 1", config.min_spare_threads);
        config.min_spare_threads = 1;
    }
}

} // namespace

namespace {

/// A number from 1 to `max`; 0 when it is something else.
int small_number(const char *text, long max)
{
    char *end;
    const long number = std::strtol(text, &end, 10);
    return *text && !*end && number >= 1 && number <= max ? static_cast<int>(number) : 0;
}

/// A length of time in httpd's units, up to `kMaxTime`: 30 or 30s, 500ms, 2min, 1h; nothing when it is something else.
std::optional<Duration> time_of(const char *text)
{
    static constexpr struct {
        std::string_view name;
        Duration length;
    } units[] = {{"", seconds(1)},    {"s", seconds(1)},    {"ms", milliseconds(1)},
                 {"mi", seconds(60)}, {"min", seconds(60)}, {"h", seconds(3600)}};
    if (*text < '0' || *text > '9')
        return std::nullopt;
    char *unit;
    const std::int64_t number = apr_strtoi64(text, &unit, 10); // what is too long is more than the limit, too
    for (const auto &[name, length] : units)
        if (unit == name && number <= Config::kMaxTime / length)
            return number * length;
    return std::nullopt;
}

/// One child for each token, if that many are allowed; else they share (several runners in one process cost more:
/// doc/notes).
void spread_tokens(Config &config)
{
    const auto share = [](int all, int parts) { return (all + parts - 1) / parts; };
    const int tokens = config.run_tokens > 0 ? config.run_tokens : usable_cores();
    config.min_children = std::min(share(tokens, config.tokens_per_child), config.active_limit);
    config.tokens_per_child = std::min(share(tokens, config.min_children), config.workers_per_child());
}

} // namespace

const char *Config::set_await(const char *argument)
{
    if (!ap_cstr_casecmp(argument, "body"))
        await = Await::Body;
    else if (!ap_cstr_casecmp(argument, "head"))
        await = Await::Head;
    else if (!ap_cstr_casecmp(argument, "off"))
        await = Await::Nothing;
    else
        return "AwaitRequest must be body, head or off";
    return nullptr;
}

const char *Config::set_waiting(const char *most, const char *retry)
{
    if (!ap_cstr_casecmp(most, "off")) {
        max_waiting = 0;
        return nullptr;
    }
    max_waiting = small_number(most, kMaxWaiting);
    if (max_waiting == 0)
        return "MaxWaitingRequests must be \"off\" or a number from 1 to 1000000";
    const auto delay = retry ? time_of(retry) : seconds(1);
    if (!delay || *delay == 0 || *delay % seconds(1) != 0)
        return "MaxWaitingRequests: Retry-After must be a time of whole seconds, such as 5 or 2min";
    retry_after = static_cast<int>(*delay / seconds(1));
    return nullptr;
}

const char *Config::set_drain(const char *limit)
{
    const auto time = time_of(limit);
    if (!time)
        return "GracefulRestartTimeout must be a time, such as 30, 500ms or 2min (0: none)";
    drain_limit = *time;
    return nullptr;
}

const char *Config::set_stop(const char *limit, const char *goodbye)
{
    stop_limit = goodbye_time = 0;
    if (!ap_cstr_casecmp(limit, "off"))
        return nullptr;
    const auto whole = time_of(limit), first = goodbye ? time_of(goodbye) : 0;
    if (!whole || *whole == 0)
        return "StopGracefully must be \"off\" or a time, such as 30 or 2min";
    if (!first || *first >= *whole)
        return "StopGracefully: the second time must be less than the first";
    stop_limit = *whole;
    goodbye_time = *first;
    return nullptr;
}

const char *Config::set_tokens(const char *all, const char *per_child)
{
    run_tokens = 0;
    if (ap_cstr_casecmp(all, "auto") != 0) {
        run_tokens = small_number(all, kMaxTokens);
        if (run_tokens == 0)
            return "RunTokens must be \"auto\" or a number from 1 to 4096";
    }
    tokens_per_child = per_child ? small_number(per_child, kMaxTokens) : 1;
    if (tokens_per_child == 0)
        return "RunTokens per child must be a number from 1 to 4096";
    return nullptr;
}

const char *Config::check_factor(const char *argument)
{
    char *end;
    const double factor = std::strtod(argument, &end);
    if (*end)
        return "error parsing value";
    if (!(factor > 0))
        return "AsyncRequestWorkerFactor argument must be a positive number";
    return nullptr;
}

void Config::check(Retained &retained, bool startup, const server_rec *server)
{
    const Clamp clamp{startup, server};
    clamp_server_limit(clamp, server_limit, retained);
    clamp_thread_limit(clamp, thread_limit, retained);
    clamp_threads_per_child(clamp, threads_per_child, thread_limit);
    clamp_workers(clamp, *this);
    clamp_start_and_spare(clamp, *this);
    if (max_waiting > 0 && threads_per_child < 2) {
        static constexpr char text[] =
            HYBLOGNO(0014) "MaxWaitingRequests of %d needs a worker of its own, but ThreadsPerChild is 1: ignored";
        clamp.warn(text, text, max_waiting);
        max_waiting = 0;
    }
    spread_tokens(*this);
}

void Config::fit_buckets(int buckets)
{
    active_limit = std::max(active_limit, buckets);
    start_servers = std::min(std::max({start_servers, min_children, buckets}), active_limit);
    min_spare_threads = std::max(min_spare_threads, threads_per_child * (buckets - 1) + buckets);
    max_spare_threads = std::max(max_spare_threads, min_spare_threads + (threads_per_child + 1) * buckets);
}

Retained &find_retained()
{
    static constexpr char key[] = "mpm_hybrid_module";
    auto *retained = static_cast<Retained *>(ap_retained_data_get(key));
    if (!retained) {
        retained = static_cast<Retained *>(ap_retained_data_create(key, Retained::kRoom));
        retained->mpm = ap_unixd_mpm_get_retained_data();
    }
    if (retained->mpm->baton != retained) {
        retained->mpm->was_graceful = 0;
        retained->mpm->baton = retained;
    }
    return *retained;
}

} // namespace hybrid
