/*
 * Memory regions of a vhost-user front-end.
 *
 * A region is a piece of a file that both sides map. The device sees only the
 * table of guest-physical ranges; the front-end's own addresses, in which it
 * names rings, are turned into those here.
 *
 * Invariant: table and mappings hold the same regions. Runs on the device's
 * loop, does not suspend.
 */
#include "hw/virtio-blk/vhost_user_memory.h"

#include <inttypes.h>

#include "hw/virtio-blk/vhost_user_shared.h"
#include "util/error.h"

struct vhost_user_mapping {
    struct vhost_user_region region;
    struct vhost_user_shared shared;
};

static void mapping_free(gpointer opaque)
{
    struct vhost_user_mapping *map = opaque;

    vhost_user_shared_unmap(&map->shared);
    g_free(map);
}

static GPtrArray *new_list(void)
{
    return g_ptr_array_new_with_free_func(mapping_free);
}

void vhost_user_memory_init(struct vhost_user_memory *m)
{
    m->table = (struct guest_memory){0};
    m->mappings = new_list();
}

void vhost_user_memory_destroy(struct vhost_user_memory *m)
{
    guest_memory_clear(&m->table);
    g_clear_pointer(&m->mappings, g_ptr_array_unref);
}

static struct vhost_user_mapping *map_region(const struct vhost_user_region *r,
                                             int fd, GError **error)
{
    g_autofree char *what =
        g_strdup_printf("memory region at 0x%" PRIx64, r->gpa);
    struct vhost_user_mapping *map = g_new0(struct vhost_user_mapping, 1);

    map->region = *r;
    if (r->bytes > UINT64_MAX - r->user) {
        error_set(error, "%s has an invalid size of %" PRIu64 " bytes", what,
                  r->bytes);
    } else if (vhost_user_shared_map(&map->shared, fd, r->mmap_offset, r->bytes,
                                     what, error)) {
        return map;
    }
    g_free(map);
    return NULL;
}

/* ---- the table ---- */

static bool publish(struct vhost_user_memory *m, const GPtrArray *mappings,
                    GError **error)
{
    g_autofree struct guest_region *regions =
        g_new(struct guest_region, mappings->len);

    for (guint i = 0; i < mappings->len; i++) {
        const struct vhost_user_mapping *map = mappings->pdata[i];

        regions[i] = (struct guest_region){
            .gpa = map->region.gpa,
            .bytes = map->region.bytes,
            .host = map->shared.host,
        };
    }
    return guest_memory_set(&m->table, regions, mappings->len, error);
}

bool vhost_user_memory_add(struct vhost_user_memory *m,
                           const struct vhost_user_region *r, int fd,
                           GError **error)
{
    if (m->mappings->len >= VHOST_USER_MAX_REGIONS) {
        return error_set(error, "more than %d memory regions",
                         VHOST_USER_MAX_REGIONS);
    }
    struct vhost_user_mapping *map = map_region(r, fd, error);

    if (!map) {
        return false;
    }
    g_ptr_array_add(m->mappings, map);
    if (!publish(m, m->mappings, error)) {
        g_ptr_array_remove_index(m->mappings, m->mappings->len - 1);
        return false;
    }
    return true;
}

bool vhost_user_memory_remove(struct vhost_user_memory *m,
                              const struct vhost_user_region *r, GError **error)
{
    for (guint i = 0; i < m->mappings->len; i++) {
        const struct vhost_user_mapping *map = m->mappings->pdata[i];

        /* What identifies a region; the offset means nothing here. */
        if (map->region.gpa == r->gpa && map->region.bytes == r->bytes &&
            map->region.user == r->user) {
            g_ptr_array_remove_index(m->mappings, i);
            return publish(m, m->mappings, error);
        }
    }
    return error_set(error, "there is no memory region at 0x%" PRIx64, r->gpa);
}

bool vhost_user_memory_set(struct vhost_user_memory *m,
                           const struct vhost_user_region *regions,
                           const int *fds, unsigned count, GError **error)
{
    g_autoptr(GPtrArray) list = new_list();

    for (unsigned i = 0; i < count; i++) {
        struct vhost_user_mapping *map = map_region(&regions[i], fds[i], error);

        if (!map) {
            return false;
        }
        g_ptr_array_add(list, map);
    }
    if (!publish(m, list, error)) {
        return false;
    }
    g_ptr_array_unref(m->mappings);
    m->mappings = g_steal_pointer(&list);
    return true;
}

bool vhost_user_memory_gpa(const struct vhost_user_memory *m, uint64_t user,
                           uint64_t bytes, uint64_t *gpa)
{
    for (guint i = 0; i < m->mappings->len; i++) {
        const struct vhost_user_region *r =
            &((struct vhost_user_mapping *)m->mappings->pdata[i])->region;
        uint64_t at = user - r->user;

        if (user >= r->user && at < r->bytes && bytes <= r->bytes - at) {
            *gpa = r->gpa + at;
            return true;
        }
    }
    return false;
}

bool vhost_user_memory_lost(const struct vhost_user_memory *m)
{
    for (guint i = 0; i < m->mappings->len; i++) {
        const struct vhost_user_mapping *map = m->mappings->pdata[i];

        if (vhost_user_shared_lost(&map->shared)) {
            return true;
        }
    }
    return false;
}
