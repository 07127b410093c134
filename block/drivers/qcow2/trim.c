/*
 * A shorter file: what nobody uses any more at its end is cut off.
 *
 * After a disk has shrunk or was emptied, L2 tables and refcount blocks that
 * have nothing left to say go as well. An L2 table is free like any cluster,
 * when its L1 entry is out of the disk's table. A refcount block goes when
 * everything that it counted is free on disk; its entry in the refcount table
 * is cleared there, and that is stable, before the file is cut.
 *
 * All of it is housekeeping: if it fails the image is merely larger than need
 * be. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>

/* ---- L2 tables ----------------------------------------------------------- */

/* False, and nothing is forgotten, if somebody is reading or writing a slice of
 * the table. */
static bool forget_slices(struct qcow2 *s, uint32_t l1_index)
{
    uint64_t n = UINT64_C(1) << (s->l2_bits - s->slice_bits);
    uint64_t key = (uint64_t)l1_index * n;

    for (uint64_t i = 0; i < n; i++) {
        if (meta_cache_busy(&s->l2, key + i)) {
            return false;
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        meta_cache_drop(&s->l2, key + i);
    }
    return true;
}

void co_qcow2_drop_tables(struct qcow2 *s, int64_t offset, int64_t end)
{
    int64_t table_bytes = qcow2_table_bytes(s);
    uint32_t i = div_round_up(offset, table_bytes);
    uint32_t last = MIN(s->l1_size, end / table_bytes);

    co_mutex_lock(&s->table_lock);
    co_mutex_lock(&s->commit_lock);
    for (; i < last; i++) {
        int64_t table = s->l1[i] & QCOW2_OFFSET_MASK;
        if (table && is_aligned(table, s->cluster_size) &&
            forget_slices(s, i)) {
            s->l1[i] = 0;
            table_dirt_add(&s->l1_dirt, i);
            qcow2_free_later(s, table, s->cluster_size, FREE_OTHER);
        }
    }
    co_mutex_unlock(&s->commit_lock);
    co_mutex_unlock(&s->table_lock);
}

/* ---- refcount blocks ----------------------------------------------------- */

/* The last cluster that block i counts as used, itself not; -1 if there is
 * none. */
static int co_last_counted(struct qcow2 *s, uint32_t i, int64_t *last)
{
    int64_t first = (int64_t)i << s->rb_bits;
    int64_t home = (s->rt[i] & QCOW2_REFTABLE_MASK) >> s->cluster_bits;
    int64_t mask = (INT64_C(1) << s->rslice_bits) - 1;
    int64_t c = first + (INT64_C(1) << s->rb_bits) - 1;

    *last = -1;
    while (c >= first) {
        struct meta_entry *slice;
        int ret = co_qcow2_refcount_slice(s, c, &slice);
        if (ret < 0 || !slice) {
            return ret < 0 ? ret : -EIO;
        }
        do {
            uint64_t count = s->refcount_get(slice->data, c & mask);
            if (count > (c == home)) {
                *last = c;
                return 0;
            }
        } while (c-- & mask);
    }
    return 0;
}

/* True if its cluster is in another one's range, which may be empty then, too.
 */
static bool forget_block(struct qcow2 *s, uint32_t i)
{
    int64_t home = s->rt[i] & QCOW2_REFTABLE_MASK;
    unsigned bits = s->rb_bits - s->rslice_bits;

    for (uint64_t k = 0; k < UINT64_C(1) << bits; k++) {
        meta_cache_drop(&s->rb, ((uint64_t)i << bits) + k);
    }
    s->rt[i] = 0;
    table_dirt_add(&s->rt_dirt, i);
    if (home >> s->cluster_bits >> s->rb_bits == i) {
        qcow2_meta_remove(s, home, s->cluster_size);
        return false;
    }
    qcow2_free_later(s, home, s->cluster_size, FREE_OTHER);
    return true;
}

/* Lets go of all blocks that count nothing but themselves. *last: the last used
 * cluster; *again: more may be empty when what was freed is free. */
static int co_drop_blocks(struct qcow2 *s, int64_t *last, bool *again)
{
    *last = 0;
    for (uint32_t i = s->rt_size; i > 0; i--) {
        int64_t home = s->rt[i - 1] & QCOW2_REFTABLE_MASK, used;
        if (!home) {
            continue;
        }
        int ret = co_last_counted(s, i - 1, &used);
        if (ret < 0) {
            return ret;
        }
        if (used < 0) {
            *again = forget_block(s, i - 1) || *again;
            continue;
        }
        *last = max_i64(*last, used);
        if (home >> s->cluster_bits >> s->rb_bits == i - 1) {
            *last = max_i64(*last, home >> s->cluster_bits);
        }
    }
    return 0;
}

/* ---- the file ------------------------------------------------------------ */

static int co_commit_and_flush(struct qcow2 *s)
{
    int ret = co_qcow2_commit_locked(s);

    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

/* With alloc_lock and commit_lock held, so that nothing is counted, and nothing
 * is handed out behind the end, meanwhile. */
static int co_cut(struct qcow2 *s, bool *again)
{
    struct node *file = qcow2_file(s);
    int64_t last = 0;

    int ret = co_commit_and_flush(s);
    if (ret == 0) {
        ret = co_drop_blocks(s, &last, again);
    }
    if (ret == 0) {
        ret = co_commit_and_flush(s);
    }
    if (ret < 0 || *again) {
        return ret;
    }
    int64_t end = (last + 1) << s->cluster_bits;
    if (file->length > end &&
        co_node_truncate(file, end, false, PREALLOC_MODE_OFF, 0, NULL) &&
        file->length <= end) {
        s->zero_from = end;
    }
    s->alloc_hint = min_i64(s->alloc_hint, last + 1);
    return 0;
}

void co_qcow2_trim(struct qcow2 *s)
{
    bool again = true;
    int ret = 0;

    while (again && ret == 0 && !s->broken) {
        again = false;
        ret = co_qcow2_settle(s);
        if (ret < 0) {
            break;
        }
        co_mutex_lock(&s->alloc_lock);
        co_mutex_lock(&s->commit_lock);
        ret = co_cut(s, &again);
        co_mutex_unlock(&s->commit_lock);
        co_mutex_unlock(&s->alloc_lock);
    }
}
