#include "hybrid/client_io.hpp"

#include "hybrid/connection.hpp"

#include <unistd.h>

namespace hybrid {

extern "C" {

static apr_status_t hybrid_read_socket(apr_bucket *, const char **, apr_size_t *, apr_read_type_e) noexcept;

} // extern "C"

namespace {

constexpr apr_size_t kSmallFile = 32 * 1024; // bytes; doc/notes has what was measured

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

void make_ours(apr_bucket *socket, Connection &connection)
{
    socket->type = &kClientSocket;
    socket->data = &connection;
}

// Reads a small file, which core's output filter would map: that costs several times as much, and a file that shrinks
// while it is mapped kills the child with SIGBUS (mod_ssl copies from it). What is not there any more is left to core,
// and the connection ends with this answer, because its length was promised.
void read_file(apr_bucket *bucket, conn_rec *c)
{
    const auto *file = static_cast<apr_bucket_file *>(bucket->data);
    apr_os_file_t fd;
    if (apr_file_flags_get(file->fd) & (APR_FOPEN_SENDFILE_ENABLED | APR_FOPEN_BUFFERED) ||
        apr_os_file_get(&fd, file->fd) != APR_SUCCESS)
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

} // namespace

extern "C" {

static apr_status_t hybrid_output(ap_filter_t *f, apr_bucket_brigade *bb) noexcept
{
    apr_bucket *next;
    for (apr_bucket *b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = next) {
        next = APR_BUCKET_NEXT(b);
        if (APR_BUCKET_IS_FILE(b) && b->length <= kSmallFile)
            read_file(b, f->c);
        else if (AP_BUCKET_IS_EOR(b))
            static_cast<Connection *>(f->ctx)->set_answered();
    }
    return ap_pass_brigade(f->next, bb);
}

// apr-util's socket bucket does the work; having read something it has become that, followed by a new socket bucket.
static apr_status_t hybrid_read_socket(apr_bucket *bucket, const char **str, apr_size_t *len,
                                       apr_read_type_e block) noexcept
{
    auto &connection = *static_cast<Connection *>(bucket->data);
    if (block == APR_NONBLOCK_READ && connection.take_drained()) {
        *str = nullptr;
        *len = 0;
        return APR_EAGAIN;
    }
    bucket->type = &apr_bucket_type_socket;
    bucket->data = connection.socket();
    const apr_status_t rv = apr_bucket_read(bucket, str, len, block);
    connection.set_drained(rv == APR_SUCCESS ? *len > 0 && *len < APR_BUCKET_BUFF_SIZE : APR_STATUS_IS_EAGAIN(rv));
    apr_bucket *rest = rv == APR_SUCCESS ? APR_BUCKET_NEXT(bucket) : bucket;
    if (APR_BUCKET_IS_SOCKET(rest)) // not after the end
        make_ours(rest, connection);
    return rv;
}

} // extern "C"

ap_filter_rec_t *register_client_output()
{
    return ap_register_output_filter("HYBRID_OUTPUT", hybrid_output, nullptr, AP_FTYPE_CONNECTION);
}

void add_client_output(conn_rec *c, ap_filter_rec_t *filter)
{
    if (Connection *connection = Connection::of(c))
        ap_add_output_filter_handle(filter, connection, nullptr, c);
}

apr_status_t insert_client_socket(conn_rec *c, apr_bucket_brigade *bb)
{
    Connection *connection = Connection::of(c);
    if (!connection)
        return AP_DECLINED;
    apr_bucket *socket = apr_bucket_socket_create(connection->socket(), c->bucket_alloc);
    make_ours(socket, *connection);
    APR_BRIGADE_INSERT_TAIL(bb, socket);
    return OK;
}

} // namespace hybrid
