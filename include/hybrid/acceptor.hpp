// A child's listening sockets: when new connections are taken, how many at a time, and what an error means.
#pragma once

#include "hybrid/connection.hpp"
#include "hybrid/poller.hpp"

#include <atomic>
#include <climits>
#include <deque>

namespace hybrid {

struct Config;

/// The listener's thread, unless said otherwise.
class Acceptor {
  public:
    /// `turn` is what workers run for the connections made here.
    Acceptor(const Config &config, Slot &slot, Scheduler &scheduler, Pools &pools, Poller &poller, Runnable::Run turn);
    Acceptor(const Acceptor &) = delete;

    /// Registers the sockets. errno or 0. Child's main thread, before the listener runs.
    [[nodiscard]] int open(ap_listen_rec *listeners);

    /// Takes what is there, several at a time, and hands it to the scheduler; stops listening when the child has
    /// enough (S40) and after an error that says something has run out (K14).
    void on_readable(PollTarget &socket, Time now);
    /// Listens again when that is due. Call it before every wait.
    void reconsider(Time now);
    /// When to call reconsider() at the latest.
    Time next_due() const { return disabled() && !closed_ ? again_at_ : kNever; }

    /// Closes this child's copies of the sockets, for good.
    void close();

    /// MaxConnectionsPerChild have been accepted.
    bool used_up() const { return accepts_left_ <= 0; }

    /// Any thread: a connection's end is worth a wake-up of the listener.
    bool disabled() const { return disabled_.load(); }

  private:
    struct Socket : PollTarget {
        explicit Socket(ap_listen_rec *r) : PollTarget(Kind::Listen), record(r) {}
        ap_listen_rec *record;
        int fd = -1;
    };

    bool accept_one(Socket &socket, Time now);
    void on_error(apr_status_t status, Time now);
    void pause(apr_status_t status, Time now);
    bool descriptors_left(int listening);
    bool room() const;
    void disable(const char *why);

    const Config &config_;
    Slot &slot_;
    Scheduler &scheduler_;
    Pools &pools_;
    Poller &poller_;
    const Runnable::Run turn_;
    std::deque<Socket> sockets_; // they stay where they are: epoll points at them
    ap_listen_rec *listeners_ = nullptr;
    std::atomic<bool> disabled_{false};
    bool closed_ = false;
    int accepts_left_;
    Time again_at_ = kNever; // after an error: not before; kNever: when there is room
    Duration pause_ = 0;
    Time quiet_until_ = 0; // the next message about that not before
    int descriptor_limit_; // connections get numbers below this, files that requests need the rest
    int most_connections_ = INT_MAX;
    bool near_limit_ = false;
};

} // namespace hybrid
