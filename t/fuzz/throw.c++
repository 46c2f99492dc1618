// Throws what is no parcel, or a wrong one, into the channel of a server that runs: for t/45-channel.t, as root.
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
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
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
        Fd fd(static_cast<int>(syscall(SYS_pidfd_getfd, process.get(), number, 0)));
        int type = 0;
        socklen_t length = sizeof type;
        if (fd && getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_SEQPACKET)
            ends.push_back(std::move(fd));
    }
    return ends;
}

/// A connection of ours: the server's end, and the client's, which is kept.
struct Connection {
    Fd server, client;
    Connection(int family)
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
            server = Fd(accept4(listening.get(), nullptr, nullptr, SOCK_NONBLOCK));
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
    fds.emplace_back(epoll_create1(0));
    fds.emplace_back(dup(channel)); // the channel within itself
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0) {
        fds.emplace_back(ends[0]);
        fds.emplace_back(ends[1]);
    }
    return fds;
}

ssize_t throw_it(int channel, const char *bytes, std::size_t length, const std::vector<int> &fds)
{
    iovec part = {const_cast<char *>(bytes), length};
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
    if (random() % 16 == 0)
        parcel.version = random() % 2 ? Parcel::kVersion + 1 : static_cast<std::uint32_t>(random());
    return parcel;
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
    int connections = 0;
    for (int i = 0; i < std::atoi(argv[2]); ++i) {
        char bytes[sizeof(Parcel) + 64] = {};
        const Parcel parcel = make_parcel(random);
        std::memcpy(bytes, &parcel, sizeof parcel);
        if (random() % 4 == 0)
            bytes[random() % sizeof parcel] = static_cast<char>(random());
        const std::size_t length = random() % 4 ? sizeof parcel : 1 + random() % sizeof bytes;
        std::vector<int> fds;
        Connection ours(random() % 2 ? AF_INET : AF_INET6);
        for (unsigned count = random() % 4 ? 1 : random() % kMost; count > 0; --count)
            fds.push_back(random() % 2 ? ours.server.get() : strange[random() % strange.size()].get());
        std::erase(fds, -1);
        if (throw_it(channel, bytes, length, fds) < 0)
            return 1;
        if (random() % 3 == 0 && ours.client) [[maybe_unused]]
            const auto n = write(ours.client.get(), "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
        ++connections;
    }
    std::printf("thrown %d\n", connections);
    return 0;
}
