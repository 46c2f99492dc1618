// SPDX-License-Identifier: Apache-2.0
// What the directives say: filled while the configuration is read, clamped once by check(), constant from then on.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/httpd.hpp"
#include "hybrid/retained.hpp"

namespace hybrid {

/// This module's version; configure.ac has it.
inline constexpr char kVersion[] = APR_STRINGIFY(HYBRID_VERSION);

/// What of a request must be here before a worker begins with it.
enum class Await : unsigned char { Nothing, Head, Body };

/// One life: from pre_config to the next pre_config. The names are the directives'.
struct Config {
    static constexpr int kMaxServerLimit = 20000;
    static constexpr int kMaxThreadLimit = 100000;
    static constexpr int kMaxTokens = 4096;
    static constexpr int kMaxWaiting = 1000000;
    static constexpr Duration kMaxTime = seconds(1000000);

    int start_servers = 3;
    int server_limit = 16;
    int thread_limit = 64;
    int threads_per_child = 25;
    int min_spare_threads = 3 * 25;
    int max_spare_threads = 10 * 25;
    int max_request_workers = 16 * 25;
    int run_tokens = 0;        ///< RunTokens' first argument; 0: as many as there are cores to use
    int tokens_per_child = 1;  ///< its second
    int dormant = 1;           ///< DormantConnections
    Duration drain_limit = 0;  ///< GracefulRestartTimeout; 0: none
    Duration stop_limit = 0;   ///< StopGracefully: SIGTERM is graceful for so long; 0: it is not
    Duration goodbye_time = 0; ///< its second: the first of that, in which all is served still
    int max_waiting = 0;       ///< MaxWaitingRequests' first argument, per child; 0: no bound
    int retry_after = 1;       ///< its second, in seconds
    Await await = Await::Body; ///< AwaitRequest

    int active_limit = 16;                 ///< children that may serve at once: MaxRequestWorkers / ThreadsPerChild
    int min_children = 1;                  ///< so many are needed to use all tokens
    ap_filter_rec_t *tls_filter = nullptr; ///< TlsInput's
    bool one_process = false;              ///< -X or -D ONE_PROCESS

    /// Directives with arguments of their own kind; the answer is httpd's: nullptr or what is wrong.
    const char *set_await(const char *argument);
    const char *set_waiting(const char *most, const char *retry_after);
    const char *set_drain(const char *limit);
    const char *set_stop(const char *limit, const char *goodbye);
    const char *set_tokens(const char *all, const char *per_child);
    /// AsyncRequestWorkerFactor: checked as mpm_event does, and not needed: an idle connection needs no worker.
    static const char *check_factor(const char *argument);

    /// Clamps everything with mpm_event's messages, in its order (D11). Parent, once per configuration pass.
    /// `startup`: the messages go to the console, else to the log of `server`.
    void check(Retained &retained, bool startup, const server_rec *server);

    /// Workers of a child that run requests. With MaxWaitingRequests one says 503.
    int workers_per_child() const { return threads_per_child - (max_waiting > 0); }

    /// Raises what `buckets` listener buckets need at least (D10). Parent, before children are made.
    void fit_buckets(int buckets);
};

} // namespace hybrid
