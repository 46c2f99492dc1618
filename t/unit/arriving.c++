// SPDX-License-Identifier: Apache-2.0
// How much of a request is here, looked at in the kernel, or in what has been read: on real TCP connections.
#include "hybrid/arriving.hpp"
#include "hybrid/fd.hpp"
#include "tap.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

using namespace hybrid;
using namespace tap;

using Who = Arriving::Acquaintance;

namespace {

const RequestLimits kLimits;
const std::string kHead = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

/// A client at the other end of a connection, and what arrives from it.
struct Peer {
    Fd there; // connect() makes both
    Fd here;
    Arriving arriving;

    explicit Peer(Expects expects = Expects::Request, Expects inside = Expects::Nothing)
        : here(connect()), arriving(here.get(), expects, inside)
    {
    }

    int connect()
    {
        const Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t length = sizeof address;
        auto *any = reinterpret_cast<sockaddr *>(&address);
        there = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        if (bind(listening.get(), any, length) != 0 || listen(listening.get(), 1) != 0 ||
            getsockname(listening.get(), any, &length) != 0 || ::connect(there.get(), any, length) != 0)
            bail_out("no TCP on loopback");
        return accept4(listening.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    }

    /// Sends, and returns when all of it can be read.
    void say(const std::string &bytes)
    {
        sent += bytes.size();
        std::string seen(sent, '\0');
        if (write(there.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
            bail_out("write");
        for (int left = 2000; left > 0; --left, usleep(1000))
            if (recv(here.get(), seen.data(), seen.size(), MSG_PEEK | MSG_DONTWAIT) == static_cast<ssize_t>(sent))
                return;
        bail_out("what was sent does not come");
    }

    void take(std::size_t count)
    {
        std::string taken(count, '\0');
        if (read(here.get(), taken.data(), count) != static_cast<ssize_t>(count))
            bail_out("read");
        sent -= count;
    }

    void leave()
    {
        there = Fd();
        struct pollfd wait = {here.get(), POLLRDHUP, 0};
        if (poll(&wait, 1, 5000) != 1)
            bail_out("the end does not come");
    }

    bool readable() const
    {
        struct pollfd wait = {here.get(), POLLIN, 0};
        return poll(&wait, 1, 0) == 1;
    }

    Progress probe(Who who = Who::None) { return arriving.probe(kLimits, who); }

    std::size_t sent = 0; // and not taken
};

void test_pieces()
{
    Peer client;
    ok(client.probe() == Progress::Nothing, "not a word");
    ok(client.arriving.at_rest() && client.arriving.begins() == 0, "nothing has begun");
    client.say(kHead.substr(0, 10));
    ok(client.probe() == Progress::Partial, "a part of a head");
    ok(client.arriving.holds_part() && client.arriving.begins() > 0 && client.arriving.received() == 10,
       "it has begun, and counts");
    ok(!client.readable(), "the socket is not reported for what is known");
    client.say(kHead.substr(10));
    ok(client.readable(), "but when there is enough for another answer");
    ok(client.probe() == Progress::Complete, "a whole request");
    client.arriving.set_checked(true);
    client.arriving.forget();
    ok(client.arriving.checked() && client.arriving.at_rest() && client.arriving.begins() == 0, "it is for httpd now");
    client.take(kHead.size());
    ok(!client.readable(), "nothing is left");
    client.say("G");
    ok(client.readable(), "the first byte of the next one is reported");
}

void test_body()
{
    Peer client;
    const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n";
    client.say(head.substr(0, 20));
    ok(client.probe() == Progress::Partial, "a part of a head");
    client.say(head.substr(20) + "abc");
    ok(client.probe() == Progress::Head, "a head, and something of its body");
    ok(client.arriving.in_body() && client.arriving.received() == 3, "the body is counted for itself");
    client.arriving.count_unread();
    is(client.arriving.received(), 3, "so it is when it is counted anew");
    client.say("de");
    client.arriving.count_unread();
    is(client.arriving.received(), 5, "also what nobody has looked at");
    client.say("fgh");
    ok(client.probe() == Progress::Complete, "all of it");

    Peer heads(Expects::Head);
    heads.say(head);
    ok(heads.probe() == Progress::Complete, "AwaitRequest head: the head is enough");
}

void test_ends()
{
    for (const Who who : {Who::None, Who::Former}) {
        Peer client;
        client.leave();
        ok(client.probe(who) == Progress::Closed, "gone, and httpd knows nothing of it");
    }
    Peer known;
    known.leave();
    ok(known.probe(Who::Present) == Progress::Complete, "gone, and httpd has to hear so");
    Peer half;
    half.say(kHead.substr(0, 10));
    ok(half.probe() == Progress::Partial, "a part");
    half.leave();
    ok(half.probe() == Progress::Complete, "and the end: nothing is left to wait for");
    Peer silent(Expects::Nothing);
    ok(silent.arriving.checked(), "who may speak first is not waited for");
}

void test_tls()
{
    const std::string hello = std::string("\x16\x03\x01\x00\x04", 5) + "abcd";
    Peer stranger;
    stranger.say(hello);
    ok(stranger.probe(Who::None) == Progress::Complete && stranger.arriving.expects() == Expects::Record,
       "TLS where Listen has not said so");
    Peer known;
    known.say(hello);
    ok(known.probe(Who::Former) == Progress::Partial && known.arriving.expects() == Expects::Request,
       "from one that has spoken HTTP it is a line that has not ended");

    Peer client(Expects::Record, Expects::Request);
    client.say(hello.substr(0, 3));
    ok(client.probe() == Progress::Partial, "a part of the first record");
    client.say(hello.substr(3));
    ok(client.probe() == Progress::Complete, "all of it");
    client.arriving.set_checked(true);
    client.arriving.forget();
    client.arriving.enter(true);
    Arriving &inside = client.arriving;
    ok(inside.encrypted() && inside.shakes_hands() && !inside.checked(), "now for the handshake");
    ok(inside.probe_handshake(false) == Progress::Partial && inside.begins() > 0, "which has its own time");
    ok(inside.probe_handshake(true) == Progress::Nothing && inside.begins() == 0 && !inside.shakes_hands(), "is over");
    ok(inside.probe_decrypted("GET / HT", kLimits) == Progress::Partial, "what is inside is looked at");
    ok(inside.begins() > 0 && inside.received() == 8 && !inside.sets_lowat(), "and the kernel is not asked for it");
    inside.count_unread();
    is(inside.received(), 8 + client.sent, "with what is still encrypted");
    inside.forget();
    ok(inside.probe_decrypted(kHead, kLimits) == Progress::Complete, "until it is whole");
    inside.expect_nothing();
    ok(!inside.encrypted() && inside.checked(), "another protocol reads for itself");
}

void test_read()
{
    Peer client;
    client.say(kHead.substr(0, 12));
    client.take(12); // by core's input filter
    ok(client.arriving.probe_read(kHead.substr(0, 12), kLimits) == Progress::Partial, "a part has been read");
    ok(client.probe(Who::Present) == Progress::Nothing, "nothing has come since");
    client.say(kHead.substr(12, 3));
    client.arriving.count_unread();
    is(client.arriving.received(), 15, "read or not, it counts");
    client.say(kHead.substr(15));
    ok(client.probe(Who::Present) == Progress::Complete, "with the rest in the kernel it is whole");
    client.arriving.forget();
    ok(client.arriving.at_rest(), "and a worker reads it");
    ok(client.arriving.probe_read({}, kLimits) == Progress::Nothing, "nothing read, nothing begun");
}

void test_large()
{
    Peer client;
    const std::string head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
    client.say(head + std::string(8000, 'b'));
    ok(client.probe() == Progress::Head, "of a body that does not fit");
    client.say(std::string(20000, 'b'));
    ok(!client.readable(), "more is wanted");
    client.say(std::string(8000, 'b'));
    ok(client.probe() == Progress::Complete, "until there is as much as is waited for");
}

void test_time()
{
    Peer client;
    client.arriving.begin(7);
    client.arriving.set_timed_out();
    client.arriving.set_checked(true);
    ok(client.arriving.timed_out() && client.arriving.begins() == 7, "who is late keeps the time it has had");
    Peer moved;
    const int count = 500;
    setsockopt(moved.here.get(), SOL_SOCKET, SO_RCVLOWAT, &count, sizeof count);
    moved.arriving.resume(5, true, true);
    ok(moved.arriving.begins() == 5 && moved.arriving.in_body() && moved.arriving.at_rest(), "come from another child");
    moved.say("x");
    ok(moved.readable(), "which has left it waiting for more");
}

} // namespace

int main()
{
    test_pieces();
    test_body();
    test_ends();
    test_tls();
    test_read();
    test_large();
    test_time();
    return done();
}
