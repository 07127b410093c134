/*
 * The memory that a vhost-user front-end shares: regions, mapped and guarded.
 */
#ifndef VARVE_HW_VHOST_USER_MEMORY_H
#define VARVE_HW_VHOST_USER_MEMORY_H

#include <glib.h>
#include <stdbool.h>

#include "hw/virtio-blk/guest_memory.h"
#include "hw/virtio-blk/vhost_user_proto.h"

struct vhost_user_mapping; /* one region */

struct vhost_user_memory {
    struct guest_memory table; /* what the device translates with */
    GPtrArray *mappings;       /* of struct vhost_user_mapping */
};

void vhost_user_memory_init(struct vhost_user_memory *m);
void vhost_user_memory_destroy(struct vhost_user_memory *m);

/* No request refers to the memory while these change it. They map fd, which
 * the caller closes, and change nothing if they fail. */
bool vhost_user_memory_add(struct vhost_user_memory *m,
                           const struct vhost_user_region *r, int fd,
                           GError **error);
bool vhost_user_memory_remove(struct vhost_user_memory *m,
                              const struct vhost_user_region *r,
                              GError **error);
/* Puts `count` regions in the place of all that are there. */
bool vhost_user_memory_set(struct vhost_user_memory *m,
                           const struct vhost_user_region *regions,
                           const int *fds, unsigned count, GError **error);

/* From the front-end's address space to guest-physical: false if [user, user +
 * bytes) does not lie in one region. */
bool vhost_user_memory_gpa(const struct vhost_user_memory *m, uint64_t user,
                           uint64_t bytes, uint64_t *gpa);
/* True if a part of the memory has gone away. */
bool vhost_user_memory_lost(const struct vhost_user_memory *m);

#endif
