// Who runs what, and who leaves when. Workers are led step by step: what they run stays until it is let go, and load()
// tells when they have parked; nothing here depends on how long anything takes.
#include "hybrid/scheduler.hpp"
#include "tap.hpp"

#include <algorithm>
#include <atomic>
#include <deque>
#include <sched.h>
#include <string>
#include <thread>

using namespace hybrid;
using namespace tap;

namespace hybrid {

/// The scheduler only passes it on.
class Worker {
  public:
    explicit Worker(int n) : number(n) {}
    const int number;
    std::atomic<int> turns = 0;
    std::atomic<bool> left = false;
};

} // namespace hybrid

namespace {

/// Opened once, for one thread.
class Gate {
  public:
    void open()
    {
        const Lock lock(mu_);
        open_ = true;
        opened_.wake_one();
    }

    void pass()
    {
        const Lock lock(mu_);
        while (!open_)
            opened_.wait(mu_);
    }

  private:
    Mutex mu_;
    Condition opened_;
    bool open_ GUARDED_BY(mu_) = false;
};

/// Work that says who runs it, and takes until it is told to end.
struct Job : Runnable {
    Job() : Runnable(&Job::run_it) {}

    static void run_it(Runnable &self, Worker &worker) noexcept
    {
        Job &job = static_cast<Job &>(self);
        ++job.runs;
        job.by = worker.number;
        job.may_end.pass();
    }

    /// Waits until somebody runs it. Who?
    int runner() const
    {
        must([this] { return by >= 0; }, "a job is run");
        return by;
    }

    Gate may_end;
    std::atomic<int> runs = 0;
    std::atomic<int> by = -1;
};

/// Work that is over as soon as it is begun, and notes when that was.
struct Note : Runnable {
    explicit Note(std::atomic<int> &counter) : Runnable(&Note::run_it), counter_(counter) {}

    static void run_it(Runnable &self, Worker &) noexcept
    {
        Note &note = static_cast<Note &>(self);
        note.place = ++note.counter_;
        ++note.runs;
    }

    std::atomic<int> place = 0;
    std::atomic<int> runs = 0;

  private:
    std::atomic<int> &counter_;
};

/// Threads that do what a scheduler gives them, numbered from 0.
class Crew {
  public:
    Crew() = default;
    explicit Crew(int workers)
    {
        for (int i = 0; i < workers; ++i)
            add();
    }

    ~Crew()
    {
        scheduler.stop();
        join();
    }

    /// Requires: nobody is kept from leaving.
    void join()
    {
        must([this] { return std::ranges::all_of(workers_, [](const Worker &worker) { return worker.left.load(); }); },
             "every worker leaves");
        for (std::thread &thread : threads_)
            thread.join();
        threads_.clear();
    }

    /// One more worker. Back when it has parked, so that the one added last is the one that parked last.
    void add()
    {
        const std::size_t parked = scheduler.load().parked;
        start();
        is_parked(parked + 1);
    }

    /// One more worker, wherever it goes.
    void start()
    {
        scheduler.enter();
        Worker &worker = workers_.emplace_back(static_cast<int>(workers_.size()));
        threads_.emplace_back([this, &worker] {
            while (Runnable *work = scheduler.take()) {
                ++worker.turns;
                work->run(*work, worker);
            }
            worker.left = true;
        });
    }

    void is_parked(std::size_t wanted)
    {
        must([&] { return scheduler.load().parked == wanted; }, "so many workers park");
    }

    /// The job ends, and whoever ran it parks.
    void end_and_park(Job &job)
    {
        const std::size_t parked = scheduler.load().parked;
        job.may_end.open();
        is_parked(parked + 1);
    }

    /// Who has left, as text.
    std::string left() const
    {
        std::string text;
        for (const Worker &worker : workers_)
            if (worker.left)
                text += (text.empty() ? "" : " ") + std::to_string(worker.number);
        return text;
    }

    void has_left(const std::string &who, const char *what)
    {
        if (eventually([&] { return left() == who; }))
            ok(true, "%s", what);
        else if (!is(left(), who, what)) // who should have left is parked, or somebody left who is needed
            bail_out("workers are not where they should be");
    }

    /// workers/parked/queued
    std::string load() const
    {
        const auto [workers, parked, queued] = scheduler.load();
        return std::to_string(workers) + "/" + std::to_string(parked) + "/" + std::to_string(queued);
    }

    int turns() const
    {
        int all = 0;
        for (const Worker &worker : workers_)
            all += worker.turns;
        return all;
    }

    Scheduler scheduler;

  private:
    std::deque<Worker> workers_;
    std::deque<std::thread> threads_;
};

void test_load()
{
    Job first, second, third;
    Crew crew;
    is(crew.load(), "0/0/0", "load: nobody, nothing");
    crew.scheduler.push(first);
    is(crew.load(), "0/0/1", "load: queued, nobody to do it");
    crew.scheduler.enter();
    is(crew.load(), "1/0/1", "load: counted in");
    crew.scheduler.leave();
    is(crew.load(), "0/0/1", "load: and taken back, as its thread could not be made");
    crew.start();
    is(first.runner(), 0, "the first worker finds what was queued before it came");
    is(crew.load(), "1/0/0", "load: a worker, working");
    crew.scheduler.push(second);
    crew.scheduler.push(third);
    is(crew.load(), "1/0/2", "load: two wait for it");
    first.may_end.open();
    is(second.runner(), 0, "it goes on with them");
    is(crew.load(), "1/0/1", "load: one is left");
    second.may_end.open();
    third.runner();
    is(crew.load(), "1/0/0", "load: none");
    crew.end_and_park(third);
    is(crew.load(), "1/1/0", "load: idle");
}

void test_load_parked()
{
    Job first, second;
    Crew crew(3);
    is(crew.load(), "3/3/0", "load: three idle");
    crew.scheduler.push(first);
    is(crew.load(), "3/2/0", "load: one is given work and not idle from then on");
    crew.scheduler.push(second);
    is(crew.load(), "3/1/0", "load: two");
    first.runner();
    second.runner();
    crew.end_and_park(first);
    is(crew.load(), "3/2/0", "load: one is idle again");
    crew.end_and_park(second);
    is(crew.load(), "3/3/0", "load: all are");
}

/// The places of `notes` as text: the order in which they were run.
std::string places(const std::deque<Note> &notes)
{
    std::string text;
    for (const Note &note : notes)
        text += (text.empty() ? "" : " ") + std::to_string(note.place);
    return text;
}

void test_fifo()
{
    std::atomic<int> counter = 0;
    std::deque<Note> notes;
    for (int i = 0; i < 6; ++i)
        notes.emplace_back(counter);
    Job job;
    Crew crew(1);
    crew.scheduler.push(job);
    job.runner();
    for (int i = 0; i < 4; ++i)
        crew.scheduler.push(notes[i]);
    is(crew.load(), "1/0/4", "four wait for the only worker");
    crew.end_and_park(job);
    is(places(notes), "1 2 3 4 0 0", "what waits is done in the order it came");
    crew.scheduler.push(notes[4]);
    crew.is_parked(1);
    crew.scheduler.push(notes[5]);
    must([&] { return notes[5].runs == 1; }, "the last one is done");
    is(places(notes), "1 2 3 4 5 6", "also when the queue was empty in between");
}

/// As connections come again and again, in ever other neighbourhoods.
void test_pushed_again()
{
    std::atomic<int> counter = 0;
    std::deque<Note> notes;
    for (int i = 0; i < 3; ++i)
        notes.emplace_back(counter);
    Job jobs[3];
    Crew crew(1);
    const int orders[3][3] = {{0, 1, 2}, {2, 1, 0}, {1, 0, -1}};
    const char *wanted[3] = {"1 2 3", "6 5 4", "8 7 4"};
    for (int round = 0; round < 3; ++round) {
        crew.scheduler.push(jobs[round]);
        jobs[round].runner();
        for (const int i : orders[round])
            if (i >= 0)
                crew.scheduler.push(notes[i]);
        crew.end_and_park(jobs[round]);
        is(places(notes), wanted[round], "pushed again, in another order: each is run once more, in that order");
    }
    is(crew.load(), "1/1/0", "and nothing is left");
}

void test_lifo()
{
    Job a, b, c, d, e, f, g, h, i;
    Crew crew(4);
    crew.scheduler.push(a);
    is(a.runner(), 3, "the one that parked last gets the work");
    crew.scheduler.push(b);
    is(b.runner(), 2, "then the one that parked before it");
    is(crew.load(), "4/2/0", "exactly one is woken for each");
    is(crew.turns(), 2, "and nobody else had a turn");
    crew.end_and_park(b);
    crew.end_and_park(a); // parked from oldest to newest: 0 1 2 3
    crew.scheduler.push(c);
    is(c.runner(), 3, "who comes back last is first again");
    crew.end_and_park(c);
    crew.scheduler.push(d);
    is(d.runner(), 3, "with work for one, one does it all");
    crew.scheduler.push(e);
    is(e.runner(), 2, "and the second helps when it is busy");
    crew.end_and_park(d);
    crew.end_and_park(e); // 0 1 3 2
    for (Job *job : {&f, &g, &h, &i})
        crew.scheduler.push(*job);
    is(crew.load(), "4/0/0", "four pieces of work wake four");
    is(f.runner(), 2, "in the order of parking, newest first: first");
    is(g.runner(), 3, "second");
    is(h.runner(), 1, "third");
    is(i.runner(), 0, "last");
    for (Job *job : {&f, &g, &h, &i})
        job->may_end.open();
}

void test_limit_idle()
{
    Job a, b, c;
    Crew crew(5);
    crew.scheduler.limit(7);
    is(crew.load(), "5/5/0", "limit: more than there are changes nothing");
    crew.scheduler.limit(5);
    is(crew.load(), "5/5/0", "limit: nor do as many");
    crew.scheduler.limit(3);
    is(crew.load(), "3/3/0", "limit: the surplus is counted out");
    crew.has_left("0 1", "limit: those that parked first have left");
    crew.scheduler.push(a);
    crew.scheduler.push(b);
    is(a.runner(), 4, "limit: the newest still comes first");
    is(b.runner(), 3, "limit: then the next");
    crew.end_and_park(b);
    crew.end_and_park(a); // 2 3 4
    crew.scheduler.limit(1);
    crew.has_left("0 1 2 3", "limit: again the oldest first");
    crew.scheduler.push(c);
    is(c.runner(), 4, "limit: the last one works");
    crew.end_and_park(c);
    crew.scheduler.limit(0);
    crew.has_left("0 1 2 3 4", "limit: none is left");
    is(crew.load(), "0/0/0", "limit: nobody");
    crew.scheduler.limit(2);
    crew.add();
    crew.add();
    is(crew.load(), "2/2/0", "limit: raised, new ones may come");
}

void test_limit_busy()
{
    Job a, b;
    Crew crew(4);
    crew.scheduler.push(a);
    crew.scheduler.push(b);
    is(a.runner(), 3, "limit: 3 is busy");
    is(b.runner(), 2, "limit: 2 is busy");
    crew.scheduler.limit(1);
    is(crew.load(), "2/0/0", "limit: the idle ones are counted out, the busy ones not yet");
    crew.has_left("0 1", "limit: and have left");
    a.may_end.open();
    crew.has_left("0 1 3", "limit: who is ready first leaves");
    crew.end_and_park(b);
    is(crew.load(), "1/1/0", "limit: the other one stays and parks");
    crew.start();
    crew.has_left("0 1 3 4", "limit: who comes above it leaves at once");
    is(crew.load(), "1/1/0", "limit: and is not counted");
}

void test_limit_with_work()
{
    std::atomic<int> counter = 0;
    std::deque<Note> notes;
    for (int i = 0; i < 5; ++i)
        notes.emplace_back(counter);
    Job a, b;
    Crew crew(2);
    crew.scheduler.push(a);
    crew.scheduler.push(b);
    a.runner();
    b.runner();
    for (Note &note : notes)
        crew.scheduler.push(note);
    crew.scheduler.limit(0);
    is(crew.load(), "2/0/5", "limit 0: busy ones stay for now");
    a.may_end.open();
    crew.has_left("1", "limit 0: the first leaves, as another is there for what is queued");
    is(crew.load(), "1/0/5", "limit 0: which is not lost");
    b.may_end.open();
    crew.has_left("0 1", "limit 0: the last one leaves, too");
    is(places(notes), "1 2 3 4 5", "limit 0: but not before it has done all of it");
    is(crew.load(), "0/0/0", "limit 0: nobody, nothing");
}

void test_stop()
{
    std::atomic<int> counter = 0;
    Note queued[3] = {Note(counter), Note(counter), Note(counter)};
    Job a, b;
    Crew crew(2);
    crew.scheduler.push(a);
    crew.scheduler.push(b);
    a.runner();
    b.runner();
    crew.add();
    crew.scheduler.stop();
    is(crew.load(), "2/0/0", "stop: idle ones are counted out");
    crew.has_left("2", "stop: and leave at once");
    crew.scheduler.push(queued[0]);
    crew.scheduler.push(queued[1]);
    is(crew.load(), "2/0/2", "stop: work is still taken in");
    a.may_end.open();
    b.may_end.open();
    crew.has_left("0 1 2", "stop: busy ones leave when their turn is over");
    crew.start();
    crew.has_left("0 1 2 3", "stop: who comes later leaves at once");
    crew.scheduler.push(queued[2]);
    is(crew.load(), "0/0/3", "stop: nobody is left, what was queued still is");
    is(counter, 0, "stop: and was not run");
}

void test_stop_with_work()
{
    std::atomic<int> counter = 0;
    Note queued[2] = {Note(counter), Note(counter)};
    Job busy;
    Crew crew(1);
    crew.scheduler.push(busy);
    busy.runner();
    crew.scheduler.push(queued[0]);
    crew.scheduler.push(queued[1]);
    crew.scheduler.stop();
    crew.scheduler.stop();
    is(crew.load(), "1/0/2", "stop, twice: a busy one stays for its turn");
    busy.may_end.open();
    crew.has_left("0", "stop: and leaves then");
    is(crew.load(), "0/0/2", "stop: what was queued before is still there");
    is(counter, 0, "stop: and was not run");
    is(busy.runs, 1, "stop: what was begun was run once");
}

void test_stop_after_handing_over()
{
    // Pushed to a parked worker it is no longer queued, even when that worker has not yet run.
    for (int round = 0; round < 200; ++round) {
        std::atomic<int> counter = 0;
        Note handed(counter);
        Crew crew(1);
        crew.scheduler.push(handed);
        crew.scheduler.stop();
        if (!eventually([&] { return !crew.left().empty(); }) || handed.runs != 1) {
            ok(false, "stop: what a worker was given already is run");
            return;
        }
    }
    ok(true, "stop: what a worker was given already is run");
}

/// Counts how often it is called, by whichever worker parks.
struct Hook {
    std::atomic<int> calls = 0;
    Scheduler::ParkHook hook()
    {
        return {[](void *self) { ++static_cast<Hook *>(self)->calls; }, this};
    }
};

void test_park_hook()
{
    std::atomic<int> counter = 0;
    Note note(counter);
    Hook hook, other;
    Job a, b, c, d, e;
    Crew crew(2);
    crew.scheduler.tell_when_parked(hook.hook());
    is(hook.calls, 0, "tell_when_parked: those parked already don't count");
    crew.scheduler.push(a);
    crew.scheduler.push(b);
    a.runner();
    b.runner();
    is(hook.calls, 0, "tell_when_parked: nor does work");
    crew.end_and_park(a);
    is(hook.calls, 1, "tell_when_parked: told when one parks");
    crew.end_and_park(b);
    is(hook.calls, 1, "tell_when_parked: but once");

    crew.scheduler.push(c);
    c.runner();
    crew.scheduler.tell_when_parked(hook.hook());
    crew.scheduler.tell_when_parked(other.hook());
    crew.end_and_park(c);
    is(hook.calls, 1, "tell_when_parked: asked for twice, the first one is forgotten");
    is(other.calls, 1, "tell_when_parked: the second one is told");

    crew.scheduler.push(d);
    d.runner();
    crew.scheduler.tell_when_parked(hook.hook());
    crew.scheduler.limit(1);
    d.may_end.open();
    crew.is_parked(1);
    is(hook.calls, 2, "tell_when_parked: told when it parks under a limit");

    crew.scheduler.push(e);
    e.runner();
    crew.scheduler.tell_when_parked(hook.hook());
    crew.scheduler.push(note);
    crew.end_and_park(e);
    is(note.runs, 1, "tell_when_parked: work that waits is done first");
    is(hook.calls, 3, "tell_when_parked: and then it is told");
}

void test_park_hook_and_leaving()
{
    Hook hook;
    Job a;
    Crew crew(2);
    crew.scheduler.push(a);
    a.runner();
    crew.scheduler.tell_when_parked(hook.hook());
    crew.scheduler.limit(0);
    crew.has_left("0", "tell_when_parked: the idle one leaves");
    is(hook.calls, 0, "tell_when_parked: leaving is not parking");
    a.may_end.open();
    crew.has_left("0 1", "tell_when_parked: the busy one leaves");
    is(hook.calls, 0, "tell_when_parked: nor is that");
    crew.scheduler.limit(1);
    crew.add();
    is(hook.calls, 1, "tell_when_parked: but then one parks");
}

/// Whoever hears of it by the hook looks at load() next: then the worker must count as parked.
void test_park_hook_finds_parked()
{
    bool parked = true;
    for (int round = 0; round < 20 && parked; ++round) {
        std::atomic<bool> told = false;
        Job job;
        Crew crew(1);
        crew.scheduler.push(job);
        job.runner();
        crew.scheduler.tell_when_parked({[](void *flag) {
                                             *static_cast<std::atomic<bool> *>(flag) = true;
                                             for (int i = 0; i < 1000; ++i) // time for the other to look too early
                                                 sched_yield();
                                         },
                                         &told});
        job.may_end.open();
        must([&] { return told.load(); }, "told when parked");
        parked = crew.scheduler.load().parked == 1;
    }
    ok(parked, "tell_when_parked: who is told finds it parked");
}

/// Asked for while a worker is on its way to park: either it is seen to have parked, or it tells. Nothing between.
void test_park_hook_race()
{
    constexpr int kRounds = 20000;
    std::atomic<int> counter = 0;
    Note note(counter);
    Hook hook;
    Crew crew(1);
    Scheduler &scheduler = crew.scheduler;
    int told = 0;
    for (int round = 0; round < kRounds; ++round) {
        scheduler.push(note); // the worker will park soon
        for (int spin = round % 64; spin > 0 && !scheduler.load().parked; --spin) {
        }
        hook.calls = 0;
        scheduler.tell_when_parked(hook.hook());
        if (!scheduler.load().parked) {
            ++told;
            must([&] { return hook.calls == 1; }, "a worker that parks after tell_when_parked() tells");
        }
        crew.is_parked(1);
        scheduler.tell_when_parked({});
    }
    ok(true, "tell_when_parked: not missed by a worker about to park (told %d times of %d)", told, kRounds);
    is(counter, kRounds, "and all the work was done");
}

/// Work that counts its runs and may push more work from the worker it runs on.
struct Piece : Runnable {
    Piece() : Runnable(&Piece::run_it) {}

    static void run_it(Runnable &self, Worker &) noexcept
    {
        Piece &piece = static_cast<Piece &>(self);
        ++piece.runs;
        if (piece.then)
            piece.scheduler->push(*piece.then);
    }

    std::atomic<int> runs = 0;
    Piece *then = nullptr;
    Scheduler *scheduler = nullptr;
};

/// Several threads that push, each its own share of the pieces; of four pieces the first is pushed by its worker's
/// turn.
class Producers {
  public:
    static constexpr int kThreads = 4;
    static constexpr int kShare = 8000;
    static constexpr std::size_t kPieces = kThreads * kShare;

    explicit Producers(Scheduler &scheduler)
    {
        for (std::size_t i = 0; i < kPieces; i += 4) {
            pieces_[i + 1].then = &pieces_[i];
            pieces_[i + 1].scheduler = &scheduler;
        }
        for (int i = 0; i < kThreads; ++i)
            threads_.emplace_back([this, &scheduler, i] { produce(scheduler, i); });
    }

    void join()
    {
        for (std::thread &thread : threads_)
            thread.join();
        threads_.clear();
    }

    bool busy() const { return finished_ < kThreads; }

    /// Pieces that were run `times` times.
    std::size_t run(int times) const
    {
        std::size_t count = 0;
        for (const Piece &piece : pieces_)
            count += piece.runs == times;
        return count;
    }

    /// Pieces that were run as part of a turn that pushed another.
    std::size_t pushed_by_turns() const
    {
        std::size_t count = 0;
        for (const Piece &piece : pieces_)
            count += piece.then && piece.runs == 1;
        return count;
    }

  private:
    void produce(Scheduler &scheduler, int number)
    {
        for (int i = 0; i < kShare; ++i) {
            if (i % 4 != 0)
                scheduler.push(pieces_[number * kShare + i]);
            if (i % (16 << number) == 0)
                sched_yield(); // so that there are times of plenty and times of want
        }
        ++finished_;
    }

    std::deque<Piece> pieces_{kPieces};
    std::deque<std::thread> threads_;
    std::atomic<int> finished_ = 0;
};

void test_stress()
{
    Crew crew(16);
    Producers producers(crew.scheduler);
    producers.join();
    must([&] { return crew.load() == "16/16/0"; }, "everybody parks in the end");
    is(producers.run(1), Producers::kPieces, "stress: every piece is run exactly once");
    is(crew.turns(), Producers::kPieces, "stress: and nobody got anything else");
}

void test_stress_with_limits()
{
    Crew crew(16);
    Producers producers(crew.scheduler);
    unsigned round = 0;
    for (; producers.busy() && round < 300; ++round) {
        const unsigned limit = 1 + round * 7 % 16;
        crew.scheduler.limit(limit);
        for (unsigned i = 0; i < limit / 4; ++i)
            crew.start();
    }
    producers.join();
    must([&] { return producers.run(0) == 0; }, "all is run although workers leave");
    is(producers.run(1), Producers::kPieces, "stress: every piece is run exactly once, although workers come and go");
    crew.scheduler.limit(0);
    must([&] { return crew.load() == "0/0/0"; }, "everybody leaves in the end");
    ok(true, "stress: and all of them leave in the end (%u changes of the limit)", round);
}

void test_stress_with_stop()
{
    Crew crew(16);
    Producers producers(crew.scheduler);
    eventually([&] { return producers.run(1) > Producers::kPieces / 4; });
    crew.scheduler.stop();
    producers.join();
    must([&] { return crew.scheduler.load().workers == 0; }, "everybody leaves after stop()");
    crew.join();
    const std::size_t pushed = Producers::kPieces / 4 * 3 + producers.pushed_by_turns();
    is(producers.run(1) + crew.scheduler.load().queued, pushed, "stress: stopped, all is either run once or queued");
    is(producers.run(0) + producers.run(1), Producers::kPieces, "stress: and nothing is run twice");
}

} // namespace

int main()
{
    alarm(120);
    test_load();
    test_load_parked();
    test_fifo();
    test_pushed_again();
    test_lifo();
    test_limit_idle();
    test_limit_busy();
    test_limit_with_work();
    test_stop();
    test_stop_with_work();
    test_stop_after_handing_over();
    test_park_hook();
    test_park_hook_and_leaving();
    test_park_hook_finds_parked();
    test_park_hook_race();
    test_stress();
    test_stress_with_limits();
    test_stress_with_stop();
    return done();
}
