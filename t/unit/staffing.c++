// SPDX-License-Identifier: Apache-2.0
// mpm_event's rules for how many children there are (P02-P08), case by case, and whom to retire (K16).
// That the limits fit the buckets (D10) is config's duty; here they are what they are.
#include "hybrid/staffing.hpp"
#include "tap.hpp"

#include <string>

using namespace hybrid;
using namespace tap;

namespace {

constexpr int kThreads = 25; // per child

const SlotView kFree = {};

/// A child with `idle` workers ready and all others busy.
SlotView child(int idle, unsigned connections = 0)
{
    return {true, false, true, true, idle, kThreads, connections};
}

/// A child that has just been started: its workers count as idle (P02), but none is up.
SlotView starting()
{
    return {true, false, true, true, kThreads, 0, 0};
}

SlotView quiescing(int idle)
{
    SlotView slot = child(idle);
    slot.quiescing = true;
    return slot;
}

SlotView not_accepting(int idle)
{
    SlotView slot = child(idle);
    slot.accepting = false;
    return slot;
}

SlotView old_generation(int idle)
{
    SlotView slot = child(idle);
    slot.current = false;
    return slot;
}

using Slots = std::vector<SlotView>;

Slots operator+(Slots slots, const Slots &more)
{
    slots.insert(slots.end(), more.begin(), more.end());
    return slots;
}

Slots operator*(int times, const SlotView &slot)
{
    return Slots(times, slot);
}

/// What mpm_event has by default, with as many children alive as `slots` hold.
StaffingLimits defaults(const Slots &slots)
{
    StaffingLimits limits = {1, 16, 400, 75, 250, 0, 0};
    for (const SlotView &slot : slots) {
        limits.total_children += slot.occupied;
        limits.active_children += slot.occupied && !slot.quiescing && slot.current;
    }
    return limits;
}

std::string list(const std::vector<int> &numbers)
{
    std::string text;
    for (const int n : numbers)
        text += (text.empty() ? "" : " ") + std::to_string(n);
    return text;
}

const char *words(StaffingNote note)
{
    switch (note) {
    case StaffingNote::None:
        return "none";
    case StaffingNote::AtMaxRequestWorkers:
        return "at max";
    case StaffingNote::NearMaxRequestWorkers:
        return "near max";
    case StaffingNote::NoSlot:
        return "no slot";
    case StaffingNote::AtActiveLimit:
        return "at active limit";
    case StaffingNote::Busy:
        return "busy";
    }
    return "?";
}

/// A plan and the memory it leaves, as text: "spawn [..] retire n note idle n rate n hold n".
std::string text_of(const StaffingPlan &plan, const StaffingMemory &memory)
{
    return "spawn [" + list(plan.spawn) + "] retire " + std::to_string(plan.retire) + ", " + words(plan.note) +
           ", idle " + std::to_string(plan.idle) + ", rate " + std::to_string(memory.spawn_rate) + " hold " +
           std::to_string(memory.hold_off);
}

using Adjust = void (*)(StaffingLimits &limits);

/// One look at `slots`, of a server with mpm_event's defaults unless `adjust` says otherwise.
void look(const char *words, const Slots &slots, StaffingMemory memory, const char *wanted, Adjust adjust = nullptr,
          int bucket = 0)
{
    StaffingLimits limits = defaults(slots);
    if (adjust)
        adjust(limits);
    limits.now = seconds(1000);
    memory.surplus_since = seconds(1); // long enough for whom that concerns
    const StaffingPlan plan = plan_staffing(limits, slots, bucket, memory);
    is(text_of(plan, memory), wanted, words);
}

void test_bounds()
{
    look("between the bounds: nothing to do", 4 * child(25) + 12 * kFree, {1, 0},
         "spawn [] retire -1, none, idle 100, rate 1 hold 0");
    look("enough again: the rate starts anew", 4 * child(25) + 12 * kFree, {16, 0},
         "spawn [] retire -1, none, idle 100, rate 1 hold 0");
    look("holding off is not used up meanwhile", 4 * child(25) + 12 * kFree, {16, 7},
         "spawn [] retire -1, none, idle 100, rate 1 hold 7");
    look("exactly MinSpareThreads is enough", 3 * child(25) + 13 * kFree, {2, 0},
         "spawn [] retire -1, none, idle 75, rate 1 hold 0");
    look("one less is not (P04)", 2 * child(25) + Slots{child(24)} + 13 * kFree, {1, 0},
         "spawn [3] retire -1, none, idle 74, rate 2 hold 0");
    look("exactly MaxSpareThreads is not too much", 10 * child(25) + 6 * kFree, {1, 0},
         "spawn [] retire -1, none, idle 250, rate 1 hold 0");
    look("one more is (P03)", 10 * child(25) + Slots{child(1)} + 5 * kFree, {4, 0},
         "spawn [] retire 10, none, idle 251, rate 1 hold 0");
}

void test_who_is_idle()
{
    look("starting children count as idle: no more are added meanwhile (P02)", 3 * starting() + 13 * kFree, {4, 0},
         "spawn [] retire -1, none, idle 75, rate 1 hold 0");
    look("quiescing children are not idle (P02)", 3 * quiescing(25) + 13 * kFree, {1, 0},
         "spawn [3] retire -1, none, idle 0, rate 2 hold 0");
    look("nor are those that don't accept", 3 * not_accepting(25) + 13 * kFree, {1, 0},
         "spawn [3] retire -1, none, idle 0, rate 2 hold 0");
    look("nor those of an older generation", 3 * old_generation(25) + 13 * kFree, {1, 0},
         "spawn [3] retire -1, none, idle 0, rate 2 hold 0");
    look("a server of all kinds",
         Slots{quiescing(5), child(10), not_accepting(7), old_generation(25), starting()} + 11 * kFree, {1, 0},
         "spawn [5] retire -1, none, idle 35, rate 2 hold 0");
}

void test_spawn()
{
    look("as many as the rate says, into the first free slots",
         Slots{child(0), kFree, child(0), kFree, kFree, kFree, child(0), kFree}, {4, 0},
         "spawn [1 3 4 5] retire -1, none, idle 0, rate 8 hold 0");
    look("no more than there are free slots", 6 * child(0) + 2 * kFree, {4, 0},
         "spawn [6 7] retire -1, none, idle 0, rate 8 hold 0");
    look("no more than the active limit leaves", 3 * child(0) + 13 * kFree, {4, 0},
         "spawn [3 4] retire -1, none, idle 0, rate 8 hold 0", [](StaffingLimits &limits) { limits.active_limit = 5; });
    look("exactly what the active limit leaves", 3 * child(0) + 13 * kFree, {2, 0},
         "spawn [3 4] retire -1, none, idle 0, rate 4 hold 0", [](StaffingLimits &limits) { limits.active_limit = 5; });
    look("at rate 4 nothing is said", 1 * child(0) + 15 * kFree, {4, 0},
         "spawn [1 2 3 4] retire -1, none, idle 0, rate 8 hold 0");
    look("at rate 8 the server is busy (P05)", 1 * child(0) + 15 * kFree, {8, 0},
         "spawn [1 2 3 4 5 6 7 8] retire -1, busy, idle 0, rate 16 hold 0");
    look("busy also when few can be added", 6 * child(0) + 1 * kFree, {8, 0},
         "spawn [6] retire -1, busy, idle 0, rate 16 hold 0");
    look("holding off: the rate stays, one look less to go (P06)", 1 * child(0) + 15 * kFree, {2, 10},
         "spawn [1 2] retire -1, none, idle 0, rate 2 hold 9");
    look("the last look of holding off", 1 * child(0) + 15 * kFree, {2, 1},
         "spawn [1 2] retire -1, none, idle 0, rate 2 hold 0");
}

void test_limits_reached()
{
    const auto small = [](StaffingLimits &limits) {
        limits.active_limit = 4;
        limits.max_workers = 100;
    };
    look("MaxRequestWorkers, none idle: AH00484 (P07)", 4 * child(0) + 4 * kFree, {8, 3},
         "spawn [] retire -1, at max, idle 0, rate 1 hold 3", small);
    look("MaxRequestWorkers, some idle: AH10159", 4 * child(1) + 4 * kFree, {8, 3},
         "spawn [] retire -1, near max, idle 4, rate 1 hold 3", small);
    look("children that end take none of it, whatever they are at (K07)",
         Slots{child(0), child(0), child(0), quiescing(3)} + 4 * kFree, {1, 0},
         "spawn [4] retire -1, none, idle 0, rate 2 hold 0", small);
    look("nor do those of the former generation, which serve until one of the new is up (W25)",
         4 * old_generation(0) + 4 * kFree, {2, 0}, "spawn [4 5] retire -1, none, idle 0, rate 4 hold 0", small);
    look("one worker fewer is below MaxRequestWorkers", 4 * child(0) + 4 * kFree, {1, 0},
         "spawn [4] retire -1, none, idle 0, rate 2 hold 0", [](StaffingLimits &limits) { limits.max_workers = 101; });
    look("MaxRequestWorkers goes before a full scoreboard", 4 * child(0), {1, 0},
         "spawn [] retire -1, at max, idle 0, rate 1 hold 0", small);
    look("no free slot below MaxRequestWorkers (P08, K07): one that ends must leave its own",
         2 * child(0) + 2 * starting() + 2 * quiescing(0), {8, 2},
         "spawn [] retire -1, no slot, idle 50, rate 1 hold 2");
    look("at the active limit: none, the rate is 1 and stays so", 2 * child(0) + 2 * starting() + 4 * kFree, {8, 0},
         "spawn [] retire -1, at active limit, idle 50, rate 1 hold 0", small);
    look("at the active limit holding off is not used up", 2 * child(0) + 2 * starting() + 4 * kFree, {8, 5},
         "spawn [] retire -1, at active limit, idle 50, rate 1 hold 5", small);
    look("above the active limit (it was lowered) none either", 6 * child(0) + 4 * kFree, {4, 0},
         "spawn [] retire -1, at active limit, idle 0, rate 1 hold 0",
         [](StaffingLimits &limits) { limits.active_limit = 4; });
}

void test_retire()
{
    const Slots surplus = 9 * child(25, 3);
    look("the one with the fewest connections goes (K16)",
         Slots{child(25, 5), child(25, 2), child(25, 7)} + 8 * child(25, 9) + 5 * kFree, {1, 0},
         "spawn [] retire 1, none, idle 275, rate 1 hold 0");
    look("of equals the one in the highest slot, so that slots stay compact",
         surplus + Slots{child(25, 2), child(25, 2), child(25, 4)}, {1, 0},
         "spawn [] retire 10, none, idle 300, rate 1 hold 0");
    look("the first slot, when it is the one", Slots{child(25, 0)} + 10 * child(25, 1), {1, 0},
         "spawn [] retire 0, none, idle 275, rate 1 hold 0");
    look("never one that is not idle for us anyway",
         Slots{not_accepting(25), old_generation(25)} + surplus + 2 * child(25, 9) + 17 * kFree, {1, 0},
         "spawn [] retire 10, none, idle 275, rate 1 hold 0");
    look("not while one is ending, when slots are short (P03)", 11 * child(25, 3) + Slots{quiescing(0)} + 4 * kFree,
         {4, 0}, "spawn [] retire -1, none, idle 275, rate 1 hold 0");
    look("not when exactly the active limit is left", 11 * child(25, 3) + Slots{quiescing(0)} + 16 * kFree, {1, 0},
         "spawn [] retire -1, none, idle 275, rate 1 hold 0");
    look("but when more slots are left than a new generation needs",
         11 * child(25, 3) + Slots{quiescing(0)} + 17 * kFree, {1, 0},
         "spawn [] retire 10, none, idle 275, rate 1 hold 0");
}

void test_buckets()
{
    // Slot i is of bucket i % 2: bucket 0 is well off, bucket 1 has nobody idle and slots 5 and 7.
    const Slots slots = {child(25, 1), child(0), child(25, 1), child(0), child(25, 0), kFree, kFree, kFree};
    const auto two = [](StaffingLimits &limits) {
        limits.buckets = 2;
        limits.min_spare = 102;
        limits.max_spare = 151;
    };
    const auto three = [](StaffingLimits &limits) { limits.buckets = 3; };
    look("each bucket has its share of MaxSpareThreads", slots, {1, 0},
         "spawn [] retire -1, none, idle 75, rate 1 hold 0", two);
    look("and counts only its own slots", slots, {4, 0}, "spawn [5 7] retire -1, none, idle 0, rate 8 hold 0", two, 1);
    look("its share of MaxSpareThreads exceeded", slots, {1, 0}, "spawn [] retire 4, none, idle 75, rate 1 hold 0",
         [](StaffingLimits &limits) { limits.buckets = 2, limits.max_spare = 149; });
    look("its share of MinSpareThreads not reached", slots, {1, 0}, "spawn [6] retire -1, none, idle 75, rate 2 hold 0",
         [](StaffingLimits &limits) { limits.buckets = 2, limits.min_spare = 152; });
    look(
        "its share of MaxRequestWorkers reached", slots, {1, 0}, "spawn [] retire -1, at max, idle 0, rate 1 hold 0",
        [](StaffingLimits &limits) { limits.buckets = 2, limits.max_workers = 100; }, 1);
    look(
        "its share of MaxRequestWorkers not reached", slots, {1, 0}, "spawn [5] retire -1, none, idle 0, rate 2 hold 0",
        [](StaffingLimits &limits) { limits.buckets = 2, limits.max_workers = 102; }, 1);
    look("its share of the scoreboard full", Slots{child(0), kFree, child(0), kFree}, {2, 0},
         "spawn [] retire -1, no slot, idle 0, rate 1 hold 0", two);
    look("three buckets: the last one's slots", 3 * child(0) + 6 * kFree, {4, 0},
         "spawn [5 8] retire -1, none, idle 0, rate 8 hold 0", three, 2);
    look("three buckets share the spawn rate, too: below a third of 32 it doubles", 3 * child(0) + 6 * kFree, {8, 0},
         "spawn [3 6] retire -1, busy, idle 0, rate 16 hold 0", three);
    look("and from there it doesn't", 3 * child(0) + 6 * kFree, {16, 0},
         "spawn [3 6] retire -1, busy, idle 0, rate 16 hold 0", three);
    look(
        "the active limit is over all buckets", 3 * child(0) + 6 * kFree, {4, 0},
        "spawn [4] retire -1, none, idle 0, rate 8 hold 0",
        [](StaffingLimits &limits) { limits.buckets = 3, limits.active_limit = 4; }, 1);
}

/// Looks at a server whose every worker is busy at once, and starts what the plan says.
std::string ramp(int slot_count, StaffingLimits limits, StaffingMemory memory, int looks)
{
    Slots slots(slot_count);
    std::string sizes;
    for (int look = 0; look < looks; ++look) {
        const StaffingPlan plan = plan_staffing(limits, slots, 0, memory);
        for (const int slot : plan.spawn)
            slots[slot] = child(0);
        limits.active_children += static_cast<int>(plan.spawn.size());
        limits.total_children = limits.active_children;
        sizes += (look ? " " : "") + std::to_string(plan.spawn.size());
    }
    return sizes;
}

void test_ramp()
{
    const StaffingLimits large = {1, 400, 10000, 75, 250, 0, 0};
    is(ramp(400, large, {1, 0}, 9), "1 2 4 8 16 32 32 32 32", "under load the rate doubles up to 32 (P04)");
    is(ramp(400, large, {1, 3}, 6), "1 1 1 1 2 4", "after a graceful restart only later (P06)");
    is(ramp(16, {1, 16, 400, 75, 250, 0, 0}, {1, 0}, 7), "1 2 4 8 1 0 0", "and until MaxRequestWorkers");
    is(ramp(400, {1, 20, 10000, 75, 250, 0, 0}, {1, 0}, 7), "1 2 4 8 5 0 0", "and until the active limit");
}

void test_min_children()
{
    const auto two = [](StaffingLimits &limits) {
        limits.min_children = 2;
        limits.max_spare = 20;
        limits.min_spare = 1;
    };
    look("idle ones stay that are needed to use all cores", 2 * child(25) + 6 * kFree, {1, 0},
         "spawn [] retire -1, none, idle 50, rate 1 hold 0", two);
    look("not more of them", 3 * child(25) + 5 * kFree, {1, 0}, "spawn [] retire 2, none, idle 75, rate 1 hold 0", two);
    look("and they are started again", 1 * child(25) + 7 * kFree, {1, 0},
         "spawn [1] retire -1, none, idle 25, rate 2 hold 0", two);
}

void test_patience()
{
    const Slots many = 12 * child(25) + 4 * kFree;
    const Slots right = 4 * child(25) + 12 * kFree;
    StaffingMemory memory = {1, 0, 0};
    const auto retires = [&memory](const Slots &slots, Time now) {
        StaffingLimits limits = defaults(slots);
        limits.now = now;
        return plan_staffing(limits, slots, 0, memory).retire >= 0;
    };
    ok(!retires(many, seconds(5)), "too many idle ones: nobody goes at once");
    ok(!retires(many, seconds(14)), "nor soon");
    ok(retires(many, seconds(15)), "but after ten seconds");
    ok(retires(many, seconds(16)), "and then another at each look (P03)");
    ok(!retires(right, seconds(17)), "until they are not too many");
    ok(!retires(many, seconds(18)), "too many again: time begins anew");
    ok(!retires(many, seconds(27)), "and passes");
    ok(retires(many, seconds(28)), "as before");
}

void test_free_slots()
{
    const Slots slots = {child(1), kFree, quiescing(0), kFree, old_generation(0), kFree, not_accepting(0)};
    is(list(free_slots(slots, 2)), "1 3", "free_slots: the first ones (P09)");
    is(list(free_slots(slots, 3)), "1 3 5", "free_slots: all of them");
    is(list(free_slots(slots, 10)), "1 3 5", "free_slots: no more than there are");
    is(list(free_slots(slots, 0)), "", "free_slots: none wanted");
    is(list(free_slots(slots, -1)), "", "free_slots: fewer than none wanted");
    is(list(free_slots({}, 3)), "", "free_slots: no slots at all");
}

} // namespace

int main()
{
    test_bounds();
    test_who_is_idle();
    test_spawn();
    test_limits_reached();
    test_retire();
    test_buckets();
    test_ramp();
    test_min_children();
    test_patience();
    test_free_slots();
    return done();
}
