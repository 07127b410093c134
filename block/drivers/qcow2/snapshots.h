/*
 * Snapshots within the image (qcow2 specification, "Snapshots").
 *
 * A snapshot is an L1 table of its own, and an entry in the snapshot table. All
 * L1 tables share L2 tables and clusters, which count every way that leads to
 * them. COPIED flags are right in what the active L1 table reaches, and nobody
 * looks at them elsewhere.
 *
 * What changes, changes with one write of the header: new refcount blocks, a
 * new snapshot table, and new L1 and L2 tables where they differ are written
 * beside the old ones first (shadow.c). So a crash leaves the image as it was
 * before or as it is after, with leaked clusters at worst.
 *
 * Files: snapshot_entry.c (an entry in memory), snapshot_table.c (the table),
 * snapshot_refs.c (refcounts and flags), snapshot_edit.c (a change as a whole),
 * snapshots.c (what users ask for).
 * On the node's loop; what changes anything, in a drained section.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOTS_H
#define VARVE_BLOCK_DRIVERS_QCOW2_SNAPSHOTS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "block/drivers/qcow2/format.h"
#include "qapi/types.h"

struct check_report;
struct hbitmap;
struct qcow2;
struct snapshot_ops;

/* ---- snapshot_entry.c ---------------------------------------------------- */

struct qcow2_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size; /* entries */
    uint32_t date_sec, date_nsec;
    uint64_t vm_clock_nsec;
    uint64_t vm_state_size; /* bytes */
    uint64_t disk_size;     /* bytes; only if extra_bytes say so */
    uint64_t icount;        /* UINT64_MAX: not recorded */
    char *id, *name;        /* followed by a zero byte, may have others */
    uint16_t id_bytes, name_bytes;
    uint32_t extra_bytes; /* on disk; the known fields are the first of them */
    uint8_t *unknown;     /* what follows those */
};

/* The caller owns what these return. */
struct qcow2_snapshot *qcow2_snapshot_new(void);
struct qcow2_snapshot *qcow2_snapshot_copy(const struct qcow2_snapshot *sn);
void qcow2_snapshot_free(struct qcow2_snapshot *sn);
/* An empty list that owns its members. */
GPtrArray *qcow2_snapshot_list(void);

/* True if the entry says how large the disk is. */
bool qcow2_snapshot_has_size(const struct qcow2_snapshot *sn);
/* Of the entry at `at`, 40 bytes: all of it on disk, without padding. */
int64_t qcow2_snapshot_entry_bytes(const uint8_t *at);
/* Extra data of the entry at `at`, of which 40 bytes suffice. */
uint32_t qcow2_snapshot_extra_bytes(const uint8_t *at);
/* The entry at `at`, 40 bytes, is to have the most extra data that are taken.
 */
void qcow2_snapshot_cut_extra(uint8_t *at);
/* at: a whole entry; of its extra data no more than `keep` are taken over. */
struct qcow2_snapshot *qcow2_snapshot_parse(const uint8_t *at, uint32_t keep);
/* Bytes of an entry as qcow2_snapshot_build() makes it, padded. It has all the
 * known fields, so an old one may grow. */
int64_t qcow2_snapshot_built_bytes(const struct qcow2_snapshot *sn);
/* disk_size: what stands there if the entry does not say. */
void qcow2_snapshot_build(const struct qcow2_snapshot *sn, uint64_t disk_size,
                          uint8_t *at);

/* ---- snapshot_table.c ---------------------------------------------------- */

struct qcow2_snapshots {
    GPtrArray *list;     /* of struct qcow2_snapshot, in the table's order */
    int64_t table_bytes; /* on disk */
    GError *damage;      /* why the table could not be read, or NULL */
};

void qcow2_snapshots_init(struct qcow2_snapshots *t);
void qcow2_snapshots_clear(struct qcow2_snapshots *t);
/* Reads the table. False and *error if it cannot be used; for a check that is
 * noted, and true. */
bool co_qcow2_snapshots_read(struct qcow2 *s, GError **error);
/* Reads a table that could not be read, and leaves out what is too much; what
 * is left out is told, as repaired. False and *error if there is nothing to be
 * had. */
bool co_qcow2_snapshots_salvage(struct qcow2 *s, struct check_report *check,
                                GError **error);
/* Bytes of a table of these entries. */
int64_t qcow2_snapshots_bytes(const GPtrArray *list);
/* Writes the entries to offset; nothing refers to them yet. 0 or -errno. */
int co_qcow2_snapshots_write(struct qcow2 *s, const GPtrArray *list,
                             int64_t offset);
/* The L1 table of a snapshot in the host's byte order, of at least `room`
 * entries; io_buffer_free() it. NULL and *error, which names what is wrong. */
uint64_t *co_qcow2_snapshot_l1(struct qcow2 *s, const struct qcow2_snapshot *sn,
                               uint32_t room, GError **error);

/* ---- snapshots.c --------------------------------------------------------- */

extern const struct snapshot_ops qcow2_snapshot_ops;
/* Writes the table anew, each entry with all the fields that there are now. 0
 * or -errno. */
int co_qcow2_snapshots_rewrite(struct qcow2 *s);

#endif
