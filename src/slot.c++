#include "hybrid/slot.hpp"

namespace hybrid {

namespace {

std::uint32_t load(const std::uint32_t &count)
{
    return __atomic_load_n(&count, __ATOMIC_RELAXED);
}

} // namespace

Slot::Slot(int index, int thread_limit)
    : process_(ap_get_scoreboard_process(index)), index_(index), thread_limit_(thread_limit)
{
    process_->not_accepting = 0;
    process_->connections = process_->write_completion = process_->lingering_close = 0;
    process_->keep_alive = process_->suspended = 0;
#ifdef HYBRID_HAVE_PROCESS_SCORE_WAIT_IO
    process_->wait_io = 0;
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

std::uint32_t *Slot::count_of(ConnState state) const
{
    switch (state) {
#ifdef HYBRID_HAVE_PROCESS_SCORE_WAIT_IO
    case ConnState::WaitIo:
        return &process_->wait_io;
#endif
    case ConnState::WriteCompletion:
        return &process_->write_completion;
    case ConnState::KeepAlive:
        return &process_->keep_alive;
    case ConnState::Suspended:
        return &process_->suspended;
    case ConnState::Linger:
    case ConnState::Lingering:
        return &process_->lingering_close;
    default:
        return nullptr;
    }
}

void Slot::opened()
{
    __atomic_add_fetch(&process_->connections, 1, __ATOMIC_RELAXED);
}

void Slot::moved(ConnState from, ConnState to)
{
    std::uint32_t *left = count_of(from);
    std::uint32_t *joined = count_of(to);
    if (left != joined) {
        if (left)
            __atomic_sub_fetch(left, 1, __ATOMIC_RELAXED);
        if (joined)
            __atomic_add_fetch(joined, 1, __ATOMIC_RELAXED);
    }
    if (to == ConnState::Closed)
        __atomic_sub_fetch(&process_->connections, 1, __ATOMIC_RELAXED);
}

unsigned Slot::connections() const
{
    return load(process_->connections);
}

unsigned Slot::closing() const
{
    return load(process_->lingering_close);
}

unsigned Slot::suspended() const
{
    return load(process_->suspended);
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
    process_->not_accepting = !accepting;
}

void Slot::quiesce()
{
    char serving = kServing; // the parent may have said kAccounted already
    __atomic_compare_exchange_n(&process_->quiescing, &serving, static_cast<char>(kEnding), false, __ATOMIC_SEQ_CST,
                                __ATOMIC_SEQ_CST);
    for (int row = 0; row < thread_limit_; ++row)
        if (ap_get_scoreboard_worker_from_indexes(index_, row)->status != SERVER_DEAD)
            ap_update_child_status_from_indexes(index_, row, SERVER_GRACEFUL, nullptr);
}

bool Slot::quiescing() const
{
    return __atomic_load_n(&process_->quiescing, __ATOMIC_RELAXED) != kServing;
}

} // namespace hybrid
