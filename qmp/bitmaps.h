/*
 * The steps of the dirty bitmap commands, for the commands and for transaction
 * actions alike. On the loop of the node that is named first, with the change
 * lock held.
 */
#ifndef VARVE_QMP_BITMAPS_H
#define VARVE_QMP_BITMAPS_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct dirty_bitmap;
struct hbitmap;

/* The bitmap `name` of a node or a backend. While a job has a filter above a
 * backend's disk, that is the disk's bitmap. NULL and *error. */
struct dirty_bitmap *bitmap_find(const char *node, const char *name,
                                 GError **error);
/* NULL and *error, or the new bitmap. */
struct dirty_bitmap *bitmap_add(const struct block_dirty_bitmap_add *args,
                                GError **error);
/* The bitmap that args name, if it may be changed. */
struct dirty_bitmap *bitmap_for_change(const struct block_dirty_bitmap *args,
                                       GError **error);
/* The same, if it may be enabled or disabled: also in a node that is only
 * read. */
struct dirty_bitmap *bitmap_for_switch(const struct block_dirty_bitmap *args,
                                       GError **error);
/* The same, if it may be removed: an inconsistent one may. */
struct dirty_bitmap *bitmap_for_removal(const struct block_dirty_bitmap *args,
                                        GError **error);
/* All sources into the target, or none: *backup (may be NULL) receives the
 * target's old bits. Returns the target. Sources may live on other loops; then
 * it suspends, but not between the first of them and the last. */
struct dirty_bitmap *co_bitmap_merge(
    const struct block_dirty_bitmap_merge *args, struct hbitmap **backup,
    GError **error);

#endif
