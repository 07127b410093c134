/*
 * The vhost-user server: its socket, and the device that waits behind it.
 *
 * The device lives as long as the server; a connection only comes to drive it.
 * While one is there nothing more is accepted. All of it goes along when the
 * device moves to another loop. Runs on the device's loop.
 */
#include "hw/vhost_user_blk.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <glib-unix.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"

/* After the process ran out of descriptors. */
#define RETRY_NS INT64_C(500000000)

static void listen_on(struct vhost_user_server *server);

/* ---- connections ---- */

void vhost_user_session_ended(struct vhost_user_server *server)
{
    if (!server->stopping) {
        listen_on(server);
    }
    co_queue_wake_all(&server->ended);
}

static void on_connection(void *opaque)
{
    struct vhost_user_server *server = opaque;
    struct sockaddr_un peer;
    socklen_t size = sizeof(peer);
    int fd = accept4(server->listener, (struct sockaddr *)&peer, &size,
                     SOCK_CLOEXEC);

    if (fd < 0) {
        if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
            g_warning("export %s: accepting a connection: %s", server->id,
                      g_strerror(errno));
            loop_fd_set(server->dev->loop, server->listener, NULL, NULL, NULL);
            timer_arm(&server->retry, RETRY_NS);
        }
        return;
    }
    loop_fd_set(server->dev->loop, server->listener, NULL, NULL, NULL);
    vhost_user_session_begin(server, fd);
}

static void listen_on(struct vhost_user_server *server)
{
    loop_fd_set(server->dev->loop, server->listener, on_connection, NULL,
                server);
}

static void on_retry(void *opaque)
{
    listen_on(opaque);
}

bool vhost_user_server_connected(const struct vhost_user_server *server)
{
    return server->session;
}

/* ---- moving to another loop ---- */

static bool may_leave(const void *opaque, GError **error)
{
    const struct vhost_user_server *server = opaque;

    return !server->session || !server->session->busy ||
           error_set(error,
                     "export %s: its client has sent a message that is "
                     "not carried out yet",
                     server->id);
}

static void leave(void *opaque)
{
    struct vhost_user_server *server = opaque;

    timer_cancel(&server->retry);
    loop_fd_set(server->dev->loop, server->listener, NULL, NULL, NULL);
    if (server->session) {
        vhost_user_session_leave(server->session);
    }
}

static void arrive(void *opaque)
{
    struct vhost_user_server *server = opaque;

    timer_init(&server->retry, server->dev->loop, on_retry, server);
    if (server->session) {
        vhost_user_session_arrive(server->session);
    } else {
        listen_on(server);
    }
}

const struct virtio_transport_move vhost_user_move = {
    .may_leave = may_leave,
    .leave = leave,
    .arrive = arrive,
};

/* ---- the socket ---- */

static int bind_unix(const struct vhost_user_address *address, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *path = address->path;
    size_t skip = address->abstract; /* the name begins with a zero */
    socklen_t size = sizeof(addr);

    if (strlen(path) > sizeof(addr.sun_path) - skip) {
        error_set(error, "UNIX socket path '%s' is too long", path);
        return -1;
    }
    memcpy(addr.sun_path + skip, path, strlen(path));
    if (address->abstract) {
        size = offsetof(struct sockaddr_un, sun_path) + 1 + strlen(path);
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        error_set_errno(error, errno, "Failed to create Unix socket");
        return -1;
    }
    if (!address->abstract && unlink(path) < 0 && errno != ENOENT &&
        errno != ENOTDIR) {
        error_set_errno(error, errno, "Failed to unlink socket %s", path);
    } else if (bind(fd, (struct sockaddr *)&addr, size) < 0) {
        error_set_errno(error, errno, "Failed to bind socket to %s", path);
    } else if (listen(fd, 1) < 0) {
        error_set_errno(error, errno, "Failed to listen on socket");
        if (!address->abstract) {
            unlink(path);
        }
    } else {
        return fd;
    }
    close(fd);
    return -1;
}

static bool check_passed(int fd, GError **error)
{
    int domain = 0, listening = 0;
    socklen_t size = sizeof(domain);

    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) {
        return error_set_errno(error, errno, "File descriptor '%d'", fd);
    }
    size = sizeof(listening);
    if (domain != AF_UNIX ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0 ||
        !listening) {
        return error_set(
            error, "File descriptor '%d' is not a listening UNIX socket", fd);
    }
    return g_unix_set_fd_nonblocking(fd, TRUE, error);
}

/* ---- life ---- */

struct vhost_user_server *co_vhost_user_server_new(
    const char *id, const struct virtio_blk_props *props,
    struct backend *backend, const struct vhost_user_address *address,
    GError **error)
{
    struct virtio_blk *dev = co_virtio_blk_new(props, backend, error);

    if (!dev) {
        return NULL;
    }
    int fd = address->fd;

    if (address->path) {
        fd = bind_unix(address, error);
    } else if (!check_passed(fd, error)) {
        fd = -1;
    }
    if (fd < 0) {
        co_virtio_blk_free(dev);
        return NULL;
    }
    struct vhost_user_server *server = g_new0(struct vhost_user_server, 1);

    server->dev = dev;
    server->id = g_strdup(id);
    server->path = address->abstract ? NULL : g_strdup(address->path);
    server->listener = fd;
    timer_init(&server->retry, dev->loop, on_retry, server);
    virtio_blk_set_transport(dev, &vhost_user_transport, server, NULL);
    listen_on(server);
    return server;
}

void co_vhost_user_server_free(struct vhost_user_server *server)
{
    server->stopping = true;
    timer_cancel(&server->retry);
    loop_fd_set(server->dev->loop, server->listener, NULL, NULL, NULL);
    if (server->path) {
        unlink(server->path);
    }
    close(server->listener);
    while (server->session) {
        vhost_user_session_close(server->session);
        co_queue_wait(&server->ended);
    }
    virtio_blk_set_transport(server->dev, NULL, NULL, NULL);
    co_virtio_blk_free(server->dev);
    g_free(server->id);
    g_free(server->path);
    g_free(server);
}
