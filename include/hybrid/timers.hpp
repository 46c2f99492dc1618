// SPDX-License-Identifier: Apache-2.0
// Callbacks due at a time of their own: what modules ask for with ap_mpm_register_timed_callback().
#pragma once

#include "hybrid/clock.hpp"

#include <map>
#include <optional>

namespace hybrid {

/// What to call; the signature is httpd's ap_mpm_callback_fn_t.
struct TimedCallback {
    void (*function)(void *baton);
    void *baton;
};

/// Ordered by due time; equal times keep the order they came in. Not locked: the owner's lock protects it.
class Timers {
  public:
    void add(Time due, TimedCallback callback) { queue_.emplace(due, callback); }

    /// The first callback due at or before `now`, removed; nothing when there is none.
    std::optional<TimedCallback> pop_due(Time now)
    {
        if (queue_.empty() || queue_.begin()->first > now)
            return std::nullopt;
        const TimedCallback first = queue_.begin()->second;
        queue_.erase(queue_.begin());
        return first;
    }

    /// When the first is due; kNever when there is none.
    Time next() const { return queue_.empty() ? kNever : queue_.begin()->first; }

  private:
    std::multimap<Time, TimedCallback> queue_;
};

} // namespace hybrid
