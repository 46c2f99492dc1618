// SPDX-License-Identifier: Apache-2.0
// Throws what is no parcel, or a wrong one, into the channel of a server that runs: for t/45-channel.t and
// t/48-parcels.t, as root.
//
//   throw PID COUNT SEED    PID is the server's parent; says what it did in one line
#include "hybrid/channel.hpp"
#include "hybrid/fd.hpp"

#include <algorithm>
#include <arpa/inet.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <random>
#include <string>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>
#include <vector>

using namespace hybrid;

namespace {

constexpr int kMost = 8;

/// The sockets of the server's that are the channel's ends: the first is the one that is written to.
std::vector<Fd> find_channel(const char *pid)
{
    std::vector<int> numbers;
    for (const auto &entry : std::filesystem::directory_iterator(std::string("/proc/") + pid + "/fd"))
        numbers.push_back(std::atoi(entry.path().filename().c_str()));
    std::sort(numbers.begin(), numbers.end());
    const Fd process(static_cast<int>(syscall(SYS_pidfd_open, std::atoi(pid), 0)));
    std::vector<Fd> ends;
    for (const int number : numbers) {
        // By the kernel's own name for it: glibc has known one since 2.32.
        Fd fd(static_cast<int>(syscall(__NR_pidfd_getfd, process.get(), number, 0)));
        int type = 0;
        socklen_t length = sizeof type;
        if (fd && getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET)
            ends.push_back(std::move(fd));
    }
    return ends;
}

/// A connection of ours: the server's end, which blocks if told to, and the client's.
struct Connection {
    Fd server, client;
    Connection(int family, bool blocks)
    {
        sockaddr_in6 address{};
        address.sin6_family = static_cast<sa_family_t>(family);
        auto *v4 = reinterpret_cast<sockaddr_in *>(&address);
        if (family == AF_INET)
            v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        else
            address.sin6_addr = in6addr_loopback;
        socklen_t length = sizeof address;
        const Fd listening(socket(family, SOCK_STREAM, 0));
        client = Fd(socket(family, SOCK_STREAM, 0));
        auto *any = reinterpret_cast<sockaddr *>(&address);
        if (bind(listening.get(), any, family == AF_INET ? sizeof *v4 : sizeof address) == 0 &&
            listen(listening.get(), 1) == 0 && getsockname(listening.get(), any, &length) == 0 &&
            connect(client.get(), any, length) == 0)
            server = Fd(accept4(listening.get(), nullptr, nullptr, blocks ? 0 : SOCK_NONBLOCK));
    }
};

std::vector<Fd> make_strange_descriptors(int channel)
{
    std::vector<Fd> fds;
    fds.emplace_back(open("/dev/null", O_RDWR));
    fds.emplace_back(open("/", O_RDONLY | O_DIRECTORY));
    fds.emplace_back(socket(AF_UNIX, SOCK_STREAM, 0));
    fds.emplace_back(socket(AF_INET, SOCK_DGRAM, 0));
    fds.emplace_back(socket(AF_INET, SOCK_STREAM, 0)); // connected to nobody
    fds.emplace_back(socket(AF_INET6, SOCK_STREAM, 0));
    listen(fds.back().get(), 1);
    fds.emplace_back(socket(AF_NETLINK, SOCK_RAW, 0));
    fds.emplace_back(epoll_create1(0));
    fds.emplace_back(eventfd(1, EFD_NONBLOCK));
    fds.emplace_back(timerfd_create(CLOCK_MONOTONIC, 0));
    fds.emplace_back(memfd_create("thrown", 0));
    fds.emplace_back(static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0)));
    fds.emplace_back(dup(channel)); // the channel within itself
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0) {
        fds.emplace_back(ends[0]);
        fds.emplace_back(ends[1]);
    }
    if (pipe(ends) == 0) {
        fds.emplace_back(ends[0]);
        fds.emplace_back(ends[1]);
    }
    return fds;
}

ssize_t throw_it(int channel, const std::string &bytes, const std::vector<int> &fds)
{
    iovec part = {const_cast<char *>(bytes.data()), bytes.size()};
    alignas(cmsghdr) char control[CMSG_SPACE(kMost * sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty()) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
        cmsghdr *rights = CMSG_FIRSTHDR(&message);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
        std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
    }
    ssize_t sent;
    while ((sent = sendmsg(channel, &message, MSG_NOSIGNAL)) < 0 && (errno == EAGAIN || errno == ETOOMANYREFS))
        usleep(1000); // they are slower than we are
    return sent;
}

/// Mostly right, so that it gets far.
Parcel make_parcel(std::mt19937 &random)
{
    constexpr Time extremes[] = {0, 1, -1, kNever, kNever - 1, std::numeric_limits<Time>::min()};
    Parcel parcel;
    const auto extreme = [&] { return extremes[random() % std::size(extremes)]; };
    parcel.kept_alive = random() % 2;
    parcel.expects = static_cast<std::uint8_t>(random() % 5);
    parcel.inside = static_cast<std::uint8_t>(random() % 5);
    parcel.lowat = random() % 2;
    parcel.server = random();
    parcel.expires = random() % 2 ? extreme() : now() + static_cast<Time>(random() % 4000000);
    parcel.begins = random() % 2 ? extreme() : now() - static_cast<Time>(random() % 1000000);
    constexpr int counts[] = {0, 1, 99, -1, 0x7fffffff, 1 << 30};
    parcel.keepalives = counts[random() % std::size(counts)];
    parcel.in_body = random() % 8 ? 0 : random() % 3;
    const std::size_t id = random() % 4 ? random() % 28 : sizeof parcel.log_id; // the longest has no end
    std::memset(parcel.log_id, random() % 2 ? 'i' : static_cast<int>(random() % 256), id);
    if (random() % 16 == 0)
        parcel.version = random() % 2 ? Parcel::kVersion + 1 : static_cast<std::uint32_t>(random());
    return parcel;
}

/// What the client has sent, and what has become of it.
void act(std::mt19937 &random, Connection &ours)
{
    static const std::string requests[] = {
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nHo",
        "\r\n\r\n",
        "G",
        std::string("\x16\x03\x01\x02\x00\x01", 6),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
        std::string(20000, 'x')};
    const std::string &request = requests[random() % std::size(requests)];
    if (random() % 3)
        static_cast<void>(send(ours.client.get(), request.data(), request.size(), MSG_NOSIGNAL | MSG_DONTWAIT));
    const linger reset = {1, 0};
    switch (random() % 8) {
    case 0:
        shutdown(ours.client.get(), SHUT_WR);
        break;
    case 1:
        shutdown(ours.server.get(), SHUT_RDWR);
        break;
    case 2:
        setsockopt(ours.client.get(), SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
        ours.client = Fd();
        break;
    default:
        break;
    }
}

/// Most are parcels as they should be but for one thing, or two.
std::string make_bytes(std::mt19937 &random)
{
    const Parcel parcel = make_parcel(random);
    std::string bytes(reinterpret_cast<const char *>(&parcel), sizeof parcel);
    for (unsigned wrong = random() % 4 ? 0 : 1 + random() % 4; wrong > 0; --wrong)
        bytes[random() % bytes.size()] = static_cast<char>(random());
    if (random() % 16 == 0)
        for (char &byte : bytes)
            byte = static_cast<char>(random());
    if (random() % 16 == 0) // its head says that it is one
        std::memcpy(bytes.data(), &Parcel::kVersion, sizeof Parcel::kVersion);
    constexpr std::size_t lengths[] = {0, 1, 3, 4, 5, sizeof parcel - 1, sizeof parcel + 1, 4 * sizeof parcel, 65536};
    if (random() % 4 == 0)
        bytes.resize(random() % 2 ? lengths[random() % std::size(lengths)] : random() % (2 * sizeof parcel), 'x');
    return bytes;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    const std::vector<Fd> ends = find_channel(argv[1]);
    if (ends.size() != 2) {
        std::printf("%zu ends of a channel\n", ends.size());
        return 1;
    }
    const int channel = ends[0].get();
    const std::vector<Fd> strange = make_strange_descriptors(channel);
    std::mt19937 random(static_cast<unsigned>(std::atoi(argv[3])));
    std::vector<Fd> kept; // until the end
    int thrown = 0;
    for (int i = 0; i < std::atoi(argv[2]); ++i) {
        const std::string bytes = make_bytes(random);
        Connection ours(random() % 2 ? AF_INET : AF_INET6, random() % 8 == 0);
        act(random, ours);
        std::vector<int> fds;
        for (unsigned count = random() % 4 ? 1 : random() % kMost; count > 0; --count)
            fds.push_back(random() % 4 ? ours.server.get() : strange[random() % strange.size()].get());
        std::erase(fds, -1);
        if (throw_it(channel, bytes, fds) < 0)
            return 1;
        kept.push_back(std::move(ours.client));
        ++thrown;
    }
    std::printf("thrown %d\n", thrown);
    return 0;
}
