/*
 * The state of a virtual machine, which a format may keep beside its disk.
 *
 * It is no part of the disk: nothing of it marks dirty bitmaps, waits for the
 * guest's requests, or comes from a backing file. Who has no place for it asks
 * the node below. Runs on the node's loop.
 */
#include "block/request_internal.h"

/* The node at or below which keeps such a state; NULL: none does. */
static struct node *keeper(struct node *node)
{
    while (node && !node->driver->co_load_vmstate) {
        node = node->file ? node->file->child : NULL;
    }
    return node;
}

static bool range_possible(int64_t offset, const struct iov *iov)
{
    return range_within(offset, (int64_t)iov->bytes, BLOCK_MAX_LENGTH);
}

int co_node_save_vmstate(struct node *node, int64_t offset,
                         const struct iov *iov)
{
    struct node *at = keeper(node);

    assert(node->loop == loop_current());
    if (!at) {
        return -ENOTSUP;
    }
    if (node->read_only || at->read_only) {
        return -EPERM;
    }
    if (!range_possible(offset, iov)) {
        return -EFBIG;
    }
    at->in_flight++;
    int ret = at->driver->co_save_vmstate(at, offset, iov);
    at->write_gen++;
    request_left(at);
    return ret;
}

int co_node_load_vmstate(struct node *node, int64_t offset,
                         const struct iov *iov)
{
    struct node *at = keeper(node);

    assert(node->loop == loop_current());
    if (!at) {
        return -ENOTSUP;
    }
    if (!range_possible(offset, iov)) {
        return -EIO;
    }
    at->in_flight++;
    int ret = at->driver->co_load_vmstate(at, offset, iov);
    request_left(at);
    return ret;
}
