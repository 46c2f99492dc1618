#include "hybrid/workers.hpp"

#include "hybrid/config.hpp"

#include <sys/socket.h>

namespace hybrid {

void Worker::set_socket(int fd)
{
    Lock lock(mu_);
    fd_ = fd;
}

void Worker::hang_up()
{
    Lock lock(mu_);
    if (fd_ >= 0)
        shutdown(fd_, SHUT_RDWR);
}

void Worker::run()
{
    slot.worker_started(row, generation);
    for (;;) {
        slot.worker_status(row, SERVER_READY);
        Runnable *work = scheduler.take();
        if (!work)
            break;
        work->run(*work, *this);
    }
    slot.worker_status(row, SERVER_DEAD);
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

Workers::Workers(const Config &config, Slot &slot, Scheduler &scheduler, Listener &listener)
{
    for (int row = 0; row < config.threads_per_child; ++row)
        workers_.emplace_back(row, slot, scheduler, listener);
}

bool Workers::start(int wanted, apr_threadattr_t *attributes, apr_pool_t *pool, ap_generation_t generation)
{
    for (; started_ < wanted; ++started_) {
        Worker &worker = workers_[started_];
        worker.generation = generation;
        worker.slot.worker_starting(worker.row);
        worker.scheduler.enter();
        const apr_status_t rv = ap_thread_create(&worker.thread, attributes, hybrid_worker_thread, &worker, pool);
        if (rv == APR_SUCCESS)
            continue;
        worker.scheduler.leave();
        worker.slot.worker_status(worker.row, SERVER_DEAD);
        if (started_ == 0)
            ap_log_error(APLOG_MARK, APLOG_ALERT, rv, ap_server_conf,
                         APLOGNO(03104) "ap_thread_create: unable to create worker thread");
        else
            ap_log_error(APLOG_MARK, APLOG_ERR, rv, ap_server_conf,
                         HYBLOGNO(0002) "could start only %d of %d worker threads, going on with these", started_,
                         wanted);
        return false;
    }
    return true;
}

void Workers::hang_up()
{
    for (int i = 0; i < started_; ++i)
        workers_[i].hang_up();
}

void Workers::join()
{
    for (int i = 0; i < started_; ++i) {
        apr_status_t thread_rv;
        const apr_status_t rv = apr_thread_join(&thread_rv, workers_[i].thread);
        if (rv != APR_SUCCESS)
            ap_log_error(APLOG_MARK, APLOG_CRIT, rv, ap_server_conf,
                         APLOGNO(00477) "apr_thread_join: unable to join worker thread %d", i);
    }
}

} // namespace hybrid
