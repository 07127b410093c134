/*
 * From the address of a server to a connected socket.
 *
 * Names are looked up by a worker; everything else is done on the node's loop
 * without blocking it, until the client's deadline.
 */
#include <errno.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
/* after sys/socket.h */
#include <linux/vm_sockets.h>

#include "aio/file_io.h"
#include "nbd/client.h"
#include "util/error.h"

#define PAUSE_NS INT64_C(10000000)

/* ---- any family ---- */

static void on_connected(void *opaque)
{
    struct nbd_client *c = opaque;

    co_sleep_wake(&c->event);
}

/* 0 or -errno. */
static int co_finish_connect(struct nbd_client *c, int fd)
{
    int err = 0;
    socklen_t n = sizeof(err);

    loop_fd_set(loop_current(), fd, NULL, on_connected, c);
    bool in_time = co_nbd_client_wait(c);

    loop_fd_set(loop_current(), fd, NULL, NULL, NULL);
    if (!in_time) {
        return -ETIMEDOUT;
    }
    struct sockaddr_storage peer;
    socklen_t peer_n = sizeof(peer);

    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0 || err) {
        return err ? -err : -errno;
    }
    /* No event, and no connection yet: the deadline ended the wait. */
    return getpeername(fd, (struct sockaddr *)&peer, &peer_n) < 0 ? -ETIMEDOUT
                                                                  : 0;
}

/* The descriptor or -errno. */
static int co_connect_to(struct nbd_client *c, const struct sockaddr *to,
                         socklen_t n, int protocol)
{
    int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    protocol);
    int ret = fd < 0 ? -errno : 0;

    while (ret == 0 && connect(fd, to, n) < 0) {
        ret = -errno;
        if (ret == -EINPROGRESS) {
            ret = co_finish_connect(c, fd);
            break;
        }
        if (ret == -EAGAIN) {
            /* Others wait at that path already. */
            co_sleep_ns(PAUSE_NS);
            ret = nbd_client_is_late(c) ? -ETIMEDOUT : 0;
        }
    }
    if (ret < 0 && fd >= 0) {
        close(fd);
    }
    return ret < 0 ? ret : fd;
}

static int connect_failed(const struct nbd_client *c, int ret, GError **error)
{
    error_set_errno(error, ret, "Failed to connect to '%s'", c->server);
    return -1;
}

/* ---- a host and a port ---- */

struct lookup {
    const char *host, *port;
    struct addrinfo hints, *found;
};

static int do_lookup(void *opaque)
{
    struct lookup *l = opaque;

    return getaddrinfo(l->host, l->port, &l->hints, &l->found);
}

static bool co_look_up(const struct inet_socket_address *a, struct lookup *l,
                       GError **error)
{
    bool v4 = a->has_ipv4 ? a->ipv4 : !(a->has_ipv6 && a->ipv6);
    bool v6 = a->has_ipv6 ? a->ipv6 : !(a->has_ipv4 && a->ipv4);

    if (!v4 && !v6) {
        return error_set(error, "Cannot disable IPv4 and IPv6 at same time");
    }
    *l = (struct lookup){
        .host = a->host,
        .port = a->port,
        .hints = {.ai_family = v4 && v6 ? AF_UNSPEC : (v4 ? AF_INET : AF_INET6),
                  .ai_socktype = SOCK_STREAM},
    };
    if (a->numeric) {
        l->hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
    }
    int ret = co_worker(do_lookup, l);

    return ret == 0 ||
           error_set(error, "address resolution failed for %s:%s: %s", a->host,
                     a->port, gai_strerror(ret));
}

static int co_inet_socket(struct nbd_client *c,
                          const struct inet_socket_address *a, GError **error)
{
    struct lookup l;
    int fd = -ENOENT;

    if (!co_look_up(a, &l, error)) {
        return -1;
    }
    for (struct addrinfo *ai = l.found; ai && fd < 0; ai = ai->ai_next) {
        fd = co_connect_to(c, ai->ai_addr, ai->ai_addrlen,
                           a->mptcp ? IPPROTO_MPTCP : 0);
    }
    freeaddrinfo(l.found);
    if (fd < 0) {
        return connect_failed(c, fd, error);
    }
    int on = 1;

    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (a->keep_alive &&
        setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on)) < 0) {
        error_set_errno(error, errno, "Unable to set KEEPALIVE");
        close(fd);
        return -1;
    }
    return fd;
}

/* ---- the others ---- */

static int co_unix_socket(struct nbd_client *c,
                          const struct unix_socket_address *a, GError **error)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    size_t n = strlen(a->path), room = sizeof(to.sun_path);
    socklen_t length = sizeof(to);

    if (n + a->abstract > room) {
        error_set(error, "UNIX socket path '%s' is too long", a->path);
        error_add_hint(error, "Path must be less than %zu bytes", room);
        return -1;
    }
    memcpy(to.sun_path + a->abstract, a->path, n);
    if (a->abstract && (!a->has_tight || a->tight)) {
        length = offsetof(struct sockaddr_un, sun_path) + 1 + n;
    }
    int fd = co_connect_to(c, (struct sockaddr *)&to, length, 0);

    return fd < 0 ? connect_failed(c, fd, error) : fd;
}

static bool vsock_number(const char *what, const char *text, uint32_t *number,
                         GError **error)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, 0, UINT32_MAX, &value, NULL)) {
        return error_set(error, "Failed to parse %s '%s'", what, text);
    }
    *number = (uint32_t)value;
    return true;
}

static int co_vsock_socket(struct nbd_client *c,
                           const struct vsock_socket_address *a, GError **error)
{
    struct sockaddr_vm to = {.svm_family = AF_VSOCK};

    if (!vsock_number("cid", a->cid, &to.svm_cid, error) ||
        !vsock_number("port", a->port, &to.svm_port, error)) {
        return -1;
    }
    int fd = co_connect_to(c, (struct sockaddr *)&to, sizeof(to), 0);

    return fd < 0 ? connect_failed(c, fd, error) : fd;
}

/* A connected socket that we were started with: good for one connection. */
static int given_socket(struct nbd_client *c, const char *text, GError **error)
{
    guint64 fd;
    int type;
    socklen_t n = sizeof(type);

    if (!g_ascii_string_to_unsigned(text, 10, 0, INT32_MAX, &fd, NULL)) {
        error_set(error, "No file descriptor named '%s'", text);
        return -1;
    }
    if (c->fd_taken) {
        error_set(error, "File descriptor '%s' was a connection that has ended",
                  text);
        return -1;
    }
    if (getsockopt((int)fd, SOL_SOCKET, SO_TYPE, &type, &n) < 0) {
        error_set(error, "File descriptor '%s' is not a socket", text);
        return -1;
    }
    c->fd_taken = true;
    g_unix_set_fd_nonblocking((int)fd, TRUE, NULL);
    return (int)fd;
}

int co_nbd_client_socket(struct nbd_client *c, GError **error)
{
    const struct socket_address *a = c->options->u.nbd.server;

    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_INET:
        return co_inet_socket(c, &a->u.inet, error);
    case SOCKET_ADDRESS_TYPE_UNIX:
        return co_unix_socket(c, &a->u.unix_, error);
    case SOCKET_ADDRESS_TYPE_VSOCK:
        return co_vsock_socket(c, &a->u.vsock, error);
    case SOCKET_ADDRESS_TYPE_FD:
        return given_socket(c, a->u.fd.str, error);
    default:
        g_assert_not_reached();
    }
}
