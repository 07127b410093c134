/*
 * Changing the length of a node, and telling who is above.
 *
 * node->length and the sizes of the node's bitmaps move together. A growth that
 * the bitmaps cannot follow is refused while it can be; only where the length
 * has already changed (a child grew below a filter) is such a bitmap given up,
 * as inconsistent, because it would miss writes.
 *
 * Runs on the node's loop.
 */
#include "block/request_internal.h"

#include <inttypes.h>
#include "util/error.h"

/* ---- telling ------------------------------------------------------------- */

static void bitmaps_follow(struct node *node, int64_t old, int64_t length)
{
    bool fits = length > old ? dirty_bitmaps_reserve(node, length)
                             : dirty_bitmaps_resize(node, length, NULL);
    if (!fits) {
        dirty_bitmaps_give_up(node, length);
    }
}

void node_length_changed(struct node *node, int64_t length)
{
    int64_t old = node->length;
    struct edge *edge;

    if (length == old) {
        return;
    }
    bitmaps_follow(node, old, length);
    node->length = length;
    LIST_FOREACH (edge, &node->parents, in_parents) {
        struct node *parent = edge->parent;
        if (!parent) {
            if (edge->ops && edge->ops->resized) {
                edge->ops->resized(edge);
            }
        } else if (parent->file == edge &&
                   parent->driver->kind == DRIVER_FILTER &&
                   !parent->driver->co_getlength) {
            node_length_changed(parent, length);
        }
    }
}

/* Of the node itself; a filter has its child's. Without a function to ask it is
 * `otherwise`. */
static int64_t co_length(struct node *node, int64_t otherwise)
{
    if (node->driver->co_getlength) {
        return node->driver->co_getlength(node);
    }
    return request_forwards(node) ? node->file->child->length : otherwise;
}

int co_node_refresh_length(struct node *node)
{
    assert(node->loop == loop_current());
    if (request_forwards(node)) {
        int ret = co_node_refresh_length(node->file->child);
        if (ret < 0) {
            return ret;
        }
    }
    int64_t length = co_length(node, node->length);
    if (length < 0) {
        return length;
    }
    node_length_changed(node, length);
    return 0;
}

/* ---- truncate ------------------------------------------------------------ */

static bool co_driver_truncate(struct node *node, int64_t size, bool exact,
                               enum prealloc_mode prealloc, unsigned flags,
                               GError **error)
{
    if (node->driver->co_truncate) {
        return node->driver->co_truncate(node, size, exact, prealloc, flags,
                                         error);
    }
    if (request_forwards(node)) {
        return co_node_truncate(node->file->child, size, exact, prealloc, flags,
                                error);
    }
    return error_set(error, "Image format driver does not support resize");
}

bool co_node_hide_backing(struct node *node, int64_t end, GError **error)
{
    int64_t old = node->length;

    if (!node->backing || node->backing->child->length <= old || end <= old) {
        return true;
    }
    int ret = co_request_zero_pieces(node, old, end - old, 0);
    return ret == 0 ||
           error_set_errno(error, ret, "Failed to zero the grown part of '%s'",
                           node->name);
}

/* After the driver has grown: the rest that must hold, or false. */
static bool co_after_truncate(struct node *node, int64_t old, int64_t size,
                              GError **error)
{
    int64_t length = co_length(node, size);

    if (length < 0) {
        return error_set_errno(error, length, "Failed to get length of '%s'",
                               node->name);
    }
    if (length > old && !dirty_bitmaps_reserve(node, length)) {
        return error_set(error, "Not enough memory for the bitmaps of '%s'",
                         node->name);
    }
    node_length_changed(node, length);
    return true;
}

static bool truncate_check(struct node *node, int64_t size, GError **error)
{
    if (size < 0) {
        return error_set(error, "Image size cannot be negative");
    }
    if (size > BLOCK_MAX_LENGTH) {
        return error_set(error,
                         "Required too big image size, it must be not "
                         "greater than %" PRId64,
                         (int64_t)BLOCK_MAX_LENGTH);
    }
    if (!node->driver->co_truncate && !request_forwards(node)) {
        return error_set(error, "Image format driver does not support resize");
    }
    return !node->read_only || error_set(error, "Image is read-only");
}

bool co_node_truncate(struct node *node, int64_t size, bool exact,
                      enum prealloc_mode prealloc, unsigned flags,
                      GError **error)
{
    struct tracked_request req;
    bool ok;

    if (!truncate_check(node, size, error)) {
        return false;
    }
    /* Everything from the lower end on: what the change takes away or adds
     * must have no request in flight. */
    int64_t from = min_i64(size, node->length);
    co_tracked_begin_serialising(&req, node, from, BLOCK_MAX_LENGTH - from,
                                 true, request_align(node), 0);
    int64_t old = node->length;
    if (size > old && !dirty_bitmaps_reserve(node, size)) {
        ok = error_set(error, "Not enough memory for the bitmaps of '%s'",
                       node->name);
    } else {
        ok = co_driver_truncate(node, size, exact, prealloc, flags, error);
        if (ok && !co_after_truncate(node, old, size, error)) {
            ok = false;
            if (co_driver_truncate(node, old, false, PREALLOC_MODE_OFF, 0,
                                   NULL)) {
                node_length_changed(node, old);
            }
        }
        node->write_gen++;
    }
    if (!ok) {
        /* Room that was made for nothing. */
        bitmaps_follow(node, INT64_MAX, node->length);
    }
    tracked_end(&req);
    return ok;
}
