// SPDX-License-Identifier: Apache-2.0
// Timed callbacks come out by due time, equal times in the order they came in, and never early.
#include "hybrid/timers.hpp"
#include "tap.hpp"

#include <algorithm>
#include <random>
#include <vector>

using namespace hybrid;
using namespace tap;

namespace {

void called(void *baton)
{
    ++*static_cast<int *>(baton);
}

void other(void *) {}

void test_empty()
{
    Timers timers;
    is(timers.next(), kNever, "nothing is due, ever");
    ok(!timers.pop_due(0) && !timers.pop_due(kNever), "and nothing comes out");
}

void test_due()
{
    Timers timers;
    int calls = 0;
    timers.add(100, {called, &calls});
    is(timers.next(), 100, "next() is when it is due");
    ok(!timers.pop_due(99), "not due a microsecond before");
    is(timers.next(), 100, "and still there");
    const auto due = timers.pop_due(100);
    ok(due.has_value(), "due at exactly its time");
    ok(due && due->function == called && due->baton == &calls, "function and baton as they were given");
    is(calls, 0, "it is the caller who calls");
    ok(!timers.pop_due(kNever), "it comes out once");
    is(timers.next(), kNever, "and then nothing is due");

    timers.add(5, {other, nullptr});
    ok(timers.pop_due(1000).has_value(), "due long after its time, too");
}

void test_order()
{
    Timers timers;
    int batons[6];
    const Time dues[6] = {30, 10, 20, 10, 30, 10};
    for (int i = 0; i < 6; ++i)
        timers.add(dues[i], {other, &batons[i]});
    is(timers.next(), 10, "next() is the earliest");
    const int wanted[6] = {1, 3, 5, 2, 0, 4};
    for (int i = 0; i < 6; ++i) {
        const auto due = timers.pop_due(30);
        ok(due && due->baton == &batons[wanted[i]], "by time, then in the order of coming: number %d is %d", i,
           wanted[i]);
    }
    ok(!timers.pop_due(30), "no more");
}

void test_only_what_is_due()
{
    Timers timers;
    int early = 0, late = 0;
    timers.add(20, {called, &late});
    timers.add(10, {called, &early});
    const auto due = timers.pop_due(15);
    ok(due && due->baton == &early, "what is due comes out");
    ok(!timers.pop_due(15), "what is not stays");
    is(timers.next(), 20, "and is next");
    timers.add(kNever, {other, nullptr});
    is(timers.next(), 20, "one that is never due does not hide it");
}

struct Planned {
    Time due;
    int number;
};

void test_random()
{
    std::mt19937 random(20240229);
    Timers timers;
    std::vector<Planned> model; // in the order of coming
    std::vector<int> batons(20000);
    int numbers = 0;
    Time t = 0;
    bool same = true;
    for (int step = 0; step < 20000; ++step) {
        t += static_cast<Time>(random() % 5);
        if (random() % 2) {
            const Time due = t + static_cast<Time>(random() % 40);
            timers.add(due, {other, &batons[numbers]});
            model.push_back({due, numbers++});
        }
        const auto first =
            std::ranges::min_element(model, [](const Planned &a, const Planned &b) { return a.due < b.due; });
        same = same && timers.next() == (first == model.end() ? kNever : first->due);
        const auto popped = timers.pop_due(t);
        const bool due = first != model.end() && first->due <= t;
        same = same && popped.has_value() == due && (!due || popped->baton == &batons[first->number]);
        if (due)
            model.erase(first);
    }
    ok(same, "20000 random steps agree with a simple model");
}

} // namespace

int main()
{
    test_empty();
    test_due();
    test_order();
    test_only_what_is_due();
    test_random();
    return done();
}
