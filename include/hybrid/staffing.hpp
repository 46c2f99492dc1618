// SPDX-License-Identifier: Apache-2.0
// How many children: from a snapshot of the slots decide which to add and which one to retire. Pure: no clock, no
// fork, no scoreboard. The rules are mpm_event's (perform_idle_server_maintenance in server/mpm/event/event.c); only
// the choice of whom to retire is ours (K16).
#pragma once

#include "hybrid/clock.hpp"

#include <span>
#include <vector>

namespace hybrid {

/// What the parent sees of one child slot.
struct SlotView {
    bool occupied = false;    ///< a process lives there
    bool quiescing = false;   ///< it is ending gracefully
    bool accepting = true;    ///< it takes new connections
    bool current = true;      ///< it is of the running generation
    int idle = 0;             ///< workers starting or ready
    int active = 0;           ///< workers that are up: ready or busy, not ending
    unsigned connections = 0; ///< open connections of any kind
};

/// What the directives ask for, over all listener buckets.
struct StaffingLimits {
    int buckets = 1;         ///< slot i serves bucket i % buckets
    int active_limit = 1;    ///< MaxRequestWorkers / ThreadsPerChild
    int max_workers = 1;     ///< MaxRequestWorkers
    int min_spare = 1;       ///< MinSpareThreads
    int max_spare = 1;       ///< MaxSpareThreads
    int min_children = 1;    ///< active ones, however idle they are
    int active_children = 0; ///< alive, not ending, of the running generation: the former's are about to go (W25)
    int total_children = 0;  ///< alive
    Time now = 0;
    static constexpr int kMaxSpawnRate = 32;
    /// Too many idle workers must have been there for so long before a child is retired for it: children are added at
    /// once when handlers block, and a child's end costs its clients their connections.
    static constexpr Duration kSurplusTime = seconds(10);
};

/// What is remembered from one look to the next. Plain data: it survives reloads.
struct StaffingMemory {
    int spawn_rate;         ///< children to start at the next look, doubled while there are too few
    int hold_off;           ///< looks for which the rate is not doubled
    Time surplus_since = 0; ///< there have been too many idle workers since then; 0: there were not, at the last look
};

enum class StaffingNote {
    None,
    AtMaxRequestWorkers,   ///< AH00484
    NearMaxRequestWorkers, ///< AH10159
    NoSlot,                ///< `wanted` slots are needed, that children have which are ending
    AtActiveLimit,         ///< traced only
    Busy,                  ///< AH00486
};

struct StaffingPlan {
    std::vector<int> spawn; ///< free slots to start a child in
    int retire = -1;        ///< slot of the child to end gracefully
    StaffingNote note = StaffingNote::None;
    int wanted = 0;
    int idle = 0; ///< idle workers counted
};

/// One look at the slots of `bucket`. `slots` holds all slots, that is ServerLimit of them.
StaffingPlan plan_staffing(const StaffingLimits &limits, std::span<const SlotView> slots, int bucket,
                           StaffingMemory &memory);

/// The first `wanted` free slots, over all buckets in turn.
std::vector<int> free_slots(std::span<const SlotView> slots, int wanted);

} // namespace hybrid
