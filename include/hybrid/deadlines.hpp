// SPDX-License-Identifier: Apache-2.0
// What expires first? One first-in-first-out queue per length of time, so that adding and removing cost nothing and
// asking is proportional to the number of different lengths (a handful), not to the number of connections. What has a
// length of its own, because it has waited elsewhere for a part of its time, is kept in order.
#pragma once

#include "hybrid/clock.hpp"

#include <cstddef>
#include <map>
#include <set>
#include <utility>
#include <vector>

namespace hybrid {

/// The hook in whatever has a deadline. In at most one Deadlines, at most once. Borrowed, never owned.
struct Timed {
    Timed *previous = nullptr;
    Timed *next = nullptr;
    Time expires = kNever;
    Duration length = 0;
    bool seen = false; ///< see collect_unseen()

    bool queued() const { return previous != nullptr; }
};

/// Not locked: the owner's lock protects it, and all of its Timed hooks.
class Deadlines {
  public:
    Deadlines() = default;
    Deadlines(const Deadlines &) = delete;
    Deadlines &operator=(const Deadlines &) = delete;

    /// How many values may a length of time have?
    enum class Length {
        Usual, ///< few: a queue is kept for each for good. Whoever comes with an earlier `now` than the one before
               ///< expires with that, not before
        Odd,   ///< any: the rest of another one. Costs a search and an allocation
    };
    /// Sets the deadline `length` from `now`. Requires: `item` is not queued.
    void add(Timed &item, Duration length, Time now, Length kind = Length::Usual);

    /// Takes a deadline back. Requires: `item` is queued here.
    void remove(Timed &item);

    /// An item whose deadline is at or before `now`, no longer queued; nullptr when there is none. Those of one length
    /// come in the order of their deadlines, and so do the odd ones.
    Timed *pop_expired(Time now);

    /// Everything that is queued; those of one length, and the odd ones, in the order of their deadlines.
    void collect(std::vector<Timed *> &items) const;
    /// The same without those whose `seen` has been set since they were added; costs nothing for these, when of one
    /// length an older one is seen before a newer one.
    void collect_unseen(std::vector<Timed *> &items) const;

    /// When the first deadline passes; kNever when there is none.
    Time next() const;

    std::size_t size() const { return size_; }

  private:
    struct Queue {
        Timed head; // a ring: head.next is the oldest
        Queue() { head.next = head.previous = &head; }
        Queue(const Queue &) = delete;
        bool empty() const { return head.next == &head; }
    };

    std::map<Duration, Queue> queues_;
    std::set<std::pair<Time, Timed *>> odd_; // these point at themselves
    std::size_t size_ = 0;
};

} // namespace hybrid
