/*
 * What an L1 table refers to gains or loses a reference, and COPIED flags
 * follow. Within a section of shadow.h.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOT_REFS_H
#define VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOT_REFS_H

#include <stdbool.h>
#include <stdint.h>

struct hbitmap;
struct qcow2;

enum flag_rule {
    FLAGS_STAY,
    FLAGS_CLEAR,    /* all that the tables refer to is shared */
    FLAGS_BY_COUNT, /* what is counted once is not shared */
};

struct l1_change {
    uint64_t *l1; /* in the host's byte order; entries follow */
    uint32_t n;
    int count; /* 1, -1 or 0: what is added to the counts */
    enum flag_rule flags;
    unsigned owners;      /* L1 tables that a rewritten L2 table is for */
    struct hbitmap *gone; /* see struct shadow */
    bool changed;         /* set: some entry of l1 has */
};

/* Goes through all L2 tables. One whose flags are wrong is written anew, in
 * other clusters; nothing that is on disk changes. 0 or -errno, -EINVAL if a
 * refcount has no bits for one more. Suspends. */
int co_qcow2_change_l1(struct qcow2 *s, struct l1_change *c);
/* Adds change, 1 or -1, to the counts of whole clusters; what would become zero
 * is noted in gone. */
int co_qcow2_refcount_add(struct qcow2 *s, int64_t offset, int64_t bytes,
                          int change, struct hbitmap *gone);

#endif
