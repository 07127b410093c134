/*
 * What commands do with dirty bitmaps, and ask of the format that keeps the
 * persistent ones.
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

static int64_t co_default_granularity(struct node *node)
{
    struct node_info info = {0};

    /* A node that does not know has no clusters. */
    int ret = co_node_get_info(node, &info);
    return dirty_bitmap_default_granularity(ret < 0 ? 0 : info.cluster_size);
}

struct dirty_bitmap *co_dirty_bitmap_add(struct node *node, const char *name,
                                         int64_t granularity, bool persistent,
                                         bool disabled, GError **error)
{
    if (!granularity) {
        granularity = co_default_granularity(node);
    }
    if (persistent && *name &&
        (!dirty_bitmap_check_granularity(granularity, error) ||
         !dirty_bitmap_can_store(node, name, granularity, error))) {
        return NULL;
    }
    struct dirty_bitmap *b = dirty_bitmap_new(node, name, granularity, error);
    if (b) {
        b->persistent = persistent;
        b->disabled = disabled;
    }
    return b;
}

bool co_dirty_bitmap_remove(struct dirty_bitmap *b, GError **error)
{
    if (!co_dirty_bitmap_unstore(b, error)) {
        return false;
    }
    dirty_bitmap_free(b);
    return true;
}
