// SPDX-License-Identifier: Apache-2.0
// What the keeper builds on: readiness as long as it lasts or once, silence, what is stale, waking, and never being
// early.
#include "hybrid/poller.hpp"
#include "tap.hpp"

#include <atomic>
#include <cerrno>
#include <climits>
#include <deque>
#include <fcntl.h>
#include <map>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <thread>

using namespace hybrid;
using namespace tap;

namespace {

/// Two ends of a connection, and the hook of the one that is polled.
struct Pair {
    PollTarget target{PollTarget::Kind::Client};
    Fd here;
    Fd there;

    Pair()
    {
        int ends[2] = {-1, -1};
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
            ok(false, "socketpair");
        here = Fd(ends[0]);
        there = Fd(ends[1]);
    }

    void say() const { ok(write(there.get(), "x", 1) == 1, "the client says something"); }

    void hear() const
    {
        char c;
        ok(read(here.get(), &c, 1) == 1, "and is heard");
    }

    /// Until no more can be written here.
    void fill() const
    {
        static const char part[4096] = {};
        while (write(here.get(), part, sizeof part) > 0) {
        }
    }

    void drain() const
    {
        char part[4096];
        while (read(there.get(), part, sizeof part) > 0) {
        }
    }
};

/// What is reported at once is this target, alone, with all these events.
bool reports(Poller &poller, const Pair &pair, std::uint32_t events)
{
    const auto got = poller.wait(0);
    return got.size() == 1 && poller.target_of(got[0]) == &pair.target && (got[0].events & events) == events;
}

bool silent(Poller &poller)
{
    return poller.wait(0).empty();
}

void test_watch()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    is(poller.watch(pair.here.get(), pair.target), 0, "watch");
    ok(silent(poller), "watch: silent while there is nothing");
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "watch: reports that there is something");
    ok(reports(poller, pair, EPOLLIN), "watch: and reports it again while it is there");
    pair.hear();
    ok(silent(poller), "watch: silent when it is taken");
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "watch: and goes on without being asked");
    is(poller.watch(pair.here.get(), pair.target), EEXIST, "watch: twice is an error");
    poller.forget(pair.here.get(), pair.target);
    ok(silent(poller), "forget: silent, although there is something");
    is(poller.watch(pair.here.get(), pair.target), 0, "forget: can be watched again");
    ok(reports(poller, pair, EPOLLIN), "watch: reports what was there before");
    is(poller.watch(-1, pair.target), EBADF, "watch: no descriptor is an error");
}

void test_arm()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const int fd = pair.here.get();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm");
    ok(silent(poller), "arm: silent while there is nothing");
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "arm: reports that there is something");
    ok(reports(poller, pair, EPOLLIN), "arm: as long as it is there");
    pair.hear();
    ok(silent(poller), "arm: silent when it is taken");
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm again");
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "arm: reports what came then");
    poller.forget(fd, pair.target);
    ok(silent(poller), "forget: silent");
    poller.forget(fd, pair.target);
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "forget: can be armed as a new one");
    ok(reports(poller, pair, EPOLLIN), "arm: and is reported");
    PollTarget nothing{PollTarget::Kind::Client};
    is(poller.arm(-1, nothing, Interest::Readable), EBADF, "arm: no descriptor is an error");
    is(poller.arm(fd, nothing, Interest::Readable), EEXIST, "arm: a descriptor that is another's is an error");
}

void test_arm_once()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const int fd = pair.here.get();
    is(poller.arm(fd, pair.target, Interest::ReadableOnce), 0, "arm once");
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "once: reports that there is something");
    ok(silent(poller), "once: and that is all");
    pair.hear();
    pair.say();
    ok(silent(poller), "once: silent, although there is more");
    is(poller.arm(fd, pair.target, Interest::ReadableOnce), 0, "arm once again");
    ok(reports(poller, pair, EPOLLIN), "once: what came meanwhile is reported");
    pair.there = Fd();
    ok(silent(poller), "once: silent even when the client hangs up");
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm for good");
    ok(reports(poller, pair, EPOLLIN | EPOLLHUP), "which is reported then");
}

void test_arm_for_writing()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const int fd = pair.here.get();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm for reading");
    ok(silent(poller), "writable is not readable");
    is(poller.arm(fd, pair.target, Interest::Writable), 0, "arm for writing");
    ok(reports(poller, pair, EPOLLOUT), "writable at once");
    pair.fill();
    pair.say();
    ok(silent(poller), "full is not writable, and readable is not writable");
    pair.drain();
    ok(reports(poller, pair, EPOLLOUT), "room is");
    pair.fill();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm for reading again");
    ok(reports(poller, pair, EPOLLIN), "readable it is");
}

void test_hang_up()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const int fd = pair.here.get();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm");
    pair.there = Fd();
    ok(reports(poller, pair, EPOLLIN | EPOLLHUP), "hanging up is reported");
    is(poller.arm(fd, pair.target, Interest::Writable), 0, "arm for writing");
    ok(reports(poller, pair, EPOLLHUP), "armed for writing it is reported, too");
    poller.forget(fd, pair.target);
    ok(silent(poller), "forget: silent about hanging up");
}

// Between the end of a wait and a look at what it brought, another thread may have dealt with the connection.
void test_meanwhile()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const int fd = pair.here.get();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "arm");
    pair.say();
    auto got = poller.wait(0);
    must([&] { return got.size() == 1 && poller.target_of(got[0]) == &pair.target; }, "it is reported");
    ok(!poller.stale(pair.target), "armed before the wait: what it brought is true");
    pair.hear();
    is(poller.arm(fd, pair.target, Interest::Readable), 0, "taken, dealt with, armed again");
    ok(poller.stale(pair.target), "armed since: the event is of the time before");
    ok(silent(poller) && !poller.stale(pair.target), "and the next wait knows better");
    pair.say();
    got = poller.wait(0);
    must([&] { return got.size() == 1; }, "it is reported");
    poller.forget(fd, pair.target);
    ok(!poller.target_of(got[0]), "forgotten since: it is nobody's event");
    PollTarget successor{PollTarget::Kind::Client};
    is(poller.arm(fd, successor, Interest::Readable), 0, "the number is another connection's now");
    ok(poller.target_of(got[0]) == &successor && poller.stale(successor), "then the event is stale");
}

void test_time()
{
    Poller poller;
    is(poller.open(), 0, "open");
    bool early = false, late = false;
    for (int round = 0; round < 20; ++round)
        for (const Duration length : {1, 250, 500, 999, 1000, 1001, 1500, 2999}) {
            const Time until = later(now(), length);
            early = !poller.wait(until).empty() || now() < until || early;
            late = now() > later(until, seconds(5)) || late;
        }
    ok(!early, "wait: never back before the time");
    ok(!late, "wait: but soon after");
    for (const Time past : {Time{0}, Time{1}, now() - 1, now() - seconds(3600)})
        ok(poller.wait(past).empty(), "wait: back at once when the time is over");
}

/// A thread that waits for nothing in particular.
class Waiter {
  public:
    Waiter(Poller &poller, Time until)
        : thread_([this, &poller, until] {
              id_ = static_cast<int>(syscall(SYS_gettid));
              events_ = static_cast<int>(poller.wait(until).size());
              back_ = true;
          })
    {
    }
    ~Waiter() { thread_.join(); }

    bool back() const { return back_; }
    int events() const { return events_; }

    /// It sleeps in the kernel. All it can sleep in is epoll_wait().
    bool asleep() const
    {
        if (id_ == 0)
            return false;
        char path[64], stat[256] = {};
        std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", id_.load());
        const Fd file(open(path, O_RDONLY | O_CLOEXEC));
        if (!file || read(file.get(), stat, sizeof stat - 1) <= 0)
            return false;
        const std::string_view text = stat;
        const std::size_t end = text.rfind(") ");
        return end != text.npos && text[end + 2] == 'S';
    }

  private:
    std::atomic<int> id_ = 0;
    std::atomic<int> events_ = -1;
    std::atomic<bool> back_ = false;
    std::thread thread_; // last: it uses the others
};

/// Back before the time, with nothing to report.
bool woken(Poller &poller)
{
    const Time until = later(now(), seconds(30));
    return poller.wait(until).empty() && now() < until;
}

void test_wake_before()
{
    Poller poller;
    is(poller.open(), 0, "open");
    poller.wake();
    ok(woken(poller), "woken before: wait is back at once, and reports nothing");
    ok(poller.woken(), "but says that it was woken");
    poller.wake();
    poller.wake();
    poller.wake();
    ok(woken(poller), "woken three times before: back at once");
    const Time until = later(now(), milliseconds(3));
    is(poller.wait(until).size(), 0, "and once is all");
    ok(!poller.woken(), "which the next one has forgotten");
    ok(now() >= until, "the next one waits");

    Pair pair;
    is(poller.watch(pair.here.get(), pair.target), 0, "watch");
    pair.say();
    poller.wake();
    ok(reports(poller, pair, EPOLLIN), "woken after there is something: only that is reported");
    ok(reports(poller, pair, EPOLLIN), "and again");
    pair.hear();
    ok(silent(poller), "nothing is left");
    poller.wake();
    pair.say();
    ok(reports(poller, pair, EPOLLIN), "woken before there is something: only that is reported");
}

void test_wake_during()
{
    Poller poller;
    is(poller.open(), 0, "open");
    const Time hours = seconds(3600);
    // Longer than epoll's milliseconds can say, too.
    for (const Time until : {kNever, kNever - 1, later(now(), hours), later(now(), 3 * milliseconds(INT_MAX))}) {
        const Waiter waiter(poller, until);
        must([&] { return waiter.asleep() || waiter.back(); }, "the thread waits");
        ok(!waiter.back(), "waits for long");
        poller.wake();
        must([&] { return waiter.back(); }, "the thread is woken");
        is(waiter.events(), 0, "woken meanwhile: back, and nothing is reported");
    }
}

void test_arm_during()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair pair;
    const Waiter waiter(poller, kNever);
    must([&] { return waiter.asleep(); }, "the thread waits");
    pair.say();
    is(poller.arm(pair.here.get(), pair.target, Interest::Readable), 0, "armed by another thread meanwhile");
    must([&] { return waiter.back(); }, "the thread hears it");
    is(waiter.events(), 1, "is reported");
}

/// Wakes come at any moment, before, during and after a wait: none may be lost.
void test_no_wake_is_lost()
{
    constexpr int kRounds = 5000;
    Poller poller;
    is(poller.open(), 0, "open");
    std::atomic<int> asked = 0, answered = 0;
    std::thread waiter([&] {
        while (answered < kRounds) {
            if (!poller.wait(kNever).empty())
                return;
            answered = asked.load();
        }
    });
    for (int i = 1; i <= kRounds; ++i) {
        asked = i;
        poller.wake();
        const Time limit = later(now(), seconds(30));
        while (answered < i && now() < limit)
            sched_yield();
        must([&] { return answered >= i; }, "no wake is lost");
    }
    waiter.join();
    is(answered, kRounds, "no wake is lost, whenever it comes");
}

/// More connections than fit into one batch, all with something to say.
struct Crowd {
    static constexpr int kMany = 300;
    std::deque<Pair> pairs{kMany};
    std::map<const PollTarget *, int> seen;
    int batches = 0;
    bool woken = false;

    explicit Crowd(Poller &poller)
    {
        is(poller.open(), 0, "open");
        bool said = true;
        for (const Pair &pair : pairs)
            said = said && write(pair.there.get(), "x", 1) == 1;
        ok(said, "%d clients say something", kMany);
    }

    void arm(Poller &poller)
    {
        bool armed = true;
        for (Pair &pair : pairs)
            armed = armed && poller.arm(pair.here.get(), pair.target, Interest::ReadableOnce) == 0;
        ok(armed, "all of them armed");
    }

    /// Until nothing more is reported.
    void poll(Poller &poller)
    {
        for (auto events = poller.wait(0); !events.empty() && batches < kMany; events = poller.wait(0)) {
            ++batches;
            for (const epoll_event &event : events) {
                const PollTarget *target = poller.target_of(event);
                ++seen[target];
                woken = woken || !target || target->kind == PollTarget::Kind::Wake;
            }
        }
    }
};

void test_many()
{
    Poller poller;
    Crowd crowd(poller);
    crowd.arm(poller);
    poller.wake();
    crowd.poll(poller);
    bool each_once = crowd.seen.size() == Crowd::kMany;
    for (const Pair &pair : crowd.pairs)
        each_once = each_once && crowd.seen[&pair.target] == 1;
    ok(each_once, "each is reported once, all of them in the end");
    ok(crowd.batches > 1, "in several batches");
    ok(!crowd.woken, "the wake is not among them");
    const Time until = later(now(), milliseconds(3));
    ok(poller.wait(until).empty() && now() >= until, "and is used up");
}

void test_many_forgotten()
{
    Poller poller;
    Crowd crowd(poller);
    crowd.arm(poller);
    for (int i = 0; i < Crowd::kMany; i += 2)
        poller.forget(crowd.pairs[i].here.get(), crowd.pairs[i].target);
    crowd.poll(poller);
    bool right = true;
    for (int i = 0; i < Crowd::kMany; ++i)
        right = right && crowd.seen[&crowd.pairs[i].target] == i % 2;
    ok(right, "every second one forgotten: the others are reported, and only they");
}

// Modules close sockets, and numbers are given out again: forgetting one must leave the other alone (W42).
void test_number_of_another()
{
    Poller poller;
    is(poller.open(), 0, "open");
    Pair first;
    const int fd = first.here.get();
    is(poller.arm(fd, first.target, Interest::Readable), 0, "one is armed");
    Pair second;
    ok(dup2(second.here.get(), fd) == fd, "it is closed, and its number is another's");
    is(poller.arm(fd, second.target, Interest::Readable), 0, "which is armed, too");
    poller.forget(fd, first.target);
    second.say();
    ok(reports(poller, second, EPOLLIN), "the first is forgotten: the second is reported");
    poller.forget(fd, second.target);
    ok(silent(poller), "until that is forgotten, too");
    is(poller.arm(fd, first.target, Interest::Readable), 0, "the first target can be armed as a new one");
    ok(reports(poller, first, EPOLLIN), "and is reported");
}

void test_no_descriptors()
{
    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    const int first = Fd(open("/dev/null", O_RDONLY | O_CLOEXEC)).get();
    for (int spare = 0; spare < 2; ++spare) {
        const struct rlimit tight = {static_cast<rlim_t>(first + spare), before.rlim_max};
        setrlimit(RLIMIT_NOFILE, &tight);
        Poller poller;
        const int error = poller.open();
        setrlimit(RLIMIT_NOFILE, &before);
        is(error, EMFILE, "open: says that there are no descriptors");
    }
    is(Fd(open("/dev/null", O_RDONLY | O_CLOEXEC)).get(), first, "and leaves none behind");
}

} // namespace

int main()
{
    alarm(120);
    test_watch();
    test_arm();
    test_arm_once();
    test_arm_for_writing();
    test_hang_up();
    test_meanwhile();
    test_time();
    test_wake_before();
    test_wake_during();
    test_arm_during();
    test_no_wake_is_lost();
    test_many();
    test_many_forgotten();
    test_number_of_another();
    test_no_descriptors();
    return done();
}
