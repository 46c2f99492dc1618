// SPDX-License-Identifier: Apache-2.0
// Is it worth looking again before going to sleep? A client that answers within some tens of microseconds is heard
// sooner by who looks than by who has to be woken. One that doesn't costs the time looked for in vain; so after that
// the next sleeps come without looking, twice as many each time. Pure: the thread that polls tells what it saw.
// (doc/notes: run tokens)
#pragma once

#include "hybrid/clock.hpp"

#include <algorithm>

namespace hybrid {

/// Of the thread that polls.
class LookAgain {
  public:
    /// How long to look at most.
    static constexpr Duration kLength = 60;
    /// So long a gap between two looks means that somebody else had the core: it is not free for looking.
    static constexpr Duration kGap = 10;

    /// About to sleep: look first? When true, found() or in_vain() must follow.
    bool worth_it()
    {
        if (skips_ == 0)
            return true;
        --skips_;
        return false;
    }
    void found() { level_ = std::max(0, level_ - 1); }
    void in_vain()
    {
        level_ = std::min(kMaxLevel, level_ + 2);
        skips_ = (1 << level_) - 1;
    }

  private:
    static constexpr int kMaxLevel = 10;
    int level_ = 0;
    int skips_ = 0;
};

} // namespace hybrid
