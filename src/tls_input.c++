// SPDX-License-Identifier: Apache-2.0
#include "hybrid/tls_input.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace hybrid {

namespace {

constexpr std::size_t kUsualRoom = 8 * 1024;
constexpr char kTlsFilter[] = "ssl/tls filter";

bool has_tls(const conn_rec *c)
{
    for (const ap_filter_t *filter = c->input_filters; filter; filter = filter->next)
        if (!strcasecmp(filter->frec->name, kTlsFilter))
            return true;
    return false;
}

} // namespace

extern "C" {

static apr_status_t hybrid_tls_input(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode,
                                     apr_read_type_e block, apr_off_t most) noexcept
{
    return static_cast<TlsInput *>(f->ctx)->give(bb, mode, block, most);
}

} // extern "C"

// Above mod_ssl's (AP_FTYPE_CONNECTION + 5), below HTTP's.
ap_filter_rec_t *TlsInput::register_filter()
{
    return ap_register_input_filter("HYBRID_TLS_INPUT", hybrid_tls_input, nullptr,
                                    static_cast<ap_filter_type>(AP_FTYPE_CONNECTION + 2));
}

TlsInput *TlsInput::add(Session &session, ap_filter_rec_t *filter)
{
    conn_rec *c = session.record();
    if (!has_tls(c))
        return nullptr;
    ap_filter_t *added = ap_add_input_filter_handle(filter, nullptr, nullptr, c);
    apr_bucket_brigade *brigade = apr_brigade_create(c->pool, c->bucket_alloc);
    auto *input = new (apr_palloc(c->pool, sizeof(TlsInput))) TlsInput(session, *added, *brigade);
    added->ctx = input;
    const auto destroy = [](void *self) -> apr_status_t {
        static_cast<TlsInput *>(self)->~TlsInput();
        return APR_SUCCESS;
    };
    apr_pool_cleanup_register(c->pool, input, destroy, apr_pool_cleanup_null);
    return input;
}

// mod_ssl's filter answers EAGAIN to a read of this kind until the handshake is over. Its own process_connection hook
// asks again later, and would see a failure twice: it gets what has come of it now.
bool TlsInput::shake_hands()
{
    const apr_status_t rv = ap_get_brigade(filter_->next, brigade_, AP_MODE_INIT, APR_NONBLOCK_READ, 0);
    apr_brigade_cleanup(brigade_);
    if (APR_STATUS_IS_EAGAIN(rv))
        return false;
    handshaken_ = true;
    outcome_ = rv;
    return true;
}

bool TlsInput::http1() const
{
    return !std::strcmp(ap_get_protocol(session_.record()), AP_PROTOCOL_HTTP1);
}

bool TlsInput::read_ahead(std::size_t most)
{
    if (outcome_ != APR_SUCCESS)
        return false;
    apr_bucket_brigade *bb = brigade_;
    bool good = true;
    while (good && end_ - begin_ < most) {
        const apr_status_t rv = ap_get_brigade(filter_->next, bb, AP_MODE_READBYTES, APR_NONBLOCK_READ,
                                               static_cast<apr_off_t>(most - (end_ - begin_)));
        if (APR_STATUS_IS_EAGAIN(rv) || (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(bb)))
            break;
        good = rv == APR_SUCCESS && append_all(bb);
        apr_brigade_cleanup(bb);
    }
    ended_ = !good;
    if (ended_)
        session_.input().set_ended(); // that mod_ssl has read, perhaps without the socket's end
    return good;
}

// False: there is something else than bytes.
bool TlsInput::append_all(apr_bucket_brigade *bb)
{
    for (apr_bucket *bucket = APR_BRIGADE_FIRST(bb); bucket != APR_BRIGADE_SENTINEL(bb);
         bucket = APR_BUCKET_NEXT(bucket)) {
        const char *bytes;
        apr_size_t length = 0;
        if (APR_BUCKET_IS_METADATA(bucket) ||
            apr_bucket_read(bucket, &bytes, &length, APR_NONBLOCK_READ) != APR_SUCCESS)
            return false;
        append({bytes, length});
    }
    return true;
}

void TlsInput::append(std::string_view bytes)
{
    if (begin_ > 0) {
        std::memmove(bytes_.get(), bytes_.get() + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    if (end_ + bytes.size() > room_) {
        room_ = std::max({kUsualRoom, 2 * room_, end_ + bytes.size()});
        auto *more = static_cast<char *>(std::realloc(bytes_.release(), room_));
        ap_assert(more); // as httpd does without memory
        bytes_.reset(more);
    }
    std::memcpy(bytes_.get() + end_, bytes.data(), bytes.size());
    end_ += bytes.size();
}

// What is given is good until the next read is over, as mod_ssl's own is.
void TlsInput::give_some(apr_bucket_brigade *bb, std::size_t length, bool keep)
{
    apr_bucket *bucket = apr_bucket_transient_create(bytes_.get() + begin_, length, bb->bucket_alloc);
    APR_BRIGADE_INSERT_TAIL(bb, bucket);
    if (!keep)
        begin_ += length;
}

// A line, or a piece of one that does not end, of the same length as mod_ssl's. What is less is lost, as mod_ssl loses
// it, when its client has ended or is late; unless it may just not wait.
apr_status_t TlsInput::give_line(apr_bucket_brigade *bb, apr_read_type_e block)
{
    if (begin_ > 0 && held().find('\n') == std::string_view::npos) { // what has been given stays for this call
        std::unique_ptr<char[], Free> given = std::move(bytes_);
        const std::string_view here(given.get() + begin_, end_ - begin_);
        room_ = begin_ = end_ = 0;
        append(here);
        given_ = std::move(given);
    }
    apr_status_t rv = session_.client().arriving().timed_out() ? APR_TIMEUP : ended_ ? APR_EOF : APR_SUCCESS;
    std::size_t end;
    while ((end = held().find('\n')) == std::string_view::npos && held().size() < HUGE_STRING_LEN &&
           rv == APR_SUCCESS) {
        rv = ap_get_brigade(filter_->next, brigade_, AP_MODE_READBYTES, block,
                            static_cast<apr_off_t>(HUGE_STRING_LEN - held().size()));
        if (rv == APR_SUCCESS && APR_BRIGADE_EMPTY(brigade_))
            rv = APR_EAGAIN;
        else if (rv == APR_SUCCESS && !append_all(brigade_))
            rv = APR_EOF;
        apr_brigade_cleanup(brigade_);
    }
    if (end != std::string_view::npos || held().size() >= HUGE_STRING_LEN) {
        give_some(bb, std::min<std::size_t>(end + 1 ? end + 1 : HUGE_STRING_LEN, held().size()), false);
        return APR_SUCCESS;
    }
    if (!APR_STATUS_IS_EAGAIN(rv))
        begin_ = end_;
    return rv;
}

apr_status_t TlsInput::give(apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block, apr_off_t most)
{
    if (mode == AP_MODE_INIT && handshaken_)
        return outcome_;
    if (mode == AP_MODE_EATCRLF)
        while (begin_ < end_ && (bytes_[begin_] == '\r' || bytes_[begin_] == '\n'))
            ++begin_;
    const std::string_view here = held();
    given_.reset();
    if (here.empty()) {
        given_ = std::move(bytes_);
        room_ = begin_ = end_ = 0;
    }
    const std::size_t bound = std::min(here.size(), static_cast<std::size_t>(std::max<apr_off_t>(most, 0)));
    switch (here.empty() ? AP_MODE_INIT : mode) {
    case AP_MODE_GETLINE:
        return give_line(bb, block);
    case AP_MODE_READBYTES:
    case AP_MODE_SPECULATIVE:
        return give_some(bb, bound, mode == AP_MODE_SPECULATIVE), APR_SUCCESS;
    case AP_MODE_EXHAUSTIVE:
        give_some(bb, here.size(), false);
        return APR_SUCCESS;
    default: // INIT here: nothing is held
        break;
    }
    if (session_.client().arriving().timed_out() && mode != AP_MODE_INIT)
        return APR_TIMEUP;
    return ap_get_brigade(filter_->next, bb, mode, block, most);
}

void TlsInput::free_given()
{
    given_.reset();
}

void TlsInput::remove()
{
    ap_remove_input_filter(filter_);
}

} // namespace hybrid
