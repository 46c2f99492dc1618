// SPDX-License-Identifier: Apache-2.0
// The arithmetic of time: no overflow, negative lengths, a clock that only goes forward.
#include "hybrid/clock.hpp"
#include "tap.hpp"

using namespace hybrid;
using namespace tap;

int main()
{
    is(milliseconds(3), 3000, "a millisecond is 1000 units");
    is(seconds(3), 3000000, "a second is 1000000 units");

    is(later(100, 20), 120, "later: the sum");
    is(later(100, 0), 100, "later: a length of nothing");
    is(later(100, -1), kNever, "later: a negative length has no end");
    is(later(100, std::numeric_limits<Duration>::min()), kNever, "later: nor has the most negative one");
    is(later(1, kNever - 2), kNever - 1, "later: the last time before never");
    is(later(1, kNever - 1), kNever, "later: exactly never");
    is(later(1, kNever), kNever, "later: does not overflow");
    is(later(kNever - 1, seconds(5)), kNever, "later: does not overflow from a late start either");
    is(later(kNever, 0), kNever, "later: never stays never");
    is(later(kNever, kNever), kNever, "later: never twice");

    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    const Time seen = now();
    clock_gettime(CLOCK_MONOTONIC, &after);
    ok(seen >= seconds(before.tv_sec) + before.tv_nsec / 1000 && seen <= seconds(after.tv_sec) + after.tv_nsec / 1000,
       "now() is the monotonic clock in microseconds (K26)");

    bool forward = true;
    Time last = now();
    for (int i = 0; i < 100000; ++i) {
        const Time t = now();
        forward = forward && t >= last;
        last = t;
    }
    ok(forward, "now() never goes back");
    return done();
}
