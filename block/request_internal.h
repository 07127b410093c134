/*
 * What the files of the request path share: tracking, the bookkeeping around a
 * write, and one aligned call of a driver.
 *
 * The order of a request is fixed: check the range, track (and wait for what
 * serialises), call the driver in pieces that its limits allow, do the
 * bookkeeping of a write, untrack. The inline parts are what every request
 * pays; all else lives in a function that the common case does not call.
 */
#ifndef VARVE_BLOCK_REQUEST_INTERNAL_H
#define VARVE_BLOCK_REQUEST_INTERNAL_H

#include <assert.h>
#include <errno.h>
#include "aio/loop.h"
#include "block/dirty_bitmap.h"
#include "block/graph.h"
#include "block/request.h"
#include "util/range.h"

/* Memory that a request may take for a bounce buffer: a multiple of every
 * alignment. */
#define BOUNCE_MAX (INT64_C(1) << 20)

/* ---- limits, with their defaults ---- */

static inline int64_t request_align(const struct node *node)
{
    int64_t align = node->limits.request_alignment;
    return align ? align : 1;
}

/* The largest aligned transfer. */
static inline int64_t request_max_transfer(const struct node *node)
{
    int64_t max = node->limits.max_transfer;
    if (!max || max > BLOCK_MAX_TRANSFER) {
        max = BLOCK_MAX_TRANSFER;
    }
    return max_i64(align_down(max, request_align(node)), request_align(node));
}

/* True if the driver can take the request as it is. */
static inline bool request_fits(const struct node *node, int64_t offset,
                                const struct iov *iov)
{
    const struct block_limits *l = &node->limits;
    /* A limit of 0 wraps around to the largest number. */
    uint64_t max = (uint64_t)l->max_transfer - 1;
    if (max >= BLOCK_MAX_TRANSFER) {
        max = BLOCK_MAX_TRANSFER - 1;
    }
    return !((offset | (int64_t)iov->bytes) &
             (l->request_alignment - !!l->request_alignment)) &&
           iov->bytes - 1 <= max &&
           (l->memory_alignment <= 1 ||
            iov_is_aligned(iov, l->memory_alignment));
}

/* One of node's requests has ended; a drained section may wait for it. */
static inline void request_left(struct node *node)
{
    node->in_flight--;
    if (G_UNLIKELY(node->drained) && !node->in_flight) {
        graph_drain_kick(node->graph);
    }
}

/* ---- tracking (block/tracked.c) ---- */

/* Waits until nothing that came before req conflicts with it. */
void co_tracked_wait(struct tracked_request *req);
/* Tracks a serialising request, widened to align, and waits; with REQ_NO_WAIT
 * -EBUSY, and nothing is tracked. */
int co_tracked_begin_serialising(struct tracked_request *req, struct node *node,
                                 int64_t offset, int64_t bytes, bool is_write,
                                 int64_t align, unsigned flags);
void tracked_end_slow(struct tracked_request *req);

static inline void tracked_insert(struct tracked_request *req,
                                  struct node *node, int64_t offset,
                                  int64_t bytes, bool is_write)
{
    *req = (struct tracked_request){
        .node = node,
        .offset = offset,
        .bytes = bytes,
        .overlap_offset = offset,
        .overlap_bytes = bytes,
        .is_write = is_write,
    };
    node->in_flight++;
    TAILQ_INSERT_TAIL(&node->tracked, req, link);
}

static inline void co_tracked_begin(struct tracked_request *req,
                                    struct node *node, int64_t offset,
                                    int64_t bytes, bool is_write)
{
    assert(node->loop == loop_current());
    tracked_insert(req, node, offset, bytes, is_write);
    if (G_UNLIKELY(node->serialising)) {
        co_tracked_wait(req);
    }
}

static inline void tracked_end(struct tracked_request *req)
{
    struct node *node = req->node;
    TAILQ_REMOVE(&node->tracked, req, link);
    if (G_UNLIKELY(req->serialising || !co_queue_empty(&req->waiters))) {
        tracked_end_slow(req);
    }
    request_left(node);
}

/* ---- bookkeeping of writes ---- */

/* A write past the end grows the node: a protocol, or what lets writes through
 * to one. */
bool node_can_grow(const struct node *node);
/* Before a write that ends beyond node->length, or with a write threshold. */
int request_write_check_slow(struct node *node, int64_t offset, int64_t bytes);
/* After a write that ended beyond node->length. */
void request_write_grown(struct node *node, int64_t end);

/* Range and right of a write; may make room in the bitmaps of a node that will
 * grow. */
static inline int request_write_check(struct node *node, int64_t offset,
                                      int64_t bytes)
{
    if (G_UNLIKELY(node->read_only || node->write_threshold ||
                   !range_within(offset, bytes, node->length))) {
        return request_write_check_slow(node, offset, bytes);
    }
    return 0;
}

/* The driver is done with req, a write: also when it failed, since part of the
 * data may be there. */
static inline void request_write_done(struct tracked_request *req, int ret)
{
    struct node *node = req->node;
    int64_t end = req->overlap_offset + req->overlap_bytes;

    node->write_gen++;
    if (G_UNLIKELY(end > node->length) && ret == 0) {
        request_write_grown(node, end);
    }
    if (ret == 0) {
        node->wr_highest_offset =
            max_i64(node->wr_highest_offset, req->offset + req->bytes);
    }
    dirty_bitmaps_mark(node, req->overlap_offset, req->overlap_bytes);
}

/* A step of a request on node itself, for rules of blkdebug. */
static inline void co_request_event(struct node *node,
                                    enum blkdebug_event event)
{
    if (G_UNLIKELY(node->driver->co_debug_event)) {
        node->driver->co_debug_event(node, event);
    }
}

/* ---- one call of the driver, or of the child behind a filter ---- */

static inline bool request_forwards(const struct node *node)
{
    return node->driver->kind == DRIVER_FILTER && node->file;
}

/* FUA arrives where it is honoured; a filter that leaves writes to its child
 * leaves this to it as well. */
static inline bool request_honours_fua(const struct node *node)
{
    const struct block_driver *driver = node->driver;
    return driver->writes_fua ||
           (request_forwards(node) && !driver->co_pwritev &&
            !driver->co_pwrite_zeroes);
}

/* Flags that a driver gets of a write: what the engine emulates or has done
 * already is not among them. */
static inline unsigned request_driver_flags(const struct node *node,
                                            unsigned flags)
{
    flags &= ~(REQ_SERIALISING | REQ_NO_WAIT);
    if (G_UNLIKELY(flags & REQ_FUA) && !request_honours_fua(node)) {
        flags &= ~REQ_FUA;
    }
    return flags;
}

/* discard=unmap; a filter has no say of its own, the node below it decides. */
static inline bool request_may_unmap(const struct node *node)
{
    return node->discard || node->driver->kind == DRIVER_FILTER;
}

static inline int co_driver_pwritev(struct node *node, int64_t offset,
                                    const struct iov *iov, unsigned flags)
{
    if (G_LIKELY(node->driver->co_pwritev)) {
        return node->driver->co_pwritev(node, offset, iov->bytes, iov, flags);
    }
    return request_forwards(node)
               ? co_node_pwritev(node->file->child, offset, iov, flags)
               : -ENOTSUP;
}

/* REQ_FUA for drivers without it. */
static inline int co_request_fua(struct node *node, unsigned flags, int ret)
{
    if (G_UNLIKELY(flags & REQ_FUA) && ret == 0 && !request_honours_fua(node)) {
        return co_node_flush(node);
    }
    return ret;
}

/* Reads any range within a tracked request, in pieces that fit the driver. */
int co_request_read_pieces(struct node *node, int64_t offset,
                           const struct iov *iov, unsigned flags);
/* Writes any range within a tracked request, in pieces that fit the driver;
 * read-modify-writes unaligned ends (req then serialises). flags are those for
 * the driver. */
int co_request_write_pieces(struct node *node, int64_t offset,
                            const struct iov *iov, unsigned flags);
/* Zeroes any range within a tracked request (block/request_zeroes.c). */
int co_request_zero_pieces(struct node *node, int64_t offset, int64_t bytes,
                           unsigned flags);

/* ---- the begin of a write ---- */

int co_request_write_begin_slow(struct tracked_request *req, struct node *node,
                                int64_t offset, int64_t bytes, unsigned flags);
/* The node is shorter than the end of a tracked write: 0, or req has ended. */
int request_write_recheck(struct tracked_request *req);

static inline int request_write_begun(struct tracked_request *req)
{
    if (G_UNLIKELY(req->offset + req->bytes > req->node->length)) {
        return request_write_recheck(req);
    }
    return 0;
}

/* Begins to track a write: serialising if flags or its alignment ask for it.
 * The node may be shorter when its turn has come; then it is checked again. */
static inline int co_request_write_begin(struct tracked_request *req,
                                         struct node *node, int64_t offset,
                                         int64_t bytes, unsigned flags)
{
    int64_t align = node->limits.request_alignment;

    if (G_UNLIKELY((flags & REQ_SERIALISING) ||
                   ((offset | bytes) & (align - !!align)))) {
        return co_request_write_begin_slow(req, node, offset, bytes, flags);
    }
    co_tracked_begin(req, node, offset, bytes, true);
    return request_write_begun(req);
}

/* Sets the length, resizes bitmaps, and tells parents; filters above that show
 * this node follow. Does not suspend (block/truncate.c). */
void node_length_changed(struct node *node, int64_t length);

#endif
