/*
 * Bitmaps that are stored in the image (qcow2 specification, "Bitmaps
 * extension", "Bitmaps").
 *
 * The list mirrors the directory on disk, entry by entry. Its bitmaps in memory
 * are ordinary dirty bitmaps of the node with the same name, marked persistent.
 *
 * While the image is open for writing, every entry that could become wrong
 * says in_use on disk. What is stored goes to new clusters and a new directory;
 * one write of the header makes it valid. So a crash leaves the old directory,
 * whose entries are in use, or the new one, which is right: never a bitmap that
 * claims to be right and is not.
 *
 * An entry that is damaged does no harm to the image or to the other entries:
 * it is shown as inconsistent, with the reason, and can be removed. What lies
 * behind the damage of the directory itself is out of reach for everybody, and
 * is left behind when the directory is next written.
 *
 * Files: bitmap_entry.c, bitmap_dir.c (the directory), bitmap_load.c,
 * bitmap_store.c, bitmap_change.c (what commands do). On the node's loop.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_BITMAPS_H
#define VARVE_BLOCK_DRIVERS_QCOW2_BITMAPS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "block/drivers/qcow2/bitmap_entry.h"

struct qcow2;
struct node;
struct check_report;
struct image_info_specific_qcow2;

struct qcow2_bitmaps {
    GPtrArray
        *list; /* of struct stored_bitmap, in the order of the directory */
    int64_t directory_offset, directory_bytes; /* 0: there is none */
    char *damage; /* why the directory could not be read to its end, or NULL */
    int64_t loaded_bytes; /* of bits that are not zero */
    bool unreadable;      /* an I/O error: nobody knows what it says */
};

/* ---- bitmap_dir.c ---- */
struct qcow2_bitmaps *qcow2_bitmaps_new(void);
void qcow2_bitmaps_free(struct qcow2_bitmaps *b);
/* Reads the directory that the header names. Whatever is wrong is noted. */
void co_qcow2_bitmaps_read_directory(struct qcow2 *s);
/* Says on disk that entries may be wrong from now on; stable on return. */
bool co_qcow2_bitmaps_mark_in_use(struct qcow2 *s, GError **error);
/* Makes `list` the directory, in new clusters, and takes it over: true. What
 * its entries refer to has been written, and is made stable first. false: the
 * caller keeps `list`, and the old one is in force; but if *unsure, the disk
 * may have either, so nothing that one of them refers to may be freed. */
bool co_qcow2_bitmaps_replace(struct qcow2 *s, GPtrArray *list, bool *unsure,
                              GError **error);
/* Takes the extension out of the header. */
bool co_qcow2_bitmaps_forget(struct qcow2 *s, GError **error);

/* ---- bitmap_load.c ---- */
/* Reads the directory and the tables; before refcounts may be repaired. */
void co_qcow2_bitmaps_read(struct qcow2 *s);
/* The last step of an open: the image's bitmaps become the node's, and are
 * marked on disk if the node may write. */
bool co_qcow2_bitmaps_open(struct qcow2 *s, GError **error);
/* Before the first write: nothing on disk may claim to follow that does not. */
bool co_qcow2_bitmaps_writable(struct qcow2 *s, GError **error);
/* Entries that the table of a bitmap over `length` bytes needs. */
int64_t qcow2_bitmap_table_entries(const struct qcow2 *s, int64_t length,
                                   unsigned granularity_bits);
/* Guest bytes that one cluster of bits covers. */
int64_t qcow2_bitmap_cluster_span(const struct qcow2 *s,
                                  unsigned granularity_bits);

/* ---- bitmap_store.c ---- */
/* Writes the persistent bitmaps of the node and makes them valid on disk.
 * Nobody writes to the node until it is closed or they are marked again. */
bool co_qcow2_bitmaps_store(struct qcow2 *s, GError **error);
/* What an entry refers to is free when the next commit is stable. */
void qcow2_bitmap_release(struct qcow2 *s, const struct stored_bitmap *b);

/* ---- bitmap_change.c ---- */
bool qcow2_can_store_bitmap(struct node *node, const char *name,
                            int64_t granularity, GError **error);
bool co_qcow2_remove_stored_bitmap(struct node *node, const char *name,
                                   GError **error);
bool co_qcow2_repair_bitmaps(struct node *node, unsigned *dropped,
                             GError **error);
/* Whether the node may be resized: a bitmap that cannot follow is named. */
bool qcow2_bitmaps_check_resize(struct qcow2 *s, GError **error);
/* Fills the `bitmaps` member in. */
void qcow2_bitmaps_query(const struct qcow2 *s,
                         struct image_info_specific_qcow2 *q);

/* ---- bitmap_check.c ---- */
typedef bool qcow2_bitmaps_fn(void *opaque, const char *what, uint64_t offset,
                              uint64_t bytes, GError **error);
/* Calls fn for each range that the directory, itself included, refers to; ends
 * when it returns false. Does not suspend. */
bool qcow2_bitmaps_walk(const struct qcow2 *s, qcow2_bitmaps_fn *fn,
                        void *opaque, GError **error);
/* What is damaged is an error each. */
void qcow2_bitmaps_report(const struct qcow2 *s, struct check_report *check);
/* Takes the damaged entries off the directory, and whatever is wrong with it;
 * *dropped says how many. Their clusters are leaked from then on. */
bool co_qcow2_bitmaps_repair(struct qcow2 *s, unsigned *dropped,
                             GError **error);

#endif
