// SPDX-License-Identifier: Apache-2.0
// Why a client's connection ends, and how often that has happened.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace hybrid {

enum class CloseReason : std::uint8_t {
#define REASON(name, words, error) name,
#include "hybrid/close_reason.def"
#undef REASON
};

struct CloseReasonFacts {
    const char *name;
    const char *words;
    bool error;
};

inline constexpr std::array kCloseReasons = {
#define REASON(name, words, error) CloseReasonFacts{#name, words, error},
#include "hybrid/close_reason.def"
#undef REASON
};

constexpr const CloseReasonFacts &facts(CloseReason reason)
{
    return kCloseReasons[static_cast<std::size_t>(reason)];
}

/// The connections of one child after another, in memory that all processes share and that survives reloads; zero at
/// first. Any thread.
class ClientCounts {
  public:
    void opened() { opened_.fetch_add(1, std::memory_order_relaxed); }
    void ended(CloseReason reason, std::uint64_t count = 1)
    {
        ended_[static_cast<std::size_t>(reason)].fetch_add(count, std::memory_order_relaxed);
    }

    /// Accepted, or come from another child.
    std::uint64_t opened_so_far() const { return opened_.load(std::memory_order_relaxed); }
    std::uint64_t ended_so_far(CloseReason reason) const
    {
        return ended_[static_cast<std::size_t>(reason)].load(std::memory_order_relaxed);
    }
    std::uint64_t ended_so_far() const
    {
        std::uint64_t sum = 0;
        for (const auto &count : ended_)
            sum += count.load(std::memory_order_relaxed);
        return sum;
    }
    /// What is open still has ended for this reason. Requires: nobody opens or ends any more.
    void end_rest(CloseReason reason)
    {
        if (const std::uint64_t ended_before = ended_so_far(); opened_so_far() > ended_before)
            ended(reason, opened_so_far() - ended_before);
    }

  private:
    static constexpr std::size_t kRoom = 31; // with what newer modules count
    static_assert(kCloseReasons.size() <= kRoom);
    std::atomic<std::uint64_t> opened_;
    std::atomic<std::uint64_t> ended_[kRoom];
};

} // namespace hybrid
