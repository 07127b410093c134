/*
 * What keeps writes off metadata: the overlap-check option.
 *
 * A bitmap over the file has a bit for each cluster that may hold metadata. A
 * write looks at the bits of its clusters, and only where one is set the tables
 * themselves say what is there, and whether the option guards it. So a sound
 * image costs each write one look into a bitmap for each cluster.
 *
 * New clusters are looked at like this before they are used, guest data before
 * they overwrite a cluster, and writes of tables only where an image was found
 * to have one table in another.
 *
 * Runs on the node's loop.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_GUARD_H
#define VARVE_BLOCK_DRIVERS_QCOW2_GUARD_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct qcow2;
struct qcow2_overlap_checks;

/* As struct qcow2_overlap_check_flags has them. */
enum meta_table {
    META_HEADER,
    META_ACTIVE_L1,
    META_ACTIVE_L2,
    META_REFCOUNT_TABLE,
    META_REFCOUNT_BLOCK,
    META_SNAPSHOT_TABLE,
    META_INACTIVE_L1,
    META_INACTIVE_L2,
    META_BITMAPS, /* directory, tables and bits */
    META_TABLES,
};

struct table_place {
    int64_t offset, bytes;
};

struct qcow2_guard {
    unsigned chosen; /* bits by enum meta_table */
    bool tangled;    /* there was a table that lies in another one */
    struct table_place snapshots;
    GArray *inactive_l1; /* of struct table_place */
};

/* The tables that the option chooses; NULL is the default. */
unsigned qcow2_guard_choice(const struct qcow2_overlap_checks *checks);
/* Sets the bits of all that the header, L1 and the refcount table say, and of
 * nothing else; false without memory. */
bool qcow2_guard_build(struct qcow2 *s);
/* Where the snapshot table and the L1 tables of snapshots are; to be called
 * when they have been read and whenever they change. What cannot be is left
 * out. */
void qcow2_guard_snapshots(struct qcow2 *s);
/* Sets the bits of the L2 tables that only snapshots use, which takes reading
 * their L1 tables: for META_INACTIVE_L2. 0 or -errno. */
int co_qcow2_guard_inactive(struct qcow2 *s);

/* Notes that [offset, offset + bytes) holds (no longer holds) metadata. */
void qcow2_meta_add(struct qcow2 *s, int64_t offset, int64_t bytes);
void qcow2_meta_remove(struct qcow2 *s, int64_t offset, int64_t bytes);
/* True if metadata may be there. */
bool qcow2_meta_overlaps(const struct qcow2 *s, int64_t offset, int64_t bytes);

/* 0 if bytes may be written at offset. Else the image is marked as corrupt:
 * -EIO. except: tables that do not matter, bits by enum meta_table. */
int co_qcow2_guard(struct qcow2 *s, unsigned except, int64_t offset,
                   int64_t bytes);
/* The same for clusters that were free and shall become `what`; NULL: guest
 * data. */
int co_qcow2_guard_new(struct qcow2 *s, const char *what, int64_t offset,
                       int64_t bytes);

#endif
