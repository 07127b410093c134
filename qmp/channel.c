/*
 * Sockets come from GIO; readiness from the main loop, so that a round trip
 * costs no more than the system calls it needs.
 *
 * A client is served until it hangs up; only then is the next one accepted. A
 * client that does not read is not waited for: its requests are not read while
 * it owes us CHANNEL_CONGESTED bytes of reading, and what events pile up beyond
 * CHANNEL_MAX ends the session, as memory is finite and an event that was
 * silently left out would be worse. Of a client that cannot be written to any
 * more nothing is read either: the next one would have to wait until all that
 * it left behind has been done.
 */
#include "channel.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/loop.h"
#include "aio/timer.h"
#include "channel_socket.h"
#include "util/error.h"

#define CHANNEL_CONGESTED (64 << 10)
#define CHANNEL_MAX       (64 << 20)
#define CHANNEL_READ      (16 << 10)
/* How long the end of the program waits for a client to read, in all. */
#define CHANNEL_LINGER_MS 500

struct channel {
    struct loop *loop;
    const struct channel_ops *ops;
    void *opaque;
    struct monitor_channel how; /* strings are ours */
    GSocket *listener;
    GSocket *client;         /* NULL with stdio */
    int in_fd, out_fd;       /* -1: no client */
    int in_flags, out_flags; /* of stdio, to be put back */
    bool reading;            /* input is wanted */
    /* Handlers are registered. That of reading stays for a while when input is
     * not wanted, as it will be again after most requests. */
    bool listens, writing;
    bool ready;  /* channel_new() has returned */
    bool broken; /* nobody reads our standard output any more */
    GString *out;
    size_t sent; /* of out */
    struct deferred flush;
    struct timer reconnect;
};

static struct channel *stdio_user;

static void channel_readable(void *opaque);
static void channel_writable(void *opaque);
static void client_gone(struct channel *c);

static void update_handlers(struct channel *c)
{
    if (c->in_fd == c->out_fd) {
        loop_fd_set(c->loop, c->in_fd, c->listens ? channel_readable : NULL,
                    c->writing ? channel_writable : NULL, c);
    } else {
        loop_fd_set(c->loop, c->in_fd, c->listens ? channel_readable : NULL,
                    NULL, c);
        loop_fd_set(c->loop, c->out_fd, NULL,
                    c->writing ? channel_writable : NULL, c);
    }
}

void channel_set_reading(struct channel *c, bool on)
{
    c->reading = on;
    if (on && c->in_fd >= 0 && !c->listens) {
        c->listens = true;
        update_handlers(c);
    }
}

bool channel_is_open(const struct channel *c)
{
    return c->in_fd >= 0;
}

GString *channel_output(struct channel *c)
{
    if (c->in_fd < 0 || c->broken) {
        /* Into the void, but not without end. */
        g_string_truncate(c->out, 0);
        c->sent = 0;
    }
    return c->out;
}

bool channel_is_congested(const struct channel *c)
{
    return c->out->len - c->sent > CHANNEL_CONGESTED;
}

static ssize_t channel_send(struct channel *c, const char *data, size_t length)
{
    if (c->client) {
        return send(c->out_fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    return write(c->out_fd, data, length);
}

void channel_flush(struct channel *c)
{
    bool was_congested = channel_is_congested(c);

    while (c->out_fd >= 0 && c->sent < c->out->len) {
        ssize_t n =
            channel_send(c, c->out->str + c->sent, c->out->len - c->sent);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno == EAGAIN && c->out->len - c->sent <= CHANNEL_MAX) {
            break;
        }
        if (n < 0 && c->client) {
            client_gone(c);
            c->ops->closed(c->opaque);
            return;
        }
        if (n < 0) {
            c->broken = true;
            break;
        }
        c->sent += (size_t)n;
    }
    if (c->broken || c->sent == c->out->len) {
        g_string_truncate(c->out, 0);
        c->sent = 0;
    } else if (c->sent > CHANNEL_CONGESTED) {
        g_string_erase(c->out, 0, (gssize)c->sent);
        c->sent = 0;
    }
    bool pending = c->out->len > 0 && c->out_fd >= 0;
    if (pending != c->writing) {
        c->writing = pending;
        update_handlers(c);
    }
    if (was_congested && !channel_is_congested(c)) {
        c->ops->drained(c->opaque);
    }
}

void channel_flush_soon(struct channel *c)
{
    loop_defer(c->loop, &c->flush);
}

static void flush_deferred(void *opaque)
{
    channel_flush(opaque);
}

static void channel_writable(void *opaque)
{
    channel_flush(opaque);
}

/* ---- clients come and go ---- */

static void accept_ready(void *opaque);

static void client_here(struct channel *c, int in_fd, int out_fd)
{
    c->in_fd = in_fd;
    c->out_fd = out_fd;
    c->reading = c->listens = c->writing = c->broken = false;
    g_string_truncate(c->out, 0);
    c->sent = 0;
    if (c->listener) {
        loop_fd_set(c->loop, g_socket_get_fd(c->listener), NULL, NULL, NULL);
    }
    if (c->ready) {
        c->ops->opened(c->opaque);
    }
}

static void client_gone(struct channel *c)
{
    c->reading = c->listens = c->writing = false;
    update_handlers(c);
    if (c->client) {
        g_socket_close(c->client, NULL);
        g_clear_object(&c->client);
    } else {
        fcntl(c->in_fd, F_SETFL, c->in_flags);
        fcntl(c->out_fd, F_SETFL, c->out_flags);
    }
    c->in_fd = c->out_fd = -1;
    g_string_truncate(c->out, 0);
    c->sent = 0;
    if (c->listener) {
        loop_fd_set(c->loop, g_socket_get_fd(c->listener), accept_ready, NULL,
                    c);
    } else if (c->how.reconnect_s > 0) {
        timer_arm(&c->reconnect, c->how.reconnect_s * INT64_C(1000000000));
    }
}

static void take_socket(struct channel *c, GSocket *client)
{
    int fd = g_socket_get_fd(client);

    g_socket_set_blocking(client, FALSE);
    if (c->how.nodelay && c->how.kind == MONITOR_CHANNEL_TCP) {
        g_socket_set_option(client, IPPROTO_TCP, TCP_NODELAY, 1, NULL);
    }
    c->client = client;
    client_here(c, fd, fd);
}

static void accept_ready(void *opaque)
{
    struct channel *c = opaque;
    GSocket *client = g_socket_accept(c->listener, NULL, NULL);

    if (client) {
        take_socket(c, client);
    }
}

static void channel_readable(void *opaque)
{
    struct channel *c = opaque;
    char buffer[CHANNEL_READ];

    if (!c->reading) {
        c->listens = false;
        update_handlers(c);
        return;
    }
    ssize_t n = read(c->in_fd, buffer, sizeof(buffer));

    if (n > 0) {
        c->ops->received(c->opaque, buffer, (size_t)n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        client_gone(c);
        c->ops->closed(c->opaque);
    }
}

static void reconnect_due(void *opaque)
{
    struct channel *c = opaque;
    GSocket *client = channel_socket_open(&c->how, NULL);

    if (client) {
        take_socket(c, client);
    } else {
        timer_arm(&c->reconnect, c->how.reconnect_s * INT64_C(1000000000));
    }
}

/* ---- making and freeing ---- */

static bool open_stdio(struct channel *c, GError **error)
{
    if (stdio_user) {
        return error_set(error, "cannot use stdio by multiple character "
                                "devices");
    }
    stdio_user = c;
    c->in_flags = fcntl(STDIN_FILENO, F_GETFL);
    c->out_flags = fcntl(STDOUT_FILENO, F_GETFL);
    if (c->in_flags < 0 || c->out_flags < 0) {
        return error_set_errno(error, errno, "stdio is not open");
    }
    fcntl(STDIN_FILENO, F_SETFL, c->in_flags | O_NONBLOCK);
    fcntl(STDOUT_FILENO, F_SETFL, c->out_flags | O_NONBLOCK);
    client_here(c, STDIN_FILENO, STDOUT_FILENO);
    return true;
}

static bool open_socket(struct channel *c, GError **error)
{
    GSocket *socket = channel_socket_open(&c->how, error);

    if (!socket) {
        return c->how.reconnect_s > 0 && !c->how.server;
    }
    if (!c->how.server) {
        take_socket(c, socket);
        return true;
    }
    c->listener = socket;
    if (c->how.wait) {
        g_socket_set_blocking(socket, TRUE);
        GSocket *client = g_socket_accept(socket, NULL, error);
        g_socket_set_blocking(socket, FALSE);
        if (client) {
            take_socket(c, client);
        }
        return client != NULL;
    }
    loop_fd_set(c->loop, g_socket_get_fd(socket), accept_ready, NULL, c);
    return true;
}

struct channel *channel_new(struct loop *loop,
                            const struct monitor_channel *how,
                            const struct channel_ops *ops, void *opaque,
                            GError **error)
{
    struct channel *c = g_new0(struct channel, 1);

    c->loop = loop;
    c->ops = ops;
    c->opaque = opaque;
    c->how = *how;
    c->how.path = g_strdup(how->path);
    c->how.host = g_strdup(how->host);
    c->how.port = g_strdup(how->port);
    c->in_fd = c->out_fd = -1;
    c->out = g_string_sized_new(4096);
    c->flush = (struct deferred){.fn = flush_deferred, .opaque = c};
    timer_init(&c->reconnect, loop, reconnect_due, c);
    bool ok = how->kind == MONITOR_CHANNEL_STDIO ? open_stdio(c, error)
                                                 : open_socket(c, error);
    if (!ok) {
        channel_free(c);
        return NULL;
    }
    c->ready = true;
    return c;
}

static void flush_before_end(struct channel *c)
{
    gint64 end = g_get_monotonic_time() + CHANNEL_LINGER_MS * 1000;

    channel_flush(c);
    while (c->out_fd >= 0 && c->sent < c->out->len) {
        gint64 left = (end - g_get_monotonic_time()) / 1000;
        struct pollfd fd = {.fd = c->out_fd, .events = POLLOUT};
        if (left <= 0 || poll(&fd, 1, (int)left) <= 0) {
            break;
        }
        channel_flush(c);
    }
}

void channel_free(struct channel *c)
{
    c->how.reconnect_s = 0;
    flush_before_end(c);
    if (c->in_fd >= 0) {
        client_gone(c);
    }
    timer_cancel(&c->reconnect);
    loop_defer_cancel(c->loop, &c->flush);
    if (c->listener) {
        loop_fd_set(c->loop, g_socket_get_fd(c->listener), NULL, NULL, NULL);
        g_object_unref(c->listener);
        if (c->how.kind == MONITOR_CHANNEL_UNIX && !c->how.abstract) {
            unlink(c->how.path);
        }
    }
    if (stdio_user == c) {
        stdio_user = NULL;
    }
    g_free((char *)c->how.path);
    g_free((char *)c->how.host);
    g_free((char *)c->how.port);
    g_string_free(c->out, TRUE);
    g_free(c);
}

char *channel_address(const struct channel *c)
{
    const char *suffix = c->how.server ? ",server=on" : "";

    if (c->how.kind == MONITOR_CHANNEL_STDIO) {
        return g_strdup("stdio");
    }
    if (c->how.kind == MONITOR_CHANNEL_UNIX) {
        return g_strdup_printf("unix:%s%s", c->how.path, suffix);
    }
    g_autoptr(GSocketAddress) address = NULL;
    if (c->listener) {
        address = g_socket_get_local_address(c->listener, NULL);
    } else if (c->client) {
        address = g_socket_get_remote_address(c->client, NULL);
    }
    g_autofree char *text =
        address ? g_socket_connectable_to_string(G_SOCKET_CONNECTABLE(address))
                : g_strdup_printf("%s:%s", c->how.host ? c->how.host : "",
                                  c->how.port);
    return g_strdup_printf("tcp:%s%s", text, suffix);
}
