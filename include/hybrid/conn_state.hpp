// SPDX-License-Identifier: Apache-2.0
// Every state of a connection, every event, and every legal transition, checked when this header is compiled.
// httpd's c->cs->state is the modules' mailbox: written once before a turn and read once after. Ours is ConnState,
// written only by Client::transit() and Client::end().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace hybrid {

enum class ConnState : std::uint8_t {
#define STATE(name, words, owner, polled, timed) name,
#include "hybrid/conn_state.def"
#undef STATE
};

enum class ConnEvent : std::uint8_t {
#define EVENT(name, words, raiser, ends) name,
#include "hybrid/conn_event.def"
#undef EVENT
};

enum class ConnOwner : std::uint8_t { Nobody, RunQueue, Worker, Keeper, Module };
enum class ConnRaiser : std::uint8_t { Worker, Loop, Anyone };

struct ConnStateFacts {
    const char *name;
    const char *words;
    ConnOwner owner;
    bool polled;
    bool timed;
};

struct ConnEventFacts {
    const char *name;
    const char *words;
    ConnRaiser raiser;
    bool ends; ///< whoever raises it says why (CloseReason)
};

inline constexpr std::array kConnStates = {
#define STATE(name, words, owner, polled, timed) ConnStateFacts{#name, words, ConnOwner::owner, polled, timed},
#include "hybrid/conn_state.def"
#undef STATE
};

inline constexpr std::array kConnEvents = {
#define EVENT(name, words, raiser, ends) ConnEventFacts{#name, words, ConnRaiser::raiser, ends},
#include "hybrid/conn_event.def"
#undef EVENT
};

constexpr const ConnStateFacts &facts(ConnState s)
{
    return kConnStates[static_cast<std::size_t>(s)];
}

constexpr const ConnEventFacts &facts(ConnEvent e)
{
    return kConnEvents[static_cast<std::size_t>(e)];
}

struct ConnTransition {
    ConnState from;
    ConnEvent event;
    ConnState to;
};

/// Where an accepted connection starts.
inline constexpr ConnState kConnEntry = ConnState::Arriving;

inline constexpr auto kConnTransitions = [] {
    using S = ConnState;
    using E = ConnEvent;
    return std::to_array<ConnTransition>({
        {S::Arriving, E::IoReady, S::Ready},
        {S::Arriving, E::Late, S::Ready},
        {S::Arriving, E::Adopted, S::KeepAlive},
        {S::Arriving, E::Sent, S::Closed},
        {S::Arriving, E::PeerGone, S::Closed},
        {S::Arriving, E::Dropped, S::Closed},
        {S::Arriving, E::Kill, S::Closed},
        {S::Ready, E::Taken, S::Processing},
        {S::Ready, E::Sent, S::Closed},
        {S::Ready, E::Kill, S::Closed},
        {S::Processing, E::WantRest, S::Arriving},
        {S::Processing, E::WantIo, S::WaitIo},
        {S::Processing, E::WantFlush, S::WriteCompletion},
        {S::Processing, E::WantIdle, S::KeepAlive},
        {S::Processing, E::WantTurn, S::Ready},
        {S::Processing, E::WantHold, S::Suspended},
        {S::Processing, E::WantClose, S::Linger},
        {S::Processing, E::Dropped, S::Closed},
        {S::Processing, E::Kill, S::Closed},
        {S::WaitIo, E::IoReady, S::Ready},
        {S::WaitIo, E::Expired, S::Linger},
        {S::WaitIo, E::Kill, S::Closed},
        {S::WriteCompletion, E::IoReady, S::Ready},
        {S::WriteCompletion, E::Expired, S::Linger},
        {S::WriteCompletion, E::Kill, S::Closed},
        {S::KeepAlive, E::IoReady, S::Ready},
        {S::KeepAlive, E::Begun, S::Arriving},
        {S::KeepAlive, E::Expired, S::Linger},
        {S::KeepAlive, E::Shed, S::Linger},
        {S::KeepAlive, E::Sent, S::Closed},
        {S::KeepAlive, E::PeerGone, S::Closed},
        {S::KeepAlive, E::Dropped, S::Closed},
        {S::KeepAlive, E::Kill, S::Closed},
        {S::Suspended, E::Resumed, S::Ready},
        {S::Suspended, E::Kill, S::Closed},
        {S::Linger, E::Taken, S::Linger},
        {S::Linger, E::Flushed, S::Lingering},
        {S::Linger, E::PeerGone, S::Closed},
        {S::Linger, E::Kill, S::Closed},
        {S::Lingering, E::IoReady, S::Lingering},
        {S::Lingering, E::Expired, S::Closed},
        {S::Lingering, E::PeerGone, S::Closed},
        {S::Lingering, E::Kill, S::Closed},
    });
}();

/// The same by state and event, asked several times per request: the next state, or one that there is not.
inline constexpr auto kConnMatrix = [] {
    std::array<std::array<std::size_t, kConnEvents.size()>, kConnStates.size()> matrix{};
    for (auto &row : matrix)
        row.fill(kConnStates.size());
    for (const ConnTransition &t : kConnTransitions)
        matrix[static_cast<std::size_t>(t.from)][static_cast<std::size_t>(t.event)] = static_cast<std::size_t>(t.to);
    return matrix;
}();

/// The state `event` leads to from `from`; nothing when that cannot happen.
constexpr std::optional<ConnState> next_state(ConnState from, ConnEvent event)
{
    const std::size_t to = kConnMatrix[static_cast<std::size_t>(from)][static_cast<std::size_t>(event)];
    return to < kConnStates.size() ? std::optional(static_cast<ConnState>(to)) : std::nullopt;
}

namespace conn_table {

constexpr bool unique()
{
    for (std::size_t i = 0; i < kConnTransitions.size(); ++i)
        for (std::size_t k = i + 1; k < kConnTransitions.size(); ++k)
            if (kConnTransitions[i].from == kConnTransitions[k].from &&
                kConnTransitions[i].event == kConnTransitions[k].event)
                return false;
    return true;
}

constexpr bool per_state_rules()
{
    for (std::size_t i = 0; i < kConnStates.size(); ++i) {
        const auto s = static_cast<ConnState>(i);
        const bool closed = s == ConnState::Closed;
        const auto kill = next_state(s, ConnEvent::Kill);
        if (closed ? kill.has_value() : kill != ConnState::Closed)
            return false; // everything alive can be killed
        const bool expires = next_state(s, ConnEvent::Expired) || next_state(s, ConnEvent::Late);
        if (expires != facts(s).timed)
            return false; // a deadline can pass exactly where there is one
        if (next_state(s, ConnEvent::IoReady).has_value() != facts(s).polled)
            return false; // who is polled hears the socket, and nobody else
        if ((facts(s).polled || facts(s).timed) && facts(s).owner != ConnOwner::Keeper)
            return false; // only the keeper polls or times
    }
    return true;
}

constexpr bool is_ending(ConnState s)
{
    return s == ConnState::Linger || s == ConnState::Lingering || s == ConnState::Closed;
}

constexpr bool per_transition_rules()
{
    for (const ConnTransition &t : kConnTransitions) {
        if (t.from == ConnState::Closed)
            return false; // Closed is final
        if (is_ending(t.from) ? !is_ending(t.to) : is_ending(t.to) != facts(t.event).ends)
            return false; // nothing begins to end without a reason, and nothing comes back from there
        const bool with_worker = t.from == ConnState::Processing || t.from == ConnState::Linger;
        if (facts(t.event).raiser == ConnRaiser::Worker && t.event != ConnEvent::Taken && !with_worker)
            return false; // verdicts come only from a worker's turn
        if (facts(t.event).raiser == ConnRaiser::Loop && facts(t.from).owner != ConnOwner::Keeper &&
            facts(t.from).owner != ConnOwner::Module)
            return false; // the loop touches only what it owns, or what a module gave back
    }
    return true;
}

/// Is there a way from `from` to `to`, without Kill?
constexpr bool reaches(ConnState from, ConnState to)
{
    std::array<bool, kConnStates.size()> seen{};
    seen[static_cast<std::size_t>(from)] = true;
    for (bool grew = true; grew;) {
        grew = false;
        for (const ConnTransition &t : kConnTransitions) {
            bool &mark = seen[static_cast<std::size_t>(t.to)];
            if (t.event == ConnEvent::Kill || !seen[static_cast<std::size_t>(t.from)] || mark)
                continue;
            mark = grew = true;
        }
    }
    return seen[static_cast<std::size_t>(to)];
}

constexpr bool connected()
{
    for (std::size_t i = 0; i < kConnStates.size(); ++i) {
        const auto s = static_cast<ConnState>(i);
        if (!reaches(kConnEntry, s) || !reaches(s, ConnState::Closed))
            return false;
    }
    return true;
}

static_assert(unique(), "a (state, event) pair appears twice");
static_assert(per_state_rules(), "a state breaks a rule");
static_assert(per_transition_rules(), "a transition breaks a rule");
static_assert(connected(), "a state cannot be reached, or cannot end");

} // namespace conn_table

} // namespace hybrid
