// SPDX-License-Identifier: Apache-2.0
// What another thread is doing: on a core, waiting for one, or blocked.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/fd.hpp"
#include "hybrid/watchdog.hpp"

#include <ctime>
#include <sys/types.h>

namespace hybrid {

/// look_at_me() on the thread itself, once; the rest on one other thread, also when the first has ended.
class ThreadProbe {
  public:
    void look_at_me();

    /// CPU time it has used so far; 0 when that is not known.
    Duration cpu_time() const;
    /// From /proc/self/task/TID/stat (proc(5)), which is not there in every chroot: Unknown then.
    ThreadState state();

  private:
    clockid_t clock_ = CLOCK_THREAD_CPUTIME_ID;
    pid_t tid_ = 0;
    Fd stat_; // kept open
};

} // namespace hybrid
