// SPDX-License-Identifier: Apache-2.0
// How many children, and by which numbers they are known: what the scoreboard shows, and what is done about it.
#include "hybrid/children.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

namespace {

// Children call as long as they have no worker, and each call is a look at all rows of all of them: as a share of its
// cost, the pause after it leaves 2 % of a core for that.
constexpr Duration kCostShare = 50;
constexpr Duration kLongestPause = seconds(1);

} // namespace

// A child has the number of its slot, unless one that has left this slot still has that. In the order of slots, so that
// what is made of it stays small (S24).
int Children::free_number(int slot)
{
    const auto taken = [this](int number) { return number < retained_.number_count && retained_.numbers[number] != 0; };
    int number = slot;
    if (taken(number))
        for (number = config_.server_limit; taken(number);)
            ++number;
    if (number >= retained_.number_count) {
        const int count = std::max(number + 1, 2 * retained_.number_count);
        auto *more = static_cast<pid_t *>(apr_pcalloc(ap_pglobal, count * sizeof(pid_t)));
        std::copy_n(retained_.numbers, retained_.number_count, more);
        retained_.numbers = more;
        retained_.number_count = count;
    }
    return number;
}

// A child that ends counts its last clients itself. If it was killed, nobody has.
void Children::give_number_back(pid_t pid)
{
    pid_t *const end = retained_.numbers + retained_.number_count;
    pid_t *const number = std::find(retained_.numbers, end, pid);
    if (number == end)
        return;
    *number = 0;
    pid_t *const shared = std::min(end, retained_.numbers + retained_.first_server_limit);
    if (number < shared || std::all_of(shared, end, [](pid_t other) { return other == 0; }))
        counts_of(retained_, static_cast<int>(number - retained_.numbers)).end_rest(CloseReason::ChildDied);
}

SlotView Children::look_at(int slot)
{
    const process_score &score = *ap_get_scoreboard_process(slot);
    SlotView view;
    view.occupied = score.pid != 0;
    if (!view.occupied)
        return view;
    view.quiescing = score.quiescing != kServing;
    view.accepting = !score.not_accepting;
    view.current = score.generation == retained_.mpm->my_generation;
    view.connections = score.connections;
    bool up = false;
    for (int row = 0; row < config_.workers_per_child(); ++row) {
        const int status = ap_get_scoreboard_worker_from_indexes(slot, row)->status;
        view.idle += status == SERVER_STARTING || status == SERVER_READY;
        view.active += status >= SERVER_READY && status < SERVER_GRACEFUL;
        up |= status >= SERVER_READY;
    }
    if (!up)
        view.idle = config_.threads_per_child; // it was started a while ago, and more forks would not help it
    else if (view.active > 0)
        had_healthy_child_ = true;
    if (view.active > 0) // the one that answers with 503 is one of MaxRequestWorkers, too
        view.active += config_.threads_per_child - config_.workers_per_child();
    return view;
}

std::vector<SlotView> Children::look_at_all()
{
    std::vector<SlotView> slots(config_.server_limit);
    int last = -1;
    for (int i = 0; i < config_.server_limit; ++i) {
        slots[i] = look_at(i);
        if (slots[i].occupied)
            last = i;
        if (slots[i].occupied && slots[i].quiescing)
            uncount_quiescing(i);
    }
    retained_.max_daemon_used = last + 1;
    return slots;
}

bool Children::had_healthy_one()
{
    if (!had_healthy_child_)
        look_at_all();
    return had_healthy_child_;
}

void Children::go_slowly(int slot)
{
    retained_.staffing[slot % bucket_count()].spawn_rate = 1;
    heeds_again_at_ = later(now(), kLongestPause);
}

bool Children::former_serve() const
{
    for (int slot = 0; former_serves_ && slot < retained_.max_daemon_used; ++slot)
        if (const process_score &score = *ap_get_scoreboard_process(slot);
            score.pid != 0 && score.generation != retained_.mpm->my_generation && score.quiescing == kServing)
            return true;
    return false;
}

void Children::maintain()
{
    const Time begin = now();
    const std::vector<SlotView> slots = look_at_all();
    const Time end = now();
    heeds_again_at_ = later(end, std::min((end - begin) * kCostShare, kLongestPause));
    const auto former = std::ranges::count_if(
        slots, [](const SlotView &slot) { return slot.occupied && !slot.quiescing && !slot.current; });
    for (int bucket = 0; bucket < bucket_count(); ++bucket) {
        const StaffingLimits limits = {
            bucket_count(),
            config_.active_limit,
            config_.max_request_workers,
            config_.min_spare_threads,
            config_.max_spare_threads,
            config_.min_children,
            retained_.active_daemons - static_cast<int>(former),
            retained_.total_daemons,
            now(),
        };
        StaffingMemory &memory = retained_.staffing[bucket];
        carry_out(plan_staffing(limits, slots, bucket, memory), memory);
    }
}

void Children::carry_out(const StaffingPlan &plan, const StaffingMemory &memory)
{
    say(plan, memory);
    if (plan.retire >= 0)
        retire(plan.retire);
    for (const int slot : plan.spawn)
        make(slot);
    if (plan.note == StaffingNote::NoSlot)
        ask_for_slots(plan.wanted);
}

void Children::say(const StaffingPlan &plan, const StaffingMemory &memory)
{
    switch (plan.note) {
    case StaffingNote::AtMaxRequestWorkers:
        if (!std::exchange(retained_.maxclients_reported, 1))
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                         APLOGNO(00484) "server reached MaxRequestWorkers setting, consider raising the "
                                        "MaxRequestWorkers setting");
        break;
    case StaffingNote::NearMaxRequestWorkers:
        if (!std::exchange(retained_.near_maxclients_reported, 1))
            ap_log_error(APLOG_MARK, APLOG_ERR, 0, ap_server_conf,
                         APLOGNO(10159) "server is within MinSpareThreads of MaxRequestWorkers, consider raising the "
                                        "MaxRequestWorkers setting");
        break;
    case StaffingNote::NoSlot: // some that end have one still
    case StaffingNote::Busy:
        ap_log_error(APLOG_MARK, APLOG_INFO, 0, ap_server_conf,
                     APLOGNO(00486) "server seems busy, (you may need to increase StartServers, ThreadsPerChild or "
                                    "Min/MaxSpareThreads), spawning %d children, there are around %d idle threads, %d "
                                    "active children, and %d children that are shutting down",
                     static_cast<int>(plan.spawn.size()), plan.idle, retained_.active_daemons, retained_.total_daemons);
        break;
    case StaffingNote::AtActiveLimit:
        ap_log_error(APLOG_MARK, APLOG_TRACE1, 0, ap_server_conf,
                     "server is at active daemons limit: active %d/%d, rate %d", retained_.active_daemons,
                     config_.active_limit, memory.spawn_rate);
        break;
    case StaffingNote::None:
        break;
    }
}

} // namespace hybrid
