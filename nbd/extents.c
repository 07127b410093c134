/*
 * Extents as any server may tell them. So many are kept; one of no length ends
 * the list, and nothing reaches past the limit. A server may know finer blocks
 * than we may ask for: a block of which it says several things counts as data.
 */
#include "nbd/extents.h"

#include <glib.h>

#include "util/range.h"

/* 1 MiB of memory; who asks on asks the server again. */
#define MAX_EXTENTS 65536

void nbd_extents_clear(struct nbd_extents *e)
{
    g_free(e->list);
    *e = (struct nbd_extents){0};
}

static void append(struct nbd_extents *e, int64_t end, uint32_t flags)
{
    if (e->n && e->list[e->n - 1].flags == flags) {
        e->list[e->n - 1].end = end;
    } else {
        e->list[e->n++] = (struct nbd_extent){.end = end, .flags = flags};
    }
}

bool nbd_extents_fill(struct nbd_extents *e, int64_t offset, int64_t limit,
                      int64_t align, const uint32_t *entries, size_t n)
{
    size_t pairs = MIN(n / 2, MAX_EXTENTS);
    int64_t begin = offset, end = offset;

    nbd_extents_clear(e);
    e->offset = offset;
    e->list = g_new(struct nbd_extent, pairs);
    /* What follows an extent that ends within a block is not known. */
    for (size_t i = 0; i < pairs && begin == end && begin < limit; i++) {
        end = begin + entries[2 * i];
        begin = align_down(end, align);
        if (e->n ? begin > e->list[e->n - 1].end : begin > offset) {
            append(e, min_i64(begin, limit), entries[2 * i + 1]);
        } else {
            break;
        }
    }
    if (!e->n && end > offset) {
        append(e, min_i64(offset + align, limit), 0);
    }
    return e->n > 0;
}

const struct nbd_extent *nbd_extents_find(struct nbd_extents *e, int64_t offset)
{
    while (e->at < e->n && e->list[e->at].end <= offset) {
        e->at++;
    }
    return e->at < e->n && offset >= e->offset ? &e->list[e->at] : NULL;
}
