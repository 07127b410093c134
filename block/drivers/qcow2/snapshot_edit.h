/*
 * A change of snapshots: its parts (a new active L1 table, a new snapshot
 * table) are written beside what is there, and take effect with one switch of
 * shadow.h.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOT_EDIT_H
#define VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOT_EDIT_H

#include <glib.h>
#include <stdint.h>
#include "block/drivers/qcow2/shadow.h"

struct snapshot_edit {
    struct qcow2 *s;
    struct shadow shadow;
    struct shadow_switch to;
    uint64_t *l1; /* the active table to be, with to.l1_size entries; or NULL:
                     it stays */
    GPtrArray *list; /* of snapshots; or NULL: they stay */
};

/* Begins an edit that leaves everything as it is. entries: of L1 tables that
 * will be written; tables: L2 tables that may be. 0 or -errno; then one of
 * abort and finish is called. Suspends, as the others do. */
int co_snapshot_edit_begin(struct qcow2 *s, struct snapshot_edit *e,
                           int64_t entries, int64_t tables);
void co_snapshot_edit_abort(struct snapshot_edit *e);
/* Makes it so, on disk and in memory, or undoes it. */
int co_snapshot_edit_finish(struct snapshot_edit *e);

/* The clusters of a table have one user less. */
int co_snapshot_edit_let_go(struct snapshot_edit *e, uint64_t offset,
                            int64_t bytes);
/* Writes an L1 table to new clusters. */
int co_snapshot_write_l1(struct qcow2 *s, const uint64_t *l1, uint32_t n,
                         uint64_t *offset);
/* A copy of the active L1 table, or NULL; io_buffer_free() it. */
uint64_t *snapshot_copy_l1(struct qcow2 *s);
int64_t snapshot_used_entries(const uint64_t *l1, uint32_t n);
/* A copy of the list but for one; UINT_MAX: of all. */
GPtrArray *snapshot_list_without(const struct qcow2 *s, unsigned index);

#endif
