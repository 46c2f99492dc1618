// SPDX-License-Identifier: Apache-2.0
// The waiting room by hand: who is heard of, whose time has passed, who is woken.
#include "waiting.hpp"

#include <cerrno>
#include <fcntl.h>

using namespace waiting;

namespace {

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

} // namespace

int main()
{
    test_hearing();
    test_late_event();
    test_lingering();
    test_time();
    test_waking();
    test_refusal();
    test_lists();
    return done();
}
