// SPDX-License-Identifier: Apache-2.0
// epoll as a type: who wants to hear what of which descriptor, and a way to wake the one who waits.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/fd.hpp"
#include "hybrid/mutex.hpp"

#include <atomic>
#include <span>
#include <sys/epoll.h>
#include <vector>

namespace hybrid {

enum class Interest : unsigned char {
    None,
    Readable,
    Writable,
    ReadableOnce, ///< after one event silent, even about errors, until armed again
    Spent,        ///< that has had its event; not to be asked for
};

/// A hook in whatever can be polled. In one Poller, with one descriptor, at most.
class PollTarget {
  public:
    enum class Kind : unsigned char { Wake, Listen, Client };
    explicit PollTarget(Kind k) : kind(k) {}
    const Kind kind;

  private:
    friend class Poller;
    Interest interest_ = Interest::None;
    unsigned armed_in_ = 0;
};

/// wait() belongs to one thread at a time; everything else may be called from any, but for one target by one at a time.
class Poller {
  public:
    Poller() = default;
    Poller(const Poller &) = delete;

    /// Makes the descriptors; errno when that fails, else 0.
    [[nodiscard]] int open();
    /// Readable when wait() would return at once.
    int fd() const { return epoll_.get(); }

    /// Reports readiness until told otherwise (listening sockets); of several processes that wait for it, not all are
    /// woken (K13). All return errno or 0.
    [[nodiscard]] int watch(int fd, PollTarget &target) EXCLUDES(mu_);
    /// The next event of a watched one wakes another process, if any waits for it.
    [[nodiscard]] int requeue(int fd, PollTarget &target) EXCLUDES(mu_);
    /// Reports what it is interested in as long as that is so. Costs a system call only when the interest changes: who
    /// has taken an event in and will come back leaves it armed meanwhile, and what is reported of it is stale() or
    /// somebody's mistake, to be forgotten.
    [[nodiscard]] int arm(int fd, PollTarget &target, Interest interest) EXCLUDES(mu_);
    /// The event of a target that was armed once has come: before it is closed there is nothing to forget in the
    /// kernel.
    void spent(PollTarget &target) { target.interest_ = Interest::Spent; }
    /// No event of this descriptor is reported any more. Before it is closed: another process may have it, too.
    void forget(int fd, PollTarget &target) EXCLUDES(mu_);

    /// Whose event that is; nullptr when it has been forgotten since wait() returned.
    PollTarget *target_of(const epoll_event &event) EXCLUDES(mu_);
    /// It was armed after the last wait() began, whose event may be of the time before. What is true comes again.
    bool stale(const PollTarget &target) const { return target.armed_in_ == waits_.load(); }

    /// Makes wait() return, now or the next time. Async-signal-safe.
    void wake();

    /// Waits until `until` at most. What came stays valid until the next call. Wakes are not among it: woken() says
    /// whether the last wait() has taken one in, which then doesn't end the next.
    std::span<const epoll_event> wait(Time until);
    bool woken() const { return woken_; }

  private:
    static constexpr int kBatch = 128;
    int control(int operation, int fd, PollTarget &target, std::uint32_t events) EXCLUDES(mu_);
    /// The target that the descriptor had before.
    PollTarget *set_target(int fd, PollTarget *target) EXCLUDES(mu_);

    Fd epoll_;
    Fd wake_;
    PollTarget wake_target_{PollTarget::Kind::Wake};
    bool woken_ = false;
    std::atomic<unsigned> waits_{0};
    epoll_event events_[kBatch];
    Mutex mu_;
    std::vector<PollTarget *> targets_ GUARDED_BY(mu_); // by descriptor
};

} // namespace hybrid
