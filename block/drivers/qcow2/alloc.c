/*
 * Writes to clusters that cannot be overwritten as they are.
 *
 * Such a write takes new clusters, fills them (the guest's data, and around
 * them what was visible before), and only then sets the L2 entries, in one step
 * without suspension. Until that step it is on the list of allocations in
 * flight: whoever wants the same guest clusters waits, everybody else goes on
 * side by side. A failure gives the clusters back; the mapping is as before.
 *
 * A cluster that reads as zeroes but has a place in the file is filled there.
 *
 * What is left of a new cluster around the data is not written where it has to
 * be zero and the file has never been written there. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* Up to here copying the data beats a second read of the old content. */
#define MERGE_MAX (16 * 1024)

/* The write that is being worked on. */
struct alloc_write {
    struct qcow2 *s;
    struct allocation a;
    int64_t host;     /* byte offset of the first cluster */
    int64_t from, to; /* guest bytes that are written: all of the clusters, but
                         with extended L2 entries only what is needed */
    bool reuse;       /* the clusters are the old ones */
    bool fresh;       /* the clusters read as zeroes as long as nobody writes */
    uint64_t reserve; /* where they come from, see struct qcow2_run */
    int64_t head, tail; /* bytes around the data in [from, to) */
    bool head_zero, tail_zero;
};

/* ---- allocations in flight ----------------------------------------------- */

/* The one that begins first among those in [offset, end). */
static struct allocation *first_conflict(struct qcow2 *s, int64_t offset,
                                         int64_t end)
{
    struct allocation *a, *first = NULL;

    TAILQ_FOREACH (a, &s->allocations, link) {
        if (a->offset < end && offset < a->end &&
            (!first || a->offset < first->offset)) {
            first = a;
        }
    }
    return first;
}

bool co_qcow2_wait_allocation(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct allocation *a = first_conflict(s, offset, offset + bytes);

    if (!a) {
        return false;
    }
    co_queue_wait(&a->waiters);
    return true;
}

void qcow2_allocation_begin(struct qcow2 *s, struct allocation *a)
{
    TAILQ_INSERT_TAIL(&s->allocations, a, link);
}

void qcow2_allocation_end(struct qcow2 *s, struct allocation *a)
{
    TAILQ_REMOVE(&s->allocations, a, link);
    co_queue_wake_all(&a->waiters);
}

/* ---- which clusters, and how --------------------------------------------- */

static bool reusable(const struct qcow2 *s, const struct mapping *m)
{
    return m->copied && (m->type == CLUSTER_ZERO_ALLOC ||
                         (s->extended && m->type == CLUSTER_NORMAL));
}

static bool reads_zero(const struct qcow2 *s, const struct mapping *m,
                       int64_t offset)
{
    return m->type == CLUSTER_ZERO_PLAIN || m->type == CLUSTER_ZERO_ALLOC ||
           (m->type == CLUSTER_UNALLOCATED && !qcow2_backing_covers(s, offset));
}

/* How many entries from the first on are to be treated like it; what is around
 * the data in the first and the last. 0: the first can be written in place. */
static unsigned classify(struct alloc_write *w, struct meta_entry *slice,
                         unsigned i, unsigned max)
{
    struct qcow2 *s = w->s;
    struct mapping m;
    unsigned n;

    for (n = 0; n < max; n++) {
        qcow2_decode_entry(s, be64toh(*qcow2_entry_at(s, slice->data, i + n)),
                           &m);
        if (n == 0) {
            w->reuse = reusable(s, &m);
            w->host = m.host;
        }
        if ((m.type == CLUSTER_NORMAL && m.copied && !s->extended) ||
            reusable(s, &m) != w->reuse ||
            (w->reuse && m.host != w->host + n * s->cluster_size)) {
            break;
        }
    }
    return n;
}

static bool entry_reads_zero(struct qcow2 *s, const uint64_t *entry,
                             int64_t offset, int64_t end)
{
    struct mapping m;

    if (G_UNLIKELY(s->extended)) {
        return qcow2_subclusters_zero(s, entry, offset, end);
    }
    qcow2_decode_entry(s, be64toh(*entry), &m);
    return reads_zero(s, &m, offset);
}

/* Which part of the clusters [a.offset, a.end) is to be written for the data in
 * [offset, end), and what is around them. */
static void widen(struct alloc_write *w, struct meta_entry *slice,
                  int64_t offset, int64_t end)
{
    struct qcow2 *s = w->s;
    int64_t last = w->a.end - s->cluster_size;
    const uint64_t *first_entry =
        qcow2_entry_at(s, slice->data, qcow2_slice_index(s, offset));
    const uint64_t *last_entry =
        qcow2_entry_at(s, slice->data, qcow2_slice_index(s, last));

    w->from = w->a.offset;
    w->to = w->a.end;
    if (G_UNLIKELY(s->extended)) {
        w->from = offset;
        w->to = end;
        qcow2_subclusters_widen(s, first_entry, last_entry, w->reuse, &w->from,
                                &w->to);
    }
    w->head_zero = entry_reads_zero(s, first_entry, w->from, offset);
    w->tail_zero = entry_reads_zero(s, last_entry, end, w->to);
}

/* 1 if the first byte can be written where it is. */
static int co_in_place_now(struct qcow2 *s, struct meta_entry *slice,
                           int64_t offset)
{
    struct mapping m;

    if (G_LIKELY(!s->extended)) {
        return 0;
    }
    int ret = co_qcow2_map_subclusters(s, slice, offset, 1, &m, MAP_WRITE);
    return ret < 0 ? ret : m.type == CLUSTER_NORMAL && m.copied;
}

/* Puts the write on the list with as many clusters as can be had at once. 1:
 * map again; what there was has changed. */
static int co_begin(struct alloc_write *w, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = w->s;
    struct meta_entry *slice;

    int ret = co_qcow2_slice_for_write(s, offset, &slice);
    if (ret < 0) {
        return ret;
    }
    int64_t start = align_down(offset, s->cluster_size);
    int64_t slice_end =
        align_down(offset, qcow2_slice_bytes(s)) + qcow2_slice_bytes(s);
    int64_t end = min_i64(align_up(offset + bytes, s->cluster_size), slice_end);
    struct allocation *a = first_conflict(s, start, end);
    if (a && a->offset <= start) {
        co_queue_wait(&a->waiters);
        return 1;
    }
    if (a) {
        end = a->offset;
    }
    unsigned n = classify(w, slice, qcow2_slice_index(s, offset),
                          (end - start) >> s->cluster_bits);
    if (!n) {
        return 1;
    }
    ret = co_in_place_now(s, slice, offset);
    if (ret) {
        return ret;
    }
    w->a.offset = start;
    w->a.end = start + n * s->cluster_size;
    widen(w, slice, offset, min_i64(offset + bytes, w->a.end));
    qcow2_allocation_begin(s, &w->a);
    return 0;
}

/* The clusters have their places in the data file, which may hold anything
 * there. What is to be zero around the data is made a hole, if it can. */
static int co_take_external(struct alloc_write *w, int64_t offset,
                            int64_t bytes)
{
    struct qcow2 *s = w->s;
    /* Nothing is written behind a disk's end, unless it is no part of it. */
    int64_t end =
        offset < s->node->length ? min_i64(w->to, s->node->length) : w->to;

    w->host = w->a.offset;
    w->fresh = w->host >= qcow2_data(s)->length;
    bool around = w->from < offset || offset + bytes < end;
    if (w->fresh || w->reuse || !around || !w->head_zero || !w->tail_zero) {
        return 0;
    }
    int ret = co_node_pwrite_zeroes(qcow2_data(s), w->from, end - w->from,
                                    REQ_MAY_UNMAP | REQ_NO_FALLBACK);
    w->fresh = ret == 0;
    return ret == -ENOTSUP ? 0 : ret;
}

/* The clusters; fewer than wished shorten the write. */
static int co_get_clusters(struct alloc_write *w, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = w->s;
    int64_t want = (w->a.end - w->a.offset) >> s->cluster_bits;
    struct qcow2_run run;

    if (s->external) {
        return co_take_external(w, offset, bytes);
    }
    if (!w->reuse) {
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_CLUSTER_ALLOC);
        int ret = co_qcow2_alloc_clusters(s, want, &run);
        if (ret < 0) {
            return ret;
        }
        w->host = run.offset;
        w->fresh = run.fresh;
        w->reserve = run.reserve;
        if (run.n < want) {
            /* The write now ends with the cluster: nothing is left of it. */
            w->a.end = w->a.offset + (run.n << s->cluster_bits);
            w->to = min_i64(w->to, w->a.end);
        }
    }
    return w->reuse ? co_qcow2_guard_data(s, w->host, w->a.end - w->a.offset)
                    : 0;
}

/* ---- what is around the data --------------------------------------------- */

static int co_read_old(struct qcow2 *s, int64_t offset, void *buf,
                       int64_t bytes, bool zero)
{
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, bytes);

    if (zero || !bytes) {
        memset(buf, 0, bytes);
        return 0;
    }
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_COW_READ);
    return co_qcow2_read_data(s, offset, bytes, &iov);
}

static bool buffer_is_zero(const void *buf, int64_t bytes)
{
    struct iovec vec;
    struct iov iov = iov_buf(&vec, (void *)buf, bytes);

    return iov_is_zero(&iov);
}

/* One request: head, data, tail. buf has the head and then the tail. */
static int co_write_joined(struct alloc_write *w, const struct iov *data,
                           char *buf)
{
    enum { ON_STACK = 34 };
    struct iovec small[ON_STACK], *vec = small;
    unsigned n = 0, max = data->count + 2;
    int64_t pos = w->host + (w->from - w->a.offset);

    if (max > ON_STACK) {
        vec = g_try_new(struct iovec, max);
        if (!vec) {
            return -ENOMEM;
        }
    }
    if (w->head_zero) {
        pos += w->head;
    } else if (w->head) {
        vec[n++] = (struct iovec){buf, w->head};
    }
    n += iov_export(data, vec + n, data->count);
    if (!w->tail_zero && w->tail) {
        vec[n++] = (struct iovec){buf + w->head, w->tail};
    }
    struct iov iov = iov_of(vec, n);
    co_node_debug_event(qcow2_file(w->s), BLKDEBUG_EVENT_COW_WRITE);
    int ret = co_node_pwritev(qcow2_data(w->s), pos, &iov, 0);
    if (vec != small) {
        g_free(vec);
    }
    return ret;
}

/* A small write, at most a cluster, whose old content is read as a whole. */
static int co_fill_one(struct alloc_write *w, const struct iov *data, char *buf)
{
    struct qcow2 *s = w->s;
    int64_t whole = w->to - w->from, pos = w->host + (w->from - w->a.offset);

    int ret = co_read_old(s, w->from, buf, whole, false);
    if (ret < 0) {
        return ret;
    }
    if (w->fresh && buffer_is_zero(buf, whole)) {
        return co_node_pwritev(qcow2_data(s), pos + w->head, data, 0);
    }
    iov_to_buf(data, 0, buf + w->head, data->bytes);
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_COW_WRITE);
    return co_node_pwrite(qcow2_data(s), pos, buf, whole, 0);
}

static int co_fill_around(struct alloc_write *w, const struct iov *data)
{
    struct qcow2 *s = w->s;
    int64_t whole = w->to - w->from;
    bool one = whole <= s->cluster_size && data->bytes <= MERGE_MAX &&
               w->head && w->tail && !w->head_zero;
    char *buf =
        io_buffer_try_alloc(qcow2_data(s), one ? whole : w->head + w->tail);
    int ret;

    if (!buf) {
        return -ENOMEM;
    }
    if (one) {
        ret = co_fill_one(w, data, buf);
        io_buffer_free(buf);
        return ret;
    }
    ret = co_read_old(s, w->from, buf, w->head, w->head_zero);
    if (ret == 0) {
        ret = co_read_old(s, w->to - w->tail, buf + w->head, w->tail,
                          w->tail_zero);
    }
    if (ret == 0) {
        /* From here on "zero" means: need not be written. */
        w->head_zero = w->fresh && buffer_is_zero(buf, w->head);
        w->tail_zero = w->fresh && buffer_is_zero(buf + w->head, w->tail);
        ret = co_write_joined(w, data, buf);
    }
    io_buffer_free(buf);
    return ret;
}

static int co_fill(struct alloc_write *w, int64_t offset,
                   const struct iov *data)
{
    w->head = offset - w->from;
    w->tail = w->to - offset - data->bytes;
    if ((!w->head || (w->head_zero && w->fresh)) &&
        (!w->tail || (w->tail_zero && w->fresh))) {
        co_node_debug_event(qcow2_file(w->s), BLKDEBUG_EVENT_WRITE_AIO);
        return co_node_pwritev(qcow2_data(w->s),
                               w->host + (offset - w->a.offset), data, 0);
    }
    return co_fill_around(w, data);
}

/* ---- the L2 entries ------------------------------------------------------ */

/* Whether the entry of the cluster at `at` may be on disk before anything else
 * is; see reserve.c, and lazy.c. */
static bool needs_no_order(const struct alloc_write *w, const uint64_t *old,
                           int64_t at)
{
    struct qcow2 *s = w->s;

    bool counted = w->reserve && w->reserve <= s->reserve.stable;
    bool need_not_be = s->lagging && w->fresh && !w->reuse && !s->external;

    return (counted || need_not_be) &&
           entry_reads_zero(s, old, at, at + s->cluster_size);
}

static int co_link(struct alloc_write *w)
{
    struct qcow2 *s = w->s;
    struct meta_entry *slice;

    int ret = co_qcow2_slice_for_write(s, w->a.offset, &slice);
    if (ret < 0) {
        return ret;
    }
    meta_entry_change(&s->l2, slice);
    uint64_t *entry =
        qcow2_entry_at(s, slice->data, qcow2_slice_index(s, w->a.offset));
    int64_t host = w->host;
    for (int64_t at = w->a.offset; at < w->a.end; at += s->cluster_size) {
        s->needs_order = s->needs_order || !needs_no_order(w, entry, at);
        if (!w->reuse) {
            qcow2_free_entry_later(s, be64toh(*entry), FREE_OTHER);
        }
        if (G_UNLIKELY(s->extended)) {
            entry[1] = htobe64(qcow2_subclusters_written(
                s, entry, max_i64(at, w->from),
                min_i64(at + s->cluster_size, w->to)));
        }
        *entry = htobe64(host | QCOW2_COPIED);
        entry += 1 << s->extended;
        host += s->cluster_size;
    }
    return 0;
}

int co_qcow2_write_alloc(struct qcow2 *s, int64_t offset, const struct iov *iov,
                         int64_t *done)
{
    struct alloc_write w = {.s = s};

    *done = 0;
    int ret = co_begin(&w, offset, iov->bytes);
    if (ret) {
        return ret < 0 ? ret : 0;
    }
    ret = co_get_clusters(&w, offset, iov->bytes);
    if (ret < 0) {
        qcow2_allocation_end(s, &w.a);
        return ret;
    }
    int64_t bytes = min_i64(iov->bytes, w.a.end - offset);
    struct iov data = iov_slice(iov, 0, bytes);
    ret = co_fill(&w, offset, &data);
    if (ret == 0) {
        ret = co_link(&w);
    }
    qcow2_allocation_end(s, &w.a);
    if (ret < 0) {
        if (!w.reuse && !s->external) {
            co_qcow2_free_unused(s, w.host, w.a.end - w.a.offset);
        }
        return ret;
    }
    *done = bytes;
    return 0;
}
