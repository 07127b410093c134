/*
 * Persistent dirty bitmaps: what is asked of the format that keeps them.
 *
 * The format loads them when it opens an image, and stores them when the node
 * is closed or made read-only; here is what lies between. Runs on the node's
 * loop.
 */
#include <string.h>
#include "block/dirty_bitmap.h"
#include "util/error.h"

bool dirty_bitmap_can_store(struct node *node, const char *name,
                            int64_t granularity, GError **error)
{
    if (!node->driver->can_store_bitmap) {
        return error_set(error,
                         "Can't store persistent bitmaps to %s: Operation not "
                         "supported",
                         node->name);
    }
    return node->driver->can_store_bitmap(node, name, granularity, error);
}

bool co_dirty_bitmap_unstore(struct dirty_bitmap *b, GError **error)
{
    struct node *node = b->node;

    return !b->persistent || !node->driver->co_remove_stored_bitmap ||
           node->driver->co_remove_stored_bitmap(node, b->name, error);
}
