// SPDX-License-Identifier: Apache-2.0
// The few words of TAP that unit tests need. They are spoken by the main thread only.
#pragma once

#include "hybrid/clock.hpp"

#include <cstdarg>
#include <cstdio>
#include <string_view>
#include <time.h>
#include <unistd.h>

namespace tap {

inline int tests = 0;
inline int failures = 0;

[[gnu::format(printf, 2, 3)]] inline bool ok(bool passed, const char *what, ...)
{
    va_list arguments;
    va_start(arguments, what);
    std::printf("%s %d - ", passed ? "ok" : "not ok", ++tests);
    std::vprintf(what, arguments);
    std::printf("\n");
    std::fflush(stdout);
    va_end(arguments);
    failures += !passed;
    return passed;
}

inline bool is(long long got, long long wanted, const char *what)
{
    if (!ok(got == wanted, "%s", what))
        std::printf("#      got %lld\n#   wanted %lld\n", got, wanted);
    return got == wanted;
}

inline bool is(std::string_view got, std::string_view wanted, const char *what)
{
    if (!ok(got == wanted, "%s", what))
        std::printf("#      got %.*s\n#   wanted %.*s\n", static_cast<int>(got.size()), got.data(),
                    static_cast<int>(wanted.size()), wanted.data());
    return got == wanted;
}

/// Something another thread does: looks until it is so, for a long time at most.
template <class Condition>
bool eventually(Condition so)
{
    const hybrid::Time limit = hybrid::later(hybrid::now(), hybrid::seconds(30));
    while (!so()) {
        if (hybrid::now() > limit)
            return false;
        const struct timespec moment = {0, 50000};
        nanosleep(&moment, nullptr);
    }
    return true;
}

/// Where going on would only hang.
[[noreturn]] inline void bail_out(const char *what)
{
    std::printf("Bail out! waited in vain: %s\n", what);
    std::fflush(stdout);
    _exit(1);
}

/// As eventually(), but bails out with what was expected.
template <class Condition>
void must(Condition so, const char *what)
{
    if (!eventually(so))
        bail_out(what);
}

/// The plan, and what main() returns.
inline int done()
{
    std::printf("1..%d\n", tests);
    return failures == 0 && tests > 0 ? 0 : 1;
}

} // namespace tap
