// A connection travels whole, or not at all: facts and descriptor arrive together, a full channel refuses, what is on
// its way outlives its sender, and a sender of another version is not misunderstood.
#include "hybrid/channel.hpp"
#include "hybrid/fd.hpp"
#include "tap.hpp"

#include <cerrno>
#include <fcntl.h>
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
    parcel.address.sin6_port = 80;
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
    is(arrived.address.sin6_port, 80, "an address");
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
    test_nudge();
    test_none();
    return done();
}
