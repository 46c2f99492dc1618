// SPDX-License-Identifier: Apache-2.0
// Lock excludes, Condition lets go of the mutex while it waits and wakes one. What clang's analysis says of the
// annotations is checked by compiling the rest of the tree with it.
#include "hybrid/mutex.hpp"
#include "tap.hpp"

#include <sched.h>
#include <thread>
#include <vector>

using namespace hybrid;
using namespace tap;

namespace {

struct Counter {
    Mutex mu;
    long value GUARDED_BY(mu) = 0;
};

void test_exclusion()
{
    constexpr int kThreads = 4;
    constexpr int kRounds = 50000;
    Counter counter;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i)
        threads.emplace_back([&counter] {
            for (int k = 0; k < kRounds; ++k) {
                const Lock lock(counter.mu);
                const long seen = counter.value;
                if (k % 500 == 0)
                    sched_yield(); // on a busy machine, too, the others would come between
                counter.value = seen + 1;
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    const Lock lock(counter.mu);
    is(counter.value, static_cast<long>(kThreads) * kRounds, "under a Lock no count is lost");
}

/// Waiters that leave one by one, each for a ticket.
struct Barrier {
    Mutex mu;
    Condition some;
    int waiting GUARDED_BY(mu) = 0;
    int tickets GUARDED_BY(mu) = 0;
    int through GUARDED_BY(mu) = 0;

    void pass()
    {
        const Lock lock(mu);
        ++waiting;
        while (tickets == 0)
            some.wait(mu);
        --tickets;
        --waiting;
        ++through;
    }

    bool has(int w, int t)
    {
        const Lock lock(mu);
        return waiting == w && through == t;
    }

    void give()
    {
        const Lock lock(mu);
        ++tickets;
        some.wake_one();
    }
};

void test_condition()
{
    Barrier barrier;
    std::thread first([&barrier] { barrier.pass(); });
    std::thread second([&barrier] { barrier.pass(); });
    must([&] { return barrier.has(2, 0); }, "two waiters");
    ok(true, "wait() lets go of the mutex: both came to wait, and we looked");
    barrier.give();
    must([&] { return barrier.has(1, 1); }, "one waiter is through");
    ok(true, "wake_one() wakes one");
    barrier.give();
    must([&] { return barrier.has(0, 2); }, "the other is through");
    ok(true, "and then the other");
    first.join();
    second.join();
}

} // namespace

int main()
{
    alarm(120);
    test_exclusion();
    test_condition();
    return done();
}
