// SPDX-License-Identifier: Apache-2.0
#include "hybrid/channel.hpp"

#include "hybrid/fd.hpp"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>

namespace hybrid {

bool Parcel::plausible(Time now, unsigned kinds) const
{
    return kept_alive <= 1 && lowat <= 1 && in_body <= 1 && std::memchr(log_id, 0, sizeof log_id) && expects < kinds &&
           inside < kinds && keepalives >= 0 && keepalives < kMostRequests && expires >= 0 && begins >= 0 &&
           begins <= now;
}

int find_client(int fd, sockaddr_in6 &address)
{
    int type = 0;
    int domain = 0;
    socklen_t length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || type != SOCK_STREAM ||
        (domain != AF_INET && domain != AF_INET6))
        return EBADMSG;
    length = sizeof address;
    return getpeername(fd, reinterpret_cast<sockaddr *>(&address), &length) == 0 ? 0 : ENOTCONN;
}

int Channel::make(int &to, int &from)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0)
        return errno;
    to = ends[0];
    from = ends[1];
    return 0;
}

int Channel::send(const Parcel &parcel, int fd) const
{
    if (to_ < 0)
        return ENOTCONN;
    iovec part = {const_cast<Parcel *>(&parcel), sizeof parcel};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr *rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
    ssize_t sent;
    do
        sent = sendmsg(to_, &message, MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    return sent < 0 ? errno : 0;
}

void Channel::nudge() const
{
    if (to_ >= 0)
        static_cast<void>(::send(to_, "", 1, MSG_NOSIGNAL)); // full: they are awake
}

// The control buffer has room for one descriptor and not a byte more: what else comes the kernel closes, and says so.
Channel::Received Channel::receive(Parcel &parcel) const
{
    if (from_ < 0)
        return {ENOTCONN, -1, false};
    Parcel read;
    iovec part = {&read, sizeof read};
    int fd = -1;
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof fd)] = {};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = CMSG_LEN(sizeof fd);
    ssize_t length;
    do
        length = recvmsg(from_, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return {errno, -1, false};
    const cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (rights && rights->cmsg_level == SOL_SOCKET && rights->cmsg_type == SCM_RIGHTS &&
        rights->cmsg_len == CMSG_LEN(sizeof fd))
        std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    Fd received(fd);
    if (!received && message.msg_flags & MSG_CTRUNC)
        return {EMFILE, -1, false};
    if (!received && length == 1)
        return {ENOMSG, -1, false};
    const bool ours =
        static_cast<std::size_t>(length) >= sizeof read.version && (read.version & ~0xffU) == Parcel::kFamily;
    if (!received || !ours || message.msg_flags & MSG_CTRUNC)
        return {EBADMSG, -1, false};
    const bool same = read.version == Parcel::kVersion;
    if (same && (length != sizeof read || message.msg_flags & MSG_TRUNC))
        return {EBADMSG, -1, false};
    if (same)
        parcel = read;
    return {0, received.release(), same};
}

} // namespace hybrid
