/*
 * Reads and writes of guest data, and block status.
 *
 * A request is cut into runs that one mapping covers. What is allocated and
 * nobody else's goes straight to the file; all else is alloc.c's. Between
 * qcow2_enter() and qcow2_leave() no cluster that the request may have found in
 * a mapping is given to anybody else.
 *
 * Runs on the node's loop, in the coroutine of the request.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>

/* ---- reads --------------------------------------------------------------- */

enum { PIECES = 8 };

/* One run that is read from the file or the backing node. */
struct read_piece {
    struct qcow2 *s;
    struct mapping m;
    int64_t offset;
    struct iov iov;
};

static int co_read_mapped(struct qcow2 *s, const struct mapping *m,
                          int64_t offset, const struct iov *iov)
{
    switch (m->type) {
    case CLUSTER_NORMAL:
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_READ_AIO);
        return co_node_preadv(qcow2_data(s), m->host, iov, 0);
    case CLUSTER_COMPRESSED:
        return co_qcow2_read_compressed(s, m->entry,
                                        offset & (s->cluster_size - 1), iov);
    case CLUSTER_UNALLOCATED:
        if (qcow2_backing_covers(s, offset)) {
            co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_READ_BACKING_AIO);
            return co_node_preadv(s->node->backing->child, offset, iov, 0);
        }
        break;
    case CLUSTER_ZERO_PLAIN:
    case CLUSTER_ZERO_ALLOC:
        break;
    }
    iov_set(iov, 0, 0, iov->bytes);
    return 0;
}

static int co_read_piece(void *opaque)
{
    struct read_piece *p = opaque;

    return co_read_mapped(p->s, &p->m, p->offset, &p->iov);
}

/* What of [offset, end) up to PIECES runs cover, side by side; *next is where
 * they end. */
static int co_read_side_by_side(struct qcow2 *s, int64_t start, int64_t offset,
                                int64_t end, const struct iov *iov,
                                int64_t *next)
{
    struct read_piece pieces[PIECES];
    struct co_pool pool = {.limit = PIECES};
    unsigned n = 0;
    int ret = 0;

    while (n < PIECES && offset < end && ret == 0) {
        struct read_piece *p = &pieces[n];
        ret = co_qcow2_map(s, offset, end - offset, &p->m, MAP_READ);
        if (ret == 0) {
            p->s = s;
            p->offset = offset;
            p->iov = iov_slice(iov, offset - start, p->m.bytes);
            offset += p->m.bytes;
            n++;
            co_pool_start(&pool, co_read_piece, p);
        }
    }
    int first = co_pool_wait(&pool);
    *next = offset;
    return ret < 0 ? ret : first;
}

int co_qcow2_read_data(struct qcow2 *s, int64_t offset, int64_t bytes,
                       const struct iov *iov)
{
    struct mapping m;
    int64_t start = offset, end = offset + bytes;

    int ret = co_qcow2_map(s, offset, bytes, &m, MAP_READ);
    if (ret < 0) {
        return ret;
    }
    if (G_LIKELY(m.bytes == bytes)) {
        return co_read_mapped(s, &m, offset, iov);
    }
    while (ret == 0 && offset < end) {
        ret = co_read_side_by_side(s, start, offset, end, iov, &offset);
    }
    return ret;
}

int co_qcow2_preadv(struct node *node, int64_t offset, int64_t bytes,
                    const struct iov *iov, unsigned flags)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int ret = co_qcow2_read_data(s, offset, bytes, iov);

    qcow2_leave(s, generation);
    return ret;
}

/* ---- writes -------------------------------------------------------------- */

static inline bool in_place(const struct mapping *m)
{
    return m->type == CLUSTER_NORMAL && m->copied;
}

static int co_write_in_place(struct qcow2 *s, const struct mapping *m,
                             const struct iov *iov)
{
    int ret = co_qcow2_guard_data(s, m->host, iov->bytes);

    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_WRITE_AIO);
    return co_node_pwritev(qcow2_data(s), m->host, iov, 0);
}

int co_qcow2_write_data(struct qcow2 *s, int64_t offset, int64_t bytes,
                        const struct iov *iov)
{
    int ret = 0;

    for (int64_t done = 0; ret == 0 && done < bytes;) {
        struct mapping m;
        struct iov part;
        if (G_UNLIKELY(s->broken)) {
            return -EIO;
        }
        ret = co_qcow2_map(s, offset + done, bytes - done, &m, MAP_WRITE);
        if (ret < 0) {
            break;
        }
        if (G_LIKELY(in_place(&m))) {
            if (G_LIKELY(m.bytes == bytes)) {
                return co_write_in_place(s, &m, iov);
            }
            part = iov_slice(iov, done, m.bytes);
            ret = co_write_in_place(s, &m, &part);
            done += m.bytes;
        } else {
            int64_t n = 0;
            part = iov_slice(iov, done, bytes - done);
            ret = co_qcow2_write_alloc(s, offset + done, &part, &n);
            done += n;
        }
    }
    return ret;
}

int co_qcow2_pwritev(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int ret = G_UNLIKELY(flags & REQ_COMPRESSED)
                  ? co_qcow2_write_compressed(s, offset, iov)
                  : co_qcow2_write_data(s, offset, bytes, iov);

    qcow2_leave(s, generation);
    return ret;
}

/* ---- status -------------------------------------------------------------- */

/* Looking for holes in the file costs a system call a run; it pays where the
 * file is clearly smaller than its length. */
static bool co_worth_recursing(struct qcow2 *s)
{
    if (!s->recurse_known) {
        int64_t allocated = co_node_allocated_size(qcow2_file(s));
        s->recurse = !s->external && allocated >= 0 &&
                     allocated < qcow2_file(s)->length / 3 * 2;
        s->recurse_known = true;
    }
    return s->recurse;
}

/* As co_qcow2_map(), over as many slices as say the same. */
static int co_map_run(struct qcow2 *s, int64_t offset, int64_t bytes,
                      struct mapping *m)
{
    int ret = co_qcow2_map(s, offset, bytes, m, MAP_READ);

    while (ret == 0 && m->type != CLUSTER_COMPRESSED && m->bytes < bytes &&
           is_aligned(offset + m->bytes, qcow2_slice_bytes(s))) {
        struct mapping next;
        /* What is wrong there is told to who asks for that place. */
        if (co_qcow2_map(s, offset + m->bytes, bytes - m->bytes, &next,
                         MAP_READ) < 0 ||
            next.type != m->type ||
            next.host != (m->host ? m->host + m->bytes : 0)) {
            break;
        }
        m->bytes += next.bytes;
    }
    return ret;
}

int co_qcow2_block_status(struct node *node, bool want_zero, int64_t offset,
                          int64_t bytes, struct block_status *status)
{
    struct qcow2 *s = node->state;
    struct mapping m;
    unsigned generation = qcow2_enter(s);
    int ret = co_map_run(s, offset, bytes, &m);

    qcow2_leave(s, generation);
    if (ret < 0) {
        return ret;
    }
    status->bytes = m.bytes;
    switch (m.type) {
    case CLUSTER_UNALLOCATED:
        status->flags = m.placed ? BLOCK_OFFSET_VALID : 0;
        break;
    case CLUSTER_ZERO_PLAIN:
        status->flags = BLOCK_ZERO | BLOCK_ALLOCATED;
        return 0;
    case CLUSTER_COMPRESSED:
        status->flags = BLOCK_DATA | BLOCK_ALLOCATED | BLOCK_COMPRESSED;
        return 0;
    case CLUSTER_ZERO_ALLOC:
        status->flags = BLOCK_ZERO | BLOCK_ALLOCATED | BLOCK_OFFSET_VALID;
        break;
    case CLUSTER_NORMAL:
        status->flags = BLOCK_DATA | BLOCK_ALLOCATED | BLOCK_OFFSET_VALID;
        if (want_zero && co_worth_recursing(s)) {
            status->flags |= BLOCK_RECURSE;
        }
        break;
    }
    status->map = m.host;
    status->file = qcow2_data(s);
    return 0;
}
