// SPDX-License-Identifier: Apache-2.0
// One child's rows of the scoreboard. In a child nobody else writes them (but httpd's core, through the handles of
// connections), so what mod_status shows is true at every moment: counts follow each transition, not a clock (K17).
#pragma once

#include "hybrid/close_reason.hpp"
#include "hybrid/conn_state.hpp"
#include "hybrid/httpd.hpp"
#include "hybrid/retained.hpp"

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

namespace hybrid {

/// What a slot's `quiescing` says, in child and parent.
enum Quiescing : char {
    kServing = 0,
    kEnding = 1,          ///< the child decided or was told to end gracefully
    kUncounted = 2,       ///< and the parent no longer counts it as active
    kVacateRequested = 3, ///< it wants the slot back
    kVacated = 4,         ///< the child has left it
    kQuiet = 5,           ///< as kUncounted, and no request has been in work for a moment: see Child::kCloseIdle
};

/// Any thread of the child, unless said otherwise.
class Slot {
  public:
    /// Takes over slot `index`: whatever a former child left there is cleared. No other child, with or without a slot,
    /// has this `number`. Child, before threads.
    /// Slot i listens where i % `buckets` does.
    Slot(int index, int number, int thread_limit, int buckets, Shared &shared, ClientCounts &counts);

    int index() const { return index_; }

    /// httpd's c->id of a connection worked on in `row`: unique among those worked on at one time, server-wide (S24),
    /// also when the slot has been left.
    long connection_id(int row) const { return static_cast<long>(number_) * thread_limit_ + row; }

    /// A row could have a worker thread; is about to; and has one (called by that thread itself).
    void worker_ready(int row, ap_generation_t generation);
    void worker_starting(int row, ap_generation_t generation);
    void worker_started(int row);
    const worker_score *row(int row) const { return ap_get_scoreboard_worker_from_indexes(index_, row); }
    /// Sets a row's letter; SERVER_READY is shown as SERVER_GRACEFUL while the child ends.
    void worker_status(int row, int status);

    /// A connection was accepted, or came from another child; it moved; it is gone when it moved to Closed, and why.
    void opened();
    void moved(ConnState from, ConnState to);
    void ended(CloseReason reason) { shared_counts_.ended(reason); }
    /// The process ends, and with it those that are left: its own, others may count in the same place.
    void end_rest() { shared_counts_.ended(CloseReason::ChildEnds, connections()); }
    unsigned connections() const;
    /// Connections that don't count against the accept limit, being about to go (S20).
    unsigned closing() const;
    unsigned suspended() const;
    /// mod_http2 is at work on their streams.
    unsigned waiting_for_io() const;

    // The other children of the running generation that are up and don't end. Each look reads at least a row of each.

    bool others_serve() const;
    /// Idle workers of those that take clients. Counts no further than `enough`, but may have to read all rows of all
    /// children in vain.
    int idle_elsewhere(int enough) const;
    /// The channel reaches all of them; a client that has not been accepted yet, those on the same listening sockets.
    enum class Among { All, Bucket };
    /// How many connections that one of them has that takes clients and has the fewest; the highest number when there
    /// is none.
    unsigned fewest_elsewhere(Among among) const;
    /// One on the same sockets that takes clients and has fewer than so many `connections` has nothing to do. Reads all
    /// its rows.
    bool somebody_sleeps(unsigned connections) const;

    void set_accepting(bool accepting);
    /// Something has run out. True: this child is the one that says so, and nobody else for as long as `quiet`.
    bool tells_of_shortage(Time now, Duration quiet);
    /// The child ends gracefully: it says so, and all its rows do.
    void quiesce();
    bool quiescing() const;
    /// No request is in work. True: the parent has to hear so.
    bool set_quiet() { return advance(*process_.load(), kUncounted, kQuiet); }
    /// The parent wants the slot back.
    bool vacate_requested() const;
    /// From now on what is written goes nowhere. Child's main thread.
    void vacate();

    /// Steps from one Quiescing to the next, if `score` is there. Parent and child.
    static bool advance(process_score &score, char from, char to);

  private:
    void show(int row, ap_generation_t generation, int status);
    bool is_own(int index) const;
    const worker_score *rows_of(int index) const;
    bool serves(int index) const;
    bool in_bucket(int index) const { return index % buckets_ == index_ % buckets_; }
    enum Count { Connections, WaitingIo, Writing, KeptAlive, Held, Closing, Counts };
    static Count count_of(ConnState state);
    static std::uint32_t *shown(process_score &process, Count count);
    void add(Count count, int difference);

    const int index_;
    const int number_;
    const int thread_limit_;
    const int buckets_;
    Shared &shared_;
    ClientCounts &shared_counts_;
    std::atomic<process_score *> process_;
    std::atomic<std::uint32_t> counts_[Counts] = {}; // what the scoreboard shows, too
    process_score nowhere_{};                        // instead of the slot that was left
    std::atomic<worker_score *> left_rows_{nullptr}; // of that slot, which another child has now, or will
    struct Free {
        void operator()(worker_score *rows) const { std::free(rows); }
    };
    const std::unique_ptr<worker_score, Free>
        nowhere_rows_; // the same; there before anybody's thread, untouched so far
};

} // namespace hybrid
