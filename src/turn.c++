#include "hybrid/turn.hpp"

#include "hybrid/client_io.hpp"
#include "hybrid/listener.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace hybrid {

namespace {

constexpr Duration kFlushTime = seconds(2);       // how long a closing connection may block its worker
constexpr Duration kAwake = seconds(1);           // a connection stays so, when idle
constexpr int kRequestsInARow = 8;                // of a pipelining client, even if nobody is known to wait
constexpr Duration kLingerTime = seconds(30);     // MAX_SECS_TO_LINGER
constexpr Duration kShortLingerTime = seconds(2); // SECONDS_TO_LINGER

/// What modules want to wait for, and back to the default for the next time (S15).
Interest take_sense(conn_state_t &mailbox, Interest by_default)
{
    const conn_sense_e sense = std::exchange(mailbox.sense, CONN_SENSE_DEFAULT);
    if (sense == CONN_SENSE_DEFAULT)
        return by_default;
    return sense == CONN_SENSE_WANT_READ ? Interest::Readable : Interest::Writable;
}

} // namespace

void Turn::run(Runnable &connection, Worker &worker) noexcept
{
    ConnectionPtr owned = owner_of(connection);
    worker.set_client(owned.get());
    Turn(std::move(owned), worker).go();
}

void Turn::go()
{
    if (begin()) {
        if (connection_->state() == ConnState::Linger)
            shut_down();
        else
            process();
    } else {
        connection_->end(ConnEvent::Dropped, CloseReason::NotSetUp);
    }
    // Whoever took the connection over may have closed it by now; the socket was forgotten before that.
    if (connection_) {
        worker_.set_client(nullptr);
        worker_.listener.drop(std::move(connection_));
    }
}

// The connection arrives at this thread. False: it is to be dropped.
bool Turn::begin()
{
    connection_->transit(ConnEvent::Taken);
    connection_->set_refused(worker_.duty == Worker::Duty::Refuse);
    if (connection_->opened()) {
        connection_->resume(worker_.thread, worker_.row);
        return true;
    }
    const int rc = connection_->open(worker_.thread, worker_.row, worker_.listener.tls_filter());
    if (rc == OK || rc == DONE)
        return true;
    if (connection_->opened())
        ap_log_cerror(APLOG_MARK, APLOG_DEBUG, 0, connection_->record(),
                      APLOGNO(00469) "process_socket: connection aborted");
    return false;
}

void Turn::process()
{
    bool again = mailbox().state == CONN_STATE_READ_REQUEST_LINE;
    int requests = 0;
    for (;;) {
        if (again && connection_->late() && connection_->shakes_hands()) { // nobody to say anything to
            record().aborted = 1;
            return close(CloseReason::RequestTimeout);
        }
        if (again && !connection_->looked() && !look())
            return wait_for_rest();
        // A filter that clogs the input is called from whatever state (S05).
        if (again || record().clogging_input_filters) {
            if (run_hooks() != OK || record().aborted)
                mailbox().state = CONN_STATE_LINGER;
        }
        connection_->set_looked(false);
        if (mailbox().state == CONN_STATE_LINGER)
            return close(why_broken(CloseReason::ByModule));
#ifdef HYBRID_HAVE_CONN_STATE_ASYNC_WAITIO
        if (mailbox().state == CONN_STATE_ASYNC_WAITIO)
            return wait_for_io();
#endif
        if (mailbox().state == CONN_STATE_SUSPENDED)
            return hold();

        // Half of the next request is not worth keeping the answer for, nor the worker.
        if (record().keepalive == AP_CONN_KEEPALIVE && record().data_in_input_filters && !connection_->looked() &&
            !look())
            record().data_in_input_filters = 0;
        if (!complete_write() || record().aborted)
            return close(why_broken(CloseReason::Aborted));
        if (record().data_in_output_filters || mailbox().sense == CONN_SENSE_WANT_READ)
            return wait_to_write();
        if (record().keepalive == AP_CONN_KEEPALIVE && record().data_in_input_filters) {
            if (++requests >= kRequestsInARow || worker_.scheduler.others_wait())
                return yield();
            again = true;
            continue;
        }
        if (record().keepalive == AP_CONN_KEEPALIVE && worker_.listener.hurried() && connection_->input_waits()) {
            again = true; // core need not have looked (Connection::take_drained)
            continue;
        }
        if (record().keepalive != AP_CONN_KEEPALIVE || connection_->late() || worker_.listener.hurried())
            return close(
                why_answered(record().keepalive == AP_CONN_KEEPALIVE ? CloseReason::ChildEnds : CloseReason::ByModule));
        return connection_->holds_part() ? wait_for_rest() : go_idle();
    }
}

// Runs the process_connection hooks and reads what they left. OK: mailbox().state is one of LINGER, ASYNC_WAITIO,
// WRITE_COMPLETION, SUSPENDED. Anything else: to be closed (S01-S04).
int Turn::run_hooks()
{
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    worker_.set_served(connection_.get());
    const int rc = ap_run_process_connection(&record());
    worker_.set_served(nullptr);
    if (rc == OK || rc == DONE) {
        switch (mailbox().state) {
        case CONN_STATE_READ_REQUEST_LINE: // by modules that never look at c->cs
            mailbox().state = CONN_STATE_LINGER;
            return OK;
        case CONN_STATE_CHECK_REQUEST_LINE_READABLE: // what is left to write goes first
            mailbox().state = CONN_STATE_WRITE_COMPLETION;
            return OK;
        case CONN_STATE_LINGER:
        case CONN_STATE_WRITE_COMPLETION:
        case CONN_STATE_SUSPENDED:
#ifdef HYBRID_HAVE_CONN_STATE_ASYNC_WAITIO
        case CONN_STATE_ASYNC_WAITIO:
#endif
            return OK;
        default:
            break;
        }
    }
    ap_log_cerror(APLOG_MARK, APLOG_DEBUG, 0, &record(),
                  APLOGNO(10111) "process_socket: connection processing returned %i (%sstate %i): closing", rc,
                  rc ? "" : "unexpected ", static_cast<int>(mailbox().state));
    return HTTP_INTERNAL_SERVER_ERROR;
}

// Writes what the core output filter has kept, as far as the socket takes it. False: the connection is broken.
bool Turn::complete_write()
{
    status(SERVER_BUSY_WRITE);
    ap_filter_t *filter = record().output_filters;
    while (filter->next)
        filter = filter->next;
    apr_status_t rv = filter->frec->filter_func.out_func(filter, nullptr);
    if (rv == APR_SUCCESS && !record().data_in_output_filters)
        rv = write_held(*connection_);
    if (rv != APR_SUCCESS)
        ap_log_cerror(APLOG_MARK, APLOG_DEBUG, rv, &record(),
                      APLOGNO(00470) "network write failure in core output filter");
    return rv == APR_SUCCESS;
}

// Is a whole request here, or something else that httpd should see? A protocol that has taken over (HTTP/2 without TLS)
// has no heads of this kind.
bool Turn::look()
{
    if (std::strcmp(ap_get_protocol(&record()), AP_PROTOCOL_HTTP1) != 0) {
        connection_->expect_nothing();
        return true;
    }
    switch (connection_->look(worker_.listener.limits())) {
    case Connection::Here::Nothing:
    case Connection::Here::Part:
    case Connection::Here::Head:
        return false;
    default:
        connection_->set_looked(true);
        return true;
    }
}

// A client that sends a request in pieces waits for itself only.
void Turn::wait_for_rest()
{
    if (connection_->begins() == 0)
        connection_->begin_request(now());
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    mailbox().sense = CONN_SENSE_DEFAULT;
    status(SERVER_BUSY_READ);
    connection_->suspend();
    connection_->transit(ConnEvent::WantRest);
    worker_.set_client(nullptr);
    worker_.listener.park_arriving(std::move(connection_));
}

// The child may have begun to end just before the listener could see the connection.
void Turn::park(Interest what, Duration length)
{
    Listener &listener = worker_.listener;
    worker_.set_client(nullptr);
    listener.park(std::move(connection_), what, length);
    if (!parting_ && listener.parting())
        listener.look_again_for_http2();
}

// mod_http2 waits for a first stream as if one were there already.
Duration Turn::wait_time()
{
    const Duration length = connection_->timeout();
    parting_ = worker_.listener.parting();
    const bool in_vain = parting_ && connection_->goodbye().fresh() && connection_->http2();
    return in_vain ? std::min(length, Goodbye::kFirstTime) : length;
}

void Turn::wait_for_io()
{
    const Duration length = wait_time();
    status(SERVER_BUSY_READ);
    connection_->suspend();
    const Interest what = take_sense(mailbox(), Interest::Readable);
    connection_->set_looked(true); // its module reads
    connection_->transit(ConnEvent::WantIo);
    park(what, length);
}

void Turn::wait_to_write()
{
    const Duration length = wait_time();
    mailbox().state = CONN_STATE_WRITE_COMPLETION;
    connection_->suspend();
    const Interest what = take_sense(mailbox(), Interest::Writable);
    connection_->transit(ConnEvent::WantFlush);
    park(what, length);
}

void Turn::go_idle()
{
    const Duration all = connection_->keep_alive_timeout();
    Duration length = worker_.listener.lets_sleep() ? std::min(all, kAwake) : all;
    Duration rest = all - length;
    parting_ = worker_.listener.parting();
    if (parting_ && connection_->http2()) {
        if (connection_->goodbye().said())
            return close(CloseReason::ChildEnds);
        length = std::min(all, worker_.listener.impatient(now()) ? Goodbye::kShortPause : Goodbye::kPause);
        rest = 0;
    }
    connection_->set_rest(rest);
    mailbox().state = CONN_STATE_CHECK_REQUEST_LINE_READABLE;
    mailbox().sense = CONN_SENSE_DEFAULT;
    status(SERVER_BUSY_KEEPALIVE);
    connection_->suspend();
    connection_->transit(ConnEvent::WantIdle);
    park(Interest::Readable, length);
}

// Others come first, then the request that is here already (K24).
void Turn::yield()
{
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    connection_->suspend();
    connection_->transit(ConnEvent::WantTurn);
    worker_.set_client(nullptr);
    worker_.scheduler.push(*connection_.release());
}

void Turn::hold()
{
    connection_->suspend();
    connection_->transit(ConnEvent::WantHold);
    worker_.set_client(nullptr);
    worker_.listener.hold(std::move(connection_));
}

void Turn::close(CloseReason reason)
{
    connection_->end(ConnEvent::WantClose, reason);
    shut_down();
}

CloseReason Turn::why_broken(CloseReason otherwise)
{
    if (connection_->ended() && !connection_->late())
        return CloseReason::ClientClosed;
    return record().aborted ? CloseReason::Aborted : why_answered(otherwise);
}

CloseReason Turn::why_answered(CloseReason otherwise)
{
    if (connection_->late())
        return CloseReason::RequestTimeout;
    if (connection_->refused())
        return CloseReason::Overloaded;
    return record().keepalive == AP_CONN_CLOSE ? CloseReason::Answered : otherwise;
}

// Flushes and shuts down our side (ap_start_lingering_close() runs the pre_close_connection hooks: a TLS client hears
// close_notify, an HTTP/2 client GOAWAY), then leaves the client to the listener for a while, which reads what still
// comes: a reset would otherwise destroy the answer on its way. What is left of the connection in go() is dropped.
void Turn::shut_down()
{
    mailbox().state = CONN_STATE_LINGER;
    apr_socket_t *socket = connection_->socket();
    apr_socket_timeout_set(socket, kFlushTime);
    const bool done = ap_start_lingering_close(&record());
    connection_->suspend();
    if (done) {
        connection_->end(ConnEvent::PeerGone, CloseReason::Aborted);
        return;
    }
    apr_socket_timeout_set(socket, 0);
    apr_socket_opt_set(socket, APR_INCOMPLETE_READ, 0);
    const bool brief = apr_table_get(record().notes, "short-lingering-close") != nullptr;
    mailbox().state = brief ? CONN_STATE_LINGER_SHORT : CONN_STATE_LINGER_NORMAL;
    mailbox().sense = CONN_SENSE_DEFAULT;
    connection_->transit(ConnEvent::Flushed);
    worker_.set_client(nullptr);
    worker_.listener.park(std::move(connection_), Interest::ReadableOnce, brief ? kShortLingerTime : kLingerTime);
}

void Turn::status(int status)
{
    ap_update_child_status(static_cast<ap_sb_handle_t *>(record().sbh), status, nullptr);
}

} // namespace hybrid
