// SPDX-License-Identifier: Apache-2.0
// Why connections have ended, counted.
#include "hybrid/close_reason.hpp"
#include "tap.hpp"

#include <cstring>
#include <new>
#include <set>
#include <string>

using namespace hybrid;
using namespace tap;

namespace {

void test_reasons()
{
    std::set<std::string> names;
    for (const CloseReasonFacts &f : kCloseReasons) {
        ok(names.insert(f.name).second, "%s: no other has this name", f.name);
        ok(f.words[0] != '\0', "%s has words", f.name);
    }
    is(facts(CloseReason::Shed).name, "Shed", "a reason's facts are its own");
    ok(facts(CloseReason::Aborted).error && !facts(CloseReason::Answered).error, "errors are told from the rest");
}

void test_counts()
{
    alignas(ClientCounts) unsigned char memory[sizeof(ClientCounts)] = {}; // as mapped: zero, and never constructed
    auto &counts = *std::launder(reinterpret_cast<ClientCounts *>(memory));
    is(counts.opened_so_far(), 0U, "nothing so far");
    counts.end_rest(CloseReason::ChildDied);
    is(counts.ended_so_far(), 0U, "nothing is open, nothing is left to end");
    for (int i = 0; i < 5; ++i)
        counts.opened();
    counts.ended(CloseReason::Answered);
    counts.ended(CloseReason::IdleTimeout);
    is(counts.ended_so_far(), 2U, "two have ended");
    is(counts.ended_so_far(CloseReason::Answered), 1U, "one of them for this reason");
    counts.end_rest(CloseReason::ChildDied);
    is(counts.ended_so_far(CloseReason::ChildDied), 3U, "the child has died: the other three have ended with it");
    counts.end_rest(CloseReason::ChildDied);
    is(counts.ended_so_far(), counts.opened_so_far(), "once");
}

} // namespace

int main()
{
    test_reasons();
    test_counts();
    return done();
}
