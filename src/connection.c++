#include "hybrid/connection.hpp"

#include "hybrid/tls_input.hpp"

#include <arpa/inet.h>
#include <new>
#include <sys/socket.h>
#include <unistd.h>

namespace hybrid {

void ConnectionCloser::operator()(Connection *connection) const
{
    if (connection->state() != ConnState::Closed)
        connection->end(ConnEvent::Kill, CloseReason::Unknown);
    if (connection->socket_) {
        // A socket that a module took away (mod_proxy_fdpass) is -1 by now and must not be closed for it.
        apr_os_sock_t fd = -1;
        if (apr_os_sock_get(&fd, connection->socket_) == APR_SUCCESS && fd >= 0) {
            apr_socket_timeout_set(connection->socket_, 0);
            apr_socket_close(connection->socket_);
        }
    } else {
        close(connection->fd());
    }
    if (connection->pool_)
        connection->pools_.put(connection->pool_);
    delete connection;
}

ConnectionPtr owner_of(Timed &item)
{
    return ConnectionPtr(static_cast<Connection *>(&item));
}

ConnectionPtr owner_of(Runnable &work)
{
    return ConnectionPtr(static_cast<Connection *>(&work));
}

ConnectionPtr Connection::accept(const Peer &peer, Pools &pools, Slot &slot, Run turn)
{
    auto *connection = new (std::nothrow) Connection(peer, pools, slot, turn);
    if (connection)
        slot.opened();
    return ConnectionPtr(connection);
}

Connection::Connection(const Peer &peer, Pools &pools, Slot &slot, Run turn)
    : Runnable(turn), PollTarget(Kind::Client), pools_(pools), slot_(slot), peer_(peer),
      timeouts_of_(peer.server ? peer.server : ap_server_conf)
{
}

void Connection::transit(ConnEvent event)
{
    ap_assert(!facts(event).ends);
    step(event);
}

void Connection::end(ConnEvent event, CloseReason reason)
{
    if (!reason_)
        reason_ = reason;
    step(event);
    if (state_ == ConnState::Closed)
        slot_.ended(*reason_);
}

void Connection::step(ConnEvent event)
{
    const auto to = next_state(state_, event);
    ap_assert(to.has_value());
    if (c_ && APLOGctrace6(c_))
        ap_log_cerror(APLOG_MARK, APLOG_TRACE6, 0, c_, "[%s] -- %s --> [%s]%s%s", facts(state_).name, facts(event).name,
                      facts(*to).name, reason_ ? ": " : "", reason_ ? facts(*reason_).words : "");
    slot_.moved(state_, *to);
    was_idle_ = state_ == ConnState::KeepAlive && to == ConnState::Ready;
    if (state_ == ConnState::Arriving && to == ConnState::Ready)
        forget_part();
    ap_assert(to != ConnState::KeepAlive || (awaited_ == 1 && !holds_part()));
    state_ = *to;
}

int Connection::open(apr_thread_t *thread, int row, ap_filter_rec_t *tls_filter)
{
    if (!make_socket())
        return HTTP_INTERNAL_SERVER_ERROR;
    buckets_ = apr_bucket_alloc_create(pool_);
    ap_create_sb_handle(&sbh_, pool_, slot_.index(), row);
    conn_rec *c = ap_run_create_connection(pool_, ap_server_conf, socket_, slot_.connection_id(row), sbh_, buckets_);
    if (!c)
        return HTTP_INTERNAL_SERVER_ERROR; // core closed the socket and said why (R12)
    c_ = c;
    c->keepalives = keepalives_;
    if (!log_id_.empty())
        c->log_id = apr_pstrdup(pool_, log_id_.c_str());
    c->current_thread = thread;
    c->cs = &mailbox_;
    ap_set_module_config(c->conn_config, &mpm_hybrid_module, this);
    apr_pool_pre_cleanup_register(pool_, this, on_pool_cleanup);

    ap_update_vhost_given_ip(c);
    const int rc = ap_pre_connection(c, socket_);
    mailbox_.state = CONN_STATE_READ_REQUEST_LINE;
    mailbox_.sense = CONN_SENSE_DEFAULT;
    if (timeouts_of_ == ap_server_conf)
        timeouts_of_ = c->base_server;
    if (peer_.expects != Expects::Nothing && (rc == OK || rc == DONE))
        tls_ = TlsInput::add(*this, tls_filter);
    if (peer_.expects == Expects::Record || tls_) { // there has been a look at the first record only, if at anything
        peer_.expects = peer_.inside;
        looked_ = false;
        if (tls_)
            begins_ = 0;
    }
    if (late_)
        apr_table_setn(c->notes, "short-lingering-close", "1"); // as mod_reqtimeout does
    return rc;
}

bool Connection::sleep(const Dormancy &dormancy)
{
    const bool awaited = peer_.expects == Expects::Head || peer_.expects == Expects::Request;
    if (!c_ || !awaited || personal_ || !dormancy.rebuildable(c_))
        return false;
    ap_log_cerror(APLOG_MARK, APLOG_TRACE6, 0, c_, "goes to sleep");
    keepalives_ = c_->keepalives;
    if (c_->log_id)
        log_id_ = c_->log_id;
    apr_os_sock_t none = -1;
    apr_os_sock_put(&socket_, &none, pool_); // the descriptor stays
    pools_.put(std::exchange(pool_, nullptr));
    socket_ = nullptr;
    c_ = nullptr;
    request_ = nullptr;
    sbh_ = nullptr;
    buckets_ = nullptr;
    look_ = nullptr;
    output_ = nullptr;
    suspended_ = drained_ = answered_ = false;
    return true;
}

bool Connection::make_socket()
{
    pool_ = pools_.get();
    if (!pool_)
        return false;
    apr_os_sock_info_t info{};
    info.os_sock = &peer_.fd;
    info.local = const_cast<sockaddr *>(peer_.local);
    info.remote = &peer_.address.any;
    info.family = peer_.address.any.sa_family;
    info.type = SOCK_STREAM;
    info.protocol = APR_PROTO_TCP;
    const apr_status_t rv = apr_os_sock_make(&socket_, &info, pool_);
    if (rv != APR_SUCCESS)
        socket_ = nullptr;
    return rv == APR_SUCCESS;
}

// Runs before any module's cleanup: whoever sees the connection as suspended hears that it is back, so that the
// pairs balance. It has no worker then, hence no scoreboard handle.
apr_status_t Connection::on_pool_cleanup(void *self)
{
    auto *connection = static_cast<Connection *>(self);
    if (connection->suspended_) {
        connection->suspended_ = false;
        connection->c_->sbh = nullptr;
        ap_run_resume_connection(connection->c_, connection->request_);
    }
    return APR_SUCCESS;
}

void Connection::suspend()
{
    ap_run_suspend_connection(c_, request_);
    if (tls_)
        tls_->free_given();
    c_->sbh = nullptr;
    suspended_ = true;
}

void Connection::resume(apr_thread_t *thread, int row)
{
    ap_update_sb_handle(sbh_, slot_.index(), row);
    suspended_ = false;
    c_->sbh = sbh_;
    c_->current_thread = thread;
    c_->id = slot_.connection_id(row);
    ap_run_resume_connection(c_, request_);
}

bool Connection::input_waits() const
{
    char byte;
    return recv(fd(), &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

std::string Connection::describe(const std::string &host, const std::string &request, Duration length) const
{
    char address[INET6_ADDRSTRLEN] = "?";
    const bool v4 = peer_.address.any.sa_family == AF_INET;
    inet_ntop(peer_.address.any.sa_family,
              v4 ? static_cast<const void *>(&peer_.address.v4.sin_addr) : &peer_.address.v6.sin6_addr, address,
              sizeof address);
    return std::string("client ") + address + ":" +
           std::to_string(ntohs(v4 ? peer_.address.v4.sin_port : peer_.address.v6.sin6_port)) + ", host " +
           (host.empty() ? "-" : host) + ", request \"" + (request.empty() ? "-" : request) + "\", " +
           facts(state_).words + ", " + std::to_string(length / seconds(1)) + " s";
}

std::string Connection::describe(Duration length) const
{
    const server_rec *server = request_ ? request_->server : timeouts_of_;
    const char *request = request_ ? request_->the_request : nullptr;
    return describe(server->server_hostname ? server->server_hostname : "", request ? request : "", length);
}

Connection *Connection::of(const conn_rec *c)
{
    if (c->master || !c->cs)
        return nullptr;
    auto *connection = static_cast<Connection *>(ap_get_module_config(c->conn_config, &mpm_hybrid_module));
    return connection && connection->c_ == c ? connection : nullptr;
}

void Connection::on_pre_read_request(request_rec *r, conn_rec *c)
{
    Connection *connection = of(c);
    if (!connection)
        return;
    connection->request_ = r;
    connection->answered_ = false;
    connection->timeouts_of_ = ap_server_conf;
    apr_pool_cleanup_register(r->pool, r, on_request_cleanup, apr_pool_cleanup_null);
}

// With pipelining the next request may have begun before this one was written and went.
apr_status_t Connection::on_request_cleanup(void *request)
{
    const auto *r = static_cast<request_rec *>(request);
    Connection *connection = of(r->connection);
    if (!connection)
        return APR_SUCCESS;
    if (connection->request_ == r)
        connection->request_ = nullptr;
    connection->personal_ = connection->personal_ || Dormancy::personal(r);
    return APR_SUCCESS;
}

int Connection::on_post_read_request(request_rec *r, int retry_after)
{
    const Connection *client = of(r->connection->master ? r->connection->master : r->connection);
    if (client && client->refused_ && !r->prev && !r->main) { // its ErrorDocument is not
        r->connection->keepalive = AP_CONN_CLOSE;
        apr_table_setn(r->err_headers_out, "Retry-After", apr_itoa(r->pool, retry_after));
        return HTTP_SERVICE_UNAVAILABLE;
    }
    Connection *connection = of(r->connection);
    if (!connection)
        return OK;
    // As all MPMs do: without a KeepAliveTimeout of its own, a name-based virtual host has that of the first one on
    // its address (server/mpm/event/event.c, event_post_read_request).
    connection->timeouts_of_ = r->server->keep_alive_timeout_set ? r->server : r->connection->base_server;
    return OK;
}

void Connection::on_protocol_switch(const conn_rec *c, const server_rec *s)
{
    if (Connection *connection = of(c))
        connection->timeouts_of_ = s;
}

void adopt_secondary(conn_rec *c)
{
    if (!c->master)
        return;
    if (Connection *master = Connection::of(c->master))
        master->goodbye().stream_begun();
    if (c->cs && c->cs != c->master->cs)
        return;
    auto *mailbox = static_cast<conn_state_t *>(apr_pcalloc(c->pool, sizeof(conn_state_t)));
    mailbox->state = CONN_STATE_READ_REQUEST_LINE;
    mailbox->sense = CONN_SENSE_DEFAULT;
    c->cs = mailbox;
}

} // namespace hybrid
