/*
 * Reads and writes of a node: the road of a request through one vertex of the
 * graph.
 *
 * A request that fits the driver's limits goes straight to it. Any other is cut
 * into pieces: direct ones where offset, length and memory are aligned, and
 * bounced ones of at most BOUNCE_MAX elsewhere. A write with an unaligned end
 * is serialising, so its read-modify-write sees nobody else in those blocks.
 *
 * Reads beyond the node's length give zeroes. Writes beyond it grow a protocol
 * node, and what passes writes through to one; others refuse them.
 *
 * Runs on the node's loop, in the coroutine of the caller.
 */
#include "block/request_internal.h"

#include <string.h>
#include "block/listener.h"

/* ---- reads --------------------------------------------------------------- */

static inline int co_driver_preadv(struct node *node, int64_t offset,
                                   const struct iov *iov, unsigned flags)
{
    if (G_LIKELY(node->driver->co_preadv)) {
        return node->driver->co_preadv(node, offset, iov->bytes, iov, flags);
    }
    return request_forwards(node)
               ? co_node_preadv(node->file->child, offset, iov, flags)
               : -ENOTSUP;
}

/* An aligned read whose last block may reach beyond the node's end. */
static int co_read_padded(struct node *node, int64_t offset,
                          const struct iov *iov, unsigned flags)
{
    int64_t bytes = iov->bytes;
    int64_t valid = min_i64(bytes, max_i64(0, node->length - offset));
    int64_t blocks = align_up(valid, request_align(node));
    struct iov part = iov_slice(iov, 0, min_i64(blocks, bytes));
    int ret = valid ? co_driver_preadv(node, offset, &part, flags) : 0;

    if (ret == 0 && valid < bytes) {
        iov_set(iov, valid, 0, bytes - valid);
    }
    return ret;
}

/* How much of [pos, pos + left) can be transferred without a bounce buffer. */
static int64_t direct_bytes(const struct node *node, int64_t pos, int64_t left,
                            const struct iov *iov, size_t done)
{
    int64_t align = request_align(node);
    int64_t n = align_down(min_i64(left, request_max_transfer(node)), align);

    if (!n || !is_aligned(pos, align)) {
        return 0;
    }
    if (node->limits.memory_alignment > 1) {
        struct iov part = iov_slice(iov, done, n);
        if (!iov_is_aligned(&part, node->limits.memory_alignment)) {
            return 0;
        }
    }
    return n;
}

/* Whole blocks from the one that pos lies in, for up to left bytes. */
struct bounce {
    int64_t start, bytes; /* aligned */
    int64_t head, copy;   /* the caller's bytes within them */
};

static struct bounce bounce_at(const struct node *node, int64_t pos,
                               int64_t left)
{
    int64_t align = request_align(node);
    int64_t max = min_i64(request_max_transfer(node), BOUNCE_MAX);
    struct bounce b = {.start = align_down(pos, align)};

    b.head = pos - b.start;
    b.bytes = min_i64(align_up(b.head + left, align), max);
    b.copy = min_i64(b.bytes - b.head, left);
    return b;
}

int co_request_read_pieces(struct node *node, int64_t offset,
                           const struct iov *iov, unsigned flags)
{
    void *buf = NULL;
    int ret = 0;

    for (size_t done = 0; ret == 0 && done < iov->bytes;) {
        int64_t pos = offset + done, left = iov->bytes - done;
        if (pos >= node->length) {
            iov_set(iov, done, 0, left);
            break;
        }
        int64_t n = direct_bytes(node, pos, left, iov, done);
        if (n) {
            struct iov part = iov_slice(iov, done, n);
            ret = co_read_padded(node, pos, &part, flags);
            done += n;
            continue;
        }
        struct bounce b = bounce_at(node, pos, left);
        /* The first piece is as large as any that follows. */
        if (!buf && !(buf = io_buffer_try_alloc(node, b.bytes))) {
            return -ENOMEM;
        }
        struct iovec vec;
        struct iov whole = iov_buf(&vec, buf, b.bytes);
        ret = co_read_padded(node, b.start, &whole, flags);
        if (ret == 0) {
            iov_from_buf(iov, done, (char *)buf + b.head, b.copy);
        }
        done += b.copy;
    }
    io_buffer_free(buf);
    return ret;
}

int co_node_preadv(struct node *node, int64_t offset, const struct iov *iov,
                   unsigned flags)
{
    struct tracked_request req;
    int64_t bytes = iov->bytes;
    int ret;

    if (G_UNLIKELY(!range_within(offset, bytes, BLOCK_MAX_LENGTH))) {
        return -EIO;
    }
    if (G_UNLIKELY(!bytes)) {
        return 0;
    }
    if (G_UNLIKELY(flags & REQ_SERIALISING)) {
        ret = co_tracked_begin_serialising(&req, node, offset, bytes, false,
                                           request_align(node), flags);
        if (ret < 0) {
            return ret;
        }
        flags &= ~(REQ_SERIALISING | REQ_NO_WAIT);
    } else {
        co_tracked_begin(&req, node, offset, bytes, false);
    }
    if (G_LIKELY(request_fits(node, offset, iov) &&
                 offset + bytes <= node->length)) {
        ret = co_driver_preadv(node, offset, iov, flags);
    } else {
        ret = co_request_read_pieces(node, offset, iov, flags);
    }
    tracked_end(&req);
    return ret;
}

int co_node_pread(struct node *node, int64_t offset, void *buf, int64_t bytes,
                  unsigned flags)
{
    struct iovec vec;

    if (bytes < 0) {
        return -EIO;
    }
    struct iov iov = iov_buf(&vec, buf, bytes);
    return co_node_preadv(node, offset, &iov, flags);
}

/* ---- bookkeeping of writes ----------------------------------------------- */

bool node_can_grow(const struct node *node)
{
    while (node->driver->kind != DRIVER_PROTOCOL) {
        if (!node->file || (node->driver->kind != DRIVER_FILTER &&
                            !node->driver->writes_grow)) {
            return false;
        }
        node = node->file->child;
    }
    return true;
}

int request_write_check_slow(struct node *node, int64_t offset, int64_t bytes)
{
    if (!range_within(offset, bytes, BLOCK_MAX_LENGTH)) {
        return -EIO;
    }
    if (node->read_only) {
        return -EPERM;
    }
    int64_t end = offset + bytes;
    if (end > node->length) {
        if (!node_can_grow(node)) {
            return -EIO;
        }
        /* Now, while refusing still keeps every promise: the marks of this
         * write must find room. */
        if (!dirty_bitmaps_reserve(node, align_up(end, request_align(node)))) {
            return -ENOMEM;
        }
    }
    if (node->write_threshold && end > node->write_threshold) {
        int64_t threshold = node->write_threshold;
        node->write_threshold = 0;
        BLOCK_ANNOUNCE(write_threshold, node, end - threshold, threshold);
    }
    return 0;
}

void request_write_grown(struct node *node, int64_t end)
{
    if (node_can_grow(node)) {
        node_length_changed(node, end);
    }
}

int co_request_write_begin_slow(struct tracked_request *req, struct node *node,
                                int64_t offset, int64_t bytes, unsigned flags)
{
    int ret = co_tracked_begin_serialising(req, node, offset, bytes, true,
                                           request_align(node), flags);
    return ret < 0 ? ret : request_write_begun(req);
}

int request_write_recheck(struct tracked_request *req)
{
    int ret = request_write_check_slow(req->node, req->offset, req->bytes);

    if (ret < 0) {
        tracked_end(req);
    }
    return ret;
}

/* ---- writes -------------------------------------------------------------- */

/* Reads the blocks that a bounced write covers only in part into buf. */
static int co_read_ends(struct node *node, const struct bounce *b, char *buf)
{
    int64_t align = request_align(node);
    int64_t tail = b->bytes - b->head - b->copy;
    int64_t last = b->bytes - align;
    struct iovec vec;
    int ret = 0;

    if (b->head) {
        struct iov block = iov_buf(&vec, buf, align);
        co_request_event(node, BLKDEBUG_EVENT_PWRITEV_RMW_HEAD);
        ret = co_read_padded(node, b->start, &block, 0);
        co_request_event(node, BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_HEAD);
    }
    if (ret == 0 && tail && !(b->head && last == 0)) {
        struct iov block = iov_buf(&vec, buf + last, align);
        co_request_event(node, BLKDEBUG_EVENT_PWRITEV_RMW_TAIL);
        ret = co_read_padded(node, b->start + last, &block, 0);
        co_request_event(node, BLKDEBUG_EVENT_PWRITEV_RMW_AFTER_TAIL);
    }
    return ret;
}

int co_request_write_pieces(struct node *node, int64_t offset,
                            const struct iov *iov, unsigned flags)
{
    char *buf = NULL;
    int ret = 0;

    for (size_t done = 0; ret == 0 && done < iov->bytes;) {
        int64_t pos = offset + done, left = iov->bytes - done;
        int64_t n = direct_bytes(node, pos, left, iov, done);
        if (n) {
            struct iov part = iov_slice(iov, done, n);
            co_request_event(node, BLKDEBUG_EVENT_PWRITEV);
            ret = co_driver_pwritev(node, pos, &part, flags);
            done += n;
            continue;
        }
        struct bounce b = bounce_at(node, pos, left);
        if (!buf && !(buf = io_buffer_try_alloc(node, b.bytes))) {
            return -ENOMEM;
        }
        ret = co_read_ends(node, &b, buf);
        if (ret == 0) {
            struct iovec vec;
            struct iov whole = iov_buf(&vec, buf, b.bytes);
            iov_to_buf(iov, done, buf + b.head, b.copy);
            co_request_event(node, BLKDEBUG_EVENT_PWRITEV);
            ret = co_driver_pwritev(node, b.start, &whole, flags);
        }
        done += b.copy;
    }
    io_buffer_free(buf);
    return ret;
}

/* detect-zeroes: the data are zeroes, so they need not be written as such. */
static int co_write_detected_zeroes(struct node *node, int64_t offset,
                                    int64_t bytes, unsigned flags)
{
    if (node->detect_zeroes == BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP &&
        request_may_unmap(node)) {
        flags |= REQ_MAY_UNMAP;
    }
    co_request_event(node, BLKDEBUG_EVENT_PWRITEV_ZERO);
    return co_request_zero_pieces(node, offset, bytes, flags);
}

int co_node_pwritev(struct node *node, int64_t offset, const struct iov *iov,
                    unsigned flags)
{
    struct tracked_request req;
    int64_t bytes = iov->bytes;
    int ret = request_write_check(node, offset, bytes);

    if (G_UNLIKELY(ret < 0 || !bytes)) {
        return ret;
    }
    ret = co_request_write_begin(&req, node, offset, bytes, flags);
    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    unsigned driver_flags = request_driver_flags(node, flags);
    if (G_UNLIKELY(node->detect_zeroes) && !(flags & REQ_COMPRESSED) &&
        iov_is_zero(iov)) {
        ret = co_write_detected_zeroes(node, offset, bytes, driver_flags);
    } else if (G_LIKELY(request_fits(node, offset, iov))) {
        co_request_event(node, BLKDEBUG_EVENT_PWRITEV);
        ret = co_driver_pwritev(node, offset, iov, driver_flags);
    } else {
        ret = co_request_write_pieces(node, offset, iov, driver_flags);
    }
    co_request_event(node, BLKDEBUG_EVENT_PWRITEV_DONE);
    request_write_done(&req, ret);
    tracked_end(&req);
    return co_request_fua(node, flags, ret);
}

int co_node_pwrite(struct node *node, int64_t offset, const void *buf,
                   int64_t bytes, unsigned flags)
{
    struct iovec vec;

    if (bytes < 0) {
        return -EIO;
    }
    struct iov iov = iov_buf(&vec, (void *)buf, bytes);
    return co_node_pwritev(node, offset, &iov, flags);
}

/* ---- events -------------------------------------------------------------- */

void co_node_debug_event(struct node *node, enum blkdebug_event event)
{
    while (node) {
        if (node->driver->co_debug_event) {
            node->driver->co_debug_event(node, event);
            return;
        }
        node = node->file ? node->file->child : NULL;
    }
}
