/*
 * A virtio-blk device behind a vhost-user socket.
 *
 * One front-end at a time; another one waits in the kernel's queue until the
 * first has gone, and may be the same one again. On the loop of the backend's
 * graph.
 */
#ifndef VARVE_HW_VHOST_USER_BLK_H
#define VARVE_HW_VHOST_USER_BLK_H

#include <glib.h>
#include <stdbool.h>

#include "hw/virtio_blk.h"

struct backend;
struct export_driver;
struct vhost_user_server;

/* Where it listens: a path, or a listening socket that is taken over. */
struct vhost_user_address {
    const char *path; /* an existing socket file is replaced */
    bool abstract;    /* path is a name in the abstract name space */
    int fd;           /* without a path */
};

/* Makes a device with props on backend, which it holds a reference to, and
 * listens; id is for messages. NULL and *error if it cannot; the descriptor is
 * the caller's then. Suspends. */
struct vhost_user_server *co_vhost_user_server_new(
    const char *id, const struct virtio_blk_props *props,
    struct backend *backend, const struct vhost_user_address *address,
    GError **error);
/* Hangs up, waits for the requests in flight, removes the socket file. Held
 * requests are dropped. Suspends. */
void co_vhost_user_server_free(struct vhost_user_server *server);
bool vhost_user_server_connected(const struct vhost_user_server *server);

/* Buffers of data in one request, whatever the size of the rings: front-ends
 * take 128 entries, and some do not look whether a chain fits. */
#define VHOST_USER_SEG_MAX 126

extern const struct export_driver vhost_user_blk_export;

#endif
