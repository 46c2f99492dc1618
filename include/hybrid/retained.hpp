// SPDX-License-Identifier: Apache-2.0
// What survives reloads. The module itself may be unloaded and mapped elsewhere in between, so: plain data, and no
// pointer into the module (no vtable, no function, no literal).
#pragma once

#include "hybrid/close_reason.hpp"
#include "hybrid/httpd.hpp"
#include "hybrid/staffing.hpp"

#include <pthread.h>
#include <type_traits>

namespace hybrid {

/// Memory that the parent and all children of all generations share.
struct Shared {
    Time shortage_quiet_until; ///< HYB0001 is said by one of them, and by nobody else before that
};

/// Parent; the children inherit a copy. Zero at first, allocated by ap_retained_data_create(), with room for what a
/// newer module may add before the next full start: new members come last.
struct Retained {
    static constexpr std::size_t kRoom = 512;

    ap_unixd_mpm_retained_data *mpm; ///< httpd's own share, common to all MPMs
    int first_server_limit;          ///< ServerLimit and ThreadLimit can't change before the next full start
    int first_thread_limit;
    int sick_child_detected;
    int maxclients_reported; ///< AH00484 and AH10159 are said once
    int near_maxclients_reported;
    int max_daemon_used;      ///< one past the highest slot ever used; never below a live one (P18)
    int total_daemons;        ///< children alive
    int active_daemons;       ///< of these, not ending gracefully
    StaffingMemory *staffing; ///< one for each listener bucket, in ap_pglobal
    int channel_to;           ///< the Channel's ends, which outlive all children; both 0: not made
    int channel_from;
    int calls;            ///< the eventfd by which children of all generations call; 0: not made
    int slotless_daemons; ///< children that end without a slot
    Shared *shared;       ///< made by Children::share()
    pid_t *numbers;       ///< who has which number (Children::free_number()), 0: nobody; in ap_pglobal
    int number_count;
    pthread_t makes_child; ///< the thread that forks a child of ours at this moment; else zero
    ClientCounts *counts;  ///< see counts_of(); made by Children::share()
};

/// Where the child with this number counts its clients: one row for each slot, and one that those share which have
/// higher numbers. Parent and child.
inline int counts_rows(const Retained &retained)
{
    return retained.first_server_limit + 1;
}
inline ClientCounts &counts_of(const Retained &retained, int number)
{
    return retained.counts[number < retained.first_server_limit ? number : retained.first_server_limit];
}

static_assert(sizeof(Retained) <= Retained::kRoom);
static_assert(std::is_trivially_copyable_v<Retained> && std::is_standard_layout_v<Retained>);

/// AP_MPMQ_STARTING ... AP_MPMQ_STOPPING. Any thread; signal handlers of core write it, too.
inline void set_mpm_state(Retained &retained, int state)
{
    __atomic_store_n(&retained.mpm->mpm_state, state, __ATOMIC_RELAXED);
}

inline int mpm_state(const Retained &retained)
{
    return __atomic_load_n(&retained.mpm->mpm_state, __ATOMIC_RELAXED);
}

/// Finds or makes the retained data. Parent, first thing in pre_config (H11), or when somebody asks before that.
Retained &find_retained();

} // namespace hybrid
