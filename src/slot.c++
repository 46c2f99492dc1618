// SPDX-License-Identifier: Apache-2.0
#include "hybrid/slot.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <unistd.h>

namespace hybrid {

namespace {

/// Of a row, which its child's threads write at any time.
int status_of(const worker_score &row)
{
    return __atomic_load_n(&row.status, __ATOMIC_RELAXED);
}

template <std::size_t size>
void copy_text(char (&to)[size], const char (&from)[size])
{
    for (std::size_t i = 0; i < size - 1; ++i)
        __atomic_store_n(&to[i], __atomic_load_n(&from[i], __ATOMIC_RELAXED), __ATOMIC_RELAXED);
}

/// Copies what describe() and our own look at. Others may be writing it at this moment.
void copy_row(worker_score &to, const worker_score &from)
{
    const auto copy = [](auto &here, const auto &there) {
        __atomic_store_n(&here, __atomic_load_n(&there, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    };
    copy(to.tid, from.tid);
    copy(to.pid, from.pid);
    copy(to.generation, from.generation);
    copy(to.status, from.status);
    copy_text(to.request, from.request);
    copy_text(to.vhost, from.vhost);
}

} // namespace

Slot::Slot(int index, int number, int thread_limit, int buckets, Shared &shared, ClientCounts &counts)
    : index_(index), number_(number), thread_limit_(thread_limit), buckets_(buckets), shared_(shared),
      shared_counts_(counts), process_(ap_get_scoreboard_process(index)),
      nowhere_rows_(static_cast<worker_score *>(std::calloc(thread_limit, sizeof(worker_score))))
{
    ap_assert(nowhere_rows_);
    process_score &process = *process_;
    process.not_accepting = 0;
    process.connections = process.write_completion = process.lingering_close = 0;
    process.keep_alive = process.suspended = 0;
#ifdef HYBRID_HAVE_PROCESS_SCORE_WAIT_IO
    process.wait_io = 0;
#endif
}

void Slot::worker_ready(int row, ap_generation_t generation)
{
    show(row, generation, SERVER_READY);
}

void Slot::worker_starting(int row, ap_generation_t generation)
{
    show(row, generation, SERVER_STARTING);
}

void Slot::show(int row, ap_generation_t generation, int status)
{
    worker_score *score = ap_get_scoreboard_worker_from_indexes(index_, row);
    __atomic_store_n(&score->pid, getpid(), __ATOMIC_RELAXED);
    __atomic_store_n(&score->generation, generation, __ATOMIC_RELAXED);
    worker_status(row, status);
}

void Slot::worker_started(int row)
{
    __atomic_store_n(&ap_get_scoreboard_worker_from_indexes(index_, row)->tid, apr_os_thread_current(),
                     __ATOMIC_RELAXED);
}

// Who begins to quiesce says so first, and then shows it in all rows; who shows a row as ready looks afterwards whether
// that has been said: so that one of them is the last to write.
void Slot::worker_status(int row, int status)
{
    if (status == SERVER_READY && quiescing())
        status = SERVER_GRACEFUL;
    ap_update_child_status_from_indexes(index_, row, status, nullptr);
    if (status == SERVER_READY && quiescing())
        ap_update_child_status_from_indexes(index_, row, SERVER_GRACEFUL, nullptr);
}

Slot::Count Slot::count_of(ConnState state)
{
    switch (state) {
    case ConnState::WaitIo:
        return WaitingIo;
    case ConnState::WriteCompletion:
        return Writing;
    case ConnState::KeepAlive:
        return KeptAlive;
    case ConnState::Suspended:
        return Held;
    case ConnState::Linger:
    case ConnState::Lingering:
        return Closing;
    default:
        return Counts;
    }
}

std::uint32_t *Slot::shown(process_score &process, Count count)
{
    switch (count) {
    case Connections:
        return &process.connections;
#ifdef HYBRID_HAVE_PROCESS_SCORE_WAIT_IO
    case WaitingIo:
        return &process.wait_io;
#endif
    case Writing:
        return &process.write_completion;
    case KeptAlive:
        return &process.keep_alive;
    case Held:
        return &process.suspended;
    case Closing:
        return &process.lingering_close;
    default:
        return nullptr;
    }
}

void Slot::add(Count count, int difference)
{
    if (count == Counts)
        return;
    counts_[count].fetch_add(difference, std::memory_order_relaxed);
    if (std::uint32_t *there = shown(*process_.load(std::memory_order_relaxed), count))
        __atomic_add_fetch(there, difference, __ATOMIC_RELAXED);
}

void Slot::opened()
{
    add(Connections, 1);
    shared_counts_.opened();
}

void Slot::moved(ConnState from, ConnState to)
{
    const Count left = count_of(from);
    const Count joined = count_of(to);
    if (left != joined) {
        add(left, -1);
        add(joined, 1);
    }
    if (to == ConnState::Closed)
        add(Connections, -1);
}

unsigned Slot::connections() const
{
    return counts_[Connections].load(std::memory_order_relaxed);
}

unsigned Slot::closing() const
{
    return counts_[Closing].load(std::memory_order_relaxed);
}

unsigned Slot::suspended() const
{
    return counts_[Held].load(std::memory_order_relaxed);
}

unsigned Slot::waiting_for_io() const
{
    return counts_[WaitingIo].load(std::memory_order_relaxed);
}

// Whoever is in the slot that this child has left is another one, and its rows are not those that this process shows.
bool Slot::is_own(int index) const
{
    return index == index_ && !left_rows_.load();
}

const worker_score *Slot::rows_of(int index) const
{
    return index == index_ && left_rows_.load() ? left_rows_.load() : ap_scoreboard_image->servers[index];
}

// Its first row says so as a rule: the others are not read then.
bool Slot::serves(int index) const
{
    const process_score &other = *ap_get_scoreboard_process(index);
    if (is_own(index) || other.pid == 0 || __atomic_load_n(&other.quiescing, __ATOMIC_RELAXED) != kServing ||
        other.generation != ap_scoreboard_image->global->running_generation)
        return false;
    const worker_score *rows = rows_of(index);
    return std::any_of(rows, rows + thread_limit_,
                       [](const worker_score &row) { return status_of(row) >= SERVER_READY; });
}

bool Slot::others_serve() const
{
    for (int i = 0; i < ap_scoreboard_image->global->server_limit; ++i)
        if (serves(i))
            return true;
    return false;
}

int Slot::idle_elsewhere(int enough) const
{
    int idle = 0;
    for (int i = 0; i < ap_scoreboard_image->global->server_limit && idle < enough; ++i) {
        if (!serves(i) || ap_get_scoreboard_process(i)->not_accepting)
            continue;
        const worker_score *rows = rows_of(i);
        for (int row = 0; row < thread_limit_ && idle < enough; ++row)
            idle += status_of(rows[row]) == SERVER_READY;
    }
    return idle;
}

unsigned Slot::fewest_elsewhere(Among among) const
{
    unsigned fewest = std::numeric_limits<unsigned>::max();
    for (int i = 0; i < ap_scoreboard_image->global->server_limit; ++i) {
        const process_score &other = *ap_get_scoreboard_process(i);
        if (other.pid == 0 || other.not_accepting || (among == Among::Bucket && !in_bucket(i)))
            continue;
        const unsigned connections = __atomic_load_n(&other.connections, __ATOMIC_RELAXED);
        if (connections < fewest && serves(i))
            fewest = connections;
    }
    return fewest;
}

bool Slot::somebody_sleeps(unsigned connections) const
{
    for (int i = 0; i < ap_scoreboard_image->global->server_limit; ++i) {
        const process_score &other = *ap_get_scoreboard_process(i);
        if (other.pid == 0 || other.not_accepting || !in_bucket(i) ||
            __atomic_load_n(&other.connections, __ATOMIC_RELAXED) >= connections || !serves(i))
            continue;
        const worker_score *rows = rows_of(i);
        if (std::all_of(rows, rows + thread_limit_,
                        [](const worker_score &row) { return status_of(row) <= SERVER_READY; }))
            return true;
    }
    return false;
}

void Slot::set_accepting(bool accepting)
{
    const char not_accepting = !accepting;
    __atomic_store_n(&process_.load()->not_accepting, not_accepting, __ATOMIC_RELAXED);
}

bool Slot::tells_of_shortage(Time now, Duration quiet)
{
    Time until = __atomic_load_n(&shared_.shortage_quiet_until, __ATOMIC_RELAXED);
    return now >= until && __atomic_compare_exchange_n(&shared_.shortage_quiet_until, &until, later(now, quiet), false,
                                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

bool Slot::advance(process_score &score, char from, char to)
{
    return __atomic_compare_exchange_n(&score.quiescing, &from, to, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void Slot::quiesce()
{
    advance(*process_, kServing, kEnding); // the parent may have said kUncounted already
    for (int row = 0; row < thread_limit_; ++row)
        if (status_of(*ap_get_scoreboard_worker_from_indexes(index_, row)) != SERVER_DEAD)
            ap_update_child_status_from_indexes(index_, row, SERVER_GRACEFUL, nullptr);
}

bool Slot::quiescing() const
{
    return __atomic_fetch_or(&process_.load()->quiescing, 0, __ATOMIC_SEQ_CST) != kServing;
}

bool Slot::vacate_requested() const
{
    return __atomic_load_n(&process_.load()->quiescing, __ATOMIC_SEQ_CST) == kVacateRequested;
}

// ap_scoreboard_image is this process's own; only what it points to is shared. Who is writing at this moment has done
// so long before the slot is anybody else's, which is another process's start away; of the rows' text, which is kept
// for describe(), something may be torn, as it may be for mod_status at any time.
void Slot::vacate()
{
    process_score &former = *process_;
    for (int row = 0; row < thread_limit_; ++row)
        copy_row(nowhere_rows_.get()[row], *ap_get_scoreboard_worker_from_indexes(index_, row));
    nowhere_.pid = former.pid;
    nowhere_.generation = former.generation;
    nowhere_.quiescing = kUncounted;
    worker_score *const rows = ap_scoreboard_image->servers[index_];
    __atomic_store_n(&ap_scoreboard_image->servers[index_], nowhere_rows_.get(), __ATOMIC_RELEASE);
    process_.store(&nowhere_);
    left_rows_.store(rows);
    __atomic_store_n(&former.quiescing, static_cast<char>(kVacated), __ATOMIC_SEQ_CST);
}

} // namespace hybrid
