/*
 * Flush of a node, shared by all who wait for it.
 *
 * write_gen counts finished writes; flush_gen is its value when the last good
 * flush began. A flush has nothing to do when both are equal, and one that
 * waited for another's turn finds that out afterwards: so n callers cost at
 * most two flushes of the storage.
 *
 * Only the node's own part is skipped that way. Children are always asked,
 * because what is in their caches need not have come through this node (a
 * filter that was put above a busy disk, for one); they have their own counts.
 *
 * Runs on the node's loop.
 */
#include "block/request_internal.h"

static int co_flush_self(struct node *node)
{
    const struct block_driver *driver = node->driver;
    uint64_t gen = node->write_gen;
    int ret = 0;

    /* With no_flush a format still hands its caches to the child. */
    if (!driver->co_flush || node->flush_gen == gen ||
        (node->no_flush && driver->kind == DRIVER_PROTOCOL)) {
        return 0;
    }
    co_mutex_lock(&node->flush_lock);
    /* It grows, so "less" and not "unequal": whoever flushed meanwhile began
     * after this caller's writes had finished. */
    if (node->flush_gen < gen) {
        uint64_t now = node->write_gen;
        ret = driver->co_flush(node);
        if (ret == 0) {
            node->flush_gen = now;
        }
    }
    co_mutex_unlock(&node->flush_lock);
    return ret;
}

/* Flush events are what a node does to its file. */
static void co_flush_event(struct node *node, enum blkdebug_event event)
{
    if (node->file) {
        co_node_debug_event(node->file->child, event);
    }
}

int co_node_flush(struct node *node)
{
    struct edge *edge;
    int ret;

    assert(node->loop == loop_current());
    node->in_flight++;
    co_flush_event(node, BLKDEBUG_EVENT_FLUSH_TO_OS);
    ret = co_flush_self(node);
    if (ret == 0) {
        co_flush_event(node, BLKDEBUG_EVENT_FLUSH_TO_DISK);
    }
    LIST_FOREACH (edge, &node->children, in_children) {
        if (ret < 0 || node->driver->flushes_children) {
            break;
        }
        if (edge->roles & (ROLE_DATA | ROLE_METADATA | ROLE_FILTERED)) {
            ret = co_node_flush(edge->child);
        }
    }
    request_left(node);
    return ret;
}

int co_node_write_back(struct node *node)
{
    struct edge *edge;
    int ret = 0;

    assert(node->loop == loop_current());
    node->in_flight++;
    if (node->driver->co_write_back && !node->read_only) {
        ret = node->driver->co_write_back(node);
    }
    LIST_FOREACH (edge, &node->children, in_children) {
        if (ret == 0 && !node->driver->flushes_children &&
            edge->roles & (ROLE_DATA | ROLE_METADATA | ROLE_FILTERED)) {
            ret = co_node_write_back(edge->child);
        }
    }
    request_left(node);
    return ret;
}
