/*
 * copy-on-read: what is read from the backing chain is kept in the layer above.
 *
 * Before a read, what the child itself does not hold of the range is copied
 * into it (block/copy_up.c), whole clusters at a time. With "bottom" only what
 * lies in the layers from there up is copied; what is further down stays there.
 * The child must be writable, if only for data that stay the same.
 */
#include <errno.h>

#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct cor_state {
    char *bottom; /* node-name, or NULL */
};

static bool check_bottom(struct node *node, const char *name, GError **error)
{
    struct node *bottom = node_find(name, NULL);

    if (!bottom) {
        return error_set(error, "Bottom node '%s' not found", name);
    }
    if (node_is_filter(bottom)) {
        return error_set(error, "Bottom node '%s' is a filter", name);
    }
    return node_chain_contains(node->file->child, bottom) ||
           error_set(error,
                     "Bottom node '%s' is not in the backing chain of node "
                     "'%s'",
                     name, node->file->child->name);
}

static bool co_cor_open(struct node *node,
                        const struct blockdev_options *options, GError **error)
{
    const struct blockdev_options_cor *o = &options->u.copy_on_read;
    struct cor_state *s = node->state;

    if (!co_node_open_child(node, o->file, "file", ROLE_FILTERED | ROLE_PRIMARY,
                            error) ||
        (o->bottom && !check_bottom(node, o->bottom, error))) {
        return false;
    }
    if (node->file->child->read_only) {
        return error_set(error, "Block node is read-only");
    }
    node->length = node->file->child->length;
    s->bottom = g_strdup(o->bottom);
    return true;
}

static void co_cor_close(struct node *node)
{
    g_free(((struct cor_state *)node->state)->bottom);
}

static void cor_child_perm(struct node *node, const struct edge *child,
                           unsigned roles, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm,
                           unsigned *shared)
{
    *perm = parent_perm | PERM_WRITE_UNCHANGED;
    *shared = parent_shared | PERM_WRITE_UNCHANGED;
}

/* The layer below which nothing is copied; it may have left the chain. */
static struct node *bottom_of(const struct cor_state *s, struct node *child)
{
    struct node *bottom = s->bottom ? node_find(s->bottom, NULL) : NULL;

    return bottom && node_chain_contains(child, bottom) ? bottom : NULL;
}

/* Is the run at offset to be copied? */
static int co_wanted(struct node *child, struct node *bottom, int64_t offset,
                     int64_t bytes, bool *wanted, int64_t *run)
{
    struct block_status s;
    int ret = co_node_block_status(child, false, offset, bytes, &s);

    *run = s.bytes;
    *wanted = ret == 0 && !(s.flags & BLOCK_ALLOCATED);
    if (ret < 0 || !*wanted || !bottom) {
        return ret;
    }
    ret = co_node_status_above(child, bottom, true, false, offset, s.bytes, &s,
                               NULL);
    *run = s.bytes;
    *wanted = ret == 0 && s.flags & BLOCK_ALLOCATED;
    return ret;
}

static int co_cor_preadv(struct node *node, int64_t offset, int64_t bytes,
                         const struct iov *iov, unsigned flags)
{
    struct node *child = node->file->child;
    struct node *bottom = bottom_of(node->state, child);
    int64_t end = min_i64(offset + bytes, child->length), run;
    int ret = 0;

    for (int64_t at = offset; ret == 0 && at < end; at += run) {
        bool wanted;
        ret = co_wanted(child, bottom, at, end - at, &wanted, &run);
        if (ret == 0 && wanted) {
            ret = co_node_copy_up(child, at, run);
        }
    }
    return ret < 0 ? ret : co_node_preadv(child, offset, iov, flags);
}

const struct block_driver driver_copy_on_read = {
    .name = "copy-on-read",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct cor_state),
    .writes_fua = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .co_open = co_cor_open,
    .co_close = co_cor_close,
    .child_perm = cor_child_perm,
    .co_preadv = co_cor_preadv,
    .refresh_filename = node_refresh_json_filename,
};
