/*
 * Dirty bitmaps: which parts of a node were written.
 *
 * Life: active, or disabled, or busy while a job uses it, with a successor that
 * collects the new writes. Persistent ones are stored in the image by its
 * format; an inconsistent one was not stored cleanly and can only be removed.
 * No path loses a dirty bit.
 *
 * All functions run on the node's loop and do not suspend, but for co_ ones.
 */
#ifndef VARVE_BLOCK_DIRTY_BITMAP_H
#define VARVE_BLOCK_DIRTY_BITMAP_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "block/node.h"
#include "util/hbitmap.h"

#define DIRTY_BITMAP_NAME_MAX        1023 /* bytes without the NUL */
#define DIRTY_BITMAP_GRANULARITY_MIN 512
#define DIRTY_BITMAP_GRANULARITY_MAX (INT64_C(1) << 31)

struct dirty_bitmap {
    struct node *node;
    char *name;           /* NULL: anonymous */
    struct hbitmap *bits; /* hot */
    bool disabled;
    bool busy; /* a job or an export holds it */
    bool persistent;
    bool inconsistent;
    char *reason;                   /* why it is, or NULL; for people */
    bool skip_store;                /* is dropped with the node, not stored */
    struct dirty_bitmap *successor; /* of a frozen one; takes new writes */
    LIST_ENTRY(dirty_bitmap) link;
};

/* Granularity that a new bitmap gets when none is asked for: the cluster size
 * clamped to 4 KiB..64 KiB; 64 KiB where there are no clusters (0). */
int64_t dirty_bitmap_default_granularity(int64_t cluster_size);
/* name NULL: anonymous. granularity in bytes is validated here, with the
 * messages that QMP shows. The node owns the bitmap. */
struct dirty_bitmap *dirty_bitmap_new(struct node *node, const char *name,
                                      int64_t granularity, GError **error);
/* Whether granularity is one; the error of dirty_bitmap_new(). */
bool dirty_bitmap_check_granularity(int64_t granularity, GError **error);
/* Frees it at once; not while busy. */
void dirty_bitmap_free(struct dirty_bitmap *b);
struct dirty_bitmap *dirty_bitmap_find(struct node *node, const char *name);
/* The node of a command's `node` argument and the bitmap in it; both errors by
 * name. *node may be NULL. */
struct dirty_bitmap *dirty_bitmap_lookup(const char *node_name,
                                         const char *name, struct node **node,
                                         GError **error);

enum dirty_bitmap_refusal {
    REFUSE_BUSY = 1 << 0,
    REFUSE_READONLY = 1 << 1, /* a persistent bitmap on a read-only node */
    REFUSE_INCONSISTENT = 1 << 2,
    REFUSE_DEFAULT = REFUSE_BUSY | REFUSE_READONLY | REFUSE_INCONSISTENT,
    REFUSE_ALLOW_RO = REFUSE_BUSY | REFUSE_INCONSISTENT,
};
/* false, and a message that names the bitmap and the reason. */
bool dirty_bitmap_check(const struct dirty_bitmap *b, unsigned refuse,
                        GError **error);

/* ---- marking: the request path ---- */

/* Marks what lies within b. */
void dirty_bitmap_mark(struct dirty_bitmap *b, int64_t offset, int64_t bytes);
/* Marks every enabled bitmap of the node. bytes > 0. */
static inline void dirty_bitmaps_mark(struct node *node, int64_t offset,
                                      int64_t bytes)
{
    bool within = offset + bytes <= node->length;
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        if (!b->disabled &&
            !(within && hbitmap_is_marked(b->bits, offset, bytes))) {
            dirty_bitmap_mark(b, offset, bytes);
        }
    }
}
/* The node's length changed. false and *error if memory is lacking: then no
 * bitmap changed. */
bool dirty_bitmaps_resize(struct node *node, int64_t size, GError **error);
/* Room for a write that will grow the node to size; never shrinks a bitmap. */
bool dirty_bitmaps_reserve(struct node *node, int64_t size);
/* The node has got this size and they could not follow: those that are smaller
 * miss writes from now on, and become inconsistent. */
void dirty_bitmaps_give_up(struct node *node, int64_t size);
/* Frees all; the node is closing, and none is busy. */
void dirty_bitmaps_free_all(struct node *node);

/* ---- what commands do ---- */

void dirty_bitmap_enable(struct dirty_bitmap *b);
void dirty_bitmap_disable(struct dirty_bitmap *b);
/* Clears all; *backup (may be NULL) receives the old bits for an undo. */
void dirty_bitmap_clear(struct dirty_bitmap *b, struct hbitmap **backup);
/* Puts back what _clear() or _merge() gave; takes ownership of backup. */
void dirty_bitmap_restore(struct dirty_bitmap *b, struct hbitmap *backup);
/* dst |= src; *backup as above. Refuses busy or inconsistent ones and differing
 * sizes by name. */
bool dirty_bitmap_merge(struct dirty_bitmap *dst,
                        const struct dirty_bitmap *src, struct hbitmap **backup,
                        GError **error);
/* The same for bits that were copied from elsewhere. */
bool dirty_bitmap_merge_bits(struct dirty_bitmap *dst,
                             const struct hbitmap *src, struct hbitmap **backup,
                             GError **error);
/* A copy of b's bits, if it may be merged into another; hbitmap_free() it. */
struct hbitmap *dirty_bitmap_copy_bits(const struct dirty_bitmap *b,
                                       GError **error);
/* Recording guest writes now: enabled, or frozen with an enabled successor. */
bool dirty_bitmap_recording(const struct dirty_bitmap *b);
/* Bytes in dirty granules; the last one counts in full, beyond the end, as QMP
 * reports it. */
int64_t dirty_bitmap_count(const struct dirty_bitmap *b);
/* SHA-256 in hex, equal to x-debug-block-dirty-bitmap-sha256 of QEMU. */
char *dirty_bitmap_sha256(const struct dirty_bitmap *b, GError **error);
/* The "dirty-bitmaps" member of queries; caller frees. */
struct block_dirty_info_list *dirty_bitmaps_query(struct node *node);

/* ---- persistent ones ---- */

/* A new bitmap as a command wants it; granularity 0 is the default one of the
 * node. Suspends. */
struct dirty_bitmap *co_dirty_bitmap_add(struct node *node, const char *name,
                                         int64_t granularity, bool persistent,
                                         bool disabled, GError **error);
/* Takes it out of the image, if it is there, and frees it. Suspends. */
bool co_dirty_bitmap_remove(struct dirty_bitmap *b, GError **error);
/* Whether the node can store a new bitmap, with a valid granularity, when it is
 * closed. */
bool dirty_bitmap_can_store(struct node *node, const char *name,
                            int64_t granularity, GError **error);
/* Takes a bitmap that may be persistent out of the image; it stays in memory.
 * Suspends. */
bool co_dirty_bitmap_unstore(struct dirty_bitmap *b, GError **error);

/* ---- what jobs do ---- */

/* Freezes b: busy, with an anonymous successor that takes b's enabled state and
 * all new writes. */
bool dirty_bitmap_freeze(struct dirty_bitmap *b, GError **error);
/* Success: b keeps its name and gets the successor's bits; its old ones are
 * dropped. Unfreezes b. */
void dirty_bitmap_abdicate(struct dirty_bitmap *b);
/* Failure: the successor's bits are merged back. Unfreezes b. */
void dirty_bitmap_reclaim(struct dirty_bitmap *b);
/* Busy without a successor: a merge source, an export. */
void dirty_bitmap_set_busy(struct dirty_bitmap *b, bool busy);

#endif
