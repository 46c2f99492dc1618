// SPDX-License-Identifier: Apache-2.0
#include "hybrid/session.hpp"

#include "hybrid/request_limits.hpp"
#include "hybrid/tls_input.hpp"

#include <memory>
#include <new>
#include <type_traits>
#include <unistd.h>

namespace hybrid {

static_assert(std::is_trivially_destructible_v<Session>); // its pool goes, and nothing else

void SessionEnder::operator()(Session *session) const
{
    // A socket that a module took away (mod_proxy_fdpass) is -1 by now and must not be closed for it.
    apr_os_sock_t fd = -1;
    if (!session->socket_) {
        close(session->client_.fd());
    } else if (apr_os_sock_get(&fd, session->socket_) == APR_SUCCESS && fd >= 0) {
        apr_socket_timeout_set(session->socket_, 0);
        apr_socket_close(session->socket_);
    }
    session->pools_.put(session->pool_);
}

int Session::revive(Client &client, Pools &pools, apr_thread_t *thread, int row, ap_filter_rec_t *tls_filter)
{
    apr_pool_t *pool = pools.get();
    if (!pool)
        return HTTP_INTERNAL_SERVER_ERROR;
    auto &session = *new (apr_palloc(pool, sizeof(Session))) Session(client, pools, pool);
    client.set_session(SessionPtr(&session));
    if (!session.make_socket())
        return HTTP_INTERNAL_SERVER_ERROR;
    const Slot &slot = client.slot();
    session.buckets_ = apr_bucket_alloc_create(pool);
    ap_create_sb_handle(&session.sbh_, pool, slot.index(), row);
    conn_rec *c = ap_run_create_connection(pool, ap_server_conf, session.socket_, slot.connection_id(row), session.sbh_,
                                           session.buckets_);
    if (!c)
        return HTTP_INTERNAL_SERVER_ERROR; // core closed the socket and said why (R12)
    session.c_ = c;
    c->keepalives = client.keepalives();
    if (!client.log_id().empty())
        c->log_id = apr_pstrdup(pool, client.log_id().c_str());
    c->current_thread = thread;
    c->cs = &session.mailbox_;
    ap_set_module_config(c->conn_config, &mpm_hybrid_module, &session);
    apr_pool_pre_cleanup_register(pool, &session, on_pool_cleanup);

    ap_update_vhost_given_ip(c);
    const int rc = ap_pre_connection(c, session.socket_);
    session.mailbox_.state = CONN_STATE_READ_REQUEST_LINE;
    session.mailbox_.sense = CONN_SENSE_DEFAULT;
    if (client.server() == ap_server_conf)
        client.set_server(c->base_server);
    Arriving &arriving = client.arriving();
    if (arriving.expects() != Expects::Nothing && (rc == OK || rc == DONE))
        session.tls_ = TlsInput::add(session, tls_filter);
    arriving.enter(session.tls_ != nullptr);
    if (arriving.timed_out())
        apr_table_setn(c->notes, "short-lingering-close", "1"); // as mod_reqtimeout does
    return rc;
}

bool Session::release(Client &client, const Dormancy &dormancy)
{
    Session *session = client.session();
    const Expects expects = client.arriving().expects();
    const bool awaited = expects == Expects::Head || expects == Expects::Request;
    if (!session || !session->c_ || !awaited || session->personal_ || !dormancy.rebuildable(session->c_))
        return false;
    const conn_rec *c = session->c_;
    ap_log_cerror(APLOG_MARK, APLOG_TRACE6, 0, c, "goes to sleep");
    apr_os_sock_t none = -1;
    apr_os_sock_put(&session->socket_, &none, session->pool_); // the descriptor stays
    client.make_dormant(c->keepalives, c->log_id);
    return true;
}

bool Session::make_movable(Client &client, const Dormancy &dormancy)
{
    if (!client.live())
        return !client.arriving().timed_out();
    const bool idle = client.state() == ConnState::KeepAlive ||
                      (client.state() == ConnState::Ready && client.came_from() == ConnState::KeepAlive);
    return idle && release(client, dormancy);
}

bool Session::make_socket()
{
    const Peer &peer = client_.peer();
    apr_os_sock_t fd = peer.fd;
    apr_os_sock_info_t info{};
    info.os_sock = &fd;
    info.local = const_cast<sockaddr *>(peer.local);
    info.remote = const_cast<sockaddr *>(&peer.address.any);
    info.family = peer.address.any.sa_family;
    info.type = SOCK_STREAM;
    info.protocol = APR_PROTO_TCP;
    const apr_status_t rv = apr_os_sock_make(&socket_, &info, pool_);
    if (rv != APR_SUCCESS)
        socket_ = nullptr;
    return rv == APR_SUCCESS;
}

// Runs before any module's cleanup: whoever sees the connection as suspended hears that it is back, so that the
// pairs balance. It has no worker then, hence no scoreboard handle.
apr_status_t Session::on_pool_cleanup(void *self)
{
    auto *session = static_cast<Session *>(self);
    if (session->suspended_) {
        session->suspended_ = false;
        session->c_->sbh = nullptr;
        ap_run_resume_connection(session->c_, session->request_);
    }
    return APR_SUCCESS;
}

void Session::suspend()
{
    ap_run_suspend_connection(c_, request_);
    if (tls_)
        tls_->free_given();
    c_->sbh = nullptr;
    suspended_ = true;
}

void Session::resume(apr_thread_t *thread, int row)
{
    const Slot &slot = client_.slot();
    ap_update_sb_handle(sbh_, slot.index(), row);
    suspended_ = false;
    c_->sbh = sbh_;
    c_->current_thread = thread;
    c_->id = slot.connection_id(row);
    ap_run_resume_connection(c_, request_);
}

Progress Session::probe(const RequestLimits &limits)
{
    client_.arriving().forget(); // all that is here is looked at
    return tls_ ? probe_encrypted(limits) : probe_plain(limits);
}

Progress Session::probe_encrypted(const RequestLimits &limits)
{
    Arriving &arriving = client_.arriving();
    if (arriving.shakes_hands()) {
        const bool done = tls_->shake_hands();
        if (const Progress progress = arriving.probe_handshake(done); !done)
            return progress;
    }
    if (!tls_->http1()) {
        tls_->remove();
        tls_ = nullptr;
        arriving.expect_nothing();
        return Progress::Complete;
    }
    if (!tls_->read_ahead(limits.most))
        return Progress::Complete;
    return arriving.probe_decrypted(tls_->held(), limits);
}

// Asks core's input filter itself, so that those above it, mod_reqtimeout's with its clock, don't take part. What it
// has read it keeps for them. If that is no whole request, the rest is looked at in the kernel.
Progress Session::probe_plain(const RequestLimits &limits)
{
    Arriving &arriving = client_.arriving();
    if (!reads_plainly(c_)) {
        arriving.expect_nothing();
        return Progress::Complete;
    }
    if (!peeked_)
        peeked_ = apr_brigade_create(pool_, buckets_);
    ap_filter_t *core = c_->input_filters;
    while (core->next)
        core = core->next;
    input_.begin_peeking();
    const apr_status_t rv = core->frec->filter_func.in_func(core, peeked_, AP_MODE_SPECULATIVE, APR_NONBLOCK_READ,
                                                            static_cast<apr_off_t>(limits.most));
    input_.end_peeking();

    Progress progress = Progress::Complete;
    if (rv == APR_SUCCESS && !input_.ended()) {
        const char *bytes = nullptr;
        apr_size_t length = 0;
        apr_bucket *first = APR_BRIGADE_FIRST(peeked_);
        std::unique_ptr<char[]> copy;
        if (APR_BRIGADE_EMPTY(peeked_)) {
            progress = Progress::Nothing;
        } else if (APR_BUCKET_NEXT(first) == APR_BRIGADE_SENTINEL(peeked_)) {
            if (apr_bucket_read(first, &bytes, &length, APR_NONBLOCK_READ) == APR_SUCCESS)
                progress = arriving.probe_read({bytes, length}, limits);
        } else if (copy.reset(new (std::nothrow) char[limits.most]); copy) {
            length = limits.most;
            if (apr_brigade_flatten(peeked_, copy.get(), &length) == APR_SUCCESS)
                progress = arriving.probe_read({copy.get(), length}, limits);
        }
    }
    apr_brigade_cleanup(peeked_);
    return progress;
}

std::string Session::describe(Duration length) const
{
    if (!request_ || !request_->the_request)
        return client_.describe(length);
    const char *host = request_->server->server_hostname;
    return client_.describe(host ? host : "", request_->the_request, length);
}

Session *Session::of(const conn_rec *c)
{
    if (c->master || !c->cs)
        return nullptr;
    auto *session = static_cast<Session *>(ap_get_module_config(c->conn_config, &mpm_hybrid_module));
    return session && session->c_ == c ? session : nullptr;
}

void Session::on_pre_read_request(request_rec *r, conn_rec *c)
{
    Session *session = of(c);
    if (!session)
        return;
    session->request_ = r;
    session->input_.begin_request();
    session->client_.set_server(ap_server_conf);
    apr_pool_cleanup_register(r->pool, r, on_request_cleanup, apr_pool_cleanup_null);
}

// With pipelining the next request may have begun before this one was written and went.
apr_status_t Session::on_request_cleanup(void *request)
{
    const auto *r = static_cast<request_rec *>(request);
    Session *session = of(r->connection);
    if (!session)
        return APR_SUCCESS;
    if (session->request_ == r)
        session->request_ = nullptr;
    session->personal_ = session->personal_ || Dormancy::personal(r);
    return APR_SUCCESS;
}

int Session::on_post_read_request(request_rec *r, int retry_after)
{
    const Session *client_session = of(r->connection->master ? r->connection->master : r->connection);
    if (client_session && client_session->client_.rejected() && !r->prev && !r->main) { // its ErrorDocument is not
        r->connection->keepalive = AP_CONN_CLOSE;
        apr_table_setn(r->err_headers_out, "Retry-After", apr_itoa(r->pool, retry_after));
        return HTTP_SERVICE_UNAVAILABLE;
    }
    const Session *session = of(r->connection);
    if (!session)
        return OK;
    // As all MPMs do: without a KeepAliveTimeout of its own, a name-based virtual host has that of the first one on
    // its address (server/mpm/event/event.c, event_post_read_request).
    session->client_.set_server(r->server->keep_alive_timeout_set ? r->server : r->connection->base_server);
    return OK;
}

void Session::on_protocol_switch(const conn_rec *c, const server_rec *s)
{
    if (const Session *session = of(c))
        session->client_.set_server(s);
}

void adopt_secondary(conn_rec *c)
{
    if (!c->master)
        return;
    if (Session *master = Session::of(c->master))
        master->goodbye().stream_begun();
    if (c->cs && c->cs != c->master->cs)
        return;
    auto *mailbox = static_cast<conn_state_t *>(apr_pcalloc(c->pool, sizeof(conn_state_t)));
    mailbox->state = CONN_STATE_READ_REQUEST_LINE;
    mailbox->sense = CONN_SENSE_DEFAULT;
    c->cs = mailbox;
}

} // namespace hybrid
