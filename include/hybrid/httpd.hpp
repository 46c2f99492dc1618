// SPDX-License-Identifier: Apache-2.0
// The only header that includes httpd's and APR's headers, and what every file that does needs once.
#pragma once

// Makes AP_INIT_TAKE1 and LISTEN_COMMANDS compile as C++ (otherwise cmd_func takes no arguments there).
#define AP_HAVE_DESIGNATED_INITIALIZER

#include "httpd.h"

#include "ap_listen.h"
#include "ap_mpm.h"
#include "ap_provider.h"
#include "ap_release.h"
#include "http_config.h"
#include "http_connection.h"
#include "http_core.h"
#include "http_log.h"
#include "http_main.h"
#include "http_protocol.h"
#include "http_request.h"
#include "http_vhost.h"
#include "mpm_common.h"
#include "scoreboard.h"
#include "unixd.h"
#include "util_filter.h"

#include "apr_portable.h"
#include "apr_strings.h"
#include "apr_thread_proc.h"

// APR's rings of buckets subtract null pointers in our files.
#if __clang_major__ >= 13
#pragma clang diagnostic ignored "-Wnull-pointer-subtraction"
#endif

// What APLOG_USE_MODULE(mpm_hybrid) says, without the typedef's name: clang 18 and newer take `module NAME` here for
// the beginning of a C++20 module.
extern "C" __attribute__((visibility("default"))) module_struct AP_MODULE_DECLARE_DATA mpm_hybrid_module;
[[maybe_unused]] static int *const aplog_module_index = &mpm_hybrid_module.module_index;

// What older httpds lack; configure asks the headers.
#ifndef HYBRID_HAVE_AP_THREAD_CREATE
#define ap_thread_create apr_thread_create
#endif
#ifndef HYBRID_HAVE_AP_PRE_CONNECTION
inline int ap_pre_connection(conn_rec *c, void *csd)
{
    return ap_run_pre_connection(c, csd);
}
#endif
#ifndef HYBRID_HAVE_CHILD_STOPPING
inline void ap_run_child_stopping(apr_pool_t *, int) {}
#endif

/// The number of a message that is ours; those that are mpm_event's keep its APLOGNO.
#define HYBLOGNO(n) "HYB" #n ": "

/// ap_process_child_status() and friends name a slot's absence so.
constexpr int kNoSlot = -1;
