// SPDX-License-Identifier: Apache-2.0
#include "hybrid/watchdog.hpp"

namespace hybrid {

namespace {

constexpr int kPatience = 10; // ticks after which others come in, whatever keeps this one

} // namespace

void Watchdog::see(std::uint64_t run, Duration cpu)
{
    ticks_ = run == run_ ? ticks_ + 1 : 0;
    run_ = run;
    used_before_ = used_;
    used_ = cpu - cpu_;
    cpu_ = cpu;
}

// Two ticks, and at least a quarter of them on a core: it would be there when the next one comes, too.
bool Watchdog::computes_long() const
{
    return ticks_ >= kPatience || (ticks_ >= 2 && used_ + used_before_ >= kTick / 2);
}

} // namespace hybrid
