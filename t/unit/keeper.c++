// SPDX-License-Identifier: Apache-2.0
// The waiting room: who is heard of, whose time has passed, and that nobody is lost or had by two. By hand, at random
// against a model, and with threads. `keeper SEED` replays one seed, `keeper SEED COUNT` runs so many from there.
#include "hybrid/keeper.hpp"
#include "tap.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <random>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

using namespace hybrid;
using namespace tap;

namespace {

constexpr Time kStart = seconds(1000);

/// Something to keep, and the other end of its descriptor.
class Client : public Kept {
  public:
    explicit Client(const int (&ends)[2]) : Kept(ends[0]), here_(ends[0]), there_(ends[1]) {}
    void set_state(ConnState state) { state_ = state; }
    void say() const
    {
        if (write(there_.get(), "x", 1) != 1)
            bail_out("write");
    }
    /// How many bytes there were.
    int hear() const
    {
        char bytes[256];
        return static_cast<int>(std::max<ssize_t>(0, recv(fd(), bytes, sizeof bytes, MSG_DONTWAIT)));
    }

  private:
    Fd here_;
    Fd there_;
};

struct Ends {
    int fds[2];
    Ends()
    {
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) != 0)
            bail_out("socketpair");
    }
};

Client *new_client(ConnState state = ConnState::KeepAlive)
{
    auto *client = new Client(Ends().fds);
    client->set_state(state);
    return client;
}

/// A keeper, and the right to poll.
struct Room {
    std::atomic<bool> polled{false};
    Keeper keeper;
    Room()
    {
        if (keeper.open() != 0)
            bail_out("no descriptors");
    }
    /// One look: those that were taken out.
    std::vector<Client *> taken(bool stay = false)
    {
        const Polls role(polled);
        std::vector<Client *> list;
        for (const epoll_event &event : keeper.look()) {
            const Keeper::Heard heard = keeper.hear(event, [stay](const Kept &) { return stay; });
            if (heard.taken)
                list.push_back(static_cast<Client *>(heard.kept));
        }
        return list;
    }
    Client *expired(Time now)
    {
        const Polls role(polled);
        return static_cast<Client *>(keeper.take_expired(now));
    }
    Time planned()
    {
        const Polls role(polled);
        return keeper.plan_sleep(kNever);
    }
    void take(Client &client)
    {
        const Polls role(polled);
        keeper.take(client);
    }
    std::size_t count(ConnState state)
    {
        std::size_t kept = 0;
        keeper.for_each(state, [&](const Kept &) { ++kept; });
        return kept;
    }
    void close(Client *client)
    {
        keeper.forget(*client);
        delete client;
    }
};

void test_hearing()
{
    Room room;
    Client *client = new_client();
    is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), 0, "it is kept");
    ok(room.taken().empty() && client->queued(), "not a word: it stays");
    client->say();
    ok(room.taken(true).empty() && client->queued(), "it is heard of, and stays as it is");
    ok(room.taken() == std::vector{client} && !client->queued(), "what is true comes again: now it is taken");
    is(room.planned(), kNever, "its deadline has gone with it");
    ok(room.taken().empty(), "what comes while a worker has it is nobody's");
    is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), 0, "it is kept again");
    ok(room.taken() == std::vector{client}, "what nobody has read is reported");
    client->hear();
    room.close(client);
}

void test_late_event()
{
    Room room;
    Client *client = new_client();
    is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), 0, "it is kept");
    client->say();
    {
        const Polls role(room.polled);
        const auto events = room.keeper.look();
        is(events.size(), 1, "an event has been fetched");
        room.keeper.take(*client); // it was looked at for another reason, and kept again
        client->hear();
        is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), 0, "meanwhile");
        const Keeper::Heard heard = room.keeper.hear(events[0], [](const Kept &) { return false; });
        ok(!heard.target && client->queued(), "the event is older than that: it says nothing");
    }
    ok(room.taken().empty(), "and does not come again");
    client->say();
    ok(room.taken() == std::vector{client}, "the next one does");
    room.close(client);
}

void test_lingering()
{
    Room room;
    Client *client = new_client(ConnState::Lingering);
    is(room.keeper.keep(*client, Interest::ReadableOnce, seconds(30), kStart), 0, "it lingers");
    client->say();
    ok(room.taken(true).empty() && client->queued(), "it is heard of");
    client->say();
    ok(room.taken().empty(), "once");
    {
        const Polls role(room.polled);
        is(room.keeper.hear_again(*client), 0, "until that is asked for again");
        room.keeper.limit_lingering(seconds(2), kStart + seconds(1));
    }
    is(room.planned(), kStart + seconds(3), "it has less time when the child ends");
    ok(room.taken() == std::vector{client}, "heard again");
    room.close(client);
}

void test_time()
{
    Room room;
    Client *idle = new_client();
    Client *arriving = new_client(ConnState::Arriving);
    is(room.keeper.keep(*idle, Interest::Readable, seconds(5), kStart), 0, "one has five seconds");
    is(room.keeper.keep(*arriving, Interest::Readable, seconds(3), kStart, Deadlines::Length::Odd), 0, "one has three");
    is(room.planned(), kStart + seconds(3), "that is first");
    ok(!room.expired(kStart + seconds(3) - 1), "not before");
    ok(room.expired(kStart + seconds(3)) == arriving && !arriving->queued(), "then it is taken out");
    ok(!room.expired(kStart + seconds(3)), "and nobody else");
    {
        const Polls role(room.polled);
        room.keeper.keep_on(*arriving, seconds(1), kStart + seconds(3));
    }
    arriving->say();
    ok(room.taken() == std::vector{arriving}, "kept on, it is still polled");
    is(room.count(ConnState::KeepAlive), 1, "the other one is there");
    ok(room.expired(kNever - 1) == idle, "until it is taken");
    room.close(idle);
    room.close(arriving);
}

void test_waking()
{
    Room room;
    Client *client = new_client();
    const auto woken = [&room] {
        const Polls role(room.polled);
        return room.keeper.look().empty() && room.keeper.woken();
    };
    is(room.planned(), kNever, "nothing is due");
    is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), 0, "one is kept meanwhile");
    ok(woken(), "who sleeps is woken for the earlier deadline");
    is(room.planned(), kStart + seconds(5), "which is known now");
    room.keeper.add_timer(kStart + seconds(9), {nullptr, nullptr});
    ok(!woken(), "a later one wakes nobody");
    int runs = 0;
    room.keeper.add_timer(kStart + seconds(1), {[](void *count) { ++*static_cast<int *>(count); }, &runs});
    ok(woken(), "an earlier one does");
    {
        const Polls role(room.polled);
        ok(!room.keeper.take_due(kStart), "it is not due");
        const auto due = room.keeper.take_due(kStart + seconds(1));
        if (due)
            due->function(due->baton);
    }
    is(runs, 1, "then it is");
    is(room.keeper.next_timer(), kStart + seconds(9), "the other one is left");
    room.take(*client);
    room.close(client);
}

void test_refusal()
{
    Room room;
    Client *client = new_client();
    const Fd file(open("/dev/null", O_RDONLY | O_CLOEXEC)); // which can't be polled
    if (dup2(file.get(), client->fd()) < 0)
        bail_out("dup2");
    is(room.keeper.keep(*client, Interest::Readable, seconds(5), kStart), EPERM, "what can't be polled is not kept");
    ok(!client->queued() && room.planned() == kNever, "and is as it was");
    room.close(client);
}

void test_lists()
{
    Room room;
    std::vector<Client *> clients;
    for (int i = 0; i < 3; ++i) {
        clients.push_back(new_client());
        if (room.keeper.keep(*clients.back(), Interest::Readable, seconds(5), kStart + i) != 0)
            bail_out("keep");
    }
    const Polls role(room.polled);
    std::vector<Timed *> list;
    room.keeper.collect(ConnState::KeepAlive, list);
    ok(list == std::vector<Timed *>(clients.begin(), clients.end()), "all of them, the oldest first");
    room.keeper.set_seen(*clients[1]);
    list.clear();
    room.keeper.collect_unseen(ConnState::KeepAlive, list);
    ok(list == std::vector<Timed *>{clients[2]}, "those after the last that was seen");
    for (Client *client : clients) {
        room.keeper.take(*client);
        room.close(client);
    }
}

/// What should be true of a client, as the random test knows it.
struct Model {
    Client *client;
    bool kept = false;
    Time expires = 0;
    int bytes = 0;
};

/// One life of a room. An empty text, or what went wrong.
class Life {
  public:
    explicit Life(unsigned seed, std::vector<Client *> &clients) : random_(seed)
    {
        for (Client *client : clients) {
            client->hear();
            models_.push_back({client});
        }
    }
    ~Life()
    {
        for (Model &model : models_) {
            if (model.kept)
                room_.take(*model.client);
            room_.keeper.forget(*model.client);
        }
    }

    std::string run()
    {
        for (int step = 0; step < 60 && wrong_.empty(); ++step)
            once();
        return wrong_;
    }

  private:
    int below(int bound) { return static_cast<int>(random_() % static_cast<unsigned>(bound)); }
    void complain(const char *what) { wrong_ = wrong_.empty() ? what : wrong_; }

    void once()
    {
        Model &model = models_[below(static_cast<int>(models_.size()))];
        switch (below(6)) {
        case 0:
        case 1:
            return keep(model);
        case 2:
            model.client->say();
            ++model.bytes;
            return;
        case 3:
            if (!model.kept && model.client->hear() != std::exchange(model.bytes, 0))
                complain("bytes were lost");
            return;
        case 4:
            return look();
        default:
            return pass();
        }
    }

    void keep(Model &model)
    {
        static constexpr ConnState kStates[] = {ConnState::KeepAlive, ConnState::Arriving, ConnState::WaitIo};
        if (model.kept)
            return;
        const Duration length = seconds(1 + below(4));
        model.client->set_state(kStates[below(3)]);
        if (room_.keeper.keep(*model.client, Interest::Readable, length, now_,
                              below(2) ? Deadlines::Length::Usual : Deadlines::Length::Odd) != 0)
            complain("it can't be kept");
        model.kept = true;
        model.expires = later(now_, length);
    }

    // Everybody who is kept and has said something is taken out, and nobody else.
    void look()
    {
        room_.taken(true); // what was armed after the last look counts from now on
        for (Client *client : room_.taken()) {
            Model &model = *std::ranges::find(models_, client, &Model::client);
            if (!model.kept || model.bytes == 0)
                complain("somebody was taken who had nothing to say");
            model.kept = false;
        }
        for (const Model &model : models_)
            if (model.kept && model.bytes > 0)
                complain("somebody was not heard");
    }

    void pass()
    {
        now_ += seconds(below(3));
        while (Client *client = room_.expired(now_)) {
            Model &model = *std::ranges::find(models_, client, &Model::client);
            if (!model.kept || model.expires > now_)
                complain("somebody's time was cut short");
            model.kept = false;
        }
        Time first = kNever;
        for (const Model &model : models_)
            if (model.kept)
                first = std::min(first, model.expires);
        if (first <= now_)
            complain("somebody's time has passed unnoticed");
        if (room_.planned() != first)
            complain("the sleep is planned for another time than the first deadline");
    }

    Room room_;
    std::minstd_rand random_;
    std::vector<Model> models_;
    Time now_ = kStart;
    std::string wrong_;
};

void test_at_random(unsigned seed, unsigned count)
{
    std::vector<Client *> clients;
    for (int i = 0; i < 6; ++i)
        clients.push_back(new_client());
    std::string wrong;
    unsigned at = seed;
    for (; at < seed + count && wrong.empty(); ++at)
        wrong = Life(at, clients).run();
    ok(wrong.empty(), "%u lives of a room, from seed %u on", count, seed);
    if (!wrong.empty())
        std::printf("# seed %u: %s; replay: keeper %u\n", at - 1, wrong.c_str(), at - 1);
    for (Client *client : clients)
        delete client;
}

// One thread polls, others do what workers do: read, and give the client back. Nobody is lost, and nobody is had by
// two.
void test_threads()
{
    constexpr int kClients = 8;
    constexpr int kRounds = 2000;
    Room room;
    Mutex mu;
    std::deque<Client *> queue;
    std::atomic<int> heard{0};
    std::atomic<bool> done{false};
    std::vector<Client *> clients;
    for (int i = 0; i < kClients; ++i)
        clients.push_back(new_client());
    const auto give_back = [&room](Client *client) {
        if (room.keeper.keep(*client, Interest::Readable, seconds(1000), now()) != 0)
            bail_out("keep");
    };
    for (Client *client : clients)
        give_back(client);
    const auto work = [&] {
        while (!done.load()) {
            Client *client = nullptr;
            {
                const Lock lock(mu);
                if (!queue.empty()) {
                    client = queue.front();
                    queue.pop_front();
                }
            }
            if (!client) {
                std::this_thread::yield();
                continue;
            }
            heard.fetch_add(client->hear());
            give_back(client);
        }
    };
    std::thread workers[] = {std::thread(work), std::thread(work)};
    std::thread speaks([&clients] {
        for (int i = 0; i < kRounds; ++i)
            clients[i % kClients]->say();
    });
    const Time end = later(now(), seconds(60));
    while (heard.load() < kRounds && now() < end) {
        for (Client *client : room.taken()) {
            const Lock lock(mu);
            queue.push_back(client);
        }
    }
    done.store(true);
    for (std::thread &worker : workers)
        worker.join();
    speaks.join();
    is(heard.load(), kRounds, "every byte was heard, by one worker at a time");
    for (Client *client : clients) {
        if (client->queued())
            room.take(*client);
        room.close(client);
    }
}

} // namespace

int main(int argc, char **argv)
{
    if (argc > 1) {
        test_at_random(std::strtoul(argv[1], nullptr, 10), argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1);
        return done();
    }
    test_hearing();
    test_late_event();
    test_lingering();
    test_time();
    test_waking();
    test_refusal();
    test_lists();
    test_at_random(1, 10'000);
    test_threads();
    return done();
}
