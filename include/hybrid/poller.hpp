// epoll as a type: who wants to hear what of which descriptor, and a way to wake the one who waits.
#pragma once

#include "hybrid/clock.hpp"
#include "hybrid/fd.hpp"

#include <span>
#include <sys/epoll.h>

namespace hybrid {

/// A hook in whatever can be polled; it comes back with the event.
struct PollTarget {
    enum class Kind : unsigned char { Wake, Listen, Client };
    explicit PollTarget(Kind k) : kind(k) {}
    const Kind kind;
};

enum class Readiness { Readable, Writable };

/// wait() belongs to one thread at a time; everything else may be called from any.
class Poller {
  public:
    Poller() = default;
    Poller(const Poller &) = delete;

    /// Makes the descriptors; errno when that fails, else 0.
    [[nodiscard]] int open();

    /// Reports readiness until told otherwise (listening sockets); of several processes that wait for it, not all are
    /// woken. All return errno or 0.
    [[nodiscard]] int watch(int fd, PollTarget &target);
    /// Reports the next readiness, once; then the descriptor is silent, even about errors, until armed again.
    /// `known`: it was armed before and not forgotten since.
    [[nodiscard]] int arm(int fd, PollTarget &target, Readiness what, bool known);
    /// No event of this descriptor is reported by the next wait() any more.
    void forget(int fd);

    /// Makes wait() return, now or the next time. Async-signal-safe.
    void wake();

    /// Waits until `until` at most. What came stays valid until the next call. Wakes are not among it: woken() says
    /// whether the last wait() has taken one in, which then doesn't end the next.
    std::span<const epoll_event> wait(Time until);
    bool woken() const { return woken_; }

  private:
    static constexpr int kBatch = 128;
    Fd epoll_;
    Fd wake_;
    PollTarget wake_target_{PollTarget::Kind::Wake};
    bool woken_ = false;
    epoll_event events_[kBatch];
};

inline PollTarget &target_of(const epoll_event &event)
{
    return *static_cast<PollTarget *>(event.data.ptr);
}

} // namespace hybrid
