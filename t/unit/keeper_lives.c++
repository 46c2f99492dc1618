// SPDX-License-Identifier: Apache-2.0
// The waiting room at random, against a model, and with threads: nobody is lost, and nobody is had by two.
// `keeper_lives SEED` replays one seed, `keeper_lives SEED COUNT` runs so many from there.
#include "waiting.hpp"

#include <cstdlib>
#include <deque>
#include <random>
#include <string>
#include <thread>

using namespace waiting;

namespace {

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
        std::printf("# seed %u: %s; replay: keeper_lives %u\n", at - 1, wrong.c_str(), at - 1);
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
    test_at_random(1, 10'000);
    test_threads();
    return done();
}
