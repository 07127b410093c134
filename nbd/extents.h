/*
 * What a server answered to a question about block status. Pure.
 */
#ifndef VARVE_NBD_EXTENTS_H
#define VARVE_NBD_EXTENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nbd_extent {
    int64_t end; /* where it ends and the next one begins */
    uint32_t flags;
};

/* Zero-initialise; nbd_extents_clear() frees. */
struct nbd_extents {
    int64_t offset; /* where the first one begins */
    struct nbd_extent *list;
    unsigned n, at; /* at: where the last lookup was */
};

void nbd_extents_clear(struct nbd_extents *e);
/* Takes n / 2 pairs of a length and flags, as NBD_REPLY_TYPE_BLOCK_STATUS has
 * them, for a run from offset, a multiple of align, up to at most limit. Their
 * ends become multiples of align. False if that leaves nothing. */
bool nbd_extents_fill(struct nbd_extents *e, int64_t offset, int64_t limit,
                      int64_t align, const uint32_t *entries, size_t n);
/* The extent that has offset, which does not go back; NULL if none does. */
const struct nbd_extent *nbd_extents_find(struct nbd_extents *e,
                                          int64_t offset);

#endif
