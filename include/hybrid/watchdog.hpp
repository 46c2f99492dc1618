// SPDX-License-Identifier: Apache-2.0
// Should a worker that is at something lose its token? One that is blocked: yes, at once. One that computes for longer
// than others can be asked to wait: yes, and the kernel shares the core between them. One that just doesn't get the
// core, because somebody else has it: no, for others would not get it either. Pure: the clock ticks and the thread is
// looked at outside. doc/notes has what was measured.
#pragma once

#include "hybrid/clock.hpp"

#include <cstdint>

namespace hybrid {

enum class ThreadState { Runnable, Blocked, Unknown };

/// What is remembered of one worker from tick to tick.
class Watchdog {
  public:
    static constexpr Duration kTick = milliseconds(1);

    /// One tick. `run` counts the worker's pieces of work, `cpu` is its thread's CPU time so far, and `state` asks what
    /// the thread is doing: only when the time it has used does not tell. True: let another one in.
    template <typename StateOf>
    bool should_yield_token(std::uint64_t run, Duration cpu, StateOf state)
    {
        see(run, cpu);
        if (used_ >= kTick / 2)
            return computes_long();
        const ThreadState now = state();
        if (now == ThreadState::Unknown) // no /proc: who has used nothing for two ticks waits for something
            return ticks_ >= 2 && used_before_ + used_ == 0;
        return now == ThreadState::Blocked || computes_long();
    }

  private:
    void see(std::uint64_t run, Duration cpu);
    bool computes_long() const;

    std::uint64_t run_ = 0;
    Duration cpu_ = 0;
    Duration used_ = 0;        // in the last tick
    Duration used_before_ = 0; // in the one before
    int ticks_ = 0;            // since this piece of work was first seen
};

} // namespace hybrid
