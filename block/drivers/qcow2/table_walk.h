/*
 * A walk over the L2 tables that an L1 table refers to.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_TABLE_WALK_H
#define VARVE_BLOCK_DRIVERS_QCOW2_TABLE_WALK_H

#include <stdint.h>

struct qcow2;

/* One L2 table. */
struct table_seen {
    uint32_t index;  /* of the L1 entry */
    uint64_t offset; /* in the file */
    uint64_t *table; /* a cluster, as it is on disk; may be written to */
    int ret;         /* negative: it could not be read */
};

/* 0, or what ends the walk. May suspend. */
typedef int table_walk_fn(void *opaque, const struct table_seen *seen);

/* Shows fn each table of the n entries of l1, in the host's byte order; what fn
 * changes there counts for it alone. Returns what fn did, or -ENOMEM. */
int co_qcow2_walk_tables(struct qcow2 *s, const uint64_t *l1, uint32_t n,
                         table_walk_fn *fn, void *opaque);

#endif
