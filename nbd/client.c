/*
 * Requests of an NBD client, and what its socket says.
 *
 * Every command is one of libnbd's asynchronous calls; its completion wakes the
 * coroutine that waits for it. libnbd calls back from within nbd_aio_notify_*()
 * and with its lock held, so a callback only takes notes. Whatever libnbd then
 * waits for is watched on the loop. When a connection ends, each command that
 * it still had is told so, and its coroutine decides what to do.
 */
#include "nbd/client.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "aio/coroutine.h"
#include "util/error.h"

/* Replies that are taken before somebody else has a turn. */
#define MAX_REPLIES 64

struct nbd_request {
    struct nbd_client *c;
    const struct nbd_command *command;
    struct coroutine *co; /* while it waits */
    bool done, lost;
    int result;
    LIST_ENTRY(nbd_request) link;
};

/* ---- the socket ---- */

static void on_readable(void *opaque);
static void on_writable(void *opaque);

static void unwatch(struct nbd_client *c)
{
    if (c->fd >= 0) {
        loop_fd_set(loop_current(), c->fd, NULL, NULL, NULL);
        loop_defer_cancel(loop_current(), &c->again);
        c->fd = -1;
    }
}

void nbd_client_watch(struct nbd_client *c)
{
    if (c->quiet && !c->connecting && LIST_EMPTY(&c->requests)) {
        unwatch(c);
        return;
    }
    int fd = c->handle ? nbd_aio_get_fd(c->handle) : -1;

    if (fd < 0) {
        unwatch(c);
        return;
    }
    unsigned direction = nbd_aio_get_direction(c->handle);

    c->fd = fd;
    loop_fd_set(loop_current(), fd,
                direction & LIBNBD_AIO_DIRECTION_READ ? on_readable : NULL,
                direction & LIBNBD_AIO_DIRECTION_WRITE ? on_writable : NULL, c);
}

void nbd_client_note_error(struct nbd_client *c)
{
    const char *text = nbd_get_error();
    /* It begins with the name of libnbd's function. */
    const char *colon = text ? strchr(text, ':') : NULL;

    g_free(c->why);
    c->why = g_strdup(colon && colon[1] ? colon + 2 : text);
}

static bool is_over(const struct nbd_client *c)
{
    return nbd_aio_is_dead(c->handle) || nbd_aio_is_closed(c->handle);
}

/* After libnbd was told of an event. */
static void after_event(struct nbd_client *c)
{
    if (!c->negotiated) {
        nbd_client_watch(c);
        co_sleep_wake(&c->event);
    } else if (is_over(c)) {
        nbd_client_lose(c);
    } else {
        nbd_client_watch(c);
    }
}

/* One call takes one reply. There may be more in the socket, and with TLS in
 * memory, where epoll does not see them. */
static void take_replies(void *opaque)
{
    struct nbd_client *c = opaque;
    unsigned n = 0;

    if (!(nbd_aio_get_direction(c->handle) & LIBNBD_AIO_DIRECTION_READ)) {
        return; /* deferred, and now it sends */
    }
    do {
        if (nbd_aio_notify_read(c->handle) < 0) {
            nbd_client_note_error(c);
            break;
        }
    } while (c->negotiated && nbd_aio_is_ready(c->handle) &&
             !LIST_EMPTY(&c->requests) && ++n < MAX_REPLIES);
    if (n == MAX_REPLIES) {
        loop_defer(loop_current(), &c->again);
    }
    after_event(c);
}

static void on_readable(void *opaque)
{
    take_replies(opaque);
}

static void on_writable(void *opaque)
{
    struct nbd_client *c = opaque;

    if (nbd_aio_notify_write(c->handle) < 0) {
        nbd_client_note_error(c);
    }
    after_event(c);
}

/* ---- the end of a request ---- */

static void finish(struct nbd_request *r, int result, bool lost)
{
    LIST_REMOVE(r, link);
    r->done = true;
    r->result = result;
    r->lost = lost;
    if (r->co) {
        co_wake(r->co);
    }
}

static int on_completion(void *opaque, int *error)
{
    struct nbd_request *r = opaque;

    if (!r->done) {
        /* Only libnbd itself says ENOTCONN. */
        finish(r, -*error, *error == ENOTCONN);
    }
    return 1;
}

void nbd_client_drop(struct nbd_client *c)
{
    unwatch(c);
    c->negotiated = false;
    nbd_close(c->handle);
    c->handle = NULL;
}

void nbd_client_lose(struct nbd_client *c)
{
    struct nbd_request *r;

    while ((r = LIST_FIRST(&c->requests))) {
        finish(r, -EIO, true);
    }
    nbd_client_drop(c);
    c->next_attempt_ns = 0;
    c->patience_end_ns =
        c->given_up ? 0
                    : nbd_client_deadline(c->options->u.nbd.reconnect_delay);
    g_warning("NBD server at '%s': connection lost: %s", c->server,
              c->why ? c->why : "the server hung up");
}

/* ---- commands ---- */

static int on_extents(void *opaque, const char *context, uint64_t offset,
                      uint32_t *entries, size_t n, int *error)
{
    const struct nbd_request *r = opaque;
    const struct nbd_command *cmd = r->command;

    /* We asked for one context only; offset is what we said. */
    if (!nbd_extents_fill(cmd->extents, cmd->offset, cmd->offset + cmd->bytes,
                          r->c->info.min_block, entries, n)) {
        *error = EPROTO;
        return -1;
    }
    return 0;
}

static int64_t submit(struct nbd_client *c, struct nbd_request *r)
{
    const struct nbd_command *cmd = r->command;
    uint64_t offset = cmd->offset, bytes = cmd->bytes;
    nbd_completion_callback done = {.callback = on_completion, .user_data = r};
    nbd_extent_callback extents = {.callback = on_extents, .user_data = r};

    switch (cmd->op) {
    case NBD_OP_READ:
        return nbd_aio_pread(c->handle, cmd->buffer, bytes, offset, done,
                             cmd->flags);
    case NBD_OP_WRITE:
        return nbd_aio_pwrite(c->handle, cmd->buffer, bytes, offset, done,
                              cmd->flags);
    case NBD_OP_ZERO:
        return nbd_aio_zero(c->handle, bytes, offset, done, cmd->flags);
    case NBD_OP_TRIM:
        return nbd_aio_trim(c->handle, bytes, offset, done, cmd->flags);
    case NBD_OP_FLUSH:
        return nbd_aio_flush(c->handle, done, cmd->flags);
    case NBD_OP_STATUS:
        return nbd_aio_block_status(c->handle, bytes, offset, extents, done,
                                    cmd->flags);
    }
    g_assert_not_reached();
}

static void co_perform(struct nbd_client *c, struct nbd_request *r)
{
    LIST_INSERT_HEAD(&c->requests, r, link);
    int64_t cookie = submit(c, r);

    if (cookie < 0) {
        int err = nbd_get_errno();

        nbd_client_note_error(c);
        if (!r->done) {
            finish(r, err ? -err : -EIO, is_over(c));
        }
    }
    /* Sending may have been the end of the connection. */
    if (is_over(c)) {
        nbd_client_lose(c);
    } else {
        nbd_client_watch(c);
    }
    r->co = co_self();
    while (!r->done) {
        co_yield ();
    }
    if (c->quiet) {
        nbd_client_watch(c);
    }
}

int co_nbd_client_do(struct nbd_client *c, const struct nbd_command *command)
{
    for (;;) {
        struct nbd_request r = {.c = c, .command = command};

        if (!c->negotiated && !co_nbd_client_reconnect(c)) {
            return -EIO;
        }
        co_perform(c, &r);
        if (!r.lost) {
            return r.result;
        }
        if (!c->options->u.nbd.reconnect_delay) {
            return -EIO;
        }
    }
}

/* ---- life ---- */

void nbd_client_quiesce(struct nbd_client *c, bool quiet)
{
    c->quiet = quiet;
    nbd_client_watch(c);
}

static char *server_name(const struct socket_address *a)
{
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        return g_strdup_printf("%s:%s", a->u.inet.host, a->u.inet.port);
    case SOCKET_ADDRESS_TYPE_UNIX:
        return g_strdup(a->u.unix_.path);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return g_strdup_printf("%s:%s", a->u.vsock.cid, a->u.vsock.port);
    default:
        return g_strdup_printf("descriptor %s", a->u.fd.str);
    }
}

struct nbd_client *nbd_client_new(const struct blockdev_options *options)
{
    struct nbd_client *c = g_new0(struct nbd_client, 1);

    c->options = blockdev_options_clone(options);
    c->server = server_name(options->u.nbd.server);
    c->fd = -1;
    c->again = (struct deferred){.fn = take_replies, .opaque = c};
    return c;
}

void nbd_client_close(struct nbd_client *c)
{
    assert(LIST_EMPTY(&c->requests) && !c->connecting);
    if (c->negotiated) {
        /* Says goodbye; the kernel has room for it, as nothing is in flight. */
        nbd_aio_disconnect(c->handle, 0);
    }
    nbd_client_drop(c);
    nbd_extents_clear(&c->known);
    blockdev_options_free(c->options);
    g_free(c->server);
    g_free(c->why);
    g_free(c);
}
