// One client's connection: its socket, httpd's records of it, and the state it is in.
#pragma once

#include "hybrid/arrival.hpp"
#include "hybrid/channel.hpp"
#include "hybrid/close_reason.hpp"
#include "hybrid/conn_state.hpp"
#include "hybrid/deadlines.hpp"
#include "hybrid/dormancy.hpp"
#include "hybrid/goodbye.hpp"
#include "hybrid/httpd.hpp"
#include "hybrid/poller.hpp"
#include "hybrid/pools.hpp"
#include "hybrid/scheduler.hpp"
#include "hybrid/slot.hpp"

#include <cstdint>
#include <memory>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace hybrid {

class Connection;
class TlsInput;

struct ConnectionCloser {
    void operator()(Connection *connection) const;
};
/// Holding it is owning the connection; dropping it closes the socket and ends the connection's pool.
using ConnectionPtr = std::unique_ptr<Connection, ConnectionCloser>;

/// The connection behind a hook that the caller has just taken out of its queue. Requires: it was put there with
/// release(), and is a connection's.
ConnectionPtr owner_of(Timed &item);
ConnectionPtr owner_of(Runnable &work);

/// What is looked for in a connection's first bytes.
enum class Expects : std::uint8_t {
    Nothing, ///< its module may want to speak first, or knows better
    Head,    ///< a head of HTTP/1
    Request, ///< the same, and its body as far as it fits
    Record,  ///< TLS: its first record, and then `inside`
};
constexpr unsigned kExpectsKinds = static_cast<unsigned>(Expects::Record) + 1;

/// Who has connected.
struct Peer {
    int fd = -1;
    Expects expects = Expects::Nothing;
    Expects inside = Expects::Nothing;
    const sockaddr *local = nullptr;    ///< the listening socket's address, if it is bound to one
    const server_rec *server = nullptr; ///< whose timeouts count; nullptr: the main server's
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
    } address{};
};

/// Dormant at first: a descriptor and a few facts, no pool, no conn_rec. Exactly one owner at a time, and only the
/// owner calls anything here; owners are a worker's turn, the scheduler's queue, and the listener (conn_state.def says
/// which, for each state).
class Connection : public Runnable, public Timed, public PollTarget {
  public:
    /// Takes an accepted socket. `turn` is what a worker runs on it. Listener. nullptr: no memory.
    static ConnectionPtr accept(const Peer &peer, Pools &pools, Slot &slot, Run turn);
    /// Takes one over that another child has sent, Arriving or in KeepAlive; without a parcel it is one between two
    /// requests of which nothing is known. Requires: the parcel is plausible. Listener. nullptr: no memory.
    static ConnectionPtr adopt(const Parcel *parcel, int fd, const sockaddr_in6 &address, Pools &pools, Slot &slot,
                               Run turn);
    /// Nobody could tell if it went on elsewhere, while no worker has it: it is dormant, or has just been put to sleep
    /// for that. Listener.
    bool movable(const Dormancy &dormancy);
    /// What is said of it on its way. Requires: movable().
    Parcel parcel() const;

    ConnState state() const { return state_; }
    /// Where the state changes; asserts that the table knows the step. An event that ends the connection, or goes on
    /// with that, comes with a reason, of which the first counts.
    void transit(ConnEvent event);
    void end(ConnEvent event, CloseReason reason);

    /// Makes pool, socket and httpd's conn_rec, and runs the hooks of a new connection; on the worker of `row`. What
    /// comes back is ap_pre_connection()'s: OK, DONE, or why not (then drop the connection).
    int open(apr_thread_t *thread, int row, ap_filter_rec_t *tls_filter);
    bool opened() const { return c_ != nullptr; }
    /// Between two requests: gives everything back that open() has made, if `dormancy` has nothing against that. False:
    /// it has. Listener.
    bool sleep(const Dormancy &dormancy);
    /// How long it stays idle after it could have gone to sleep.
    void set_rest(Duration rest) { rest_ = rest; }
    /// When its idleness ends; kNever if that is no longer known.
    Time idle_until() const { return later(expires, rest_); }
    Duration take_rest() { return std::exchange(rest_, 0); }

    /// One line about it, for people: who, what, for how long. With what is asked, for who does not work on it: nothing
    /// of its pool is looked at.
    std::string describe(const std::string &host, const std::string &request, Duration length) const;
    /// Parked in WaitIo or WriteCompletion.
    std::string describe(Duration length) const;

    /// The connection changes hands between a thread and the MPM: tells the modules (R15, R16).
    void suspend();
    void resume(apr_thread_t *thread, int row);

    conn_rec *record() const { return c_; }
    conn_state_t &mailbox() { return mailbox_; }
    apr_socket_t *socket() const { return socket_; }
    int fd() const { return peer_.fd; }

    /// It speaks HTTP/2. Requires: opened().
    bool http2() const { return Goodbye::concerns(c_); }
    Goodbye &goodbye() { return goodbye_; }

    /// Timeout and KeepAliveTimeout of the virtual host that is in charge at the moment.
    Duration timeout() const { return timeouts_of_->timeout; }
    Duration keep_alive_timeout() const { return timeouts_of_->keep_alive_timeout; }

    /// Is a whole request here? Consumes nothing. Do not call again until the socket is reported readable. Owner: a
    /// worker in its turn, else the listener.
    enum class Here {
        Nothing, ///< no byte of it
        Part,    ///< some bytes
        Head,    ///< the head, of a body more is awaited
        Whole,   ///< or what httpd must see
        Gone,    ///< the client, without a word: only of a dormant one
    };
    Here look(const RequestLimits &limits);
    /// How long its request may take in all, from begins() on, considering what has come so far.
    Duration request_timeout() const;
    /// Takes into account what has come since the last look, without looking at it. Listener.
    void count_unread();
    /// Since when its client may take that long: since the request began, or since its head was here.
    Time begins() const { return begins_; }
    void begin_request(Time begins) { begins_ = begins; }
    /// TLS: only a worker can look what is here.
    bool needs_worker_to_look() const { return tls_ != nullptr; }
    bool shakes_hands() const;
    bool holds_part() const { return part_.bytes > 0; }
    /// It need not be looked at before the next run of the hooks: that has been done, or would tell nothing.
    bool looked() const { return looked_ || peer_.expects == Expects::Nothing; }
    void set_looked(bool looked)
    {
        looked_ = looked;
        if (looked && !late_) { // the next request has its own time
            begins_ = 0;
            in_body_ = false;
        }
    }
    void expect_nothing() { peer_.expects = Expects::Nothing; }
    /// Its requests are answered with 503 (MaxWaitingRequests).
    void set_refused(bool refused) { refused_ = refused; }
    bool refused() const { return refused_; }
    /// While it waits for a worker: a request begins with its next turn, and nothing of it has been read.
    bool between_requests() const { return state_ == ConnState::Ready && !late_ && (!opened() || was_idle_); }
    /// From now on reads don't wait: what is not here by now is late (408).
    void set_late() { late_ = true; }
    bool late() const { return late_; }

    /// After each answer core looks whether the next request is there already (ap_check_pipeline() in
    /// modules/http/http_request.c), before the answer is written. It need not ask the kernel when the last read gave
    /// all there was: what comes after it is seen when the connection is parked. take_drained() is true once after such
    /// a read and an answer; only once, because modules that poll the socket themselves (mod_http2) must not be told so
    /// for ever.
    void set_drained(bool drained) { drained_ = drained; }
    void set_answered() { answered_ = true; }
    bool take_drained() { return looking_ ? drained_ : answered_ && std::exchange(drained_, false); }
    /// A read has brought the end, or an error.
    void set_ended() { ended_ = true; }
    bool ended() const { return ended_; }
    /// client_io's.
    void set_output(void *output) { output_ = output; }
    void *output() const { return output_; }

    /// The client has sent something that nobody has read: asks the kernel.
    bool input_waits() const;

    /// The connection behind a conn_rec; nullptr for one that is not ours (H21) or a secondary one.
    static Connection *of(const conn_rec *c);

    /// Hook bodies; on the thread that has the connection.
    static void on_pre_read_request(request_rec *r, conn_rec *c);
    static int on_post_read_request(request_rec *r, int retry_after);
    static void on_protocol_switch(const conn_rec *c, const server_rec *s);

  private:
    friend struct ConnectionCloser;
    Connection(const Peer &peer, Pools &pools, Slot &slot, Run turn);
    void step(ConnEvent event);
    Here judge(std::string_view bytes, const RequestLimits &limits);
    Here look_from_outside(const RequestLimits &limits);
    Here look_live(const RequestLimits &limits);
    Here look_inside(const RequestLimits &limits);
    bool keep_copy(std::string_view bytes);
    void forget_part();
    bool await(std::size_t bytes);
    static std::uint64_t key_of(const server_rec *server);
    static const server_rec *server_of(std::uint64_t key);
    bool make_socket();
    static apr_status_t on_pool_cleanup(void *self);
    static apr_status_t on_request_cleanup(void *request);

    Pools &pools_;
    Slot &slot_;
    Peer peer_;
    ConnState state_ = kConnEntry;
    std::optional<CloseReason> reason_; // once it is about to end
    bool was_idle_ = false;             // until just now
    bool looked_ = false;
    bool looking_ = false;
    bool refused_ = false;
    bool late_ = false;
    bool ended_ = false;
    bool in_body_ = false; // the head is whole, begins_ is the body's
    int awaited_ = 1;      // bytes in the kernel, before it reports the socket readable; 1 but in Arriving
    /// Of a request that is not whole. Whoever leaves Arriving for a turn has none (forget_part()).
    struct Part {
        std::size_t bytes = 0;        // so many were here at the last look
        std::size_t head = 0;         // of these, the head's, when that is whole
        std::size_t read = 0;         // of these, in core's input filter, which has them from the kernel
        std::unique_ptr<char[]> copy; // of these
    };
    Part part_;
    Time begins_ = 0;
    Duration rest_ = 0;
    int keepalives_ = 0;    // while it sleeps
    std::string log_id_;    // the same
    bool personal_ = false; // an authentication belongs to it

    apr_pool_t *pool_ = nullptr;
    apr_socket_t *socket_ = nullptr;
    bool suspended_ = false; // as far as the modules know
    bool drained_ = false;
    bool answered_ = false; // the last request, as far as core's filters
    conn_rec *c_ = nullptr;
    request_rec *request_ = nullptr;
    ap_sb_handle_t *sbh_ = nullptr;
    apr_bucket_alloc_t *buckets_ = nullptr;
    apr_bucket_brigade *look_ = nullptr;
    void *output_ = nullptr;
    TlsInput *tls_ = nullptr;
    conn_state_t mailbox_{};
    Goodbye goodbye_;
    const server_rec *timeouts_of_;
};

/// Gives a secondary connection (a stream of HTTP/2) a state of its own, so that it does not share its master's (H24),
/// which hears that a stream has begun. pre_connection hook, on a thread of mod_http2.
void adopt_secondary(conn_rec *c);

} // namespace hybrid
