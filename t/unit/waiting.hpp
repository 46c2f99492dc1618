// SPDX-License-Identifier: Apache-2.0
// What t/unit/keeper*.c++ keep, and where.
#pragma once

#include "hybrid/keeper.hpp"
#include "tap.hpp"

#include <algorithm>
#include <atomic>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace waiting {

using namespace hybrid;
using namespace tap;

inline constexpr Time kStart = seconds(1000);

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

inline Client *new_client(ConnState state = ConnState::KeepAlive)
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

} // namespace waiting
