#include "hybrid/slot.hpp"

#include <unistd.h>

namespace hybrid {

Slot::Slot(int index, int thread_limit, Shared &shared)
    : index_(index), thread_limit_(thread_limit), shared_(shared), process_(ap_get_scoreboard_process(index))
{
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
    score->pid = getpid();
    score->generation = generation;
    worker_status(row, status);
}

void Slot::worker_started(int row)
{
    ap_get_scoreboard_worker_from_indexes(index_, row)->tid = apr_os_thread_current();
}

void Slot::worker_status(int row, int status)
{
    if (status == SERVER_READY && quiescing())
        status = SERVER_GRACEFUL;
    ap_update_child_status_from_indexes(index_, row, status, nullptr);
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

Slot::Elsewhere Slot::look_elsewhere() const
{
    Elsewhere elsewhere{};
    const global_score &global = *ap_scoreboard_image->global;
    for (int i = 0; i < global.server_limit; ++i) {
        const process_score &other = *ap_get_scoreboard_process(i);
        if (i == index_ || other.pid == 0 || other.quiescing != kServing ||
            other.generation != global.running_generation)
            continue;
        int up = 0;
        int idle = 0;
        for (int row = 0; row < thread_limit_; ++row) {
            const int status = ap_get_scoreboard_worker_from_indexes(i, row)->status;
            up += status >= SERVER_READY;
            idle += status == SERVER_READY;
        }
        elsewhere.children += up > 0;
        elsewhere.idle_workers += other.not_accepting ? 0 : idle;
    }
    return elsewhere;
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
    advance(*process_, kServing, kEnding); // the parent may have said kAccounted already
    for (int row = 0; row < thread_limit_; ++row)
        if (ap_get_scoreboard_worker_from_indexes(index_, row)->status != SERVER_DEAD)
            ap_update_child_status_from_indexes(index_, row, SERVER_GRACEFUL, nullptr);
}

bool Slot::quiescing() const
{
    return __atomic_load_n(&process_.load(std::memory_order_relaxed)->quiescing, __ATOMIC_RELAXED) != kServing;
}

bool Slot::asked_to_leave() const
{
    return __atomic_load_n(&process_.load()->quiescing, __ATOMIC_SEQ_CST) == kAsked;
}

// ap_scoreboard_image is this process's own; only what it points to is shared. Who is writing at this moment has done
// so long before the slot is anybody else's, which is another process's start away; of the rows' text, which is kept
// for describe(), something may be torn, as it may be for mod_status at any time.
void Slot::leave()
{
    process_score &former = *process_;
    worker_score *rows = ap_scoreboard_image->servers[index_];
    nowhere_rows_.assign(rows, rows + thread_limit_);
    nowhere_.pid = former.pid;
    nowhere_.generation = former.generation;
    nowhere_.quiescing = kAccounted;
    ap_scoreboard_image->servers[index_] = nowhere_rows_.data();
    process_.store(&nowhere_);
    __atomic_store_n(&former.quiescing, static_cast<char>(kLeft), __ATOMIC_SEQ_CST);
}

} // namespace hybrid
