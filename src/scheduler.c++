// SPDX-License-Identifier: Apache-2.0
#include "hybrid/scheduler.hpp"

#include <algorithm>
#include <utility>

namespace hybrid {

void Scheduler::push(Runnable &work)
{
    bool wake;
    {
        Lock lock(mu_);
        work.next = nullptr;
        (last_ ? last_->next : first_) = &work;
        last_ = &work;
        ++queued_;
        wake = std::exchange(poller_sleeps_, false);
        if (!wake)
            hand_on();
    }
    if (wake)
        hooks_.wake_poller(hooks_.baton);
}

bool Scheduler::others_wait() const
{
    Lock lock(mu_);
    return first_ != nullptr;
}

void Scheduler::register_worker()
{
    Lock lock(mu_);
    ++workers_;
    ++arriving_;
}

void Scheduler::unregister_worker()
{
    Lock lock(mu_);
    --workers_;
    --arriving_;
}

Scheduler::Next Scheduler::next(Runner &self)
{
    Next next;
    bool watch = false;
    bool relieve = false;
    {
        Lock lock(mu_);
        const bool had_token = stop_running(self);
        next = choose(self, had_token);
        hand_on();
        relieve = poller_ == &stand_in_ && (next.act == Act::Park || (!had_token && next.act == Act::Run));
        relieved_ |= relieve;
        if (next.act == Act::Run && !poller_sleeps_)
            watch = !std::exchange(watched_, true) || tokens_ == 1;
    }
    if (watch)
        hooks_.watch(hooks_.baton);
    if (relieve)
        hooks_.wake_poller(hooks_.baton);
    return next;
}

// What it was at is over. Has it still got a token?
bool Scheduler::stop_running(Runner &self)
{
    switch (std::exchange(self.place_, Place::Away)) {
    case Place::Running:
        --at_work_;
        std::erase(running_, &self);
        return true;
    case Place::Polling:
        poller_ = nullptr;
        poller_sleeps_ = false;
        before_poll_ = queued_;
        return true;
    case Place::Granted:
        return true;
    case Place::Detached:
        --at_work_;
        return false;
    case Place::Away:
        --arriving_;
        return false;
    case Place::Parked:
    case Place::Dismissed:
        break;
    }
    return false;
}

bool Scheduler::leaves(Runner &self)
{
    if (stopped_ || (finishing_ && !first_)) {
        dismiss_parked(); // whoever had to see the queue through
        return true;
    }
    return std::exchange(self.retired_, false);
}

Scheduler::Next Scheduler::choose(Runner &self, bool token)
{
    if (leaves(self)) {
        holders_ -= token;
        --workers_;
        return {Act::Leave, nullptr};
    }
    if (!token && holders_ < tokens_) {
        token = true;
        ++holders_;
    }
    if (token && first_ && (before_poll_ > 0 || poller_)) {
        self.place_ = Place::Running;
        ++self.run_;
        ++turns_since_block_;
        ++at_work_;
        running_.push_back(&self);
        return {Act::Run, pop()};
    }
    if (token && !poller_) {
        self.place_ = Place::Polling;
        poller_ = &self;
        return {Act::Poll, nullptr};
    }
    holders_ -= token;
    self.place_ = Place::Parked;
    self.below_ = top_;
    self.above_ = nullptr;
    (top_ ? top_->above_ : bottom_) = &self;
    top_ = &self;
    ++parked_;
    return {Act::Park, nullptr};
}

void Scheduler::park(Runner &self)
{
    Lock lock(mu_);
    while (self.place_ == Place::Parked)
        self.woken_.wait(mu_);
}

Runnable *Scheduler::pop()
{
    Runnable *work = first_;
    first_ = work->next;
    if (!first_)
        last_ = nullptr;
    --queued_;
    if (before_poll_ > 0)
        --before_poll_;
    return work;
}

// A free token goes to whoever parked last, if there is something to do: one at a time, who is woken does the same.
void Scheduler::hand_on()
{
    if (holders_ < tokens_ && top_ && wanted()) {
        ++holders_;
        take_out(*top_, Place::Granted);
    }
}

void Scheduler::dismiss_parked()
{
    while (top_)
        take_out(*top_, Place::Dismissed);
}

void Scheduler::take_out(Runner &runner, Place place)
{
    (runner.above_ ? runner.above_->below_ : top_) = runner.below_;
    (runner.below_ ? runner.below_->above_ : bottom_) = runner.above_;
    --parked_;
    least_parked_ = std::min(least_parked_, parked_);
    runner.place_ = place;
    runner.woken_.wake_one(); // under the lock: the runner may be gone right after
}

bool Scheduler::may_sleep()
{
    Lock lock(mu_);
    poller_sleeps_ = !first_ && !finishing_ && !stopped_;
    return poller_sleeps_;
}

void Scheduler::awake()
{
    Lock lock(mu_);
    poller_sleeps_ = false;
}

bool Scheduler::tick(std::vector<Holder> &holders)
{
    Lock lock(mu_);
    holders.clear();
    for (Runner *runner : running_)
        holders.push_back({runner, runner->run_});
    watched_ = !running_.empty() && !poller_sleeps_;
    return watched_;
}

void Scheduler::detach(const Holder &holder)
{
    Lock lock(mu_);
    Runner &runner = *holder.runner;
    if (runner.place_ != Place::Running || runner.run_ != holder.run)
        return;
    runner.place_ = Place::Detached;
    turns_since_block_ = 0;
    std::erase(running_, &runner);
    --holders_;
    hand_on();
}

bool Scheduler::short_of_workers() const
{
    Lock lock(mu_);
    return holders_ < tokens_ && !top_ && arriving_ == 0 && wanted() && !finishing_ && !stopped_;
}

bool Scheduler::poll_in_place()
{
    Lock lock(mu_);
    if (poller_ || holders_ >= tokens_ || top_ || arriving_ > 0 || finishing_ || stopped_)
        return false;
    poller_ = &stand_in_;
    relieved_ = false;
    return true;
}

bool Scheduler::no_worker_available() const
{
    Lock lock(mu_);
    return !top_ && arriving_ == 0 && !relieved_;
}

void Scheduler::stand_down()
{
    Lock lock(mu_);
    poller_ = nullptr;
    before_poll_ = queued_;
    hand_on();
}

Runnable *Scheduler::pull(End end, bool (*wanted)(void *baton, Runnable &work), void *baton)
{
    Lock lock(mu_);
    Runnable *found = nullptr;
    Runnable *before_found = nullptr;
    Runnable *before = nullptr;
    for (Runnable *work = first_; work && !(found && end == End::First); before = work, work = work->next) {
        if (!wanted(baton, *work))
            continue;
        found = work;
        before_found = before;
    }
    if (!found)
        return nullptr;
    (before_found ? before_found->next : first_) = found->next;
    if (last_ == found)
        last_ = before_found;
    --queued_;
    before_poll_ = std::min(before_poll_, queued_);
    return found;
}

void Scheduler::retire_unneeded(std::size_t keep)
{
    Lock lock(mu_);
    for (std::size_t i = std::min(least_parked_, workers_ > keep ? workers_ - keep : 0); i > 0; --i) {
        bottom_->retired_ = true;
        take_out(*bottom_, Place::Dismissed);
    }
    least_parked_ = parked_;
}

void Scheduler::finish()
{
    Lock lock(mu_);
    finishing_ = true;
    dismiss_parked();
}

void Scheduler::stop()
{
    bool wake;
    {
        Lock lock(mu_);
        stopped_ = true;
        dismiss_parked();
        wake = std::exchange(poller_sleeps_, false);
    }
    if (wake)
        hooks_.wake_poller(hooks_.baton);
}

Scheduler::Load Scheduler::load() const
{
    Lock lock(mu_);
    return {workers_, at_work_, parked_, queued_, turns_since_block_};
}

} // namespace hybrid
