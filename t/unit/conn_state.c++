// SPDX-License-Identifier: Apache-2.0
// The table of connection states against the lives it is meant to allow: what no life tells of must not be possible.
// `conn_state --markdown` prints doc/states.md; without it the file (below argv[1], $HYBRID_ROOT or here) is compared.
#include "hybrid/conn_state.hpp"
#include "hybrid/close_reason.hpp"
#include "tap.hpp"

#include <cstdarg>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

using namespace hybrid;
using namespace tap;

using S = ConnState;
using E = ConnEvent;

namespace {

struct Step {
    E event;
    S to;
};

/// A life as it may be, from being accepted on.
struct Life {
    const char *words;
    std::vector<Step> steps;
};

const Step kHere = {E::IoReady, S::Ready}; // the request is
const Step kTaken = {E::Taken, S::Processing};
const Step kToLinger = {E::Expired, S::Linger};
const Step kGone = {E::PeerGone, S::Closed};
const Step kFlush = {E::Taken, S::Linger}; // a worker takes it to flush and close

std::vector<Life> plain_lives()
{
    return {
        {"one request, closed by us, the client goes",
         {kHere, kTaken, {E::WantClose, S::Linger}, {E::Flushed, S::Lingering}, {E::IoReady, S::Lingering}, kGone}},
        {"the client stays longer than we linger",
         {kHere, kTaken, {E::WantClose, S::Linger}, {E::Flushed, S::Lingering}, {E::Expired, S::Closed}}},
        {"the client is gone when we want to close", {kHere, kTaken, {E::WantClose, S::Linger}, kGone}},
        {"two requests, then idle for too long",
         {kHere,
          kTaken,
          {E::WantIdle, S::KeepAlive},
          {E::IoReady, S::Ready},
          kTaken,
          {E::WantIdle, S::KeepAlive},
          kToLinger,
          kFlush,
          kGone}},
        {"one request after the other, others in between",
         {kHere,
          kTaken,
          {E::WantTurn, S::Ready},
          kTaken,
          {E::WantTurn, S::Ready},
          kTaken,
          {E::WantIdle, S::KeepAlive}}},
        {"idle, and its descriptor needed", {kHere, kTaken, {E::WantIdle, S::KeepAlive}, {E::Shed, S::Linger}}},
        {"a large response, written bit by bit",
         {kHere,
          kTaken,
          {E::WantFlush, S::WriteCompletion},
          {E::IoReady, S::Ready},
          kTaken,
          {E::WantFlush, S::WriteCompletion},
          {E::IoReady, S::Ready},
          kTaken,
          {E::WantIdle, S::KeepAlive}}},
        {"a response nobody reads", {kHere, kTaken, {E::WantFlush, S::WriteCompletion}, kToLinger, kFlush}},
        {"a module holds it and gives it back",
         {kHere, kTaken, {E::WantHold, S::Suspended}, {E::Resumed, S::Ready}, kTaken, {E::WantClose, S::Linger}}},
        {"not a word, and gone", {kGone}},
        {"not a word, and the child must end", {{E::Dropped, S::Closed}}},
        {"a sleeper, and its client goes", {kHere, kTaken, {E::WantIdle, S::KeepAlive}, kGone}},
        {"a sleeper, and its time is over", {kHere, kTaken, {E::WantIdle, S::KeepAlive}, {E::Dropped, S::Closed}}},
        {"a module refuses it", {kHere, kTaken, {E::Dropped, S::Closed}}},
        {"half a request, answered with 408",
         {{E::Late, S::Ready}, kTaken, {E::WantClose, S::Linger}, {E::Flushed, S::Lingering}}},
        {"the second request of a sleeper comes in pieces",
         {kHere, kTaken, {E::WantIdle, S::KeepAlive}, {E::Begun, S::Arriving}, kHere, kTaken}},
        {"the second request comes in pieces",
         {kHere,
          kTaken,
          {E::WantIdle, S::KeepAlive},
          {E::IoReady, S::Ready},
          kTaken,
          {E::WantRest, S::Arriving},
          kHere,
          kTaken}},
    };
}

std::vector<Life> odd_lives()
{
    return {
        {"a module waits for input, the second time in vain",
         {kHere,
          kTaken,
          {E::WantIo, S::WaitIo},
          {E::IoReady, S::Ready},
          kTaken,
          {E::WantIo, S::WaitIo},
          kToLinger,
          kFlush,
          kGone}},
        {"new, and its child ends", {{E::Sent, S::Closed}}},
        {"idle, and its child ends", {kHere, kTaken, {E::WantIdle, S::KeepAlive}, {E::Sent, S::Closed}}},
        {"ready, and every worker of its child is blocked", {kHere, {E::Sent, S::Closed}}},
        {"come from another child, idle", {{E::Adopted, S::KeepAlive}, {E::IoReady, S::Ready}, kTaken}},
    };
}

std::vector<Life> lives()
{
    std::vector<Life> all = plain_lives();
    for (Life &life : odd_lives())
        all.push_back(std::move(life));
    return all;
}

constexpr std::size_t index(S s)
{
    return static_cast<std::size_t>(s);
}

constexpr std::size_t index(E e)
{
    return static_cast<std::size_t>(e);
}

/// Which pairs some life tells of, or the rule that all that lives can be killed.
struct Told {
    bool pairs[kConnStates.size()][kConnEvents.size()] = {};
};

void test_lives(Told &told)
{
    for (const Life &life : lives()) {
        S state = kConnEntry;
        bool possible = true;
        for (const Step &step : life.steps) {
            told.pairs[index(state)][index(step.event)] = true;
            const auto to = next_state(state, step.event);
            if (to != step.to)
                std::printf("# [%s] -- %s --> [%s], wanted [%s]\n", facts(state).name, facts(step.event).name,
                            to ? facts(*to).name : "impossible", facts(step.to).name);
            possible = possible && to == step.to;
            state = step.to;
        }
        ok(possible, "%s", life.words);
    }
    for (std::size_t s = 0; s < kConnStates.size(); ++s) {
        const bool live = static_cast<S>(s) != S::Closed;
        told.pairs[s][index(E::Kill)] = live;
        const auto to = next_state(static_cast<S>(s), E::Kill);
        ok(live ? to == S::Closed : !to, "%s %s be killed", kConnStates[s].name, live ? "can" : "can't");
    }
}

void test_nothing_else(const Told &told)
{
    std::size_t possible = 0;
    for (std::size_t s = 0; s < kConnStates.size(); ++s) {
        bool as_told = true;
        for (std::size_t e = 0; e < kConnEvents.size(); ++e) {
            const bool is_possible = next_state(static_cast<S>(s), static_cast<E>(e)).has_value();
            possible += is_possible;
            if (is_possible != told.pairs[s][e])
                std::printf("# %s hears %s, but no life tells of it\n", kConnStates[s].name, kConnEvents[e].name);
            as_told = as_told && is_possible == told.pairs[s][e];
        }
        ok(as_told, "%s hears what the lives tell of, and rejects every other event", kConnStates[s].name);
    }
    is(possible, kConnTransitions.size(), "every line of the table is a transition");
}

void test_states()
{
    using O = ConnOwner;
    struct Wanted {
        S state;
        const char *name;
        O owner;
        bool waits; // polled and under a deadline
    };
    const Wanted all[] = {
        {S::Arriving, "Arriving", O::Keeper, true},
        {S::Ready, "Ready", O::RunQueue, false},
        {S::Processing, "Processing", O::Worker, false},
        {S::WaitIo, "WaitIo", O::Keeper, true},
        {S::WriteCompletion, "WriteCompletion", O::Keeper, true},
        {S::KeepAlive, "KeepAlive", O::Keeper, true},
        {S::Suspended, "Suspended", O::Module, false},
        {S::Linger, "Linger", O::RunQueue, false},
        {S::Lingering, "Lingering", O::Keeper, true},
        {S::Closed, "Closed", O::Nobody, false},
    };
    is(std::size(all), kConnStates.size(), "every state is known here");
    for (const Wanted &wanted : all) {
        const ConnStateFacts &f = facts(wanted.state);
        is(f.name, wanted.name, "a state's facts are its own");
        ok(f.owner == wanted.owner && f.polled == wanted.waits && f.timed == wanted.waits, "%s: owner, polled, timed",
           wanted.name);
        ok(f.words[0] != '\0', "%s has words", wanted.name);
    }
    ok(kConnEntry == S::Arriving, "an accepted connection waits for a request");
}

void test_events()
{
    using R = ConnRaiser;
    struct Wanted {
        E event;
        const char *name;
        R raiser;
    };
    const Wanted all[] = {
        {E::WantRest, "WantRest", R::Worker},
        {E::Begun, "Begun", R::Loop},
        {E::Taken, "Taken", R::Worker},
        {E::WantIo, "WantIo", R::Worker},
        {E::WantFlush, "WantFlush", R::Worker},
        {E::WantIdle, "WantIdle", R::Worker},
        {E::WantTurn, "WantTurn", R::Worker},
        {E::WantHold, "WantHold", R::Worker},
        {E::WantClose, "WantClose", R::Worker},
        {E::Flushed, "Flushed", R::Worker},
        {E::Resumed, "Resumed", R::Loop},
        {E::IoReady, "IoReady", R::Loop},
        {E::Expired, "Expired", R::Loop},
        {E::Shed, "Shed", R::Loop},
        {E::Adopted, "Adopted", R::Loop},
        {E::Sent, "Sent", R::Anyone},
        {E::PeerGone, "PeerGone", R::Anyone},
        {E::Kill, "Kill", R::Anyone},
        {E::Late, "Late", R::Loop},
        {E::Dropped, "Dropped", R::Anyone},
    };
    is(std::size(all), kConnEvents.size(), "every event is known here");
    for (const Wanted &wanted : all) {
        const ConnEventFacts &f = facts(wanted.event);
        is(f.name, wanted.name, "an event's facts are its own");
        ok(f.raiser == wanted.raiser, "%s: who raises it", wanted.name);
        ok(f.words[0] != '\0', "%s has words", wanted.name);
    }
}

[[gnu::format(printf, 2, 3)]] void print(std::string &page, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    page += text;
}

const char *words(ConnOwner owner)
{
    switch (owner) {
    case ConnOwner::Nobody:
        return "nobody";
    case ConnOwner::RunQueue:
        return "run queue";
    case ConnOwner::Worker:
        return "worker";
    case ConnOwner::Keeper:
        return "keeper";
    case ConnOwner::Module:
        return "the module";
    }
    return "?";
}

const char *words(ConnRaiser raiser)
{
    switch (raiser) {
    case ConnRaiser::Worker:
        return "worker";
    case ConnRaiser::Loop:
        return "loop";
    case ConnRaiser::Anyone:
        return "anyone";
    }
    return "?";
}

void print_transitions(std::string &page)
{
    print(page,
          "\n## Transitions\n\nAn accepted connection is %s. `Kill` takes every state but Closed to Closed and is "
          "left out below.\nWhat is not listed cannot happen.\n\n| from | events |\n|---|---|\n",
          facts(kConnEntry).name);
    for (std::size_t s = 0; s < kConnStates.size(); ++s) {
        print(page, "| %s |", kConnStates[s].name);
        const char *between = " ";
        for (const ConnTransition &t : kConnTransitions) {
            if (index(t.from) != s || t.event == E::Kill)
                continue;
            print(page, "%s%s → %s", between, facts(t.event).name, facts(t.to).name);
            between = "; ";
        }
        page += " |\n";
    }
}

std::string markdown()
{
    std::string page = "# The states of a connection\n\n"
                       "<!-- Made by t/unit/conn_state.c++ --markdown from include/hybrid/conn_state.def,\n"
                       "     conn_event.def, conn_state.hpp and close_reason.def: change those. -->\n\n"
                       "## States\n\n"
                       "| state | words | owner | polled | deadline |\n|---|---|---|---|---|\n";
    for (const ConnStateFacts &f : kConnStates)
        print(page, "| %s | %s | %s | %s | %s |\n", f.name, f.words, words(f.owner), f.polled ? "yes" : "–",
              f.timed ? "yes" : "–");
    page += "\n## Events\n\n| event | words | raised by | an end, with a reason |\n|---|---|---|---|\n";
    for (const ConnEventFacts &f : kConnEvents)
        print(page, "| %s | %s | %s | %s |\n", f.name, f.words, words(f.raiser), f.ends ? "yes" : "–");
    page += "\n## Reasons\n\nThe first that is given for a connection counts. `SetHandler hybrid-status` shows their "
            "numbers.\n\n| reason | words | error |\n|---|---|---|\n";
    for (const CloseReasonFacts &f : kCloseReasons)
        print(page, "| %s | %s | %s |\n", f.name, f.words, f.error ? "yes" : "–");
    print_transitions(page);
    return page;
}

std::string read(const std::string &path)
{
    std::string text;
    if (FILE *file = std::fopen(path.c_str(), "r")) {
        char part[4096];
        while (const std::size_t size = std::fread(part, 1, sizeof part, file))
            text.append(part, size);
        std::fclose(file);
    }
    return text;
}

void test_document(const std::string &root)
{
    if (!ok(read(root + "/doc/states.md") == markdown(), "doc/states.md is what the table says"))
        std::printf("# run this program with --markdown and write its output to %s/doc/states.md\n", root.c_str());
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1 && std::strcmp(argv[1], "--markdown") == 0) {
        std::fputs(markdown().c_str(), stdout);
        return 0;
    }
    Told told;
    test_lives(told);
    test_nothing_else(told);
    test_states();
    test_events();
    const char *root = std::getenv("HYBRID_ROOT");
    test_document(argc > 1 ? argv[1] : root ? root : ".");
    return done();
}
