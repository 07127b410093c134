/*
 * Guest memory: which guest-physical ranges are where in this process.
 *
 * The one place that turns guest addresses into pointers. Every address that a
 * guest hands over is translated here, and checked, at each use; an address
 * that is not wholly inside the table is an error of the guest. Pure look-ups,
 * any thread. Whoever changes the table has stopped the queues that use it and
 * waited for their requests, which hold pointers.
 */
#ifndef VARVE_HW_GUEST_MEMORY_H
#define VARVE_HW_GUEST_MEMORY_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The most that a vhost-user front-end may announce, rounded up. */
#define GUEST_MEMORY_MAX_REGIONS 512

struct guest_region {
    uint64_t gpa;   /* guest-physical address of the first byte */
    uint64_t bytes; /* > 0 */
    uint8_t *host;  /* where it is mapped; owned by whoever mapped it */
};

struct guest_memory {
    struct guest_region *regions; /* sorted by gpa, disjoint */
    unsigned count;
};

/* Takes a copy of the table. false and *error, and nothing changed, if regions
 * are empty, wrap around, overlap, or are too many. */
bool guest_memory_set(struct guest_memory *m,
                      const struct guest_region *regions, unsigned count,
                      GError **error);
void guest_memory_clear(struct guest_memory *m);

/* guest_memory_at() in a table of many regions. */
void *guest_memory_search(const struct guest_memory *m, uint64_t gpa,
                          uint64_t bytes);
/* The host address of [gpa, gpa + bytes), if that lies in one region; else
 * NULL. bytes > 0. Most guests' memory is one region, or the first is most of
 * it. */
static inline void *guest_memory_at(const struct guest_memory *m, uint64_t gpa,
                                    uint64_t bytes)
{
    const struct guest_region *r = m->regions;

    if (G_LIKELY(m->count && gpa - r->gpa < r->bytes &&
                 bytes <= r->bytes - (gpa - r->gpa))) {
        return r->host + (gpa - r->gpa);
    }
    return guest_memory_search(m, gpa, bytes);
}
/* Writes the pieces of [gpa, gpa + bytes) to vec, one a region, and returns how
 * many: -EFAULT if a byte is outside the table, -E2BIG if max is too small. */
int guest_memory_map(const struct guest_memory *m, uint64_t gpa, uint64_t bytes,
                     struct iovec *vec, unsigned max);
/* The other way: the guest's address of a byte that is part of it. */
bool guest_memory_gpa(const struct guest_memory *m, const void *host,
                      uint64_t *gpa);
/* Copies out of guest memory, across regions; 0 or -EFAULT. */
int guest_memory_read(const struct guest_memory *m, uint64_t gpa, void *buf,
                      size_t bytes);

#endif
