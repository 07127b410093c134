/*
 * Snapshots that an image keeps within itself.
 *
 * A node whose driver has none passes the question down to its primary child,
 * if no other child holds data of its own. What is said of "the node" below is
 * the one where it ends up. On the node's loop; what changes anything needs the
 * change lock, or a program of its own.
 */
#ifndef VARVE_BLOCK_SNAPSHOT_H
#define VARVE_BLOCK_SNAPSHOT_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "qapi/types.h"

struct node;

/* Bytes of a name, without the zero, that users can give; the rest is cut. */
#define SNAPSHOT_NAME_MAX 255

/* The driver's side. A snapshot is picked by its place in the list. The node is
 * drained and has been flushed for all but `list`, does not change meanwhile,
 * and may be written but for co_load. */
struct snapshot_ops {
    /* The oldest first; caller frees. NULL: this image can have none. Does not
     * suspend. */
    struct snapshot_info_list *(*list)(struct node *node);
    /* info: all but the id, which the driver finds. 0 or -errno. */
    int (*co_create)(struct node *node, const struct snapshot_info *info);
    /* The disk becomes what it was then; *size is its length. */
    bool (*co_apply)(struct node *node, size_t index, int64_t *size,
                     GError **error);
    bool (*co_delete)(struct node *node, size_t index, GError **error);
    /* Shows the snapshot in place of the disk, for reading; *size is the
     * length. */
    bool (*co_load)(struct node *node, size_t index, int64_t *size,
                    GError **error);
};

/* The node that keeps the snapshots; NULL if there is none. */
struct node *node_snapshot_place(struct node *node);
/* The oldest first, NULL if the node cannot have any; caller frees. */
struct snapshot_info_list *node_snapshots(struct node *node);
/* The first one of the list with this id and name, of which NULL fits all; -1
 * if there is none. list may be NULL. */
int64_t snapshot_find(const struct snapshot_info_list *list, const char *id,
                      const char *name);

/* Takes a snapshot: only info->name, the clock and icount (if it is there) are
 * looked at; the date is now. 0 or -errno: -ENOTSUP if the node cannot, -EINVAL
 * if its refcounts cannot count further users. Suspends. */
int co_node_snapshot_create(struct node *node,
                            const struct snapshot_info *info);
/* Goes back to the snapshot with this id or else this name. All that was
 * written since is lost, the snapshot stays. Suspends. */
bool co_node_snapshot_apply(struct node *node, const char *id_or_name,
                            GError **error);
/* Deletes the snapshot that snapshot_find() finds. Suspends. */
bool co_node_snapshot_delete(struct node *node, const char *id,
                             const char *name, GError **error);
/* Shows a snapshot in place of the disk, until the node is closed; the node is
 * only read. Found as by snapshot_find(). Suspends. */
bool co_node_snapshot_load(struct node *node, const char *id, const char *name,
                           GError **error);

#endif
