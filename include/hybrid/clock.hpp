// SPDX-License-Identifier: Apache-2.0
// Monotonic time in microseconds. L0 code takes "now" as an argument, so time stands still in tests;
// only the threads that own a loop read the clock.
#pragma once

#include <cstdint>
#include <limits>
#include <time.h>

namespace hybrid {

/// A length of time in microseconds, the unit of apr_interval_time_t.
using Duration = std::int64_t;
/// A point on the monotonic clock in microseconds: never a date, never moved by a clock step (K26).
using Time = std::int64_t;

constexpr Time kNever = std::numeric_limits<Time>::max();

constexpr Duration milliseconds(std::int64_t n)
{
    return n * 1000;
}

constexpr Duration seconds(std::int64_t n)
{
    return n * 1000000;
}

/// `when` plus `length` without overflow; a negative length means "no limit", as it does in APR.
constexpr Time later(Time when, Duration length)
{
    return length < 0 || when > kNever - length ? kNever : when + length;
}

/// Any thread.
inline Time now()
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return seconds(ts.tv_sec) + ts.tv_nsec / 1000;
}

} // namespace hybrid
