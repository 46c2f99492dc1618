// SPDX-License-Identifier: Apache-2.0
#include "hybrid/turn.hpp"

#include "hybrid/client_io.hpp"
#include "hybrid/loop.hpp"

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

void Turn::run(Runnable &client, Worker &worker) noexcept
{
    ClientPtr owned = owner_of(client);
    worker.set_client(owned.get());
    Turn(std::move(owned), worker).go();
}

void Turn::go()
{
    if (begin()) {
        if (client_->state() != ConnState::Linger) {
            process();
        } else {
            if (client_->came_from() == ConnState::KeepAlive) // its answer has been there for a while
                apr_table_setn(record().notes, "short-lingering-close", "1");
            shut_down();
        }
    } else {
        client_->end(ConnEvent::Dropped, CloseReason::NotSetUp);
    }
    // Whoever took the connection over may have closed it by now; the socket was forgotten before that.
    if (client_) {
        worker_.set_client(nullptr);
        worker_.loop.drop(std::move(client_));
    }
}

// The connection arrives at this thread. False: it is to be dropped.
bool Turn::begin()
{
    client_->transit(ConnEvent::Taken);
    client_->set_rejected(worker_.kind == Worker::Kind::Rejecting);
    const ConnState before = client_->came_from();
    if (client_->live()) {
        if (client_->state() == ConnState::Processing && before != ConnState::WriteCompletion &&
            before != ConnState::Suspended)
            mailbox().state = CONN_STATE_READ_REQUEST_LINE;
        session().resume(worker_.thread, worker_.row);
        return true;
    }
    const Loop &loop = worker_.loop;
    const int rc = Session::revive(*client_, loop.pools(), worker_.thread, worker_.row, loop.tls_filter());
    if (rc == OK || rc == DONE)
        return true;
    if (client_->live() && session().record())
        ap_log_cerror(APLOG_MARK, APLOG_DEBUG, 0, session().record(),
                      APLOGNO(00469) "process_socket: connection aborted");
    return false;
}

void Turn::process()
{
    bool begins = mailbox().state == CONN_STATE_READ_REQUEST_LINE;
    for (int requests = 1;; ++requests, begins = true) {
        if (begins && arriving().timed_out() && arriving().shakes_hands()) { // nobody to say anything to
            record().aborted = 1;
            return close(CloseReason::RequestTimeout);
        }
        if (begins && !arriving().checked() && !probe_request())
            return await_request();
        // A filter that clogs the input is called from whatever state (S05).
        if (begins || record().clogging_input_filters) {
            if (run_hooks() != OK || record().aborted)
                mailbox().state = CONN_STATE_LINGER;
        }
        arriving().set_checked(false);
        switch (mailbox().state) {
        case CONN_STATE_LINGER:
            return close(why_broken(CloseReason::ByModule));
#ifdef HYBRID_HAVE_CONN_STATE_ASYNC_WAITIO
        case CONN_STATE_ASYNC_WAITIO:
            return wait_for_io();
#endif
        case CONN_STATE_SUSPENDED:
            return suspend();
        default:
            break;
        }
        const Answered after = write_answer(requests);
        const Verdict verdict = decide(after);
        if (verdict != Verdict::NextRequest)
            return carry_out(verdict, after);
    }
}

// Writes what there is, and finds out what decide() has to know; what costs something only when it counts.
Answered Turn::write_answer(int requests)
{
    // Half of the next request is not worth keeping the answer for, nor the worker.
    if (record().keepalive == AP_CONN_KEEPALIVE && record().data_in_input_filters && !arriving().checked() &&
        !probe_request())
        record().data_in_input_filters = 0;
    Answered after;
    after.broken = !complete_write() || record().aborted;
    after.output_left = record().data_in_output_filters || mailbox().sense == CONN_SENSE_WANT_READ;
    after.kept_alive = record().keepalive == AP_CONN_KEEPALIVE;
    after.input_read = record().data_in_input_filters;
    after.holds_part = arriving().holds_part();
    after.timed_out = arriving().timed_out();
    after.had_its_share = requests >= kRequestsInARow;
    after.others_wait = after.input_read && worker_.scheduler.others_wait();
    after.closes_idle = worker_.loop.closes_idle();
    // Core need not have looked (ReadMemo::take_drained()).
    after.input_waits = after.closes_idle && after.kept_alive && client_->input_waits();
    return after;
}

void Turn::carry_out(Verdict verdict, const Answered &after)
{
    switch (verdict) {
    case Verdict::WaitToWrite:
        return wait_to_write();
    case Verdict::Yield:
        return yield();
    case Verdict::AwaitRequest:
        return await_request();
    case Verdict::Idle:
        return go_idle();
    default:
        return close(after.broken ? why_broken(CloseReason::Aborted)
                                  : why_answered(after.kept_alive ? CloseReason::ChildEnds : CloseReason::ByModule));
    }
}

// Runs the process_connection hooks and reads what they left. OK: mailbox().state is one of LINGER, ASYNC_WAITIO,
// WRITE_COMPLETION, SUSPENDED. Anything else: to be closed (S01-S04).
int Turn::run_hooks()
{
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    worker_.set_served(&session());
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
        rv = write_held(session());
    if (rv != APR_SUCCESS)
        ap_log_cerror(APLOG_MARK, APLOG_DEBUG, rv, &record(),
                      APLOGNO(00470) "network write failure in core output filter");
    return rv == APR_SUCCESS;
}

// Is a whole request here, or something else that httpd should see? A protocol that has taken over (HTTP/2 without TLS)
// has no heads of this kind.
bool Turn::probe_request()
{
    if (std::strcmp(ap_get_protocol(&record()), AP_PROTOCOL_HTTP1) != 0) {
        arriving().expect_nothing();
        return true;
    }
    switch (session().probe(worker_.loop.limits())) {
    case Progress::Nothing:
    case Progress::Partial:
    case Progress::Head:
        return false;
    default:
        arriving().set_checked(true);
        return true;
    }
}

// A client that sends a request in pieces waits for itself only.
void Turn::await_request()
{
    if (arriving().begins() == 0)
        arriving().begin(now());
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    mailbox().sense = CONN_SENSE_DEFAULT;
    status(SERVER_BUSY_READ);
    session().suspend();
    client_->transit(ConnEvent::WantRest);
    worker_.set_client(nullptr);
    worker_.loop.keep_arriving(std::move(client_));
}

// The child may have begun to end just before the loop could see the connection.
void Turn::park(Interest what, Duration length)
{
    Loop &loop = worker_.loop;
    worker_.set_client(nullptr);
    loop.park(std::move(client_), what, length);
    if (!parting_ && loop.parting())
        loop.look_again_for_http2();
}

// mod_http2 waits for a first stream as if one were there already.
Duration Turn::wait_time()
{
    const Duration length = client_->timeout();
    parting_ = worker_.loop.parting();
    const bool in_vain = parting_ && session().goodbye().fresh() && session().http2();
    return in_vain ? std::min(length, Goodbye::kFirstTime) : length;
}

void Turn::wait_for_io()
{
    const Duration length = wait_time();
    status(SERVER_BUSY_READ);
    session().suspend();
    const Interest what = take_sense(mailbox(), Interest::Readable);
    arriving().set_checked(true); // its module reads
    client_->transit(ConnEvent::WantIo);
    park(what, length);
}

void Turn::wait_to_write()
{
    const Duration length = wait_time();
    mailbox().state = CONN_STATE_WRITE_COMPLETION;
    session().suspend();
    const Interest what = take_sense(mailbox(), Interest::Writable);
    client_->transit(ConnEvent::WantFlush);
    park(what, length);
}

void Turn::go_idle()
{
    const Duration all = client_->keep_alive_timeout();
    Duration length = worker_.loop.dormancy_enabled() ? std::min(all, kAwake) : all;
    Duration rest = all - length;
    parting_ = worker_.loop.parting();
    if (parting_ && session().http2()) {
        if (session().goodbye().said())
            return close(CloseReason::ChildEnds);
        length = std::min(all, worker_.loop.impatient(now()) ? Goodbye::kShortPause : Goodbye::kPause);
        rest = 0;
    }
    client_->set_sleep_after(rest);
    mailbox().state = CONN_STATE_CHECK_REQUEST_LINE_READABLE;
    mailbox().sense = CONN_SENSE_DEFAULT;
    status(SERVER_BUSY_KEEPALIVE);
    session().suspend();
    client_->transit(ConnEvent::WantIdle);
    park(Interest::Readable, length);
}

// Others come first, then the request that is here already (K24).
void Turn::yield()
{
    mailbox().state = CONN_STATE_READ_REQUEST_LINE;
    session().suspend();
    client_->transit(ConnEvent::WantTurn);
    worker_.set_client(nullptr);
    worker_.scheduler.push(*client_.release());
}

void Turn::suspend()
{
    session().suspend();
    client_->transit(ConnEvent::WantHold);
    worker_.set_client(nullptr);
    worker_.loop.suspend(std::move(client_));
}

void Turn::close(CloseReason reason)
{
    client_->end(ConnEvent::WantClose, reason);
    shut_down();
}

CloseReason Turn::why_broken(CloseReason otherwise)
{
    if (session().input().ended() && !arriving().timed_out())
        return CloseReason::ClientClosed;
    const bool aborted = record().aborted || otherwise == CloseReason::Aborted;
    return aborted ? CloseReason::Aborted : why_answered(otherwise);
}

CloseReason Turn::why_answered(CloseReason otherwise)
{
    if (arriving().timed_out())
        return CloseReason::RequestTimeout;
    if (client_->rejected())
        return CloseReason::Overloaded;
    return record().keepalive == AP_CONN_CLOSE ? CloseReason::Answered : otherwise;
}

// Flushes and shuts down our side (ap_start_lingering_close() runs the pre_close_connection hooks: a TLS client hears
// close_notify, an HTTP/2 client GOAWAY), then leaves the client to the keeper for a while, which reads what still
// comes: a reset would otherwise destroy the answer on its way. What is left of the connection in go() is dropped.
void Turn::shut_down()
{
    mailbox().state = CONN_STATE_LINGER;
    apr_socket_t *socket = session().socket();
    apr_socket_timeout_set(socket, kFlushTime);
    const bool done = ap_start_lingering_close(&record());
    session().suspend();
    if (done) {
        client_->end(ConnEvent::PeerGone, CloseReason::ClientClosed); // the reason is known since it began to close
        return;
    }
    apr_socket_timeout_set(socket, 0);
    apr_socket_opt_set(socket, APR_INCOMPLETE_READ, 0);
    const bool brief = apr_table_get(record().notes, "short-lingering-close") != nullptr;
    mailbox().state = brief ? CONN_STATE_LINGER_SHORT : CONN_STATE_LINGER_NORMAL;
    mailbox().sense = CONN_SENSE_DEFAULT;
    client_->transit(ConnEvent::Flushed);
    worker_.set_client(nullptr);
    worker_.loop.park(std::move(client_), Interest::ReadableOnce, brief ? kShortLingerTime : kLingerTime);
}

void Turn::status(int status)
{
    ap_update_child_status(static_cast<ap_sb_handle_t *>(record().sbh), status, nullptr);
}

} // namespace hybrid
