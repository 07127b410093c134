/*
 * Requests to a node: the road down the graph.
 *
 * For drivers (to their children), jobs and backends. All run on the node's
 * loop, suspend, and return 0 or a negative errno. offset and bytes are bytes
 * and need no alignment: a read is widened, a write read-modify-written inside
 * a serialising request. Reads past the end give zeroes. Writes past the end
 * are -EIO; but a protocol node, and what passes writes on to one, grows.
 * Writing a read-only node is -EPERM.
 */
#ifndef VARVE_BLOCK_REQUEST_H
#define VARVE_BLOCK_REQUEST_H

#include <glib.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/node.h"
#include "block/types.h"
#include "util/iov.h"

/* iov->bytes is the length. */
int co_node_preadv(struct node *node, int64_t offset, const struct iov *iov,
                   unsigned flags);
/* Marks the node's dirty bitmaps when the driver is done, also when it failed:
 * part of the data may have been written. */
int co_node_pwritev(struct node *node, int64_t offset, const struct iov *iov,
                    unsigned flags);
/* One flat buffer. */
int co_node_pread(struct node *node, int64_t offset, void *buf, int64_t bytes,
                  unsigned flags);
int co_node_pwrite(struct node *node, int64_t offset, const void *buf,
                   int64_t bytes, unsigned flags);
/* bytes may be as large as the node. Falls back to writing a zero buffer,
 * unless REQ_NO_FALLBACK. */
int co_node_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags);
/* As a guest or user asks: REQ_MAY_UNMAP counts even where the node's own
 * discard option says no, if not for what is below it. */
int co_node_pwrite_zeroes_at_root(struct node *node, int64_t offset,
                                  int64_t bytes, unsigned flags);
/* A hint: unaligned ends are left alone; 0 where discard is off or the driver
 * cannot. */
int co_node_pdiscard(struct node *node, int64_t offset, int64_t bytes);
/* One flush serves all writes that completed before it; a node that was not
 * written since the last one returns at once. */
int co_node_flush(struct node *node);
/* What was written before survives the end of this process from now on, if not
 * that of the machine. 0 or -errno. */
int co_node_write_back(struct node *node);
/* Sets the length in bytes, tells parents, and resizes the node's bitmaps. */
bool co_node_truncate(struct node *node, int64_t size, bool exact,
                      enum prealloc_mode prealloc, unsigned flags,
                      GError **error);
/* For co_truncate of drivers with a backing file: before node->length, or what
 * is on disk of it, grows, zeroes from the old end to `end` if the backing file
 * is longer than the node was. The zeroes are not flushed. */
bool co_node_hide_backing(struct node *node, int64_t end, GError **error);
/* Asks the driver for the length again (a child may have grown). */
int co_node_refresh_length(struct node *node);

/* Status of a run at offset in this layer. Never looks into the backing chain.
 * 0 < status->bytes <= bytes. A filter answers for its child. Past the end:
 * ZERO and EOF. */
int co_node_block_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *status);
/* The same through the backing chain, down to and without base (NULL: the whole
 * chain; include_base: with it). ALLOCATED if a layer above base decides the
 * content; *depth (may be NULL) is 1 for the top layer, 0 if none does. */
int co_node_status_above(struct node *node, struct node *base,
                         bool include_base, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *status,
                         int *depth);

/* Copies between nodes inside the storage where both ends can; -ENOTSUP leaves
 * it to the caller to read and write. */
int co_node_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                       int64_t dst_offset, int64_t bytes, unsigned flags);

/* Brings what the node's backing chain holds of the range into the node itself,
 * in whole clusters; what it has already stays. No write that comes meanwhile
 * is lost, and no dirty bitmap is marked. -EPERM for a read-only node. */
int co_node_copy_up(struct node *node, int64_t offset, int64_t bytes);

/* Writes (reads) the state of a virtual machine that node, or the first one
 * below it that can, keeps beside its disk; offset is within that state.
 * -ENOTSUP if none can, -EFBIG where it has no room. */
int co_node_save_vmstate(struct node *node, int64_t offset,
                         const struct iov *iov);
int co_node_load_vmstate(struct node *node, int64_t offset,
                         const struct iov *iov);

/* Tells blkdebug, if it is anywhere below, that an event happened; nearly free
 * when no blkdebug node is open. May suspend there. */
void co_node_debug_event(struct node *node, enum blkdebug_event event);

/* ---- tracked requests ---- */

/* One request in flight on a node; lives on its coroutine's stack. */
struct tracked_request {
    struct node *node;
    int64_t offset, bytes;                 /* as asked */
    int64_t overlap_offset, overlap_bytes; /* widened by alignment */
    bool is_write;
    bool serialising;
    struct coroutine *co;
    struct co_queue waiters;
    TAILQ_ENTRY(tracked_request) link;
};

/* Memory fit for I/O on node: aligned to its limits; NULL if memory is short.
 */
void *io_buffer_try_alloc(struct node *node, size_t bytes);
void io_buffer_free(void *buffer);

#endif
