// SPDX-License-Identifier: Apache-2.0
// What expires first: order within a length, exact times, removal, and no overflow.
#include "hybrid/deadlines.hpp"
#include "tap.hpp"

#include <algorithm>
#include <deque>
#include <random>
#include <vector>

using namespace hybrid;
using namespace tap;

namespace {

void test_empty()
{
    Deadlines deadlines;
    is(deadlines.size(), 0, "empty: size 0");
    is(deadlines.next(), kNever, "empty: no deadline");
    ok(!deadlines.pop_expired(0) && !deadlines.pop_expired(kNever), "empty: nothing expires");
}

void test_exact_time()
{
    Deadlines deadlines;
    Timed item;
    ok(!item.queued(), "a hook is not queued at first");
    deadlines.add(item, 50, 1000);
    ok(item.queued(), "added it is queued");
    is(item.expires, 1050, "and knows its deadline");
    is(item.length, 50, "and its length");
    is(deadlines.size(), 1, "size 1");
    is(deadlines.next(), 1050, "next() is its deadline");
    ok(!deadlines.pop_expired(1049), "not a microsecond early");
    ok(item.queued() && deadlines.size() == 1, "and still there");
    ok(deadlines.pop_expired(1050) == &item, "at exactly its deadline it has expired");
    ok(!item.queued(), "and is no longer queued");
    is(item.expires, kNever, "with no deadline left");
    is(deadlines.size(), 0, "size 0");
    is(deadlines.next(), kNever, "no deadline is left");
    ok(!deadlines.pop_expired(kNever), "it expires once");

    deadlines.add(item, 0, 2000);
    ok(deadlines.pop_expired(2000) == &item, "a length of nothing expires at once, and a hook can be used again");
}

void test_order()
{
    Deadlines deadlines;
    Timed items[5];
    const Time times[5] = {10, 11, 11, 11, 15};
    for (int i = 0; i < 5; ++i)
        deadlines.add(items[i], 100, times[i]);
    is(deadlines.size(), 5, "five of one length");
    is(deadlines.next(), 110, "the oldest is next");
    std::vector<Timed *> all;
    deadlines.collect(all);
    ok(all.size() == 5 && all.front() == &items[0] && all.back() == &items[4], "all of them, the oldest first");
    ok(deadlines.pop_expired(111) == &items[0], "the oldest first");
    is(deadlines.next(), 111, "then its successor is next");
    for (int i = 1; i < 4; ++i)
        ok(deadlines.pop_expired(111) == &items[i], "equal times in the order they came: %d", i);
    ok(!deadlines.pop_expired(111), "the last one is not due yet");
    ok(deadlines.pop_expired(1000) == &items[4], "but is long after");
}

void test_removal()
{
    Deadlines deadlines;
    Timed items[5];
    for (int i = 0; i < 5; ++i)
        deadlines.add(items[i], 100, i);
    deadlines.remove(items[2]);
    ok(!items[2].queued() && items[2].expires == kNever, "taken back from the middle: not queued, no deadline");
    is(deadlines.size(), 4, "and not counted");
    deadlines.remove(items[0]);
    is(deadlines.next(), 101, "the first taken back: the second is next");
    deadlines.remove(items[4]);
    ok(deadlines.pop_expired(kNever) == &items[1], "what is left keeps its order: first");
    ok(deadlines.pop_expired(kNever) == &items[3], "what is left keeps its order: last");
    ok(!deadlines.pop_expired(kNever), "and nothing else is there");

    deadlines.add(items[2], 100, 50);
    deadlines.add(items[0], 100, 60);
    is(deadlines.next(), 150, "what was taken back can be added again");
    deadlines.remove(items[0]);
    deadlines.remove(items[2]);
    is(deadlines.next(), kNever, "taking back the last leaves no deadline");
    is(deadlines.size(), 0, "and nothing");
}

void test_several_lengths()
{
    Deadlines deadlines;
    Timed longer, shorter, shortest;
    deadlines.add(longer, 100, 0);
    deadlines.add(shorter, 30, 10);
    deadlines.add(shortest, 5, 20);
    is(deadlines.next(), 25, "the first of all lengths is next");
    ok(!deadlines.pop_expired(24), "none is due before it");
    ok(deadlines.pop_expired(25) == &shortest, "the shortest came last and expires first");
    is(deadlines.next(), 40, "then the middle one is next");
    ok(deadlines.pop_expired(99) == &shorter && !deadlines.pop_expired(99), "it alone is due before the longest");
    is(deadlines.next(), 100, "the longest is next");
    ok(deadlines.pop_expired(100) == &longer, "and comes in the end");

    deadlines.add(longer, 100, 200);
    deadlines.add(shortest, 5, 299);
    is(deadlines.next(), 300, "a long deadline set early comes before a short one set late");
    ok(deadlines.pop_expired(300) == &longer && !deadlines.pop_expired(303), "and expires before it");
    ok(deadlines.pop_expired(304) == &shortest, "which has its time");
}

void test_odd_lengths()
{
    Deadlines deadlines;
    Timed usual, items[4];
    deadlines.add(usual, 100, 0);
    const Duration lengths[] = {57, 13, 99, 57};
    for (int i = 0; i < 4; ++i)
        deadlines.add(items[i], lengths[i], 10, Deadlines::Length::Odd);
    ok(items[0].queued() && items[0].expires == 67 && items[0].length == 57, "an odd length is as exact as others");
    is(deadlines.size(), 5, "they count");
    is(deadlines.next(), 23, "whichever is first is next");
    std::vector<Timed *> all;
    deadlines.collect(all);
    ok(all.size() == 5 && all[1] == &items[1] && all[4] == &items[2], "the odd ones are collected in order");
    ok(!deadlines.pop_expired(22), "not a microsecond early");
    ok(deadlines.pop_expired(23) == &items[1] && !items[1].queued(), "the shortest first, though it came later");
    deadlines.remove(items[0]);
    ok(!items[0].queued() && items[0].expires == kNever, "one can be taken back");
    ok(deadlines.pop_expired(70) == &items[3] && !deadlines.pop_expired(70), "and not the other of the same time");
    deadlines.add(items[0], 5, 0, Deadlines::Length::Odd);
    is(deadlines.next(), 5, "time may go back, for them");
    deadlines.remove(items[0]);
    ok(deadlines.pop_expired(100) == &usual, "the usual ones don't wait for them");
    deadlines.add(items[3], -1, 0, Deadlines::Length::Odd);
    is(items[3].expires, kNever, "no limit is none");
    ok(deadlines.pop_expired(kNever - 1) == &items[2], "the last");
    ok(!deadlines.pop_expired(kNever - 1), "that has an end");
    deadlines.remove(items[3]);
    is(deadlines.size(), 0, "then none is left");
}

void test_unseen()
{
    Deadlines deadlines;
    Timed items[6];
    for (int i = 0; i < 4; ++i)
        deadlines.add(items[i], i < 3 ? 100 : 50, i);
    deadlines.add(items[4], 77, 0, Deadlines::Length::Odd);
    const auto unseen = [&] {
        std::vector<Timed *> found;
        deadlines.collect_unseen(found);
        return found;
    };
    is(unseen().size(), 5, "at first nothing has been seen");
    items[0].seen = items[1].seen = items[4].seen = true;
    ok(unseen() == std::vector<Timed *>({&items[3], &items[2]}), "what has been seen is left out");
    deadlines.add(items[5], 100, 10);
    ok(unseen() == std::vector<Timed *>({&items[3], &items[2], &items[5]}),
       "what is added later is not, the oldest first");
    deadlines.remove(items[1]);
    is(unseen().size(), 3, "one that was seen goes");
    deadlines.add(items[1], 100, 20);
    is(unseen().size(), 4, "added again it has not been seen");
    items[2].seen = items[3].seen = items[5].seen = items[1].seen = true;
    is(unseen().size(), 0, "all of them");
    std::vector<Timed *> all;
    deadlines.collect(all);
    is(all.size(), 6, "are still there");
}

void test_no_limit()
{
    Deadlines deadlines;
    Timed never, long_ago, huge, mortal;
    deadlines.add(never, -1, 1000);
    ok(never.queued() && never.expires == kNever, "a negative length never expires, but is queued");
    deadlines.add(long_ago, std::numeric_limits<Duration>::min(), 1000);
    is(long_ago.expires, kNever, "however negative");
    deadlines.add(huge, kNever - 10, 1000);
    is(huge.expires, kNever, "a huge length does not overflow into the past");
    is(deadlines.next(), kNever, "none of them is ever next");
    ok(!deadlines.pop_expired(kNever - 1), "none of them ever expires");
    is(deadlines.size(), 3, "but all of them count");

    deadlines.add(mortal, 10, 1000);
    is(deadlines.next(), 1010, "they do not hide one that does");
    ok(deadlines.pop_expired(1010) == &mortal, "which expires");
    deadlines.remove(huge);
    ok(deadlines.pop_expired(kNever) && deadlines.pop_expired(kNever) && !deadlines.pop_expired(kNever),
       "at the end of all time the others can be taken out, too");
}

/// As simple as can be: for each length a list in the order of coming.
struct Model {
    struct Entry {
        Timed *item;
        Time expires;
    };
    static constexpr Duration kLengths[] = {-1, 0, 3, 10, 11, 500};
    std::deque<Entry> queues[std::size(kLengths)];
    std::size_t size = 0;

    void add(Timed &item, std::size_t which, Time now)
    {
        queues[which].push_back({&item, kLengths[which] < 0 ? kNever : now + kLengths[which]});
        ++size;
    }

    void remove(const Timed &item)
    {
        for (auto &queue : queues)
            size -= std::erase_if(queue, [&item](const Entry &entry) { return entry.item == &item; });
    }

    Time next() const
    {
        Time first = kNever;
        for (const auto &queue : queues)
            for (const Entry &entry : queue)
                first = std::min(first, entry.expires);
        return first;
    }

    /// Is it the oldest of its length, and due?
    bool may_expire(const Timed &item, Time now) const
    {
        return std::ranges::any_of(queues, [&](const auto &queue) {
            return !queue.empty() && queue.front().item == &item && queue.front().expires <= now;
        });
    }
};

bool expire(Deadlines &deadlines, Model &model, Time now)
{
    bool same = true;
    while (Timed *expired = deadlines.pop_expired(now)) {
        same = same && model.may_expire(*expired, now) && !expired->queued();
        model.remove(*expired);
    }
    return same && model.next() > now; // everything due came out
}

void test_random()
{
    std::mt19937 random(4711);
    Deadlines deadlines;
    Model model;
    std::vector<Timed> items(300);
    Time t = 0;
    bool same = true;
    for (int step = 0; step < 100000 && same; ++step) {
        t += static_cast<Time>(random() % 3);
        Timed &item = items[random() % items.size()];
        if (item.queued()) {
            deadlines.remove(item);
            model.remove(item);
        } else {
            const std::size_t which = random() % std::size(Model::kLengths);
            deadlines.add(item, Model::kLengths[which], t);
            model.add(item, which, t);
        }
        same = deadlines.size() == model.size && deadlines.next() == model.next();
        if (random() % 4 == 0)
            same = same && expire(deadlines, model, t);
    }
    ok(same, "100000 random steps agree with a simple model");
}

} // namespace

int main()
{
    test_empty();
    test_exact_time();
    test_order();
    test_removal();
    test_several_lengths();
    test_odd_lengths();
    test_unseen();
    test_no_limit();
    test_random();
    return done();
}
