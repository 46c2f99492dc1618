// SPDX-License-Identifier: Apache-2.0
// Rights that one thread has at a time without a lock, as clang's thread-safety analysis knows them.
#pragma once

#include "hybrid/mutex.hpp"

#include <atomic>
#include <cstdlib>

namespace hybrid {

class CAPABILITY("role") Role {};

/// The right to fetch events and to decide about the connections that nobody works on. A worker has it for a round, or
/// the child's main thread while it stands in for workers that are all blocked: the scheduler says who. A name for the
/// analysis; there is no such object.
extern Role polling;

/// Has the role for as long as it lives. Aborts when another thread has it: the scheduler would be wrong, and no client
/// can bring that about.
class SCOPED_CAPABILITY Polls {
  public:
    explicit Polls(std::atomic<bool> &taken) ACQUIRE(polling) : taken_(taken)
    {
        if (taken_.exchange(true, std::memory_order_acquire))
            std::abort();
    }
    Polls(const Polls &) = delete;
    Polls &operator=(const Polls &) = delete;
    ~Polls() RELEASE() { taken_.store(false, std::memory_order_release); }

    /// For functions that are called back, which the analysis can't follow. Requires: the caller has the role.
    static void inherited() ASSERT_CAPABILITY(polling) {}

  private:
    std::atomic<bool> &taken_;
};

} // namespace hybrid
