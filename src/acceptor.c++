// SPDX-License-Identifier: Apache-2.0
#include "hybrid/acceptor.hpp"

#include "hybrid/config.hpp"

#include <algorithm>
#include <climits>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace hybrid {

namespace {

constexpr int kAcceptsAtOnce = 16;
constexpr int kMaxAccepts = 128;         // as many events as the poller reports
constexpr std::size_t kSmoothRun = 1000; // pieces of work
constexpr Duration kFirstPause = milliseconds(50);
constexpr Duration kLongestPause = seconds(1);
constexpr Duration kCrowdedPause = milliseconds(10); // while workers are blocked
constexpr Duration kQuietTime = seconds(60);         // between two messages about the same shortage

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

bool is_wildcard(const apr_sockaddr_t &address)
{
    return address.family == APR_INET ? address.sa.sin.sin_addr.s_addr == INADDR_ANY
                                      : IN6_IS_ADDR_UNSPECIFIED(&address.sa.sin6.sin6_addr);
}

/// The virtual host in charge of connections to that socket, before any request names another.
const server_rec *server_at(const ap_listen_rec &record)
{
    conn_rec connection{};
    connection.local_addr = record.bind_addr;
    connection.base_server = ap_server_conf;
    if (record.bind_addr)
        ap_update_vhost_given_ip(&connection);
    return connection.base_server;
}

/// Whose clients speak first, and what? Protocols and AcceptFilter say so (S25): where it is "none" nothing is known.
Expects expects(const ap_listen_rec &record, Await await)
{
    if (await == Await::Nothing)
        return Expects::Nothing;
    const auto *core = static_cast<core_server_config *>(ap_get_core_module_config(ap_server_conf->module_config));
    const char *filter = record.protocol ? apr_table_get(core->accf_map, record.protocol) : nullptr;
    if (!filter || !ap_cstr_casecmp(filter, "none"))
        return Expects::Nothing;
    if (!ap_cstr_casecmp(record.protocol, "http"))
        return await == Await::Head ? Expects::Head : Expects::Request;
    return ap_cstr_casecmp(record.protocol, "https") ? Expects::Nothing : Expects::Record;
}

} // namespace

Acceptor::Acceptor(const Config &config, Slot &slot, Scheduler &scheduler, Poller &poller, Channel channel,
                   const Callbacks &callbacks)
    : config_(config), slot_(slot), scheduler_(scheduler), poller_(poller), channel_(channel), callbacks_(callbacks),
      accepts_left_(ap_max_requests_per_child > 0 ? ap_max_requests_per_child : INT_MAX),
      descriptor_limit_(connection_descriptors(config.threads_per_child))
{
}

int Acceptor::most_clients(int workers)
{
    const Fd lowest(fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0)); // all below are taken for good
    return connection_descriptors(workers) - (lowest ? lowest.get() : 0);
}

int Acceptor::open(ap_listen_rec *listeners)
{
    listeners_ = listeners;
    most_connections_ = std::max(1, most_clients(config_.threads_per_child));
    for (ap_listen_rec *record = listeners; record; record = record->next) {
        Socket &socket = sockets_.emplace_back(record);
        apr_os_sock_get(&socket.fd, record->sd);
        apr_socket_opt_set(record->sd, APR_SO_NONBLOCK, 1);
        record->accept_func = ap_unixd_accept;
        if (record->bind_addr && !is_wildcard(*record->bind_addr))
            socket.local = reinterpret_cast<const sockaddr *>(&record->bind_addr->sa);
        socket.expects = expects(*record, config_.await);
        socket.server = server_at(*record);
        if (const int error = poller_.watch(socket.fd, socket))
            return error;
    }
    if (!channel_)
        return 0;
    Socket &socket = sockets_.emplace_back(nullptr);
    socket.fd = channel_.from();
    return poller_.watch(socket.fd, socket);
}

void Acceptor::on_readable(PollTarget &target, Time now)
{
    auto &socket = static_cast<Socket &>(target);
    if (closed_)
        return;
    const bool more = take(socket, now);
    if (pausing())
        return;
    if (more && room() == 0) {
        crowded_.store(true);
        stop_listening(kCrowdedPause, now, "All workers busy");
    } else if (socket.record && nearly_full()) {
        step_aside(kFullPause, more, now);
    } else if (ahead(now)) {
        let_others(socket, more, now);
    }
}

// False: there is nothing left to take, or something has run out.
bool Acceptor::take(Socket &socket, Time now)
{
    for (int left = room(); left > 0 && !pausing() && !used_up(); --left) {
        if (!accept_one(socket, now))
            return false;
        if (ahead(now))
            return true;
    }
    return true;
}

// How many can be taken at once. Idle connections need no worker, and a queue of short requests none to itself: when
// nothing has blocked for long, as many as are heard of at once. But what is taken may block, hence not many more than
// there are workers; one in any case, because this child was woken and no other. What has to wait here can still go to
// another child.
int Acceptor::room() const
{
    const Scheduler::Load load = scheduler_.load();
    const int workers = config_.workers_per_child();
    if (static_cast<int>(load.at_work) >= workers)
        return config_.max_waiting > 0 ? kAcceptsAtOnce : 0; // they may wait here, or hear that they can't
    const int taken = static_cast<int>(load.at_work + load.queued);
    return load.turns_since_block >= kSmoothRun ? kMaxAccepts : std::clamp(workers - taken, 1, kAcceptsAtOnce);
}

bool Acceptor::accept_one(Socket &socket, Time now)
{
    if (!descriptors_left(socket)) {
        pause(APR_EMFILE, now);
        return false;
    }
    ClientPtr client = socket.record ? take_client(socket, now) : take_parcel(now);
    if (!client)
        return false;
    pause_ = 0;
    near_limit_ = client->fd() >= descriptor_limit_;
    callbacks_.arrived(callbacks_.loop, std::move(client));
    return true;
}

ClientPtr Acceptor::take_client(Socket &socket, Time now)
{
    Peer peer;
    peer.expects = socket.expects;
    peer.inside = config_.await == Await::Head ? Expects::Head : Expects::Request;
    peer.local = socket.local;
    peer.server = socket.server;
    socklen_t length = sizeof peer.address;
    peer.fd = accept4(socket.fd, &peer.address.any, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (peer.fd < 0) {
        on_error(errno, now);
        return nullptr;
    }
    ClientPtr client = Client::accept(peer, slot_, callbacks_.turn);
    if (!client) {
        ::close(peer.fd);
        pause(APR_ENOMEM, now);
    } else if (ap_max_requests_per_child > 0) {
        --accepts_left_;
    }
    return client;
}

ClientPtr Acceptor::take_parcel(Time now)
{
    Parcel parcel;
    const Channel::Received received = channel_.receive(parcel);
    if (received.error == ENOMSG)
        take_nudge(now);
    else if (received.error == EBADMSG)
        drop_parcel(now);
    else if (received.error)
        on_error(received.error, now);
    if (received.error)
        return nullptr;
    Fd fd(received.fd);
    sockaddr_in6 address{};
    const int error = find_client(fd.get(), address);
    if (error == EBADMSG || (received.understood && !parcel.plausible(hybrid::now(), kExpectsKinds)))
        drop_parcel(now);
    else if (!error)
        return adopt(received.understood ? &parcel : nullptr, std::move(fd), address, now);
    return nullptr;
}

ClientPtr Acceptor::adopt(const Parcel *parcel, Fd fd, const sockaddr_in6 &address, Time now)
{
    ClientPtr client = Client::adopt(parcel, fd.get(), address, slot_, callbacks_.turn);
    if (client)
        fd.release();
    else
        pause(APR_ENOMEM, now);
    return client;
}

void Acceptor::drop_parcel(Time now)
{
    ++dropped_;
    if (now < drop_told_at_ + kQuietTime && drop_told_at_ != 0)
        return;
    drop_told_at_ = now;
    ap_log_error(APLOG_MARK, APLOG_WARNING, 0, ap_server_conf,
                 HYBLOGNO(0027) "what came from another process is no client's connection, dropped (%u so far)",
                 dropped_);
}

// The kernel gives out the lowest free number, so the last one says how full the table is; only when that was near the
// limit is it worth asking before the next. But files that come and go meanwhile may have the low numbers and
// connections the high ones, so these are counted, too. Before a parcel it is always asked: accept(2) fails without a
// descriptor, and the client waits on; recvmsg(2) does not, and the client is lost.
bool Acceptor::descriptors_left(const Socket &socket)
{
    if (slot_.connections() >= static_cast<unsigned>(most_connections_))
        return false;
    if (!near_limit_ && socket.record)
        return true;
    const Fd lowest(fcntl(socket.fd, F_DUPFD_CLOEXEC, 0));
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
        pause_ = 0; // nothing is short
        return;
    default:
        pause(status, now);
    }
}

// Connections that are there go on; accepting pauses, first shortly, then up to a second (K14). Idle ones make room: as
// long as it takes when this process is full, but once when all processes are short of something. If that did not help,
// others have it.
void Acceptor::pause(apr_status_t status, Time now)
{
    if (slot_.tells_of_shortage(now, kQuietTime))
        ap_log_error(APLOG_MARK, APLOG_ERR, status, ap_server_conf,
                     HYBLOGNO(0001) "can't accept more connections; pausing until that is possible again");
    const bool all_short = status == ENFILE || status == ENOBUFS || status == ENOMEM;
    if (status == EMFILE || (all_short && pause_ == 0))
        callbacks_.make_room(callbacks_.loop, kAcceptsAtOnce);
    pause_ = std::clamp(pause_ * 2, kFirstPause, kLongestPause);
    stop_listening(pause_, now, "Short of resources");
    channel_.nudge(); // of those that wait for connections only one is woken for each, and that was this child
}

void Acceptor::stop_listening(Duration length, Time now, const char *why)
{
    again_at_.store(later(now, length));
    aside_until_ = kNever;
    for (Socket &socket : sockets_)
        poller_.forget(socket.fd, socket);
    slot_.set_accepting(false);
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf, "%s, not accepting new conns in this process (%u open)",
                 why, slot_.connections());
}

void Acceptor::reconsider(Time now)
{
    if (now >= aside_until_)
        come_back(now);
    if (now < again_at_.load() || !pausing())
        return;
    if (room() == 0) {
        again_at_.store(later(now, kCrowdedPause));
        return;
    }
    again_at_.store(kNever);
    crowded_.store(false);
    if (closed_ || !listen_again(true, now))
        return;
    slot_.set_accepting(true);
    ap_log_error(APLOG_MARK, APLOG_DEBUG, 0, ap_server_conf,
                 APLOGNO(00457) "Accepting new connections again: %u active conns (%u lingering/%u suspended), "
                                "%d idle workers",
                 slot_.connections(), slot_.closing(), slot_.suspended(),
                 config_.workers_per_child() - static_cast<int>(scheduler_.load().at_work));
}

bool Acceptor::listen_again(bool to_channel, Time now)
{
    for (Socket &socket : sockets_) {
        if (!socket.record && !to_channel)
            continue;
        if (const int error = poller_.watch(socket.fd, socket)) {
            pause(error, now);
            return false;
        }
    }
    return true;
}

void Acceptor::close(Time now, Waiting waiting)
{
    if (closed_)
        return;
    closed_ = true;
    aside_until_ = kNever;
    for (Socket &socket : sockets_)
        poller_.forget(socket.fd, socket);
    for (Socket &socket : sockets_)
        for (int left = kMaxAccepts; left > 0 && waiting == Waiting::AreTaken && !pausing() && accept_one(socket, now);)
            --left;
    ap_close_listeners_ex(listeners_);
}

} // namespace hybrid
