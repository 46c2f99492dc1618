#include "hybrid/channel.hpp"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>

namespace hybrid {

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
    message.msg_controllen = sizeof control;
    ssize_t length;
    do
        length = recvmsg(from_, &message, MSG_CMSG_CLOEXEC);
    while (length < 0 && errno == EINTR);
    if (length < 0)
        return {errno, -1, false};
    if (length == 1)
        return {ENOMSG, -1, false};
    const cmsghdr *rights = CMSG_FIRSTHDR(&message);
    if (!rights || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS)
        return {message.msg_flags & MSG_CTRUNC ? EMFILE : EPROTO, -1, false};
    std::memcpy(&fd, CMSG_DATA(rights), sizeof fd);
    const bool understood =
        length == sizeof read && !(message.msg_flags & MSG_TRUNC) && read.version == Parcel::kVersion;
    if (understood)
        parcel = read;
    return {0, fd, understood};
}

} // namespace hybrid
