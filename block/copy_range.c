/*
 * Copying between nodes inside the storage.
 *
 * Possible where both nodes run the same driver and it can; filters that do not
 * touch data are stepped over, and every node on either way down tracks the
 * request and marks its bitmaps. All else is -ENOTSUP, found out before
 * anything is touched: the caller reads and writes.
 *
 * Runs on the loop of both nodes.
 */
#include "block/request_internal.h"

struct copy {
    struct node *src, *dst;
    int64_t src_offset, dst_offset, bytes;
    unsigned flags;
};

/* A filter that leaves reads (writes) to its child. */
static bool reads_pass(const struct node *node)
{
    return request_forwards(node) && !node->driver->co_preadv;
}

static bool writes_pass(const struct node *node)
{
    return request_forwards(node) && !node->driver->co_pwritev;
}

static bool can_copy(const struct node *src, const struct node *dst)
{
    return src->driver == dst->driver && src->driver->co_copy_range;
}

static bool is_possible(const struct copy *c)
{
    const struct node *src = c->src, *dst = c->dst;

    while (!can_copy(src, dst)) {
        if (writes_pass(dst)) {
            dst = dst->file->child;
        } else if (reads_pass(src)) {
            src = src->file->child;
        } else {
            return false;
        }
    }
    if (src == dst &&
        range_overlap(c->src_offset, c->bytes, c->dst_offset, c->bytes)) {
        return false;
    }
    return is_aligned(c->src_offset | c->bytes, request_align(src)) &&
           is_aligned(c->dst_offset | c->bytes, request_align(dst));
}

static int co_driver_copy(const struct copy *c)
{
    int64_t max =
        min_i64(request_max_transfer(c->src), request_max_transfer(c->dst));
    unsigned flags = request_driver_flags(c->dst, c->flags);
    int ret = 0;

    for (int64_t done = 0; ret == 0 && done < c->bytes; done += max) {
        ret = c->src->driver->co_copy_range(
            c->src, c->src_offset + done, c->dst, c->dst_offset + done,
            min_i64(max, c->bytes - done), flags);
    }
    return ret;
}

static int co_copy_read(const struct copy *c)
{
    struct tracked_request req;
    int ret;

    co_tracked_begin(&req, c->src, c->src_offset, c->bytes, false);
    if (can_copy(c->src, c->dst)) {
        ret = co_driver_copy(c);
    } else {
        struct copy below = *c;
        below.src = c->src->file->child;
        ret = co_copy_read(&below);
    }
    tracked_end(&req);
    return ret;
}

static int co_copy_write(const struct copy *c)
{
    struct tracked_request req;
    int ret = request_write_check(c->dst, c->dst_offset, c->bytes);

    if (ret == 0) {
        ret = co_request_write_begin(&req, c->dst, c->dst_offset, c->bytes,
                                     c->flags);
    }
    if (ret < 0) {
        return ret;
    }
    if (!can_copy(c->src, c->dst) && writes_pass(c->dst)) {
        struct copy below = *c;
        below.dst = c->dst->file->child;
        ret = co_copy_write(&below);
    } else {
        ret = co_copy_read(c);
    }
    request_write_done(&req, ret);
    tracked_end(&req);
    return co_request_fua(c->dst, c->flags, ret);
}

int co_node_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                       int64_t dst_offset, int64_t bytes, unsigned flags)
{
    struct copy c = {src, dst, src_offset, dst_offset, bytes, flags};

    if (!range_within(src_offset, bytes, src->length)) {
        return -EIO;
    }
    if (!bytes) {
        return request_write_check(dst, dst_offset, 0);
    }
    return is_possible(&c) ? co_copy_write(&c) : -ENOTSUP;
}
