/*
 * A piece of a file that a vhost-user front-end shares with us: mapped, and
 * guarded against a file that becomes shorter. On the device's loop.
 */
#ifndef VARVE_HW_VHOST_USER_SHARED_H
#define VARVE_HW_VHOST_USER_SHARED_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "aio/sigbus.h"

/* Stays where it is between map and unmap: the guard is known by address. */
struct vhost_user_shared {
    struct sigbus_range guard; /* the whole mapping; base NULL: nothing */
    uint8_t *host;             /* of the first byte */
};

/* Maps [offset, offset + bytes) of fd, which the caller closes; the range need
 * not begin at a page. what names it in *error. */
bool vhost_user_shared_map(struct vhost_user_shared *s, int fd, uint64_t offset,
                           uint64_t bytes, const char *what, GError **error);
/* Also for one that is not mapped. */
void vhost_user_shared_unmap(struct vhost_user_shared *s);

/* True if a part of it has gone away. */
static inline bool vhost_user_shared_lost(const struct vhost_user_shared *s)
{
    return s->guard.base && sigbus_range_lost(&s->guard);
}

#endif
