// SPDX-License-Identifier: Apache-2.0
#include "hybrid/client_io.hpp"

#include "hybrid/session.hpp"

#include <algorithm>
#include <cstring>
#include <netinet/tcp.h>
#include <new>
#include <sys/socket.h>
#include <unistd.h>

namespace hybrid {

extern "C" {

static apr_status_t hybrid_read_socket(apr_bucket *, const char **, apr_size_t *, apr_read_type_e) noexcept;

} // extern "C"

namespace {

constexpr apr_size_t kSmallFile = 32 * 1024;    // bytes; doc/notes has what was measured
constexpr apr_size_t kPiece = 56 * 1024;        // less than FlushMaxThreshold, above which core waits for the client
constexpr int kUnsent = 128 * 1024;             // that the kernel takes from us; by default it is megabytes
constexpr int kPiecesAtOnce = 8;                // before others have their turn
constexpr apr_size_t kMostInMemory = 64 * 1024; // beside a file

const apr_bucket_type_t kClientSocket = {
    "HYBRID_SOCKET",
    5,
    apr_bucket_type_t::APR_BUCKET_DATA,
    apr_bucket_destroy_noop,
    hybrid_read_socket,
    apr_bucket_setaside_notimpl,
    apr_bucket_split_notimpl,
    apr_bucket_copy_notimpl,
};

void make_ours(apr_bucket *socket, Session &session)
{
    socket->type = &kClientSocket;
    socket->data = &session;
}

/// What comes after it has to see the bytes: nothing can be left to sendfile(2).
bool encrypts(const ap_filter_t *filter)
{
    for (; filter; filter = filter->next)
        if (!std::strcmp(filter->frec->name, "ssl/tls filter"))
            return true;
    return false;
}

/// Files opened for sendfile(2) are left to it, if it can be used, and buffered ones to apr-util.
bool readable(const apr_bucket &bucket, const ap_filter_t *next)
{
    const auto *file = static_cast<apr_bucket_file *>(bucket.data);
    const apr_int32_t flags = apr_file_flags_get(file->fd);
    return !(flags & APR_FOPEN_BUFFERED) && (!(flags & APR_FOPEN_SENDFILE_ENABLED) || encrypts(next));
}

// Reads a small file, which core's output filter would map: that costs several times as much, and a file that shrinks
// while it is mapped kills the child with SIGBUS (mod_ssl copies from it). What is not there any more is left to core,
// and the connection ends with this answer, because its length was promised.
void read_file(apr_bucket *bucket, const ap_filter_t &filter)
{
    conn_rec *c = filter.c;
    const auto *file = static_cast<apr_bucket_file *>(bucket->data);
    apr_os_file_t fd;
    if (!readable(*bucket, filter.next) || apr_os_file_get(&fd, file->fd) != APR_SUCCESS)
        return;
    const apr_size_t length = bucket->length;
    auto *content = static_cast<char *>(apr_bucket_alloc(length, bucket->list));
    if (pread(fd, content, length, bucket->start) == static_cast<ssize_t>(length)) {
        APR_BUCKET_INSERT_BEFORE(bucket, apr_bucket_heap_create(content, length, apr_bucket_free, bucket->list));
        apr_bucket_delete(bucket);
    } else {
        apr_bucket_free(content);
        apr_bucket_file_enable_mmap(bucket, 0);
        c->keepalive = AP_CONN_CLOSE;
    }
}

/// A large file on its way to a client that reads slowly: core would map megabytes of it and then wait for the client,
/// with its worker. So core gets a piece when it has written the last one, and what is left stays here, as the file it
/// is.
class Output {
  public:
    explicit Output(Session &session, ap_filter_t &filter) : session_(session), filter_(filter) {}

    apr_status_t take(apr_bucket_brigade *bb)
    {
        const Contents contents = prepare(bb);
        if (!holds() && (!contents.large || contents.flush))
            return ap_pass_brigade(filter_.next, bb);
        const apr_status_t rv = keep(bb);
        if (rv != APR_SUCCESS)
            return rv;
        if (contents.flush || in_memory_ > kMostInMemory) {
            const apr_status_t passed = ap_pass_brigade(filter_.next, held_); // core waits for the client then, as the
            apr_brigade_cleanup(held_);                                       // handler wants it
            forget();
            return passed;
        }
        return pump();
    }

    apr_status_t pump()
    {
        conn_rec *c = filter_.c;
        apr_status_t rv = APR_SUCCESS;
        for (int left = kPiecesAtOnce; left > 0 && rv == APR_SUCCESS && holds() && !c->data_in_output_filters; --left) {
            cut_piece();
            rv = ap_pass_brigade(filter_.next, piece_);
            apr_brigade_cleanup(piece_);
        }
        if (rv != APR_SUCCESS || c->aborted)
            apr_brigade_cleanup(held_);
        if (holds())
            c->data_in_output_filters = 1;
        else
            forget();
        return rv;
    }

    bool holds() const { return held_ && !APR_BRIGADE_EMPTY(held_); }

  private:
    struct Contents {
        bool large = false; // a file that is not for sendfile(2), which needs nobody's help
        bool flush = false;
    };

    Contents prepare(apr_bucket_brigade *bb)
    {
        Contents contents;
        apr_bucket *next;
        for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = next) {
            next = APR_BUCKET_NEXT(b);
            if (APR_BUCKET_IS_FILE(b)) {
                if (b->length <= kSmallFile)
                    read_file(b, filter_);
                else
                    contents.large = contents.large || readable(*b, filter_.next);
            } else if (AP_BUCKET_IS_EOR(b)) {
                session_.input().set_answered();
            } else if (APR_BUCKET_IS_FLUSH(b)) {
                contents.flush = true;
            }
        }
        return contents;
    }

    apr_status_t keep(apr_bucket_brigade *bb)
    {
        conn_rec *c = filter_.c;
        if (!held_) {
            held_ = apr_brigade_create(c->pool, c->bucket_alloc);
            piece_ = apr_brigade_create(c->pool, c->bucket_alloc);
            apr_pool_create(&pool_, c->pool);
            const int unsent = kUnsent;
            setsockopt(session_.client().fd(), IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof unsent);
        }
        for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
            apr_status_t rv = apr_bucket_setaside(b, pool_);
            if (rv == APR_ENOTIMPL) { // what can't be kept is read in, and what it has become is kept
                const char *bytes;
                apr_size_t length;
                rv = apr_bucket_read(b, &bytes, &length, APR_BLOCK_READ);
                if (rv == APR_SUCCESS)
                    rv = apr_bucket_setaside(b, pool_);
            }
            if (rv != APR_SUCCESS)
                return rv;
            if (!APR_BUCKET_IS_FILE(b) && b->length != static_cast<apr_size_t>(-1))
                in_memory_ += b->length;
        }
        APR_BRIGADE_CONCAT(held_, bb);
        return APR_SUCCESS;
    }

    void cut_piece()
    {
        apr_size_t length = 0;
        while (holds() && length < kPiece) {
            apr_bucket *b = APR_BRIGADE_FIRST(held_);
            if (APR_BUCKET_IS_FILE(b) && readable(*b, filter_.next)) {
                if (b->length > kPiece - length)
                    apr_bucket_split(b, kPiece - length);
                length += b->length;
                read_file(b, filter_);
                b = APR_BRIGADE_FIRST(held_);
            } else if (b->length != static_cast<apr_size_t>(-1)) {
                length += b->length;
                in_memory_ -= std::min(in_memory_, b->length);
            }
            APR_BUCKET_REMOVE(b);
            APR_BRIGADE_INSERT_TAIL(piece_, b);
        }
    }

    void forget()
    {
        in_memory_ = 0;
        if (pool_)
            apr_pool_clear(pool_);
    }

    Session &session_;
    ap_filter_t &filter_;
    apr_bucket_brigade *held_ = nullptr;
    apr_bucket_brigade *piece_ = nullptr;
    apr_pool_t *pool_ = nullptr; // what was set aside for it
    apr_size_t in_memory_ = 0;
};

} // namespace

extern "C" {

static apr_status_t hybrid_output(ap_filter_t *f, apr_bucket_brigade *bb) noexcept
{
    return static_cast<Output *>(f->ctx)->take(bb);
}

// apr-util's socket bucket does the work; having read something it has become that, followed by a new socket bucket.
static apr_status_t hybrid_read_socket(apr_bucket *bucket, const char **str, apr_size_t *len,
                                       apr_read_type_e block) noexcept
{
    auto &session = *static_cast<Session *>(bucket->data);
    ReadMemo &memo = session.input();
    const bool late = session.client().arriving().timed_out();
    if (block == APR_NONBLOCK_READ && !late && memo.take_drained()) {
        *str = nullptr;
        *len = 0;
        return APR_EAGAIN;
    }
    bucket->type = &apr_bucket_type_socket;
    bucket->data = session.socket();
    const apr_status_t rv = apr_bucket_read(bucket, str, len, late ? APR_NONBLOCK_READ : block);
    if (rv == APR_SUCCESS ? *len == 0 : !APR_STATUS_IS_EAGAIN(rv) && !APR_STATUS_IS_TIMEUP(rv))
        memo.set_ended();
    memo.set_drained(rv == APR_SUCCESS ? *len > 0 && *len < APR_BUCKET_BUFF_SIZE : APR_STATUS_IS_EAGAIN(rv));
    apr_bucket *rest = rv == APR_SUCCESS ? APR_BUCKET_NEXT(bucket) : bucket;
    if (APR_BUCKET_IS_SOCKET(rest)) // not after the end
        make_ours(rest, session);
    return late && APR_STATUS_IS_EAGAIN(rv) ? APR_TIMEUP : rv; // mod_reqtimeout would poll after an EAGAIN
}

} // extern "C"

ap_filter_rec_t *register_client_output()
{
    return ap_register_output_filter("HYBRID_OUTPUT", hybrid_output, nullptr, AP_FTYPE_CONNECTION);
}

void add_client_output(conn_rec *c, ap_filter_rec_t *filter)
{
    Session *session = Session::of(c);
    if (!session)
        return;
    ap_filter_t *added = ap_add_output_filter_handle(filter, nullptr, nullptr, c);
    auto *output = new (apr_palloc(c->pool, sizeof(Output))) Output(*session, *added);
    added->ctx = output;
    session->set_output(output);
}

apr_status_t write_held(const Session &session)
{
    auto *output = static_cast<Output *>(session.output());
    return output && output->holds() ? output->pump() : APR_SUCCESS;
}

apr_status_t insert_client_socket(conn_rec *c, apr_bucket_brigade *bb)
{
    Session *session = Session::of(c);
    if (!session)
        return AP_DECLINED;
    apr_bucket *socket = apr_bucket_socket_create(session->socket(), c->bucket_alloc);
    make_ours(socket, *session);
    APR_BRIGADE_INSERT_TAIL(bb, socket);
    return OK;
}

} // namespace hybrid
