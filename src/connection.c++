#include "hybrid/connection.hpp"

#include <new>
#include <sys/socket.h>

namespace hybrid {

void ConnectionCloser::operator()(Connection *connection) const
{
    if (connection->state() != ConnState::Closed)
        connection->transit(ConnEvent::Kill);
    Pools &pools = connection->pools_;
    apr_pool_t *pool = connection->pool_;
    // A socket that a module took away (mod_proxy_fdpass) is -1 by now and must not be closed for it.
    apr_os_sock_t fd = -1;
    if (apr_os_sock_get(&fd, connection->socket_) == APR_SUCCESS && fd >= 0) {
        apr_socket_timeout_set(connection->socket_, 0);
        apr_socket_close(connection->socket_);
    }
    pools.put(pool); // the connection itself ends here
}

ConnectionPtr Connection::accept(apr_socket_t *socket, apr_pool_t *pool, Pools &pools, Slot &slot, Run turn)
{
    void *place = apr_pcalloc(pool, sizeof(Connection));
    slot.opened();
    return ConnectionPtr(new (place) Connection(socket, pool, pools, slot, turn));
}

Connection::Connection(apr_socket_t *socket, apr_pool_t *pool, Pools &pools, Slot &slot, Run turn)
    : Runnable(turn), PollTarget(Kind::Client), pools_(pools), slot_(slot), pool_(pool), socket_(socket),
      timeouts_of_(ap_server_conf)
{
    apr_os_sock_get(&fd_, socket);
}

void Connection::transit(ConnEvent event)
{
    const auto to = next_state(state_, event);
    ap_assert(to.has_value());
    if (c_ && APLOGctrace6(c_))
        ap_log_cerror(APLOG_MARK, APLOG_TRACE6, 0, c_, "[%s] -- %s --> [%s]", facts(state_).name, facts(event).name,
                      facts(*to).name);
    slot_.moved(state_, *to);
    state_ = *to;
}

int Connection::open(apr_thread_t *thread, int row)
{
    buckets_ = apr_bucket_alloc_create(pool_);
    ap_create_sb_handle(&sbh_, pool_, slot_.index(), row);
    conn_rec *c = ap_run_create_connection(pool_, ap_server_conf, socket_, slot_.connection_id(row), sbh_, buckets_);
    if (!c)
        return HTTP_INTERNAL_SERVER_ERROR; // core closed the socket and said why (R12)
    c_ = c;
    c->current_thread = thread;
    c->cs = &mailbox_;
    ap_set_module_config(c->conn_config, &mpm_hybrid_module, this);
    apr_pool_pre_cleanup_register(pool_, this, on_pool_cleanup);

    ap_update_vhost_given_ip(c);
    const int rc = ap_pre_connection(c, socket_);
    mailbox_.state = CONN_STATE_READ_REQUEST_LINE;
    mailbox_.sense = CONN_SENSE_DEFAULT;
    return rc;
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
    return recv(fd_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
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
    Connection *connection = of(static_cast<request_rec *>(request)->connection);
    if (connection && connection->request_ == request)
        connection->request_ = nullptr;
    return APR_SUCCESS;
}

void Connection::on_post_read_request(const request_rec *r)
{
    Connection *connection = of(r->connection);
    if (!connection)
        return;
    // As all MPMs do: without a KeepAliveTimeout of its own, a name-based virtual host has that of the first one on
    // its address (server/mpm/event/event.c, event_post_read_request).
    connection->timeouts_of_ = r->server->keep_alive_timeout_set ? r->server : r->connection->base_server;
}

void Connection::on_protocol_switch(const conn_rec *c, const server_rec *s)
{
    if (Connection *connection = of(c))
        connection->timeouts_of_ = s;
}

void adopt_secondary(conn_rec *c)
{
    if (!c->master || (c->cs && c->cs != c->master->cs))
        return;
    auto *mailbox = static_cast<conn_state_t *>(apr_pcalloc(c->pool, sizeof(conn_state_t)));
    mailbox->state = CONN_STATE_READ_REQUEST_LINE;
    mailbox->sense = CONN_SENSE_DEFAULT;
    c->cs = mailbox;
}

} // namespace hybrid
