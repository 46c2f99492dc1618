// SPDX-License-Identifier: Apache-2.0
#include "hybrid/staffing.hpp"

#include <algorithm>

namespace hybrid {

namespace {

struct Count {
    int idle = 0;
    int active = 0;
    int cheapest = -1; // the child whose end disturbs the fewest clients
    std::vector<int> free;
};

Count count_bucket(const StaffingLimits &limits, std::span<const SlotView> slots, int bucket)
{
    Count count;
    for (int i = bucket; i < static_cast<int>(slots.size()); i += limits.buckets) {
        const SlotView &slot = slots[i];
        if (!slot.occupied) {
            count.free.push_back(i);
            continue;
        }
        if (slot.quiescing || !slot.current)
            continue;
        count.active += slot.active;
        if (!slot.accepting)
            continue;
        count.idle += slot.idle;
        if (count.cheapest < 0 || slot.connections <= slots[count.cheapest].connections)
            count.cheapest = i;
    }
    return count;
}

void plan_retire(const StaffingLimits &limits, int slot_count, const Count &count, StaffingPlan &plan)
{
    // Not another one while some are ending, unless that leaves the slots for a graceful restart.
    const bool all_active = limits.active_children == limits.total_children;
    if (all_active || slot_count - limits.total_children > limits.active_limit)
        plan.retire = count.cheapest;
}

void plan_spawn(const StaffingLimits &limits, Count &count, StaffingMemory &memory, StaffingPlan &plan)
{
    if (count.active >= limits.max_workers / limits.buckets) {
        plan.note = count.idle == 0 ? StaffingNote::AtMaxRequestWorkers : StaffingNote::NearMaxRequestWorkers;
        memory.spawn_rate = 1;
        return;
    }
    int wanted = std::min(memory.spawn_rate, std::max(0, limits.active_limit - limits.active_children));
    if (wanted == 0) {
        plan.note = StaffingNote::AtActiveLimit;
        memory.spawn_rate = 1;
        ++memory.hold_off; // taken back below: the rate stays where it is
    } else if (count.free.empty()) {
        plan.note = StaffingNote::NoSlot;
        plan.wanted = wanted;
        memory.spawn_rate = 1;
        return;
    }
    wanted = std::min<int>(count.free.size(), wanted);
    if (memory.spawn_rate >= 8)
        plan.note = StaffingNote::Busy;
    count.free.resize(wanted);
    plan.spawn = std::move(count.free);
    // Twice as many next time if this was not enough, but not right after a graceful restart.
    if (memory.hold_off)
        --memory.hold_off;
    else if (memory.spawn_rate < StaffingLimits::kMaxSpawnRate / limits.buckets)
        memory.spawn_rate *= 2;
}

} // namespace

StaffingPlan plan_staffing(const StaffingLimits &limits, std::span<const SlotView> slots, int bucket,
                           StaffingMemory &memory)
{
    Count count = count_bucket(limits, slots, bucket);
    StaffingPlan plan;
    plan.idle = count.idle;
    if (count.idle > limits.max_spare / limits.buckets && limits.active_children > limits.min_children) {
        memory.spawn_rate = 1;
        if (memory.surplus_since == 0)
            memory.surplus_since = limits.now;
        if (limits.now >= later(memory.surplus_since, StaffingLimits::kSurplusTime))
            plan_retire(limits, slots.size(), count, plan);
        return plan;
    }
    memory.surplus_since = 0;
    if (count.idle < limits.min_spare / limits.buckets || limits.active_children < limits.min_children) {
        plan_spawn(limits, count, memory, plan);
    } else {
        memory.spawn_rate = 1;
    }
    return plan;
}

std::vector<int> free_slots(std::span<const SlotView> slots, int wanted)
{
    std::vector<int> free;
    for (int i = 0; i < static_cast<int>(slots.size()) && static_cast<int>(free.size()) < wanted; ++i)
        if (!slots[i].occupied)
            free.push_back(i);
    return free;
}

} // namespace hybrid
