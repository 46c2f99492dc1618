// SPDX-License-Identifier: Apache-2.0
// What becomes of a client after its answer: one line for each fact that decides, with everything that it outweighs.
#include "hybrid/verdict.hpp"
#include "tap.hpp"

using namespace hybrid;
using namespace tap;

namespace {

struct Case {
    const char *words;
    Answered after;
    Verdict verdict;
};

const Case kCases[] = {
    {"a broken connection is closed, whatever else is so",
     {.broken = true,
      .output_left = true,
      .kept_alive = true,
      .input_read = true,
      .closes_idle = true,
      .input_waits = true},
     Verdict::Close},
    {"what is left to write comes first, also of the last answer", {.output_left = true}, Verdict::WaitToWrite},
    {"and before the next request",
     {.output_left = true, .kept_alive = true, .input_read = true},
     Verdict::WaitToWrite},
    {"the last answer is written", {}, Verdict::Close},
    {"nobody asks what has come after the last answer",
     {.input_read = true, .holds_part = true, .input_waits = true},
     Verdict::Close},
    {"the next request is here", {.kept_alive = true, .input_read = true}, Verdict::NextRequest},
    {"and others wait", {.kept_alive = true, .input_read = true, .others_wait = true}, Verdict::Yield},
    {"and it has had its share", {.kept_alive = true, .input_read = true, .had_its_share = true}, Verdict::Yield},
    {"others wait, but it has nothing more to say", {.kept_alive = true, .others_wait = true}, Verdict::Idle},
    {"the child ends: what has been read is answered",
     {.kept_alive = true, .input_read = true, .closes_idle = true},
     Verdict::NextRequest},
    {"what has just come, too", {.kept_alive = true, .closes_idle = true, .input_waits = true}, Verdict::NextRequest},
    {"then it is closed", {.kept_alive = true, .closes_idle = true}, Verdict::Close},
    {"also with half a request", {.kept_alive = true, .holds_part = true, .closes_idle = true}, Verdict::Close},
    {"who was too late has had his answer", {.kept_alive = true, .timed_out = true}, Verdict::Close},
    {"half of the next request is here", {.kept_alive = true, .holds_part = true}, Verdict::AwaitRequest},
    {"nothing is", {.kept_alive = true}, Verdict::Idle},
};

} // namespace

int main()
{
    for (const Case &c : kCases)
        is(static_cast<int>(decide(c.after)), static_cast<int>(c.verdict), c.words);
    return done();
}
