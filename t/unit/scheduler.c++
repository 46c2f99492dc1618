// SPDX-License-Identifier: Apache-2.0
// Who runs what, who polls, who parks. Interleavings are replayed step by step on one thread: a worker is a Runner, its
// steps are calls to next(), and whoever is told to park just isn't called until it is woken. At the end real threads
// do it at random, for ThreadSanitizer.
#include "hybrid/scheduler.hpp"
#include "tap.hpp"

#include <atomic>
#include <deque>
#include <random>
#include <thread>
#include <vector>

using namespace hybrid;
using namespace tap;

namespace hybrid {
class Worker {};
} // namespace hybrid

namespace {

using Act = Scheduler::Act;

struct Work : Runnable {
    Work() : Runnable([](Runnable &, Worker &) noexcept {}) {}
};

/// A scheduler, what it asked for, and workers that exist as soon as they are named.
struct Stage {
    explicit Stage(std::size_t tokens) : scheduler(tokens, hooks()) {}

    Scheduler::Hooks hooks()
    {
        return {[](void *self) { ++static_cast<Stage *>(self)->wakes; },
                [](void *self) { ++static_cast<Stage *>(self)->watches; }, this};
    }

    /// One more worker comes.
    Runner &arrive()
    {
        scheduler.register_worker();
        return runners.emplace_back();
    }

    Act step(Runner &runner) { return scheduler.next(runner).act; }

    /// The piece of work it gets; nullptr when it gets none.
    Runnable *work_of(Runner &runner)
    {
        const Scheduler::Next next = scheduler.next(runner);
        return next.act == Act::Run ? next.work : nullptr;
    }

    std::vector<Scheduler::Holder> tick()
    {
        std::vector<Scheduler::Holder> holders;
        watched = scheduler.tick(holders);
        return holders;
    }

    int wakes = 0;
    int watches = 0;
    bool watched = false;
    std::deque<Runner> runners;
    Scheduler scheduler;
};

void one_worker()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Work first;
    Work second;
    ok(stage.step(a) == Act::Poll, "without work it polls");
    ok(stage.scheduler.may_sleep(), "and may sleep");
    stage.scheduler.push(first);
    is(stage.wakes, 1, "work from outside wakes it");
    stage.scheduler.push(second);
    is(stage.wakes, 1, "once");
    stage.scheduler.awake();
    ok(!stage.scheduler.may_sleep(), "it may not sleep with work queued");
    ok(stage.work_of(a) == &first, "work is run in the order it came");
    is(stage.watches, 1, "somebody is to watch it");
    ok(stage.work_of(a) == &second, "to the end of the queue");
    is(stage.watches, 2, "and that is put off when the next piece begins");
    ok(stage.step(a) == Act::Poll, "then it polls again");
    ok(stage.tick().empty() && !stage.watched, "who polls needs no watching");
}

void two_tokens_are_watched()
{
    Stage stage(2);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    std::deque<Work> works(4);
    ok(stage.step(a) == Act::Poll, "one polls");
    for (Work &work : works)
        stage.scheduler.push(work);
    ok(stage.work_of(b) == &works[0] && stage.watches == 1, "the other works, and is watched");
    ok(stage.work_of(b) == &works[1] && stage.work_of(b) == &works[2], "and goes on");
    ok(stage.work_of(a) == &works[3], "as the first does");
    is(stage.watches, 1, "but puts nothing off: it might hide the other");
}

void harvest()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    std::deque<Work> works(5);
    stage.step(a);
    for (int i = 0; i < 3; ++i)
        stage.scheduler.push(works[i]);
    is(stage.wakes, 0, "what the poller finds itself wakes nobody");
    ok(stage.work_of(a) == &works[0], "it goes on with the first");
    stage.scheduler.push(works[3]);
    ok(stage.work_of(a) == &works[1] && stage.work_of(a) == &works[2], "then with what it found");
    ok(stage.step(a) == Act::Poll,
       "and looks for more before what came meanwhile: nobody in the queue keeps others out");
    stage.scheduler.push(works[4]);
    ok(stage.work_of(a) == &works[3] && stage.work_of(a) == &works[4], "which is run next");
}

void parking()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    Runner &c = stage.arrive();
    ok(stage.step(a) == Act::Poll && stage.step(b) == Act::Park && stage.step(c) == Act::Park,
       "one token: one polls, others park");
    Work work;
    stage.scheduler.push(work);
    ok(stage.work_of(a) == &work, "who polls runs it");
    is(stage.scheduler.load().parked, 2U, "nobody else is woken");
    const auto holders = stage.tick();
    ok(holders.size() == 1 && holders[0].runner == &a && stage.watched, "it is watched");
    stage.scheduler.detach(holders[0]);
    is(stage.scheduler.load().parked, 1U, "when it loses its token, one is woken");
    ok(stage.step(c) == Act::Poll, "the one that parked last, and polls");
    ok(stage.step(a) == Act::Park, "who lost its token parks");
    ok(stage.step(c) == Act::Poll, "who has it goes on");
}

void detaching()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Work work;
    Work other;
    stage.step(a);
    stage.scheduler.push(work);
    stage.step(a);
    const auto holders = stage.tick();
    stage.scheduler.push(other);
    ok(stage.work_of(a) == nullptr && stage.step(a) == Act::Run, "the next piece of work, after a look");
    stage.scheduler.detach(holders[0]);
    ok(!stage.scheduler.short_of_workers(), "an old look at a worker takes nothing from it");
    stage.scheduler.detach(stage.tick()[0]);
    ok(stage.scheduler.short_of_workers(), "nobody is there to have the token");
    Runner &b = stage.arrive();
    ok(!stage.scheduler.short_of_workers(), "one is on its way");
    ok(stage.step(b) == Act::Poll, "and has it");
    ok(!stage.scheduler.short_of_workers(), "now nobody is missing");
    is(stage.scheduler.load().at_work, 1U, "the other is still at work");
    stage.scheduler.unregister_worker();
}

void without_others()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Work works[2];
    stage.step(a);
    stage.scheduler.push(works[0]);
    stage.step(a);
    stage.scheduler.detach(stage.tick()[0]);
    stage.scheduler.push(works[1]);
    ok(stage.scheduler.short_of_workers(), "no other worker");
    ok(stage.step(a) == Act::Poll && stage.work_of(a) == &works[1], "it has its token back when it is done");
}

void two_tokens()
{
    Stage stage(2);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    Runner &c = stage.arrive();
    ok(stage.step(a) == Act::Poll, "one polls");
    ok(stage.step(b) == Act::Park && stage.step(c) == Act::Park, "a second token is not used for nothing");
    std::deque<Work> works(3);
    for (Work &work : works)
        stage.scheduler.push(work);
    is(stage.scheduler.load().parked, 1U, "work wakes another one, as there is a token");
    ok(stage.work_of(c) == &works[0], "which takes the first");
    ok(stage.work_of(a) == &works[1], "who polls the next");
    ok(stage.work_of(c) == &works[2], "whoever comes the last");
    ok(stage.step(a) == Act::Poll, "one polls again");
    ok(stage.scheduler.may_sleep(), "and sleeps");
    ok(stage.tick().size() == 1 && !stage.watched, "as long as one sleeps, nobody needs to be watched");
    Work more;
    stage.scheduler.push(more);
    ok(stage.work_of(a) == &more && stage.watches > 0, "then again");
    is(stage.scheduler.load().parked, 1U, "both have a token: the third is not woken");
    ok(stage.step(c) == Act::Poll, "who is done first polls");
    ok(stage.step(a) == Act::Park, "the other parks");
}

void leaving()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    Runner &c = stage.arrive();
    stage.step(a);
    stage.step(b);
    stage.step(c);
    stage.scheduler.retire_unneeded(1);
    is(stage.scheduler.load().parked, 2U, "nobody leaves before it has been idle for a period");
    stage.scheduler.retire_unneeded(2);
    is(stage.scheduler.load().parked, 1U, "not more than leaves as many as are to be kept");
    ok(stage.step(b) == Act::Leave, "who parked first leaves first");
    Work work;
    stage.scheduler.push(work);
    stage.step(a);
    stage.scheduler.detach(stage.tick()[0]);
    stage.step(c);
    stage.step(a);
    stage.scheduler.retire_unneeded(1);
    is(stage.scheduler.load().workers, 2U, "who was needed meanwhile stays");
    stage.scheduler.retire_unneeded(1);
    ok(stage.step(a) == Act::Leave, "until the next time");
    is(stage.scheduler.load().workers, 1U, "one is left");
    Runner &again = stage.arrive();
    ok(stage.step(again) == Act::Park, "there can be more again");
}

void finishing()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    Work work;
    stage.step(a);
    stage.step(b);
    stage.scheduler.push(work);
    stage.scheduler.finish();
    ok(stage.work_of(a) == &work, "what is queued is still run");
    ok(stage.step(b) == Act::Leave, "others leave");
    ok(stage.step(a) == Act::Leave, "then the last");
    is(stage.scheduler.load().workers, 0U, "nobody is left");
}

void stopping()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    Runner &b = stage.arrive();
    Work work;
    stage.step(a);
    stage.step(b);
    ok(stage.scheduler.may_sleep(), "the poller sleeps");
    stage.scheduler.stop();
    is(stage.wakes, 1, "stop() wakes it");
    stage.scheduler.push(work);
    ok(stage.step(a) == Act::Leave && stage.step(b) == Act::Leave, "all leave, whatever is queued");
    ok(!stage.scheduler.may_sleep(), "nobody sleeps any more");
}

/// Any order of steps: never more runners than tokens, never work waiting or nobody polling while a token and a worker
/// are free, every piece of work run once.
void random_steps(unsigned seed)
{
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
    const std::size_t tokens = 1 + below(3);
    Stage stage(tokens);
    std::deque<Work> works;
    std::vector<Runner *> active; // may be called: not parked
    std::vector<Runner *> parked;
    std::size_t run = 0;
    Runner *poller = nullptr;
    bool good = true;
    for (int i = 0; i < 3; ++i)
        active.push_back(&stage.arrive());
    for (int i = 0; i < 400 && good; ++i) {
        const std::size_t dice = below(10);
        if (dice < 3) {
            stage.scheduler.push(works.emplace_back());
        } else if (dice == 3) {
            const auto holders = stage.tick();
            good &= holders.size() <= tokens;
            if (!holders.empty())
                stage.scheduler.detach(holders[below(holders.size())]);
            if (stage.scheduler.short_of_workers())
                active.push_back(&stage.arrive());
        } else if (!active.empty()) {
            const std::size_t which = below(active.size());
            Runner &self = *active[which];
            if (poller == &self)
                poller = nullptr;
            const Scheduler::Next next = stage.scheduler.next(self);
            run += next.act == Act::Run;
            if (next.act == Act::Poll) {
                good &= poller == nullptr;
                poller = &self;
            }
            if (next.act == Act::Park) {
                parked.push_back(&self);
                active.erase(active.begin() + which);
            }
        }
        // Those that were woken are the ones that parked last.
        while (parked.size() > stage.scheduler.load().parked) {
            active.push_back(parked.back());
            parked.pop_back();
        }
    }
    for (int i = 0; i < 2000 && run < works.size(); ++i)
        for (std::size_t k = 0; k < active.size(); ++k)
            if (const Act act = stage.step(*active[k]); act == Act::Run)
                ++run;
            else if (act == Act::Park)
                active.erase(active.begin() + k--);
    good &= run == works.size();
    ok(good, "random steps, seed %u", seed);
}

void standing_in()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    std::deque<Work> works(3);
    ok(stage.step(a) == Act::Poll && !stage.scheduler.poll_in_place(), "somebody polls: nobody need stand in");
    stage.scheduler.push(works[0]);
    ok(stage.work_of(a) == &works[0] && !stage.scheduler.poll_in_place(), "nor while it works with the token");
    stage.scheduler.detach(stage.tick().at(0));
    ok(stage.scheduler.poll_in_place() && stage.scheduler.no_worker_available(),
       "it is blocked, and there is no other");
    ok(!stage.scheduler.poll_in_place(), "one can");
    stage.scheduler.push(works[1]);
    stage.scheduler.push(works[2]);
    ok(stage.work_of(a) == &works[1], "it comes back, and goes on with what was found meanwhile");
    ok(stage.wakes == 1 && !stage.scheduler.no_worker_available(), "who stands in hears so, and gives the post up");
    stage.scheduler.stand_down();
    ok(stage.work_of(a) == &works[2], "what was queued by then comes first");
    stage.scheduler.push(works[0]);
    ok(stage.step(a) == Act::Poll, "then it polls itself, though there is always something queued");
    ok(stage.work_of(a) == &works[0], "and runs that");
    stage.scheduler.detach(stage.tick().at(0));
    ok(stage.scheduler.poll_in_place() && stage.scheduler.no_worker_available(), "it is blocked again");
    ok(stage.step(a) == Act::Park, "and comes back to nothing: it waits for that one to give the post up");
    ok(stage.wakes == 2 && !stage.scheduler.no_worker_available(), "who hears so");
    stage.scheduler.stand_down();
    ok(stage.step(a) == Act::Poll, "and polls itself");
}

void pulling()
{
    Stage stage(1);
    Runner &a = stage.arrive();
    std::deque<Work> works(4);
    stage.step(a);
    for (Work &work : works)
        stage.scheduler.push(work);
    const auto pull = [&](Work *which, Scheduler::End end = Scheduler::End::First) {
        return stage.scheduler.pull(
            end, [](void *wanted, Runnable &work) { return !wanted || wanted == &work; }, which);
    };
    Work other;
    ok(!pull(&other), "what is not queued can't be taken out");
    ok(pull(&works[3]) == &works[3] && pull(&works[1]) == &works[1], "from the end, from the middle");
    ok(pull(nullptr) == &works[0], "else the first");
    stage.scheduler.push(works[1]);
    stage.scheduler.push(works[3]);
    ok(pull(nullptr, Scheduler::End::Last) == &works[3], "or the last");
    ok(stage.work_of(a) == &works[2] && stage.work_of(a) == &works[1] && stage.step(a) == Act::Poll,
       "the others stay in their order");
    ok(!pull(nullptr) && stage.scheduler.load().queued == 0, "and then nothing is left");
}

/// A scheduler with real threads on it, which sleep when they may and count what they run.
class Crowd {
  public:
    struct Link : Runnable {
        Link() : Runnable([](Runnable &, Worker &) noexcept {}) {}
        std::atomic<int> runs = 0;
    };

    explicit Crowd(std::size_t threads) : runners_(threads)
    {
        for (Runner &self : runners_) {
            scheduler.register_worker();
            threads_.emplace_back([this, &self] { live(self); });
        }
    }

    void stop()
    {
        scheduler.stop();
        for (std::thread &thread : threads_)
            thread.join();
    }

    std::atomic<int> run = 0;
    Scheduler scheduler{2, {[](void *self) { ++static_cast<Crowd *>(self)->wakes_; }, [](void *) {}, this}};

  private:
    void live(Runner &self)
    {
        for (;;) {
            const Scheduler::Next next = scheduler.next(self);
            if (next.act == Act::Leave)
                return;
            if (next.act == Act::Run) {
                ++static_cast<Link *>(next.work)->runs;
                ++run;
            } else if (next.act == Act::Park) {
                scheduler.park(self);
            } else if (scheduler.may_sleep()) {
                while (wakes_.exchange(0) == 0)
                    std::this_thread::yield();
                scheduler.awake();
            }
        }
    }

    std::atomic<int> wakes_ = 0;
    std::deque<Runner> runners_;
    std::vector<std::thread> threads_;
};

/// Work from outside, and a caretaker that takes tokens as fast as it can.
void threads()
{
    std::deque<Crowd::Link> links(20'000);
    Crowd crowd(6);
    std::atomic<bool> over = false;
    std::thread caretaker([&] {
        std::vector<Scheduler::Holder> holders;
        while (!over) {
            crowd.scheduler.tick(holders);
            for (const auto &holder : holders)
                crowd.scheduler.detach(holder);
            if (crowd.scheduler.poll_in_place()) {
                while (crowd.scheduler.no_worker_available())
                    std::this_thread::yield();
                crowd.scheduler.stand_down();
            }
            std::this_thread::yield();
        }
    });
    for (Crowd::Link &link : links)
        crowd.scheduler.push(link);
    must([&] { return crowd.run == static_cast<int>(links.size()); }, "all work is run");
    over = true;
    caretaker.join();
    crowd.stop();
    bool once = true;
    for (Crowd::Link &link : links)
        once &= link.runs == 1;
    ok(once, "with real threads: every piece of work once");
    is(crowd.scheduler.load().workers, 0U, "and all have left");
}

} // namespace

int main()
{
    one_worker();
    two_tokens_are_watched();
    harvest();
    parking();
    detaching();
    without_others();
    two_tokens();
    leaving();
    finishing();
    stopping();
    standing_in();
    pulling();
    for (unsigned seed = 1; seed <= 60; ++seed)
        random_steps(seed);
    threads();
    return done();
}
