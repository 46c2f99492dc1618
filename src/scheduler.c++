#include "hybrid/scheduler.hpp"

#include <utility>

namespace hybrid {

void Scheduler::push(Runnable &work)
{
    Lock lock(mu_);
    work.next = nullptr;
    // The common case first: an idle worker gets it in its hand, past the queue, which is empty then.
    if (top_ && !stopped_) {
        top_->work = &work;
        unpark(*top_);
        return;
    }
    if (last_)
        last_->next = &work;
    else
        first_ = &work;
    last_ = &work;
    ++queued_;
}

void Scheduler::enter()
{
    Lock lock(mu_);
    ++workers_;
}

void Scheduler::leave()
{
    Lock lock(mu_);
    --workers_;
}

Runnable *Scheduler::take()
{
    Lock lock(mu_);
    if (surplus() && (stopped_ || !first_ || workers_ > 1)) {
        --workers_;
        return nullptr;
    }
    if (first_) {
        Runnable *work = first_;
        first_ = work->next;
        if (!first_)
            last_ = nullptr;
        --queued_;
        return work;
    }

    Parked self;
    self.below = top_;
    if (top_)
        top_->above = &self;
    else
        bottom_ = &self;
    top_ = &self;
    ++parked_;
    if (const ParkHook hook = std::exchange(park_hook_, {}); hook.function)
        hook.function(hook.baton);
    while (!self.work && !self.leave)
        self.woken.wait(mu_);
    return self.work;
}

void Scheduler::limit(std::size_t workers)
{
    Lock lock(mu_);
    limit_ = workers;
    while (bottom_ && surplus()) {
        bottom_->leave = true;
        --workers_;
        unpark(*bottom_);
    }
}

void Scheduler::stop()
{
    Lock lock(mu_);
    stopped_ = true;
    while (top_) {
        top_->leave = true;
        --workers_;
        unpark(*top_);
    }
}

void Scheduler::tell_when_parked(ParkHook hook)
{
    Lock lock(mu_);
    park_hook_ = hook;
}

Scheduler::Load Scheduler::load() const
{
    Lock lock(mu_);
    return {workers_, parked_, queued_};
}

// Takes a worker off the stack and wakes it. It stands on that worker's own stack, so it is signalled under the lock.
void Scheduler::unpark(Parked &worker)
{
    (worker.above ? worker.above->below : top_) = worker.below;
    (worker.below ? worker.below->above : bottom_) = worker.above;
    --parked_;
    worker.woken.wake_one();
}

} // namespace hybrid
