/*
 * Bringing what a backing chain holds into the layer above it.
 *
 * The content that others see stays the same, but from now on the layer itself
 * has it. For each range the look at the allocation, the read and the write are
 * one serialising request, so a guest's write in between is never overwritten
 * by older data. Dirty bitmaps are not marked: nothing changed for the guest.
 *
 * Runs on the node's loop.
 */
#include "block/request_internal.h"

#define PIECE (BOUNCE_MAX / 2)

/* Within a serialising request: the run at offset of at most PIECE bytes. */
static int co_copy_up_run(struct node *node, int64_t offset, int64_t bytes,
                          void *buf, int64_t *done)
{
    struct block_status s;
    struct iovec vec;
    int ret =
        co_node_block_status(node, false, offset, min_i64(bytes, PIECE), &s);

    if (ret < 0) {
        return ret;
    }
    *done = s.bytes;
    if (s.flags & BLOCK_ALLOCATED) {
        return 0;
    }
    struct iov iov = iov_buf(&vec, buf, s.bytes);
    ret = co_request_read_pieces(node, offset, &iov, 0);
    if (ret < 0) {
        return ret;
    }
    node->write_gen++;
    if (iov_is_zero(&iov)) {
        return co_request_zero_pieces(node, offset, s.bytes,
                                      REQ_WRITE_UNCHANGED);
    }
    return co_request_write_pieces(node, offset, &iov, REQ_WRITE_UNCHANGED);
}

int co_node_copy_up(struct node *node, int64_t offset, int64_t bytes)
{
    struct tracked_request req;
    struct node_info info = {0};
    int64_t unit = request_align(node);

    if (!range_within(offset, bytes, node->length)) {
        return -EIO;
    }
    if (node->read_only) {
        return -EPERM;
    }
    if (co_node_get_info(node, &info) == 0) {
        unit = max_i64(unit, info.cluster_size);
    }
    int64_t end = min_i64(align_up(offset + bytes, unit), node->length);
    offset = align_down(offset, unit);
    void *buf = io_buffer_try_alloc(node, min_i64(end - offset, PIECE));
    if (!buf) {
        return -ENOMEM;
    }
    co_tracked_begin_serialising(&req, node, offset, end - offset, true, unit,
                                 0);
    int ret = end <= node->length ? 0 : -EIO; /* it was cut meanwhile */
    while (ret == 0 && offset < end) {
        int64_t done = 0;
        ret = co_copy_up_run(node, offset, end - offset, buf, &done);
        offset += done;
    }
    tracked_end(&req);
    io_buffer_free(buf);
    return ret;
}
