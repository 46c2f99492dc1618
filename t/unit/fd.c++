// SPDX-License-Identifier: Apache-2.0
// A descriptor has one owner: it is closed once, by whoever holds it last.
#include "hybrid/fd.hpp"
#include "tap.hpp"

#include <cerrno>
#include <fcntl.h>
#include <type_traits>

using namespace hybrid;
using namespace tap;

static_assert(!std::is_copy_constructible_v<Fd> && !std::is_copy_assignable_v<Fd>);
static_assert(std::is_nothrow_move_constructible_v<Fd> && std::is_nothrow_move_assignable_v<Fd>);
static_assert(!std::is_convertible_v<int, Fd> && !std::is_convertible_v<Fd, int>);

namespace {

bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1 || errno != EBADF;
}

int fresh()
{
    return open("/dev/null", O_RDONLY | O_CLOEXEC);
}

void test_holding()
{
    const Fd nothing;
    is(nothing.get(), -1, "a new Fd holds nothing");
    ok(!nothing, "and says so");
    ok(!Fd(-1), "so does one of -1");

    const int number = fresh();
    {
        const Fd held(number);
        is(held.get(), number, "get() is what it holds");
        ok(static_cast<bool>(held), "and it says that it holds something");
        ok(is_open(number), "which is open while it is held");
    }
    ok(!is_open(number), "and closed at the end");
}

void test_move_construction()
{
    const int number = fresh();
    {
        Fd outer;
        {
            Fd from(number);
            Fd to(std::move(from));
            ok(!from, "moved from: holds nothing"); // NOLINT(bugprone-use-after-move)
            is(to.get(), number, "moved to: holds it");
            outer = std::move(to);
        }
        ok(is_open(number), "those it was moved through did not close it");
        is(outer.get(), number, "the last one holds it");
    }
    ok(!is_open(number), "and closes it");
}

void test_move_assignment()
{
    const int first = fresh();
    const int second = fresh();
    {
        Fd held(first);
        held = Fd(second);
        ok(!is_open(first), "assigning closes what was held before");
        ok(is_open(second), "but not what is held now");
        is(held.get(), second, "which is the new one");

        Fd &self = held;
        held = std::move(self);
        is(held.get(), second, "assigned to itself it keeps its descriptor");
        ok(is_open(second), "which stays open");

        held = Fd();
        ok(!held && !is_open(second), "assigning nothing closes");
    }
    const int again = fresh();
    ok(is_open(again), "no descriptor is closed twice");
    close(again);
}

void test_descriptor_zero()
{
    if (!is_open(0))
        ok(fresh() == 0, "descriptor 0 was free");
    {
        const Fd zero(0);
        ok(static_cast<bool>(zero), "0 is a descriptor");
    }
    ok(!is_open(0), "and is closed like any other");
}

} // namespace

int main()
{
    test_holding();
    test_move_construction();
    test_move_assignment();
    test_descriptor_zero();
    return done();
}
