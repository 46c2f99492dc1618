// SPDX-License-Identifier: Apache-2.0
// When a worker loses its token, tick by tick: the clock and the thread are told, not real.
#include "hybrid/watchdog.hpp"
#include "tap.hpp"

using namespace hybrid;
using namespace tap;

namespace {

constexpr auto kTick = Watchdog::kTick;

/// A worker's ticks, one call each.
class Ticks {
  public:
    /// It has used `used` since the last tick, and is at its piece of work `run`.
    bool operator()(std::uint64_t run, Duration used, ThreadState state)
    {
        asked = 0;
        cpu_ += used;
        return watchdog_.should_yield_token(run, cpu_, [this, state] {
            ++asked;
            return state;
        });
    }
    int asked = 0;

  private:
    Watchdog watchdog_;
    Duration cpu_ = seconds(3); // it had a life before
};

void blocked()
{
    Ticks tick;
    tick(1, 0, ThreadState::Runnable);
    ok(tick(2, 0, ThreadState::Blocked), "blocked: others come in at once");
    ok(!tick(3, kTick, ThreadState::Blocked), "not if it has just been running");
    is(tick.asked, 0, "that isn't even asked");
    ok(tick(3, kTick / 10, ThreadState::Blocked), "blocked after having run");
}

void computing()
{
    Ticks tick;
    ok(!tick(1, kTick, ThreadState::Runnable), "seen first");
    ok(!tick(1, kTick, ThreadState::Runnable), "one tick");
    ok(tick(1, kTick, ThreadState::Runnable), "two ticks of computing: others come in");
    for (std::uint64_t run = 2; run < 50; ++run)
        if (tick(run, kTick, ThreadState::Runnable))
            return static_cast<void>(ok(false, "short pieces of work never are too long"));
    ok(true, "short pieces of work never are too long");
}

void preempted()
{
    Ticks tick;
    tick(1, kTick, ThreadState::Runnable);
    int ticks = 0;
    while (!tick(1, ticks < 1 ? 0 : kTick / 8, ThreadState::Runnable) && ticks < 100)
        ++ticks;
    is(ticks, 9, "who waits for a core keeps its token for ten ticks");
    Ticks half;
    half(1, 0, ThreadState::Runnable);
    half(1, 0, ThreadState::Runnable);
    ok(half(1, kTick / 2, ThreadState::Runnable), "half a tick of two on a core is computing");
}

void unknown()
{
    Ticks tick;
    tick(1, kTick, ThreadState::Unknown);
    ok(!tick(1, 0, ThreadState::Unknown), "without /proc: one tick without CPU time says nothing");
    ok(tick(1, 0, ThreadState::Unknown), "two do");
    Ticks little;
    for (int i = 0; i < 5; ++i)
        ok(!little(1, kTick / 20, ThreadState::Unknown), "a little CPU time: it lives");
}

} // namespace

int main()
{
    blocked();
    computing();
    preempted();
    unknown();
    return done();
}
