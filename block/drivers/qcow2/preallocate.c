/*
 * Places in the file for a disk that grows with preallocation.
 *
 * All new guest clusters get one contiguous run of host clusters, which has to
 * read as zeroes before an L2 entry refers to it: what lies behind the end of
 * the file does so when the file is made longer, what was used before is
 * zeroed. Then the entries are set, which a commit brings to the file in safe
 * order. With a data file the clusters have their places already.
 *
 * Nobody sees any of it before the size of the disk changes; a failure takes it
 * all back. Runs on the node's loop; the engine keeps requests off the range.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include "util/error.h"

/* What becomes of the guest bytes [from, end), whole clusters. */
struct placing {
    struct qcow2 *s;
    int64_t old;             /* end of the disk as it is */
    enum prealloc_mode mode; /* of the file */
    int64_t from, end;
    int64_t host;   /* of `from` */
    bool zero;      /* a backing file must not shine through, ... */
    bool zero_flag; /* ... which a flag takes care of, not data */
};

/* Metadata alone take nothing of the file's blocks. */
static enum prealloc_mode file_mode(enum prealloc_mode prealloc)
{
    return prealloc == PREALLOC_MODE_METADATA ? PREALLOC_MODE_OFF : prealloc;
}

/* ---- room ---------------------------------------------------------------- */

/* A longer file. No cluster behind the run may be handed out, and written,
 * before: the file would be cut. */
static bool co_lengthen(struct qcow2 *s, int64_t end, enum prealloc_mode mode,
                        GError **error)
{
    struct node *file = qcow2_file(s);

    if (end <= file->length) {
        return true;
    }
    if (co_node_truncate(file, end, false, mode, 0, error)) {
        return true;
    }
    if (mode != PREALLOC_MODE_OFF) {
        g_prefix_error(error, "Failed to resize underlying file: ");
    }
    return false;
}

static bool co_take_run(struct placing *p, GError **error)
{
    struct qcow2 *s = p->s;
    int64_t bytes = p->end - p->from;

    co_mutex_lock(&s->alloc_lock);
    int64_t used = s->zero_from;
    int64_t host =
        co_qcow2_alloc_contiguous_locked(s, bytes >> s->cluster_bits, NULL);
    bool ok = host >= 0 || error_set_errno(error, host,
                                           "Failed to resize refcount "
                                           "structures");
    bool taken = ok;
    ok = ok && co_lengthen(s, host + bytes, p->mode, error);
    co_mutex_unlock(&s->alloc_lock);
    if (ok && host < used) {
        int ret = co_node_pwrite_zeroes(
            qcow2_file(s), host, min_i64(used - host, bytes),
            p->mode == PREALLOC_MODE_OFF ? REQ_MAY_UNMAP : 0);
        ok = ret == 0 ||
             error_set_errno(error, ret, "Failed to zero new clusters");
    }
    p->host = host;
    if (!ok && taken) {
        co_qcow2_free_unused(s, host, bytes);
    }
    return ok;
}

/* ---- entries ------------------------------------------------------------- */

/* The second word for the cluster at `at`, of which all behind the old end of
 * the disk has to read as zeroes. */
static uint64_t placed_bitmap(const struct placing *p, uint64_t bitmap,
                              int64_t at)
{
    uint64_t mask = qcow2_subcluster_mask(p->s, max_i64(at, p->old),
                                          at + p->s->cluster_size);

    if (!p->zero && at < p->old) {
        return bitmap;
    }
    mask |= mask << 32;
    bitmap &= ~mask;
    return p->zero_flag ? bitmap | (mask & QCOW2_BITMAP_ZEROES)
           : p->zero    ? bitmap | (mask & QCOW2_BITMAP_ALLOCATED)
                        : bitmap;
}

/* The entries of [at, end), all in one slice. */
static int co_place_slice(const struct placing *p, int64_t at, int64_t end)
{
    struct qcow2 *s = p->s;
    uint64_t flags = QCOW2_COPIED;
    struct meta_entry *slice;

    if (p->zero_flag && !s->extended) {
        flags |= QCOW2_ZERO;
    }
    int ret = co_qcow2_slice_for_write(s, at, &slice);
    if (ret < 0) {
        return ret;
    }
    meta_entry_change(&s->l2, slice);
    s->needs_order = true;
    for (; at < end; at += s->cluster_size) {
        uint64_t *entry =
            qcow2_entry_at(s, slice->data, qcow2_slice_index(s, at));
        qcow2_free_entry_later(s, be64toh(entry[0]), FREE_OTHER);
        entry[0] = htobe64((p->host + (at - p->from)) | flags);
        if (s->extended) {
            entry[1] = htobe64(placed_bitmap(p, be64toh(entry[1]), at));
        }
    }
    return 0;
}

/* *done: how far it got, also on failure. */
static int co_place_all(const struct placing *p, int64_t *done)
{
    int64_t slice_bytes = qcow2_slice_bytes(p->s);
    int ret = 0;

    *done = p->from;
    while (*done < p->end) {
        int64_t end =
            min_i64(p->end, align_down(*done, slice_bytes) + slice_bytes);
        ret = co_place_slice(p, *done, end);
        if (ret < 0) {
            break;
        }
        *done = end;
    }
    return ret;
}

static bool co_place(const struct placing *p, GError **error)
{
    struct qcow2 *s = p->s;
    int64_t done;

    int ret = co_place_all(p, &done);
    if (ret == 0) {
        return true;
    }
    error_set_errno(error, ret, "Failed to preallocate the new clusters");
    /* Those that have an entry go with it, when the caller unmaps. */
    if (!s->external && done < p->end) {
        co_qcow2_free_unused(s, p->host + (done - p->from), p->end - done);
    }
    return false;
}

/* ---- a data file --------------------------------------------------------- */

/* A data file that was longer than the disk may hold anything there. */
static bool co_clear_external(struct qcow2 *s, int64_t old, int64_t size,
                              GError **error)
{
    int64_t end = min_i64(size, qcow2_data(s)->length);
    int ret = end > old ? co_node_pwrite_zeroes(qcow2_data(s), old, end - old,
                                                REQ_MAY_UNMAP)
                        : 0;

    return ret == 0 ||
           error_set_errno(error, ret, "Failed to zero new clusters");
}

bool co_qcow2_lengthen_external(struct qcow2 *s, int64_t old, int64_t size,
                                enum prealloc_mode prealloc, GError **error)
{
    bool mapped = prealloc != PREALLOC_MODE_OFF || s->external_raw;

    return (!mapped || co_clear_external(s, old, size, error)) &&
           (size <= qcow2_data(s)->length ||
            co_node_truncate(qcow2_data(s), size, false, file_mode(prealloc), 0,
                             error));
}

/* ---- all together -------------------------------------------------------- */

/* The cluster that the old end lies in belongs to the new part if it has no
 * place yet. With subclusters that is an entry like the others; else what is
 * before the old end is copied, which a write does. */
static int co_place_tail(struct placing *p)
{
    static const char zeroes[BLOCK_SECTOR_SIZE];
    struct qcow2 *s = p->s;
    struct mapping m;
    struct iovec vec;
    struct iov iov = iov_buf(&vec, (void *)zeroes, sizeof(zeroes));

    if (is_aligned(p->old, s->cluster_size)) {
        return 0;
    }
    int ret = co_qcow2_map(s, p->old, 1, &m, MAP_WRITE);
    if (ret < 0 || m.placed) {
        return ret;
    }
    if (s->extended) {
        p->from -= s->cluster_size;
        return 0;
    }
    return co_qcow2_pwritev(s->node, p->old, sizeof(zeroes), &iov, 0);
}

bool co_qcow2_preallocate(struct qcow2 *s, int64_t old, int64_t size,
                          enum prealloc_mode prealloc, GError **error)
{
    struct placing p = {
        .s = s,
        .old = old,
        .mode = file_mode(prealloc),
        .from = align_up(old, s->cluster_size),
        .end = align_up(size, s->cluster_size),
        .zero = qcow2_backing_covers(s, old),
    };
    p.zero_flag = p.zero && s->version >= 3 &&
                  (s->external || p.mode == PREALLOC_MODE_OFF);

    int ret = co_place_tail(&p);
    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to preallocate the new clusters");
    }
    p.host = p.from;
    return p.from == p.end ||
           ((s->external || co_take_run(&p, error)) && co_place(&p, error));
}
