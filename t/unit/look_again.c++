// SPDX-License-Identifier: Apache-2.0
// The more looks were in vain, the more sleeps come without one; and back.
#include "hybrid/look_again.hpp"
#include "tap.hpp"

using namespace hybrid;
using namespace tap;

namespace {

/// Sleeps without a look until the next look.
int skipped(LookAgain &look)
{
    int sleeps = 0;
    while (!look.worth_it() && sleeps < 5000)
        ++sleeps;
    return sleeps;
}

} // namespace

int main()
{
    LookAgain look;
    is(skipped(look), 0, "at first it looks");
    look.found();
    is(skipped(look), 0, "and goes on when that was good");
    look.in_vain();
    is(skipped(look), 3, "once in vain: three sleeps");
    look.in_vain();
    is(skipped(look), 15, "twice: fifteen");
    look.found();
    is(skipped(look), 0, "found once: the next look follows at once");
    look.in_vain();
    is(skipped(look), 31, "but what was learnt before still counts");
    for (int i = 0; i < 20; ++i)
        look.in_vain();
    is(skipped(look), 1023, "never more than about a thousand");
    for (int i = 0; i < 20; ++i)
        look.found();
    look.in_vain();
    is(skipped(look), 3, "much found: all is forgotten");
    return done();
}
