#include "hybrid/poller.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <sys/eventfd.h>

namespace hybrid {

namespace {

int control(int epoll, int operation, int fd, PollTarget &target, std::uint32_t events)
{
    epoll_event event{};
    event.events = events;
    event.data.ptr = &target;
    return epoll_ctl(epoll, operation, fd, &event) == 0 ? 0 : errno;
}

} // namespace

int Poller::open()
{
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_)
        return errno;
    return control(epoll_.get(), EPOLL_CTL_ADD, wake_.get(), wake_target_, EPOLLIN);
}

int Poller::watch(int fd, PollTarget &target)
{
    return control(epoll_.get(), EPOLL_CTL_ADD, fd, target, EPOLLIN | EPOLLEXCLUSIVE);
}

int Poller::arm(int fd, PollTarget &target, Readiness what, bool known)
{
    const std::uint32_t interest = what == Readiness::Writable ? EPOLLOUT : EPOLLIN;
    return control(epoll_.get(), known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, target, interest | EPOLLONESHOT);
}

void Poller::forget(int fd)
{
    epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void Poller::wake()
{
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(wake_.get(), &one, sizeof one); // full means: woken already
}

std::span<const epoll_event> Poller::wait(Time until)
{
    int timeout = -1;
    if (until != kNever) // rounded up: never back before the time
        timeout = static_cast<int>(std::clamp<Time>((until - now() + 999) / 1000, 0, INT_MAX));
    int count = epoll_wait(epoll_.get(), events_, kBatch, timeout);
    woken_ = false;
    for (int i = 0; i < count; ++i) {
        if (target_of(events_[i]).kind != PollTarget::Kind::Wake)
            continue;
        std::uint64_t wakes;
        [[maybe_unused]] const auto drained = read(wake_.get(), &wakes, sizeof wakes);
        events_[i] = events_[--count];
        woken_ = true;
        break;
    }
    return {events_, static_cast<std::size_t>(std::max(count, 0))};
}

} // namespace hybrid
