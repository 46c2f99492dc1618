// SPDX-License-Identifier: Apache-2.0
// What must hold whatever anybody writes into the channel: shared by libFuzzer's target and the unit test.
#pragma once

#include "hybrid/channel.hpp"
#include "hybrid/fd.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <sys/socket.h>

namespace fuzz {

/// The channel, and one descriptor of each kind that somebody might send.
struct ChannelUnderTest {
    static constexpr int kKinds = 4;
    static constexpr int kMost = 8;
    hybrid::Fd to, from;
    hybrid::Fd kinds[kKinds];

    ChannelUnderTest()
    {
        int a = -1;
        int b = -1;
        static_cast<void>(hybrid::Channel::make(a, b));
        to = hybrid::Fd(a);
        from = hybrid::Fd(b);
        kinds[0] = hybrid::Fd(open("/dev/null", O_RDONLY | O_CLOEXEC));
        kinds[1] = hybrid::Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
        kinds[2] = hybrid::Fd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        kinds[3] = hybrid::Fd(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    }

    void send(std::string_view bytes, unsigned count, unsigned which) const
    {
        iovec part = {const_cast<char *>(bytes.data()), bytes.size()};
        alignas(cmsghdr) char control[CMSG_SPACE(kMost * sizeof(int))] = {};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        if (count > 0) {
            message.msg_control = control;
            message.msg_controllen = CMSG_SPACE(count * sizeof(int));
            cmsghdr *rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(count * sizeof(int));
            for (unsigned i = 0; i < count; ++i) {
                const int fd = kinds[(which >> (2 * i)) % kKinds].get();
                std::memcpy(CMSG_DATA(rights) + i * sizeof fd, &fd, sizeof fd);
            }
        }
        sendmsg(to.get(), &message, MSG_NOSIGNAL);
    }
};

inline int lowest_free_descriptor()
{
    return hybrid::Fd(fcntl(0, F_DUPFD_CLOEXEC, 0)).get();
}

/// nullptr, or what is wrong.
inline const char *check_channel(const ChannelUnderTest &test, std::string_view bytes, unsigned count, unsigned which)
{
    using namespace hybrid;
    const int free_before = lowest_free_descriptor();
    test.send(bytes, count %= ChannelUnderTest::kMost, which);
    const Channel channel(test.to.get(), test.from.get());
    Parcel parcel;
    parcel.keepalives = 4711;
    {
        const Channel::Received received = channel.receive(parcel);
        const Fd fd(received.fd);
        if (received.error ? received.fd != -1 || received.understood || parcel.keepalives != 4711 : !fd)
            return "a descriptor and an error, or neither";
        if (received.error && received.error != EBADMSG && received.error != ENOMSG && received.error != EAGAIN)
            return "an error that nobody knows";
        if (!received.error && count != 1)
            return "not exactly one descriptor was sent";
        if (received.understood &&
            (bytes.size() != sizeof parcel || std::memcmp(bytes.data(), &parcel, sizeof parcel) != 0))
            return "what was received is not what was sent";
        sockaddr_in6 address;
        if (fd && find_client(fd.get(), address) == 0)
            return "that was no client";
        if (received.understood && parcel.plausible(seconds(1000), 4)) {
            // What is done with them must be defined for whatever is plausible.
            const bool sane = parcel.expires >= 0 && seconds(1000) - parcel.begins >= 0 &&
                              later(parcel.begins, seconds(20)) >= parcel.begins && parcel.keepalives + 1 > 0;
            if (!sane)
                return "that is not plausible";
        }
    }
    if (lowest_free_descriptor() != free_before)
        return "a descriptor is left";
    return channel.receive(parcel).error == EAGAIN ? nullptr : "something is left in the channel";
}

} // namespace fuzz
