// SPDX-License-Identifier: Apache-2.0
// What becomes of a client when a turn has run its modules' hooks and has written what it could. Pure: a table of tests
// reads like this function.
#pragma once

#include <cstdint>

namespace hybrid {

enum class Verdict : std::uint8_t {
    Close,        ///< flush, shut down, linger
    WaitToWrite,  ///< the client, or what a module wants to read, is not ready for more
    NextRequest,  ///< which is here: go on with it
    Yield,        ///< the same, after those that wait for a worker
    AwaitRequest, ///< a part of it is here
    Idle,         ///< nothing of it is
};

/// After the answer, as far as that could be written.
struct Answered {
    bool broken = false;        ///< the connection is, or could not be written to
    bool output_left = false;   ///< or the next thing its module wants to do is to read
    bool kept_alive = false;    ///< httpd says that another request may follow
    bool input_read = false;    ///< httpd's filters hold something of that
    bool holds_part = false;    ///< a part of it, which is not worth a worker
    bool timed_out = false;     ///< it was the last one, because it came too late
    bool others_wait = false;   ///< for a worker
    bool had_its_share = false; ///< so many requests in a row are enough
    bool closes_idle = false;   ///< who is idle has no future, here or elsewhere
    bool input_waits = false;   ///< and this one has just sent something
};

constexpr Verdict decide(const Answered &after)
{
    if (after.broken)
        return Verdict::Close;
    if (after.output_left)
        return Verdict::WaitToWrite;
    if (!after.kept_alive)
        return Verdict::Close;
    // The client has sent more already: one after the other, but others have their turn (K24).
    if (after.input_read)
        return after.had_its_share || after.others_wait ? Verdict::Yield : Verdict::NextRequest;
    // Nobody would take an idle client over. What it has just sent is answered first.
    if (after.closes_idle)
        return after.input_waits ? Verdict::NextRequest : Verdict::Close;
    if (after.timed_out)
        return Verdict::Close;
    return after.holds_part ? Verdict::AwaitRequest : Verdict::Idle;
}

} // namespace hybrid
