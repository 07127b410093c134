/*
 * Memory regions of a vhost-user front-end.
 *
 * A region is a piece of a file that both sides map. It is checked against the
 * file's length when it comes, and guarded against a file that becomes shorter
 * later. The device sees only the table of guest-physical ranges; the front-
 * end's own addresses, in which it names rings, are turned into those here.
 *
 * Invariant: table and mappings hold the same regions. Runs on the device's
 * loop, does not suspend.
 */
#include "hw/virtio-blk/vhost_user_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "util/error.h"
#include "util/range.h"

#define HUGETLBFS_MAGIC 0x958458f6

struct vhost_user_mapping {
    struct vhost_user_region region;
    struct sigbus_range guard; /* the whole mapping */
    uint8_t *host;             /* of the region's first byte */
};

static void mapping_free(gpointer opaque)
{
    struct vhost_user_mapping *map = opaque;

    sigbus_range_remove(&map->guard);
    munmap(map->guard.base, map->guard.bytes);
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

/* ---- mapping ---- */

static size_t page_bytes_of(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC) {
        return fs.f_bsize;
    }
    return sysconf(_SC_PAGESIZE);
}

static struct vhost_user_mapping *map_region(const struct vhost_user_region *r,
                                             int fd, GError **error)
{
    struct stat st;
    int64_t end, whole;

    if (r->mmap_offset > INT64_MAX || r->bytes > INT64_MAX || !r->bytes ||
        !range_add(r->mmap_offset, r->bytes, &end) ||
        r->bytes > UINT64_MAX - r->user) {
        error_set(error,
                  "memory region at 0x%" PRIx64
                  " has an invalid size of %" PRIu64 " bytes at %" PRIu64,
                  r->gpa, r->bytes, r->mmap_offset);
        return NULL;
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || end > st.st_size) {
        error_set(error,
                  "memory region at 0x%" PRIx64 " is not within its file",
                  r->gpa);
        return NULL;
    }
    size_t page = page_bytes_of(fd);

    /* The whole file up to the end: an offset need not be a page's. */
    if (!is_power_of_2(page) || !range_add(end, page - 1, &whole)) {
        error_set(error, "memory region at 0x%" PRIx64 " is too large", r->gpa);
        return NULL;
    }
    whole = align_down(whole, page);
    char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        error_set_errno(error, errno,
                        "memory region at 0x%" PRIx64 " cannot be mapped",
                        r->gpa);
        return NULL;
    }
    struct vhost_user_mapping *map = g_new0(struct vhost_user_mapping, 1);

    map->region = *r;
    map->host = (uint8_t *)base + r->mmap_offset;
    map->guard =
        (struct sigbus_range){.base = base, .bytes = whole, .page_bytes = page};
    if (!sigbus_range_add(&map->guard)) {
        error_set(error, "too many memory regions in this process");
        munmap(base, whole);
        g_free(map);
        return NULL;
    }
    return map;
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
            .host = map->host,
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

        if (sigbus_range_lost(&map->guard)) {
            return true;
        }
    }
    return false;
}
