/*
 * snapshot-access: reads the point in time that a copy-before-write node keeps.
 *
 * Its child, "file", is that filter (or has it as its node). Each run comes
 * from the filter's target where the old data were saved, else from what the
 * filter is above, where they still are. A discard gives up a part of the
 * snapshot: what a backup tool has fetched need not be saved any more. Nothing
 * else can be written.
 */
#include <errno.h>

#include "block/block_copy.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

static bool co_snapshot_open(struct node *node,
                             const struct blockdev_options *options,
                             GError **error)
{
    if (!co_node_open_child(node, options->u.snapshot_access.file, "file",
                            ROLE_DATA | ROLE_PRIMARY, error)) {
        return false;
    }
    node->length = node->file->child->length;
    return true;
}

/* Only looks, which the child serves by itself; and discards stay between the
 * child and its target. */
static void snapshot_child_perm(struct node *node, const struct edge *child,
                                unsigned roles, unsigned parent_perm,
                                unsigned parent_shared, unsigned *perm,
                                unsigned *shared)
{
    *perm = parent_perm & PERM_CONSISTENT_READ;
    *shared = PERM_ALL;
}

static int co_snapshot_preadv(struct node *node, int64_t offset, int64_t bytes,
                              const struct iov *iov, unsigned flags)
{
    struct cbw_look look;

    for (int64_t done = 0; done < bytes; done += look.bytes) {
        int ret = cbw_look_begin(node->file->child, offset + done, bytes - done,
                                 &look);
        if (ret < 0) {
            return ret;
        }
        struct iov part = iov_slice(iov, done, look.bytes);
        ret = co_node_preadv(look.from, offset + done, &part, 0);
        cbw_look_end(&look);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int co_snapshot_pdiscard(struct node *node, int64_t offset,
                                int64_t bytes)
{
    return co_cbw_forget(node->file->child, offset, bytes);
}

static int co_snapshot_block_status(struct node *node, bool want_zero,
                                    int64_t offset, int64_t bytes,
                                    struct block_status *status)
{
    struct cbw_look look;
    int ret = cbw_look_begin(node->file->child, offset, bytes, &look);

    if (ret < 0) {
        return ret;
    }
    ret = co_node_status_above(look.from, NULL, false, want_zero, offset,
                               look.bytes, status, NULL);
    cbw_look_end(&look);
    status->flags =
        BLOCK_ALLOCATED | (status->flags & (BLOCK_DATA | BLOCK_ZERO));
    return ret;
}

const struct block_driver driver_snapshot_access = {
    .name = "snapshot-access",
    .kind = DRIVER_FORMAT,
    .co_open = co_snapshot_open,
    .child_perm = snapshot_child_perm,
    .co_preadv = co_snapshot_preadv,
    .co_pdiscard = co_snapshot_pdiscard,
    .co_block_status = co_snapshot_block_status,
};
