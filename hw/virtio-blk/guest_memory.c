/*
 * Guest memory: a sorted table of regions and checked look-ups in it.
 *
 * Invariants: regions are sorted by address, disjoint, not empty, and none
 * wraps around the end of the address space; so the region of an address is
 * the last one that starts at or below it, and `offset < bytes` is the whole
 * check. Pure functions on the table; no loop, no suspension.
 */
#include "hw/virtio-blk/guest_memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

static int by_address(const void *a, const void *b)
{
    const struct guest_region *x = a, *y = b;

    return (x->gpa > y->gpa) - (x->gpa < y->gpa);
}

bool guest_memory_set(struct guest_memory *m,
                      const struct guest_region *regions, unsigned count,
                      GError **error)
{
    if (count > GUEST_MEMORY_MAX_REGIONS) {
        return error_set(error, "Guest memory has %u regions, the limit is %d",
                         count, GUEST_MEMORY_MAX_REGIONS);
    }
    g_autofree struct guest_region *sorted = g_new(struct guest_region, count);
    if (count) {
        memcpy(sorted, regions, count * sizeof(*sorted));
        qsort(sorted, count, sizeof(*sorted), by_address);
    }
    for (unsigned i = 0; i < count; i++) {
        struct guest_region *r = &sorted[i];

        if (!r->bytes || r->bytes > UINT64_MAX - r->gpa) {
            return error_set(error,
                             "Guest memory region at 0x%" PRIx64
                             " has an invalid size of %" PRIu64 " bytes",
                             r->gpa, r->bytes);
        }
        if (i && r[-1].gpa + r[-1].bytes > r->gpa) {
            return error_set(error,
                             "Guest memory regions at 0x%" PRIx64
                             " and 0x%" PRIx64 " overlap",
                             r[-1].gpa, r->gpa);
        }
    }
    g_free(m->regions);
    m->regions = g_steal_pointer(&sorted);
    m->count = count;
    return true;
}

void guest_memory_clear(struct guest_memory *m)
{
    g_free(m->regions);
    m->regions = NULL;
    m->count = 0;
}

static const struct guest_region *find(const struct guest_memory *m,
                                       uint64_t gpa)
{
    unsigned lo = 0, hi = m->count;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (m->regions[mid].gpa <= gpa) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    if (!lo || gpa - m->regions[lo - 1].gpa >= m->regions[lo - 1].bytes) {
        return NULL;
    }
    return &m->regions[lo - 1];
}

void *guest_memory_search(const struct guest_memory *m, uint64_t gpa,
                          uint64_t bytes)
{
    const struct guest_region *r = find(m, gpa);

    if (!r || bytes > r->bytes - (gpa - r->gpa)) {
        return NULL;
    }
    return r->host + (gpa - r->gpa);
}

int guest_memory_map(const struct guest_memory *m, uint64_t gpa, uint64_t bytes,
                     struct iovec *vec, unsigned max)
{
    unsigned n = 0;

    while (bytes) {
        const struct guest_region *r = find(m, gpa);

        if (!r) {
            return -EFAULT;
        }
        if (n == max) {
            return -E2BIG;
        }
        uint64_t left = r->bytes - (gpa - r->gpa);
        uint64_t run = left < bytes ? left : bytes;

        vec[n].iov_base = r->host + (gpa - r->gpa);
        vec[n++].iov_len = run;
        bytes -= run;
        gpa += run; /* cannot wrap: regions do not */
    }
    return n;
}

bool guest_memory_gpa(const struct guest_memory *m, const void *host,
                      uint64_t *gpa)
{
    for (unsigned i = 0; i < m->count; i++) {
        const struct guest_region *r = &m->regions[i];
        uint64_t at = (uintptr_t)host - (uintptr_t)r->host;

        if (at < r->bytes) {
            *gpa = r->gpa + at;
            return true;
        }
    }
    return false;
}

int guest_memory_read(const struct guest_memory *m, uint64_t gpa, void *buf,
                      size_t bytes)
{
    struct iovec piece;
    size_t done = 0;

    while (done < bytes) {
        /* One piece at a time; -E2BIG only says that more follow. */
        int n = guest_memory_map(m, gpa + done, bytes - done, &piece, 1);

        if (n == -EFAULT) {
            return n;
        }
        memcpy((char *)buf + done, piece.iov_base, piece.iov_len);
        done += piece.iov_len;
    }
    return 0;
}
