// SPDX-License-Identifier: Apache-2.0
#include "hybrid/workers.hpp"

#include "hybrid/config.hpp"
#include "hybrid/loop.hpp"

#include <algorithm>
#include <cstring>
#include <sys/socket.h>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kPause = seconds(1); // after a thread could not be made

} // namespace

void Worker::set_client(const Client *client)
{
    const Time t = now();
    Lock lock(mu_);
    client_ = client;
    since_ = t;
}

void Worker::hang_up()
{
    Lock lock(mu_);
    if (client_)
        shutdown(client_->fd(), SHUT_RDWR);
}

// Host and request as mod_status shows them, with ExtendedStatus: the connection is being worked on.
std::string Worker::describe(Time now)
{
    Lock lock(mu_);
    if (!client_)
        return {};
    const worker_score &score = *slot.row(row);
    const auto text = [](const char *field, std::size_t size) { return std::string(field, strnlen(field, size)); };
    return client_->describe(text(score.vhost, sizeof score.vhost), text(score.request, sizeof score.request),
                             now - since_);
}

void Worker::rest()
{
    if (!std::exchange(rests_, true))
        slot.worker_status(row, kind == Kind::Regular ? SERVER_READY : SERVER_DEAD); // no client can have it
}

bool Worker::should_yield_token(std::uint64_t number)
{
    return watchdog_.should_yield_token(number, probe_.cpu_time(), [this] { return probe_.state(); });
}

void Worker::run()
{
    probe_.look_at_me();
    tid_.store(pthread_self());
    slot.worker_started(row);
    rests_ = false;
    rest();
    for (;;) {
        const Scheduler::Next next = scheduler.next(*this);
        switch (next.act) {
        case Scheduler::Act::Run:
            rests_ = false;
            next.work->run(*next.work, *this);
            break;
        case Scheduler::Act::Poll:
            loop.round(*this);
            break;
        case Scheduler::Act::Park:
            rest();
            scheduler.park(*this);
            break;
        case Scheduler::Act::Leave:
            rest();
            tid_.store({}); // another thread may get the same
            left_.store(true);
            return;
        }
    }
}

// Calls apr_thread_exit(), which unwinds: nothing with a destructor may be alive here (T15).
extern "C" {
static void *APR_THREAD_FUNC hybrid_worker_thread(apr_thread_t *thread, void *self)
{
    auto *worker = static_cast<Worker *>(self);
    worker->thread = thread;
    worker->run();
    apr_thread_exit(thread, APR_SUCCESS);
    return nullptr;
}
}

Workers::Workers(const Config &config, Slot &slot, Scheduler &scheduler, Loop &loop)
    : scheduler_(scheduler), reject_queue_(1, {[](void *) {}, [](void *) {}, nullptr})
{
    for (int row = 0; row < config.workers_per_child(); ++row)
        workers_.emplace_back(row, slot, scheduler, loop);
    if (config.max_waiting == 0)
        return;
    reject_queue_.poll_in_place();
    rejector_.emplace(config.workers_per_child(), slot, reject_queue_, loop, Worker::Kind::Rejecting);
}

void Workers::open(apr_threadattr_t *attributes, apr_pool_t *pool, ap_generation_t generation)
{
    attributes_ = attributes;
    pool_ = pool;
    generation_ = generation;
}

void Workers::show_all()
{
    for (Worker &worker : workers_)
        if (!worker.pool_)
            worker.slot.worker_ready(worker.row, generation_);
}

bool Workers::start_one()
{
    reap(); // their rows are free
    const auto worker = std::ranges::find_if(workers_, [](const Worker &w) { return !w.pool_; });
    if (worker == workers_.end() || now() < again_at_)
        return false;
    const apr_status_t rv = start(*worker);
    if (rv == APR_SUCCESS)
        return true;
    const bool first_time = std::exchange(again_at_, later(now(), kPause)) == 0;
    const int others = static_cast<int>(scheduler_.load().workers);
    if (others == 0)
        ap_log_error(APLOG_MARK, APLOG_ALERT, rv, ap_server_conf,
                     APLOGNO(03104) "ap_thread_create: unable to create worker thread");
    else if (first_time)
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, ap_server_conf,
                     HYBLOGNO(0002) "can't start another worker thread, going on with %d", others);
    return false;
}

apr_status_t Workers::start(Worker &worker)
{
    apr_pool_create(&worker.pool_, pool_);
    apr_pool_tag(worker.pool_, "worker");
    worker.left_.store(false);
    worker.slot.worker_starting(worker.row, generation_);
    worker.scheduler.register_worker();
    const apr_status_t rv = ap_thread_create(&worker.thread, attributes_, hybrid_worker_thread, &worker, worker.pool_);
    if (rv != APR_SUCCESS) {
        worker.scheduler.unregister_worker();
        worker.slot.worker_status(worker.row, SERVER_DEAD);
        apr_pool_destroy(std::exchange(worker.pool_, nullptr));
    }
    return rv;
}

bool Workers::can_reject()
{
    if (!rejector_ || rejector_->pool_)
        return rejector_.has_value();
    if (now() < rejector_again_at_)
        return false;
    const apr_status_t rv = start(*rejector_);
    if (rv == APR_SUCCESS)
        return true;
    if (std::exchange(rejector_again_at_, later(now(), kPause)) == 0)
        ap_log_error(APLOG_MARK, APLOG_ERR, rv, ap_server_conf,
                     HYBLOGNO(0017) "can't start the thread that answers with 503 (MaxWaitingRequests): more requests "
                                    "than that wait until it can be started");
    return false;
}

void Workers::reject(Runnable &connection)
{
    reject_queue_.push(connection);
}

void Workers::stop_rejecting(bool at_once)
{
    if (at_once)
        reject_queue_.stop();
    else
        reject_queue_.finish();
}

int Workers::reap()
{
    int there = 0;
    for (Worker &worker : workers_) {
        if (worker.pool_ && worker.left_.load())
            join(worker);
        there += worker.pool_ != nullptr;
    }
    return there;
}

Session *Workers::served_here() const
{
    const pthread_t self = pthread_self();
    for (const Worker &worker : workers_)
        if (worker.tid_.load(std::memory_order_relaxed) == self)
            return worker.served_;
    if (rejector_ && rejector_->tid_.load(std::memory_order_relaxed) == self)
        return rejector_->served_;
    return nullptr;
}

void Workers::describe(std::vector<std::string> &lines, Time now)
{
    for (Worker &worker : workers_)
        if (std::string line = worker.describe(now); !line.empty())
            lines.push_back(std::move(line));
}

void Workers::hang_up()
{
    for (Worker &worker : workers_)
        worker.hang_up();
    if (rejector_)
        rejector_->hang_up();
}

void Workers::join()
{
    for (Worker &worker : workers_)
        if (worker.pool_)
            join(worker);
    if (rejector_ && rejector_->pool_)
        join(*rejector_);
}

void Workers::join(Worker &worker)
{
    apr_status_t thread_rv;
    const apr_status_t rv = apr_thread_join(&thread_rv, worker.thread);
    if (rv != APR_SUCCESS)
        ap_log_error(APLOG_MARK, APLOG_CRIT, rv, ap_server_conf,
                     APLOGNO(00477) "apr_thread_join: unable to join worker thread %d", worker.row);
    apr_pool_destroy(std::exchange(worker.pool_, nullptr));
    worker.thread = nullptr;
}

} // namespace hybrid
