// SPDX-License-Identifier: Apache-2.0
/* A test's eyes inside httpd: logs every hook the MPM runs, with pid and thread, and has handlers and odd protocols
 * that hold a connection in one phase. Never part of the product. t/lib/Hybrid/Server.pm (probe) reads the log:
 *
 *   <microseconds> <pid> <tid> <hook> key=value ...
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "httpd.h"
#include "http_config.h"
#include "http_connection.h"
#include "http_core.h"
#include "http_log.h"
#include "http_protocol.h"
#include "http_request.h"
#include "ap_mpm.h"
#include "mpm_common.h"
#include "scoreboard.h"
#include "apr_strings.h"

#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum conn_mode { MODE_NONE, MODE_SPEAKS_FIRST, MODE_REFUSE, MODE_UNTOUCHED, MODE_KEEPALIVE, MODE_HANDLER, MODE_WAITIO,
                 MODE_SUSPEND, MODE_HOLD, MODE_ERROR, MODE_CIPHER };
static const char *const mode_names[] = {"none",    "speaks-first", "refuse",  "untouched", "keepalive",
                                         "handler", "waitio",       "suspend", "hold",    "error",
                                         "cipher"};

static const char *log_path;
static int timer_at_init;
static const char *hoard_when; /* this file is there, a new child takes all descriptors, for so long */
static int hoard_ms;
static struct { int port; enum conn_mode mode; } ports[16];
static int port_count;

static void note_it(const char *hook, const char *format, ...)
{
    char line[1024];
    struct timespec ts;
    va_list args;
    int fd, length;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    length = snprintf(line, 200, "%lld %d %ld %s ", ts.tv_sec * 1000000LL + ts.tv_nsec / 1000, (int)getpid(),
                      (long)syscall(SYS_gettid), hook);
    va_start(args, format);
    length += vsnprintf(line + length, sizeof line - length - 1, format, args);
    va_end(args);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd >= 0) {
        (void)!write(fd, line, length);
        close(fd);
    }
}

/* mpm_query: every code, at the moments modules ask */
/* Without a log the arguments aren't even made: the handlers serve the bench, too. */
#define note(...) ((void)(log_path && (note_it(__VA_ARGS__), 0)))

static void note_queries(const char *when)
{
    static const int codes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 99};
    unsigned i;
    for (i = 0; i < sizeof codes / sizeof *codes; i++) {
        int result = -1;
        apr_status_t rv = ap_mpm_query(codes[i], &result);
        note("query", "when=%s code=%d rv=%d result=%d", when, codes[i], (int)rv, rv == APR_SUCCESS ? result : -1);
    }
}

static int pre_config(apr_pool_t *p, apr_pool_t *plog, apr_pool_t *ptemp)
{
    log_path = NULL;
    timer_at_init = 0;
    hoard_when = NULL;
    port_count = 0;
    return OK;
}

static int check_config(apr_pool_t *p, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    note("check_config", "name=%s", ap_show_mpm());
    return OK;
}

static int open_logs(apr_pool_t *p, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    note("open_logs", "-");
    return OK;
}

static int post_config(apr_pool_t *p, apr_pool_t *plog, apr_pool_t *ptemp, server_rec *s)
{
    note("post_config", "state=%d", ap_state_query(AP_SQ_MAIN_STATE));
    if (ap_state_query(AP_SQ_MAIN_STATE) != AP_SQ_MS_CREATE_PRE_CONFIG)
        note_queries("post_config");
    return OK;
}

static int pre_mpm(apr_pool_t *p, ap_scoreboard_e type)
{
    note("pre_mpm", "-");
    note_queries("pre_mpm");
    return OK;
}

static int drop_privileges(apr_pool_t *p, server_rec *s)
{
    note("drop_privileges", "uid=%d", (int)geteuid());
    return OK;
}

static void on_timer(void *baton)
{
    note("timer", "name=%s", (const char *)baton);
}

static int hoarded[65536];

static void let_hoard_go(void *baton)
{
    int count;
    for (count = 0; hoarded[count] > 0; count++)
        close(hoarded[count]);
    note("hoard", "released=%d", count);
}

static void hoard(void)
{
    int count = 0;
    while (count < 65535 && (hoarded[count] = open("/dev/null", O_RDONLY | O_CLOEXEC)) > 0)
        count++;
    hoarded[count] = 0;
    ap_mpm_register_timed_callback(apr_time_from_msec(hoard_ms), let_hoard_go, NULL);
    note("hoard", "taken=%d", count);
}

static void child_init(apr_pool_t *p, server_rec *s)
{
    if (hoard_when && access(hoard_when, F_OK) == 0)
        hoard();
    note("child_init", "uid=%d", (int)geteuid());
    note_queries("child_init");
    if (timer_at_init) {
        apr_status_t rv = ap_mpm_register_timed_callback(apr_time_from_msec(timer_at_init), on_timer, "init");
        note("timer_registered", "name=init rv=%d", (int)rv);
    }
}

static void child_stopping(apr_pool_t *p, int graceful)
{
    int state = -1;
    ap_mpm_query(AP_MPMQ_MPM_STATE, &state);
    note("child_stopping", "graceful=%d state=%d", graceful, state);
}

static void child_status(server_rec *s, pid_t pid, ap_generation_t gen, int slot, mpm_child_status status)
{
    note("child_status", "child=%d gen=%d slot=%d status=%s", (int)pid, (int)gen, slot,
         status == MPM_CHILD_STARTED ? "started" : status == MPM_CHILD_EXITED ? "exited" : "lost");
}

static void end_generation(server_rec *s, ap_generation_t gen)
{
    note("end_generation", "gen=%d", (int)gen);
}

static int monitor(apr_pool_t *p, server_rec *s)
{
    note("monitor", "-");
    return OK;
}

static enum conn_mode mode_of(conn_rec *c)
{
    int i;
    for (i = 0; i < port_count; i++)
        if (!c->master && !c->outgoing && c->local_addr && c->local_addr->port == ports[i].port)
            return ports[i].mode;
    return MODE_NONE;
}

static const char *key(conn_rec *c)
{
    return apr_psprintf(c->pool, "conn=%s:%d secondary=%d outgoing=%d id=%ld", c->client_ip ? c->client_ip : "-",
                        c->client_addr ? c->client_addr->port : 0, c->master != NULL, c->outgoing, c->id);
}

static apr_status_t conn_gone(void *data)
{
    note("conn_gone", "%s", (const char *)data);
    return APR_SUCCESS;
}

/* Clients that speak in a cipher, all of whose letters might be of a method. */
static apr_status_t decipher(ap_filter_t *f, apr_bucket_brigade *bb, ap_input_mode_t mode, apr_read_type_e block,
                             apr_off_t most)
{
    /* A line may end anywhere: bytes are asked for instead. */
    const int line = mode == AP_MODE_GETLINE;
    apr_status_t rv = ap_get_brigade(f->next, bb, line ? AP_MODE_READBYTES : mode, block, line ? 1 : most);
    apr_bucket *b;
    if (rv != APR_SUCCESS || mode == AP_MODE_INIT)
        return rv;
    for (b = APR_BRIGADE_FIRST(bb); b != APR_BRIGADE_SENTINEL(bb); b = APR_BUCKET_NEXT(b)) {
        const char *bytes;
        char *plain;
        apr_size_t length, i;
        apr_bucket *clear;
        if (APR_BUCKET_IS_METADATA(b) || (rv = apr_bucket_read(b, &bytes, &length, block)) != APR_SUCCESS)
            continue;
        plain = apr_palloc(f->c->pool, length + 1);
        for (i = 0; i < length; i++)
            plain[i] = bytes[i] == '_' ? '\r' : bytes[i] == '~' ? '\n' : bytes[i] == '^' ? ':' : bytes[i] - 3;
        clear = apr_bucket_pool_create(plain, length, f->c->pool, f->c->bucket_alloc);
        APR_BUCKET_INSERT_BEFORE(b, clear);
        apr_bucket_delete(b);
        b = clear;
    }
    return rv;
}

static int pre_connection(conn_rec *c, void *csd)
{
    const char *k = key(c);
    note("pre_connection", "%s cs=%d own_cs=%d", k, c->cs != NULL, !c->master || c->cs != c->master->cs);
    apr_pool_cleanup_register(c->pool, k, conn_gone, apr_pool_cleanup_null);
    if (mode_of(c) == MODE_CIPHER)
        ap_add_input_filter("HYBRID_DECIPHER", NULL, NULL, c);
    return mode_of(c) == MODE_REFUSE ? HTTP_FORBIDDEN : OK;
}

static void suspend_connection(conn_rec *c, request_rec *r)
{
    note("suspend", "%s r=%d", key(c), r != NULL);
}

static void resume_connection(conn_rec *c, request_rec *r)
{
    note("resume", "%s r=%d sbh=%d", key(c), r != NULL, c->sbh != NULL);
}

static int pre_close(conn_rec *c)
{
    note("pre_close", "%s thread=%d", key(c), c->current_thread != NULL);
    return OK;
}

static void pre_read_request(request_rec *r, conn_rec *c)
{
    note("pre_read_request", "%s", key(c));
}

static int log_transaction(request_rec *r)
{
    note("log_transaction", "%s uri=%s status=%d keepalives=%d", key(r->connection), r->uri ? r->uri : "-", r->status,
         r->connection->keepalives);
    return DECLINED;
}

static void say(conn_rec *c, const char *text)
{
    apr_bucket_brigade *bb = apr_brigade_create(c->pool, c->bucket_alloc);
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_immortal_create(text, strlen(text), c->bucket_alloc));
    APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_flush_create(c->bucket_alloc));
    ap_pass_brigade(c->output_filters, bb);
}

/* The server speaks first, then echoes lines until "quit". */
static void speak_first(conn_rec *c)
{
    apr_bucket_brigade *bb = apr_brigade_create(c->pool, c->bucket_alloc);
    say(c, "200 hello\r\n");
    for (;;) {
        char line[256];
        apr_size_t length = sizeof line - 1;
        if (ap_get_brigade(c->input_filters, bb, AP_MODE_GETLINE, APR_BLOCK_READ, 0) != APR_SUCCESS ||
            APR_BRIGADE_EMPTY(bb) || apr_brigade_flatten(bb, line, &length) != APR_SUCCESS || length == 0)
            return;
        line[length] = 0;
        apr_brigade_cleanup(bb);
        say(c, apr_pstrdup(c->pool, line));
        if (!strncmp(line, "quit", 4))
            return;
    }
}

static void let_go(void *baton)
{
    conn_rec *c = baton;
    note("let_go", "%s", key(c));
    c->keepalive = AP_CONN_CLOSE;
    c->cs->state = CONN_STATE_WRITE_COMPLETION;
}

static int process_connection(conn_rec *c)
{
    enum conn_mode mode = mode_of(c);
    int visits;
    const char *seen;

    note("process_connection", "%s thread=%d sbh=%d state=%d", key(c), c->current_thread != NULL, c->sbh != NULL,
         c->cs ? (int)c->cs->state : -1);
    if (mode == MODE_NONE)
        return DECLINED;
    seen = apr_table_get(c->notes, "hybrid-visits");
    visits = seen ? atoi(seen) : 0;
    apr_table_set(c->notes, "hybrid-visits", apr_itoa(c->pool, visits + 1));
    switch (mode) {
    case MODE_SPEAKS_FIRST:
        speak_first(c);
        return OK; /* without ever looking at c->cs, as modules for other MPMs do */
    case MODE_UNTOUCHED:
        say(c, "untouched\r\n");
        return OK;
    case MODE_KEEPALIVE: /* twice kept alive, then closed */
        if (visits) { /* read before the client may send more: nobody looks into the input filters here */
            apr_bucket_brigade *bb = apr_brigade_create(c->pool, c->bucket_alloc);
            ap_get_brigade(c->input_filters, bb, AP_MODE_GETLINE, APR_BLOCK_READ, 0);
        }
        say(c, "keepalive\r\n");
        c->keepalive = visits < 2 ? AP_CONN_KEEPALIVE : AP_CONN_CLOSE;
        c->cs->state = visits < 2 ? CONN_STATE_CHECK_REQUEST_LINE_READABLE : CONN_STATE_LINGER;
        return OK;
    case MODE_HANDLER:
        say(c, "handler\r\n");
        c->cs->state = CONN_STATE_HANDLER; /* not a state to return with */
        return OK;
#ifdef AP_MPMQ_CAN_WAITIO
    case MODE_WAITIO: /* waits for a line without a worker */
        if (!visits) {
            say(c, "waiting\r\n");
            c->cs->state = CONN_STATE_ASYNC_WAITIO;
            c->cs->sense = CONN_SENSE_WANT_READ;
            return OK;
        }
        say(c, "ready\r\n");
        return OK;
#endif
    case MODE_SUSPEND: /* held for 300 ms, then flushed and closed */
    case MODE_HOLD:    /* held for ever */
        if (!visits) {
            say(c, "suspended\r\n");
            c->cs->state = CONN_STATE_SUSPENDED;
            if (mode == MODE_SUSPEND)
                ap_mpm_register_timed_callback(apr_time_from_msec(300), let_go, c);
            return OK;
        }
        return OK;
    case MODE_ERROR:
        return HTTP_INTERNAL_SERVER_ERROR;
    default:
        return DECLINED;
    }
}

static long argument(request_rec *r, const char *name, long otherwise)
{
    const char *at = r->args ? strstr(r->args, name) : NULL;
    return at && at[strlen(name)] == '=' ? atol(at + strlen(name) + 1) : otherwise;
}

/* A bucket whose bytes are lent: to be read before whoever has passed it on gets back to work. */
static apr_status_t read_lent(apr_bucket *b, const char **bytes, apr_size_t *length, apr_read_type_e block)
{
    const char *lent = b->data;
    *length = b->length;
    apr_bucket_heap_make(b, lent, *length, NULL); /* a copy */
    *bytes = ((apr_bucket_heap *)b->data)->base;
    return APR_SUCCESS;
}

static const apr_bucket_type_t lent_type = {
    "LENT", 5, APR_BUCKET_DATA, apr_bucket_destroy_noop, read_lent, apr_bucket_setaside_notimpl,
    apr_bucket_split_notimpl, apr_bucket_copy_notimpl};

static apr_bucket *lend(const char *bytes, apr_size_t length, apr_bucket_alloc_t *list)
{
    apr_bucket *b = apr_bucket_alloc(sizeof *b, list);
    APR_BUCKET_INIT(b);
    b->free = apr_bucket_free;
    b->list = list;
    b->type = &lent_type;
    b->data = (void *)bytes;
    b->length = length;
    b->start = 0;
    return b;
}

/* The file, sixteen bytes that are lent, and with ?flush=1 a flush in a brigade of its own behind them. */
static int send_file_and_lent(request_rec *r)
{
    char lent[] = "lent to the MPM\n";
    apr_file_t *file;
    apr_bucket_brigade *bb = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    if (apr_file_open(&file, r->filename, APR_READ | APR_BINARY, 0, r->pool) != APR_SUCCESS)
        return HTTP_NOT_FOUND;
    apr_brigade_insert_file(bb, file, 0, r->finfo.size, r->pool);
    APR_BRIGADE_INSERT_TAIL(bb, lend(lent, sizeof lent - 1, bb->bucket_alloc));
    ap_set_content_length(r, r->finfo.size + sizeof lent - 1);
    if (ap_pass_brigade(r->output_filters, bb) != APR_SUCCESS)
        return AP_FILTER_ERROR;
    memset(lent, 'x', sizeof lent - 1);
    if (argument(r, "flush", 0))
        ap_rflush(r);
    return OK;
}

/* The request's body in brigades, each looked at again when the next has been read: where is the first that is not as it
 * was? -1: all are. */
static int read_and_keep(request_rec *r)
{
    apr_bucket_brigade *now = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    apr_bucket_brigade *before = apr_brigade_create(r->pool, r->connection->bucket_alloc);
    apr_bucket_brigade *swap;
    static const apr_size_t most = 8192;
    char *copy = apr_pcalloc(r->pool, most), *again = apr_palloc(r->pool, most);
    apr_size_t had = 0, length;
    apr_off_t count = 0;
    long changed = -1;
    int done = 0;
    while (!done && ap_get_brigade(r->input_filters, now, AP_MODE_READBYTES, APR_BLOCK_READ, most) == APR_SUCCESS) {
        length = most;
        apr_brigade_flatten(before, again, &length);
        if (changed < 0 && (length != had || memcmp(again, copy, had) != 0))
            changed = (long)(count - had);
        apr_brigade_cleanup(before);
        done = !APR_BRIGADE_EMPTY(now) && APR_BUCKET_IS_EOS(APR_BRIGADE_LAST(now));
        had = most;
        apr_brigade_flatten(now, copy, &had);
        count += had;
        swap = before, before = now, now = swap;
    }
    ap_rprintf(r, "read %ld changed %ld\n", (long)count, changed);
    return OK;
}

struct pulses {
    long ms;
    long left;
    long hold;
    char name[32];
};

static void on_pulse(void *baton)
{
    struct pulses *p = baton;
    note("timer", "name=%s left=%ld", p->name, p->left);
    apr_sleep(apr_time_from_msec(p->hold));
    if (--p->left > 0)
        ap_mpm_register_timed_callback(apr_time_from_msec(p->ms), on_pulse, p);
    else
        free(p);
}

static int handler(request_rec *r)
{
    conn_rec *c = r->connection;
    if (!r->handler || strncmp(r->handler, "hybrid-", 7))
        return DECLINED;
    ap_set_content_type(r, "text/plain");
    if (!strcmp(r->handler, "hybrid-sleep")) { /* ?ms= &flush= : the header goes out before */
        if (argument(r, "flush", 0))
            ap_rflush(r);
        note("sleep", "%s uri=%s", key(c), r->uri);
        apr_sleep(apr_time_from_msec(argument(r, "ms", 1000)));
        ap_rprintf(r, "slept pid=%d id=%ld\n", (int)getpid(), c->id);
    }
    else if (!strcmp(r->handler, "hybrid-spin")) { /* ?ms= */
        apr_time_t end = apr_time_now() + apr_time_from_msec(argument(r, "ms", 1000));
        volatile unsigned long n = 0;
        while (apr_time_now() < end)
            n++;
        ap_rprintf(r, "spun pid=%d\n", (int)getpid());
    }
    else if (!strcmp(r->handler, "hybrid-conn")) {
        ap_rprintf(r, "id=%ld pid=%d tid=%ld keepalives=%d thread=%d\n", c->id, (int)getpid(),
                   (long)syscall(SYS_gettid), c->keepalives, c->current_thread != NULL);
    }
    else if (!strcmp(r->handler, "hybrid-crash")) {
        raise(SIGSEGV);
    }
    else if (!strcmp(r->handler, "hybrid-timer")) { /* ?ms=&n=&hold= : n callbacks, each registering the next */
        struct pulses *p = calloc(1, sizeof *p);
        p->ms = argument(r, "ms", 100);
        p->left = argument(r, "n", 1);
        p->hold = argument(r, "hold", 0);
        apr_snprintf(p->name, sizeof p->name, "pulse%ld", argument(r, "tag", 0));
        ap_rprintf(r, "rv=%d\n", (int)ap_mpm_register_timed_callback(apr_time_from_msec(p->ms), on_pulse, p));
    }
    else if (!strcmp(r->handler, "hybrid-lent"))
        return send_file_and_lent(r);
    else if (!strcmp(r->handler, "hybrid-read") && argument(r, "keep", 0))
        return read_and_keep(r);
    else if (!strcmp(r->handler, "hybrid-read")) { /* reads the request's body, counts it */
        apr_off_t count = 0;
        char buffer[8192];
        long n;
        if (ap_setup_client_block(r, REQUEST_CHUNKED_DECHUNK) == OK && ap_should_client_block(r))
            while ((n = ap_get_client_block(r, buffer, sizeof buffer)) > 0)
                count += n;
        ap_rprintf(r, "read %ld\n", (long)count);
    }
    else if (!strcmp(r->handler, "hybrid-shrunk")) { /* ?claim= : the file has become smaller since we looked */
        apr_file_t *file;
        apr_bucket_brigade *bb = apr_brigade_create(r->pool, c->bucket_alloc);
        if (apr_file_open(&file, r->filename, APR_READ | APR_BINARY, 0, r->pool) != APR_SUCCESS)
            return HTTP_NOT_FOUND;
        apr_brigade_insert_file(bb, file, 0, argument(r, "claim", 1), r->pool);
        APR_BRIGADE_INSERT_TAIL(bb, apr_bucket_eos_create(c->bucket_alloc));
        ap_set_content_length(r, argument(r, "claim", 1));
        if (ap_pass_brigade(r->output_filters, bb) != APR_SUCCESS)
            return AP_FILTER_ERROR;
    }
    else if (!strcmp(r->handler, "hybrid-leak")) { /* keeps a descriptor: ?socket=1 the client's, else a file's */
        apr_os_sock_t fd = -1;
        apr_os_sock_get(&fd, ap_get_conn_socket(c));
        ap_rprintf(r, "%d\n", argument(r, "socket", 0) ? dup(fd) : open("/dev/null", O_RDONLY));
    }
    else if (!strcmp(r->handler, "hybrid-nofile"))
        ap_rputs("hi\n", r);
    else
        return DECLINED;
    return OK;
}

/* The bench's handler without a file touches none: no walk through its directories either. */
static int map_to_storage(request_rec *r)
{
    return strcmp(r->uri, "/nofile") ? DECLINED : OK;
}

static const char *set_log(cmd_parms *cmd, void *dummy, const char *path)
{
    log_path = apr_pstrdup(cmd->pool, path);
    return NULL;
}

/* Reading the configuration takes as long as the file exists (20 s at most). */
static const char *wait_while(cmd_parms *cmd, void *dummy, const char *path)
{
    int i;
    note("config", "-");
    for (i = 0; i < 2000 && access(path, F_OK) == 0; i++)
        apr_sleep(apr_time_from_msec(10));
    return NULL;
}

static const char *set_timer(cmd_parms *cmd, void *dummy, const char *ms)
{
    timer_at_init = atoi(ms);
    return NULL;
}

static const char *set_hoard(cmd_parms *cmd, void *config, const char *file, const char *ms)
{
    hoard_when = file;
    hoard_ms = atoi(ms);
    return NULL;
}

static const char *set_port(cmd_parms *cmd, void *dummy, const char *port, const char *mode)
{
    unsigned i;
    if (port_count == sizeof ports / sizeof *ports)
        return "too many ports";
    for (i = 1; i < sizeof mode_names / sizeof *mode_names; i++)
        if (!strcmp(mode, mode_names[i])) {
            ports[port_count].port = atoi(port);
            ports[port_count++].mode = (enum conn_mode)i;
            return NULL;
        }
    return "unknown mode";
}

static const command_rec directives[] = {
    AP_INIT_TAKE1("HybridProbeLog", set_log, NULL, RSRC_CONF, "where to write what is seen"),
    AP_INIT_TAKE1("HybridProbeTimerAtInit", set_timer, NULL, RSRC_CONF, "milliseconds: a timed callback from child_init"),
    AP_INIT_TAKE2("HybridProbeHoard", set_hoard, NULL, RSRC_CONF,
                  "a file: while it is there, new children take all descriptors for so many milliseconds"),
    AP_INIT_TAKE1("HybridProbeWaitWhile", wait_while, NULL, RSRC_CONF, "a file that holds up the configuration"),
    AP_INIT_TAKE2("HybridProbePort", set_port, NULL, RSRC_CONF, "a port, and how its connections are treated"),
    {NULL}};

static void register_hooks(apr_pool_t *p)
{
    static const char *const before_http[] = {"http_core.c", NULL};
    ap_hook_pre_config(pre_config, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_check_config(check_config, NULL, NULL, APR_HOOK_LAST);
    ap_hook_open_logs(open_logs, NULL, NULL, APR_HOOK_LAST);
    ap_hook_post_config(post_config, NULL, NULL, APR_HOOK_LAST);
    ap_hook_pre_mpm(pre_mpm, NULL, NULL, APR_HOOK_REALLY_FIRST);
    ap_hook_drop_privileges(drop_privileges, NULL, NULL, APR_HOOK_REALLY_LAST);
    ap_hook_child_init(child_init, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_child_stopping(child_stopping, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_child_status(child_status, NULL, NULL, APR_HOOK_REALLY_FIRST); /* before core's, which ends generations */
    ap_hook_end_generation(end_generation, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_monitor(monitor, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_map_to_storage(map_to_storage, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_pre_connection(pre_connection, NULL, NULL, APR_HOOK_MIDDLE);
    ap_register_input_filter("HYBRID_DECIPHER", decipher, NULL, AP_FTYPE_CONNECTION + 5);
    ap_hook_suspend_connection(suspend_connection, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_resume_connection(resume_connection, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_pre_close_connection(pre_close, NULL, NULL, APR_HOOK_FIRST);
    ap_hook_process_connection(process_connection, NULL, before_http, APR_HOOK_FIRST);
    ap_hook_pre_read_request(pre_read_request, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_log_transaction(log_transaction, NULL, NULL, APR_HOOK_MIDDLE);
    ap_hook_handler(handler, NULL, NULL, APR_HOOK_MIDDLE);
}

AP_DECLARE_MODULE(hybrid_probe) = {STANDARD20_MODULE_STUFF, NULL, NULL, NULL, NULL, directives, register_hooks};
