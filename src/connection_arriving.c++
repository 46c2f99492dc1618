// How a connection's next request comes: what of it is here, and how long the rest may take.
#include "hybrid/arrival.hpp"
#include "hybrid/connection.hpp"
#include "hybrid/request_limits.hpp"
#include "hybrid/request_timeouts.hpp"
#include "hybrid/tls_input.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace hybrid {

namespace {

constexpr std::size_t kUsualHead = 4 * 1024;

} // namespace

Connection::Here Connection::look(const RequestLimits &limits)
{
    if (state_ == ConnState::Processing)
        forget_part(); // a turn looks at all that is here
    const Here here = tls_                              ? look_inside(limits)
                      : state_ == ConnState::Processing ? look_live(limits)
                                                        : look_from_outside(limits);
    if (here == Here::Head && !in_body_) {
        in_body_ = true;
        begins_ = now(); // the body has its own time
    } else if (here == Here::Part && begins_ == 0) {
        begins_ = now();
    }
    return here;
}

bool Connection::shakes_hands() const
{
    return tls_ && !tls_->handshaken();
}

Connection::Here Connection::look_inside(const RequestLimits &limits)
{
    if (!tls_->handshaken()) {
        if (!tls_->shake_hands())
            return Here::Part;
        begins_ = 0; // now for the head
    }
    if (!tls_->http1()) {
        tls_->remove();
        tls_ = nullptr;
        expect_nothing();
        return Here::Whole;
    }
    if (!tls_->read_ahead(limits.most))
        return Here::Whole;
    return tls_->held().empty() ? Here::Nothing : judge(tls_->held(), limits);
}

Connection::Here Connection::judge(std::string_view bytes, const RequestLimits &limits)
{
    Arrival arrival = peer_.expects == Expects::Record
                          ? look_at_record(bytes, limits)
                          : look_at_request(bytes, limits, tls_ ? Carrier::Tls : Carrier::Socket);
    // Clients speak TLS where Listen has not said so, too; not one that has had an answer, and has slept since.
    if (!opened() && keepalives_ == 0 && !may_begin_request(bytes.front()) &&
        look_at_record(bytes, limits).state == Arrival::State::Whole) {
        peer_.expects = Expects::Record; // and there has been no look at anything else
        return Here::Whole;
    }
    if (arrival.state == Arrival::State::Body && peer_.expects == Expects::Head)
        arrival.state = Arrival::State::Whole;
    if (arrival.state == Arrival::State::Whole)
        return Here::Whole;
    part_.bytes = bytes.size();
    part_.head = arrival.head;
    const bool stays_in_kernel = !tls_ && state_ != ConnState::Processing;
    if (stays_in_kernel && !await(arrival.wanted - part_.read)) {
        forget_part();
        return Here::Whole;
    }
    return arrival.state == Arrival::State::Body ? Here::Head : Here::Part;
}

void Connection::forget_part()
{
    part_ = {};
    await(1);
}

Duration Connection::request_timeout() const
{
    if (shakes_hands())
        return RequestTimeouts::handshake(timeouts_of_);
    return in_body_ ? RequestTimeouts::body(timeouts_of_, part_.bytes - part_.head)
                    : RequestTimeouts::head(timeouts_of_, part_.bytes);
}

void Connection::count_unread()
{
    int unread = 0;
    if (shakes_hands() || ioctl(fd(), FIONREAD, &unread) != 0)
        return;
    const std::size_t bytes = unread + (tls_ ? tls_->held().size() : part_.read);
    part_.bytes = std::max(part_.bytes, bytes);
}

// The bytes stay in the kernel. It reports again when there are as many as are wanted, or when the client has ended, or
// its receive buffer is full: then there are fewer, and nothing is left to wait for.
Connection::Here Connection::look_from_outside(const RequestLimits &limits)
{
    const auto peek = [this](char *to, std::size_t most) { return recv(fd(), to, most, MSG_PEEK | MSG_DONTWAIT); };
    const auto nothing = [this](ssize_t count) {
        if (count < 0 && (errno == EAGAIN || errno == EINTR))
            return Here::Nothing;
        return opened() ? Here::Whole : Here::Gone; // httpd has records of a live one to close
    };
    if (part_.read == 0 && awaited_ < static_cast<int>(kUsualHead)) {
        char few[kUsualHead];
        const ssize_t count = peek(few, sizeof few);
        if (count <= 0)
            return nothing(count);
        if (count < static_cast<ssize_t>(sizeof few))
            return count < awaited_ ? Here::Whole : judge({few, static_cast<std::size_t>(count)}, limits);
    }
    const std::unique_ptr<char[]> many(new (std::nothrow) char[limits.most]);
    if (!many)
        return Here::Whole;
    std::copy_n(part_.copy.get(), part_.read, many.get());
    const ssize_t count = peek(many.get() + part_.read, limits.most - part_.read);
    if (count <= 0)
        return nothing(count);
    return count < awaited_ ? Here::Whole : judge({many.get(), part_.read + static_cast<std::size_t>(count)}, limits);
}

// SO_RCVLOWAT. False: the system has refused it, and the kernel would report again and again. If it refuses to have it
// reset, httpd would wait for bytes that may never come: then the client has said all that counts.
bool Connection::await(std::size_t bytes)
{
    const int count = static_cast<int>(bytes);
    if (std::exchange(awaited_, count) == count || setsockopt(fd(), SOL_SOCKET, SO_RCVLOWAT, &count, sizeof count) == 0)
        return true;
    awaited_ = 1;
    if (count == 1)
        shutdown(fd(), SHUT_RD);
    return false;
}

// Asks core's input filter itself, so that those above it, mod_reqtimeout's with its clock, don't take part. What it
// has read it keeps for them. If that is no whole request, the connection keeps a copy, and the rest is looked at from
// outside.
Connection::Here Connection::look_live(const RequestLimits &limits)
{
    if (!reads_plainly(c_)) {
        expect_nothing();
        return Here::Whole;
    }
    if (!look_)
        look_ = apr_brigade_create(pool_, buckets_);
    ap_filter_t *core = c_->input_filters;
    while (core->next)
        core = core->next;
    looking_ = true;
    drained_ = ended_ = false;
    const apr_status_t rv = core->frec->filter_func.in_func(core, look_, AP_MODE_SPECULATIVE, APR_NONBLOCK_READ,
                                                            static_cast<apr_off_t>(limits.most));
    looking_ = false;

    Here here = Here::Whole;
    const char *bytes = nullptr;
    apr_size_t length = 0;
    std::unique_ptr<char[]> copy;
    if (rv == APR_SUCCESS && !ended_) {
        if (APR_BRIGADE_EMPTY(look_)) {
            here = Here::Nothing;
        } else if (APR_BUCKET_NEXT(APR_BRIGADE_FIRST(look_)) == APR_BRIGADE_SENTINEL(look_)) {
            if (apr_bucket_read(APR_BRIGADE_FIRST(look_), &bytes, &length, APR_NONBLOCK_READ) == APR_SUCCESS)
                here = judge({bytes, length}, limits);
        } else if (copy.reset(new (std::nothrow) char[limits.most]); copy) {
            length = limits.most;
            if (apr_brigade_flatten(look_, copy.get(), &length) == APR_SUCCESS)
                here = judge({bytes = copy.get(), length}, limits);
        }
    }
    if ((here == Here::Part || here == Here::Head) && !keep_copy({bytes, length})) {
        forget_part();
        here = Here::Whole;
    }
    apr_brigade_cleanup(look_);
    return here;
}

bool Connection::keep_copy(std::string_view bytes)
{
    part_.copy.reset(new (std::nothrow) char[bytes.size()]);
    if (!part_.copy)
        return false;
    std::memcpy(part_.copy.get(), bytes.data(), bytes.size());
    part_.read = bytes.size();
    return true;
}

} // namespace hybrid
