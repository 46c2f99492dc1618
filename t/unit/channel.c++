// SPDX-License-Identifier: Apache-2.0
// A connection travels whole, or not at all: facts and descriptor arrive together, a full channel refuses, what is on
// its way outlives its sender, and a sender of another version is not misunderstood. Whatever else comes is dropped,
// with every descriptor that came with it.
#include "hybrid/channel.hpp"
#include "hybrid/fd.hpp"
#include "tap.hpp"

#include "../fuzz/channel.hpp"

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <random>
#include <sys/resource.h>
#include <sys/socket.h>

using namespace hybrid;
using namespace tap;

namespace {

struct Ends {
    Fd to;
    Fd from;
    Ends()
    {
        int a = -1;
        int b = -1;
        if (Channel::make(a, b) != 0)
            bail_out("no channel");
        to = Fd(a);
        from = Fd(b);
    }
    Channel channel() const { return {to.get(), from.get()}; }
};

/// A client's connection: what is written to `client` can be read from `server`.
struct Client {
    Fd client;
    Fd server;
    Client()
    {
        int ends[2];
        if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
            bail_out("no socket pair");
        client = Fd(ends[0]);
        server = Fd(ends[1]);
    }
};

void test_journey()
{
    const Ends ends;
    const Channel channel = ends.channel();
    Parcel parcel;
    is(channel.receive(parcel).error, EAGAIN, "nothing is there");
    Client client;
    parcel.keepalives = 7;
    parcel.expires = 123;
    is(channel.send(parcel, client.server.get()), 0, "a connection leaves");
    client.server = Fd(); // the sender's
    ok(write(client.client.get(), "x", 1) == 1, "its client speaks meanwhile");
    Parcel arrived;
    const Channel::Received received = channel.receive(arrived);
    is(received.error, 0, "it arrives");
    const Fd fd(received.fd);
    ok(received.understood, "with what is known of it");
    is(arrived.keepalives, 7, "a number");
    is(arrived.expires, 123, "a time");
    is(fcntl(fd.get(), F_GETFD), FD_CLOEXEC, "its descriptor is not inherited");
    char c = 0;
    ok(read(fd.get(), &c, 1) == 1 && c == 'x', "and what the client said is there");
    is(channel.receive(arrived).error, EAGAIN, "once");
}

void test_full()
{
    const Ends ends;
    const Channel channel = ends.channel();
    const Client client;
    int sent = 0;
    int error = 0;
    while (sent < 100000 && (error = channel.send({}, client.server.get())) == 0)
        ++sent;
    ok(sent >= 64, "%d fit", sent);
    ok(error == EAGAIN || error == ETOOMANYREFS, "then it says so: %d", error);
    Parcel parcel;
    for (int i = 0; i < sent / 2; ++i) {
        const Fd arrived(channel.receive(parcel).fd);
        if (!arrived)
            ok(false, "parcel %d is lost", i);
    }
    is(channel.send({}, client.server.get()), 0, "when some were received, more fit");
}

void test_no_descriptor()
{
    const Ends ends;
    const Client client;
    is(ends.channel().send({}, client.server.get()), 0, "a connection is sent");
    struct rlimit before;
    getrlimit(RLIMIT_NOFILE, &before);
    const int lowest = dup(0);
    close(lowest);
    struct rlimit none = before;
    none.rlim_cur = lowest;
    setrlimit(RLIMIT_NOFILE, &none);
    Parcel parcel;
    is(ends.channel().receive(parcel).error, EMFILE, "who has no descriptor free hears that it is lost");
    setrlimit(RLIMIT_NOFILE, &before);
}

void test_other_version()
{
    const Ends ends;
    const Client client;
    Parcel parcel;
    parcel.version = Parcel::kVersion + 1;
    parcel.keepalives = 7;
    is(ends.channel().send(parcel, client.server.get()), 0, "another version sends");
    Parcel arrived;
    const Channel::Received received = ends.channel().receive(arrived);
    const Fd fd(received.fd);
    ok(fd && !received.understood, "the descriptor arrives, and that it is not understood");
    is(arrived.keepalives, 0, "nothing is taken from the parcel");
}

void test_nonsense()
{
    const fuzz::ChannelUnderTest test;
    const Channel channel(test.to.get(), test.from.get());
    const int free_before = fuzz::lowest_free_descriptor();
    const Parcel right;
    char zeros[sizeof right + 100] = {};
    char longer[sizeof right + 100] = {};
    std::memcpy(longer, &right, sizeof right);
    const struct {
        const char *what;
        const void *bytes;
        std::size_t length;
        unsigned descriptors;
    } messages[] = {
        {"without a descriptor", &right, sizeof right, 0},
        {"with two", &right, sizeof right, 2},
        {"with seven", &right, sizeof right, 7},
        {"one byte and a descriptor", "", 1, 1},
        {"one byte and three", "", 1, 3},
        {"two bytes", zeros, 2, 0},
        {"three bytes and a descriptor", &right, 3, 1},
        {"nothing but zeros", zeros, sizeof right, 1},
        {"too short", &right, sizeof right - 1, 1},
        {"too long", longer, sizeof longer, 1},
        {"much too long, without a descriptor", longer, sizeof longer, 0},
    };
    for (const auto &message : messages) {
        test.send({static_cast<const char *>(message.bytes), message.length}, message.descriptors, 0);
        Parcel parcel;
        parcel.keepalives = 4711;
        const Channel::Received received = channel.receive(parcel);
        ok(received.error == EBADMSG && received.fd == -1 && parcel.keepalives == 4711, "%s: dropped (%d)",
           message.what, received.error);
    }
    is(fuzz::lowest_free_descriptor(), free_before, "and no descriptor of all that is left");
    Parcel parcel;
    is(channel.receive(parcel).error, EAGAIN, "each was received once");
}

void test_random()
{
    const fuzz::ChannelUnderTest test;
    std::mt19937 random(4711);
    const char *wrong = nullptr;
    for (int i = 0; i < 20000 && !wrong; ++i) {
        const Parcel right;
        char bytes[sizeof right + 64] = {};
        std::memcpy(bytes, &right, sizeof right);
        for (unsigned changes = random() % 4; changes > 0; --changes)
            bytes[random() % sizeof bytes] = static_cast<char>(random());
        const std::size_t length = random() % 2 ? sizeof right : 1 + random() % sizeof bytes;
        wrong = fuzz::check_channel(test, {bytes, length}, random() % 3 ? 1 : random(), random());
    }
    ok(!wrong, "20000 messages of any kind: %s", wrong ? wrong : "each is a parcel, or dropped");
}

void test_plausible()
{
    const Time t = seconds(1000);
    Parcel parcel;
    ok(parcel.plausible(t, 4), "a parcel as it is at first");
    const auto wrong = [&](const char *what, auto change) {
        Parcel changed;
        change(changed);
        ok(!changed.plausible(t, 4), "not %s", what);
    };
    wrong("a fifth of four kinds", [](Parcel &p) { p.expects = 4; });
    wrong("that inside", [](Parcel &p) { p.inside = 255; });
    wrong("kept alive twice", [](Parcel &p) { p.kept_alive = 2; });
    wrong("a mark that is no mark", [](Parcel &p) { p.lowat = 128; });
    wrong("less than no requests", [](Parcel &p) { p.keepalives = -1; });
    wrong("more requests than can be", [](Parcel &p) { p.keepalives = 0x7fffffff; });
    wrong("begun tomorrow", [t](Parcel &p) { p.begins = t + 1; });
    wrong("begun before all time", [](Parcel &p) { p.begins = std::numeric_limits<Time>::min(); });
    wrong("ended before all time", [](Parcel &p) { p.expires = -1; });
}

void test_client()
{
    sockaddr_in here{};
    here.sin_family = AF_INET;
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof here;
    const Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (bind(listening.get(), reinterpret_cast<sockaddr *>(&here), sizeof here) != 0 ||
        listen(listening.get(), 1) != 0 ||
        getsockname(listening.get(), reinterpret_cast<sockaddr *>(&here), &length) != 0)
        bail_out("no listening socket");
    Fd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(client.get(), reinterpret_cast<sockaddr *>(&here), sizeof here) != 0)
        bail_out("no connection");
    const Fd server(accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC));
    sockaddr_in6 address{};
    is(find_client(server.get(), address), 0, "a client");
    sockaddr_in own{};
    length = sizeof own;
    getsockname(client.get(), reinterpret_cast<sockaddr *>(&own), &length);
    ok(std::memcmp(&own, &address, sizeof own) == 0, "has its address");
    const struct linger at_once = {1, 0};
    setsockopt(client.get(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    client = Fd();
    is(find_client(server.get(), address), ENOTCONN, "one that has gone");
    is(find_client(listening.get(), address), ENOTCONN, "a listening socket is nobody's connection");
    const Client local;
    is(find_client(local.server.get(), address), EBADMSG, "nor is another family's");
    const Fd datagrams(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    is(find_client(datagrams.get(), address), EBADMSG, "nor datagrams");
    const Fd file(open("/dev/null", O_RDONLY | O_CLOEXEC));
    is(find_client(file.get(), address), EBADMSG, "nor a file");
    is(find_client(-1, address), EBADMSG, "nor nothing");
}

void test_nudge()
{
    const Ends ends;
    ends.channel().nudge();
    Parcel parcel;
    is(ends.channel().receive(parcel).error, ENOMSG, "a nudge is no connection");
    is(ends.channel().receive(parcel).error, EAGAIN, "and comes once");
}

void test_none()
{
    const Channel none;
    Parcel parcel;
    ok(!none, "no channel");
    is(none.send(parcel, 0), ENOTCONN, "can't send");
    is(none.receive(parcel).error, ENOTCONN, "nor receive");
}

} // namespace

int main()
{
    test_journey();
    test_full();
    test_no_descriptor();
    test_other_version();
    test_nonsense();
    test_random();
    test_plausible();
    test_client();
    test_nudge();
    test_none();
    return done();
}
