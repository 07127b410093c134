/*
 * Refcounts that take effect all at once.
 *
 * The refcount blocks are copied, and from then on changes go to the copies:
 * also those that the cache writes early. One write of the header switches to
 * them, together with whatever else belongs to the change; until then the disk
 * is what it was. No request is in the image meanwhile.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_SHADOW_H
#define VARVE_BLOCK_DRIVERS_QCOW2_SHADOW_H

#include <glib.h>
#include <stdint.h>

struct hbitmap;
struct qcow2;

struct shadow {
    uint64_t *old_rt;      /* the refcount table on disk, host's byte order */
    int64_t place;         /* of the new table, which its blocks follow */
    int64_t table, blocks; /* clusters */
    struct hbitmap *gone;  /* by host offset: clusters that the new state does
                              not refer to; their counts stay at one until it is
                              in force, so that nothing takes them before */
};

/* Fields of the header that change with the refcounts. */
struct shadow_switch {
    uint64_t size;
    uint32_t l1_size;
    uint64_t l1_offset;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
};

/* reserve: clusters that will be allocated at most before the switch. 0 or
 * -errno, and then nothing has changed. Suspends, as the others do. */
int co_qcow2_shadow_begin(struct qcow2 *s, struct shadow *sh, int64_t reserve);
/* Back to what is on disk; all that was allocated meanwhile is free. */
void co_qcow2_shadow_abort(struct qcow2 *s, struct shadow *sh);
/* Makes all that was written stable, switches, and frees what is gone. On
 * failure it is as if aborted; but if the header may have become either, the
 * image takes no writes any more. */
int co_qcow2_shadow_commit(struct qcow2 *s, struct shadow *sh,
                           const struct shadow_switch *to);

#endif
