// SPDX-License-Identifier: Apache-2.0
#include "hybrid/poller.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <sys/eventfd.h>
#include <utility>

namespace hybrid {

int Poller::open()
{
    epoll_ = Fd(epoll_create1(EPOLL_CLOEXEC));
    wake_ = Fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!epoll_ || !wake_)
        return errno;
    return control(EPOLL_CTL_ADD, wake_.get(), wake_target_, EPOLLIN);
}

int Poller::control(int operation, int fd, PollTarget &target, std::uint32_t events)
{
    PollTarget *before = nullptr;
    if (operation == EPOLL_CTL_ADD && fd >= 0)
        before = set_target(fd, &target);
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    if (epoll_ctl(epoll_.get(), operation, fd, &event) == 0)
        return 0;
    const int error = errno;
    if (operation == EPOLL_CTL_ADD && fd >= 0)
        set_target(fd, before); // whose it is, when it is registered already
    return error;
}

PollTarget *Poller::set_target(int fd, PollTarget *target)
{
    const Lock lock(mu_);
    if (targets_.size() <= static_cast<std::size_t>(fd))
        targets_.resize(fd + 1);
    return std::exchange(targets_[fd], target);
}

// The kernel wakes who has been in the queue longest.
int Poller::requeue(int fd, PollTarget &target)
{
    forget(fd, target);
    return watch(fd, target);
}

int Poller::watch(int fd, PollTarget &target)
{
    const int error = control(EPOLL_CTL_ADD, fd, target, EPOLLIN | EPOLLEXCLUSIVE);
    if (!error)
        target.interest_ = Interest::Readable;
    return error;
}

int Poller::arm(int fd, PollTarget &target, Interest interest)
{
    target.armed_in_ = waits_.load();
    if (interest == target.interest_ && interest != Interest::ReadableOnce)
        return 0;
    const int operation = target.interest_ == Interest::None ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    const std::uint32_t direction = interest == Interest::Writable ? EPOLLOUT : EPOLLIN;
    const std::uint32_t once = interest == Interest::ReadableOnce ? std::uint32_t{EPOLLONESHOT} : 0;
    const int error = control(operation, fd, target, direction | once);
    if (!error)
        target.interest_ = interest;
    return error;
}

void Poller::forget(int fd, PollTarget &target)
{
    const Interest interest = std::exchange(target.interest_, Interest::None);
    if (interest == Interest::None)
        return;
    // Core may have closed the descriptor, and its number may be somebody else's by now (W42).
    const Lock lock(mu_);
    if (targets_[fd] != &target)
        return;
    if (interest != Interest::Spent)
        epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
    targets_[fd] = nullptr;
}

PollTarget *Poller::target_of(const epoll_event &event)
{
    const Lock lock(mu_);
    return targets_[event.data.fd];
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
    ++waits_;
    int count = epoll_wait(epoll_.get(), events_, kBatch, timeout);
    woken_ = false;
    for (int i = 0; i < count; ++i) {
        if (events_[i].data.fd != wake_.get())
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
