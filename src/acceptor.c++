#include "hybrid/acceptor.hpp"

#include "hybrid/config.hpp"

#include <algorithm>
#include <climits>
#include <fcntl.h>
#include <sys/resource.h>

namespace hybrid {

namespace {

constexpr int kAcceptsAtOnce = 16;
constexpr Duration kFirstPause = milliseconds(50);
constexpr Duration kLongestPause = seconds(1);
constexpr Duration kQuietTime = seconds(60); // between two messages about the same shortage

/// Requests open files, too, two for each worker at a time or so: that much, but not more than half, is kept for them,
/// or a full table would fail them all.
int connection_descriptors(int workers)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur > INT_MAX)
        return INT_MAX;
    const int all = static_cast<int>(limit.rlim_cur);
    return all - std::min(2 * workers, all / 2);
}

} // namespace

Acceptor::Acceptor(const Config &config, Slot &slot, Scheduler &scheduler, Pools &pools, Poller &poller,
                   Runnable::Run turn)
    : config_(config), slot_(slot), scheduler_(scheduler), pools_(pools), poller_(poller), turn_(turn),
      accepts_left_(ap_max_requests_per_child > 0 ? ap_max_requests_per_child : INT_MAX),
      descriptor_limit_(connection_descriptors(config.threads_per_child))
{
}

int Acceptor::open(ap_listen_rec *listeners)
{
    listeners_ = listeners;
    const Fd lowest(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)); // all below are taken for good
    if (lowest)
        most_connections_ = std::max(1, descriptor_limit_ - lowest.get());
    for (ap_listen_rec *record = listeners; record; record = record->next) {
        Socket &socket = sockets_.emplace_back(record);
        apr_os_sock_get(&socket.fd, record->sd);
        apr_socket_opt_set(record->sd, APR_SO_NONBLOCK, 1);
        record->accept_func = ap_unixd_accept;
        if (const int error = poller_.watch(socket.fd, socket))
            return error;
    }
    return 0;
}

void Acceptor::on_readable(PollTarget &target, Time now)
{
    auto &socket = static_cast<Socket &>(target);
    for (int i = 0; i < kAcceptsAtOnce && !closed_ && !disabled() && !used_up(); ++i) {
        if (!room()) {
            disable(scheduler_.load().parked ? "Too many open connections" : "All workers busy");
            return;
        }
        if (!accept_one(socket, now))
            return;
    }
}

// There is an idle worker for the next connection, and the child is not above the limit that AsyncRequestWorkerFactor
// sets (connections_above_limit() in server/mpm/event/event.c, which is stricter by one worker once the child has
// stopped accepting: a moment without idle workers could then keep it from accepting for as long as its connections
// live).
bool Acceptor::room() const
{
    const std::size_t idle = scheduler_.load().parked;
    if (idle == 0)
        return false;
    const std::size_t open = slot_.connections();
    const std::size_t closing = slot_.closing();
    const std::size_t extra = idle * config_.worker_factor / Config::kFactorScale;
    return open <= closing || open - closing < config_.threads_per_child + extra;
}

bool Acceptor::accept_one(Socket &socket, Time now)
{
    if (!descriptors_left(socket.fd)) {
        pause(APR_EMFILE, now);
        return false;
    }
    apr_pool_t *pool = pools_.get();
    if (!pool) {
        pause(APR_ENOMEM, now);
        return false;
    }
    apr_socket_t *client = nullptr;
    const apr_status_t status = apr_socket_accept(&client, socket.record->sd, pool);
    if (status != APR_SUCCESS) {
        pools_.put(pool);
        on_error(status, now);
        return false;
    }
    pause_ = 0;
    apr_os_sock_t fd = -1;
    apr_os_sock_get(&fd, client);
    near_limit_ = fd >= descriptor_limit_;
    if (ap_max_requests_per_child > 0)
        --accepts_left_;
    scheduler_.push(*Connection::accept(client, pool, pools_, slot_, turn_).release());
    return true;
}

// The kernel gives out the lowest free number, so the last one says how full the table is; only when that was near the
// limit is it worth asking before the next. But files that come and go meanwhile may have the low numbers and
// connections the high ones, so these are counted, too.
bool Acceptor::descriptors_left(int listening)
{
    if (slot_.connections() >= static_cast<unsigned>(most_connections_))
        return false;
    if (!near_limit_)
        return true;
    const Fd lowest(fcntl(listening, F_DUPFD_CLOEXEC, 0));
    near_limit_ = !lowest || lowest.get() >= descriptor_limit_;
    return !near_limit_;
}

// What only concerns one client, or says that there is none, is none of our business (ap_unixd_accept() in
// os/unix/unixd.c has the list). Everything else means something has run out.
void Acceptor::on_error(apr_status_t status, Time now)
{
    switch (status) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case EPROTO:
    case ECONNRESET:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return;
    default:
        pause(status, now);
    }
}

// Connections that are there go on; accepting pauses, first shortly, then up to a second (K14).
void Acceptor::pause(apr_status_t status, Time now)
{
    if (now >= quiet_until_) {
        quiet_until_ = later(now, kQuietTime);
        ap_log_error(APLOG_MARK, APLOG_ERR, status, ap_server_conf,
                     HYBLOGNO(0001) "can't accept more connections; pausing until that is possible again");
    }
    pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
    again_at_ = later(now, pause_);
    disable("Short of resources");
}

void Acceptor::disable(const char *why)
{
    disabled_.store(true);
    for (Socket &socket : sockets_)
        poller_.forget(socket.fd);
    slot_.set_accepting(false);
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf, "%s, not accepting new conns in this process (%u open)",
                 why, slot_.connections());
}

void Acceptor::reconsider(Time now)
{
    if (closed_ || !disabled())
        return;
    if (again_at_ != kNever && now < again_at_)
        return;
    // Asked for before looking: a worker that parks in between wakes the listener.
    scheduler_.tell_when_parked({[](void *poller) { static_cast<Poller *>(poller)->wake(); }, &poller_});
    if (!room())
        return;
    again_at_ = kNever;
    for (Socket &socket : sockets_) {
        if (const int error = poller_.watch(socket.fd, socket)) {
            pause(error, now);
            return;
        }
    }
    disabled_.store(false);
    slot_.set_accepting(true);
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 APLOGNO(00457) "Accepting new connections again: %u active conns (%u lingering/%u suspended), "
                                "%d idle workers",
                 slot_.connections(), slot_.closing(), slot_.suspended(), static_cast<int>(scheduler_.load().parked));
}

void Acceptor::close()
{
    if (closed_)
        return;
    closed_ = true;
    for (Socket &socket : sockets_)
        poller_.forget(socket.fd);
    ap_close_listeners_ex(listeners_);
}

} // namespace hybrid
