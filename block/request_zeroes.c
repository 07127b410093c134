/*
 * Write-zeroes and discards of a node.
 *
 * Both go to the driver in pieces that respect its limits. Zeroes that the
 * driver cannot make by itself are written from one shared zero block, unless
 * the caller forbids that. A discard is a hint: what the driver does not take
 * is left alone.
 *
 * Runs on the node's loop, in the coroutine of the caller.
 */
#include "block/request_internal.h"

/* ---- zeroes -------------------------------------------------------------- */

#define ZERO_BLOCK  (64 * 1024)
#define ZERO_BLOCKS (BOUNCE_MAX / ZERO_BLOCK)

/* Only read, and in .bss: one block that every zero write shares. */
static char zero_block[ZERO_BLOCK] __attribute__((aligned(ZERO_BLOCK)));

/* Pieces of BOUNCE_MAX keep an aligned request aligned. */
static int co_write_zero_blocks(struct node *node, int64_t offset,
                                int64_t bytes, unsigned flags)
{
    struct iovec vec[ZERO_BLOCKS];
    int ret = 0;

    for (unsigned i = 0; i < ZERO_BLOCKS; i++) {
        vec[i] = (struct iovec){zero_block, ZERO_BLOCK};
    }
    flags &= ~(REQ_MAY_UNMAP | REQ_NO_FALLBACK);
    while (ret == 0 && bytes) {
        int64_t n = min_i64(bytes, BOUNCE_MAX);
        struct iov iov = {
            .vec = vec,
            .count = div_round_up(n, ZERO_BLOCK),
            .bytes = n,
        };
        ret = co_request_write_pieces(node, offset, &iov, flags);
        offset += n;
        bytes -= n;
    }
    return ret;
}

static int co_driver_pwrite_zeroes(struct node *node, int64_t offset,
                                   int64_t bytes, unsigned flags)
{
    if (node->driver->co_pwrite_zeroes) {
        if (!node->driver->zeroes_unmap) {
            flags &= ~REQ_MAY_UNMAP;
        }
        return node->driver->co_pwrite_zeroes(node, offset, bytes, flags);
    }
    return request_forwards(node)
               ? co_node_pwrite_zeroes(node->file->child, offset, bytes, flags)
               : -ENOTSUP;
}

/* The length of the next piece of [pos, end): up to a multiple of align, and at
 * most max bytes. Alignments of devices need not be powers of two. */
static int64_t next_piece(int64_t pos, int64_t end, int64_t align, int64_t max)
{
    int64_t n = end - pos;

    if (pos % align) {
        n = min_i64(n, align - pos % align);
    } else if (n > align) {
        n -= n % align;
    }
    if (max && n > max) {
        n = max > align ? max - max % align : max;
    }
    return n;
}

/* The aligned part. */
static int co_zero_body(struct node *node, int64_t pos, int64_t end,
                        unsigned flags)
{
    int64_t align = request_align(node);
    int64_t max = align_down(node->limits.max_pwrite_zeroes, align);
    int ret = 0;

    while (ret == 0 && pos < end) {
        int64_t n = next_piece(
            pos, end, max_i64(node->limits.pwrite_zeroes_align, align), max);
        ret = co_driver_pwrite_zeroes(node, pos, n, flags);
        if (ret == -ENOTSUP && !(flags & REQ_NO_FALLBACK)) {
            ret = co_write_zero_blocks(node, pos, n, flags);
        }
        pos += n;
    }
    return ret;
}

int co_request_zero_pieces(struct node *node, int64_t offset, int64_t bytes,
                           unsigned flags)
{
    int64_t align = request_align(node);
    int64_t end = offset + bytes;
    int64_t body = min_i64(align_up(offset, align), end);
    int64_t tail = max_i64(align_down(end, align), body);
    int ret = 0;

    if ((flags & REQ_NO_FALLBACK) && (body != offset || tail != end)) {
        return -ENOTSUP;
    }
    if (offset < body) {
        ret = co_write_zero_blocks(node, offset, body - offset, flags);
    }
    if (ret == 0) {
        ret = co_zero_body(node, body, tail, flags);
    }
    if (ret == 0 && tail < end) {
        ret = co_write_zero_blocks(node, tail, end - tail, flags);
    }
    return ret;
}

int co_node_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    if (!request_may_unmap(node)) {
        flags &= ~REQ_MAY_UNMAP;
    }
    return co_node_pwrite_zeroes_at_root(node, offset, bytes, flags);
}

int co_node_pwrite_zeroes_at_root(struct node *node, int64_t offset,
                                  int64_t bytes, unsigned flags)
{
    struct tracked_request req;
    int ret = request_write_check(node, offset, bytes);

    if (ret < 0 || !bytes) {
        return ret;
    }
    ret = co_request_write_begin(&req, node, offset, bytes, flags);
    if (ret < 0) {
        return ret;
    }
    unsigned driver_flags = request_driver_flags(node, flags);
    co_request_event(node, BLKDEBUG_EVENT_PWRITEV_ZERO);
    ret = co_request_zero_pieces(node, offset, bytes, driver_flags);
    co_request_event(node, BLKDEBUG_EVENT_PWRITEV_DONE);
    request_write_done(&req, ret);
    tracked_end(&req);
    return co_request_fua(node, flags, ret);
}

/* ---- discard ------------------------------------------------------------- */

static int co_driver_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    if (node->driver->co_pdiscard) {
        return node->driver->co_pdiscard(node, offset, bytes);
    }
    return request_forwards(node)
               ? co_node_pdiscard(node->file->child, offset, bytes)
               : -ENOTSUP;
}

int co_node_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct tracked_request req;
    int64_t align = request_align(node);
    int64_t unit = max_i64(node->limits.pdiscard_align, align);
    int64_t max = align_down(node->limits.max_pdiscard, align);
    int ret = 0;

    if (!range_within(offset, bytes, node->length)) {
        return -EIO;
    }
    if (node->read_only) {
        return -EPERM;
    }
    if (!bytes || !request_may_unmap(node) ||
        !(node->driver->co_pdiscard || request_forwards(node))) {
        return 0;
    }
    int64_t end = offset + bytes;
    int64_t pos = div_round_up(offset, unit) * unit;
    end = end == node->length ? align_up(end, align) : end - end % unit;
    /* All that was asked for counts as written, not just whole units of the
     * driver: dirty bitmaps are compared with QEMU's. */
    co_tracked_begin(&req, node, offset, bytes, true);
    if (offset + bytes > node->length) {
        ret = -EIO; /* it was cut while this waited */
    }
    while (ret == 0 && pos < end) {
        int64_t n = next_piece(pos, end, unit, max);
        ret = co_driver_pdiscard(node, pos, n);
        pos += n;
    }
    request_write_done(&req, -1);
    tracked_end(&req);
    return ret == -ENOTSUP ? 0 : ret;
}
