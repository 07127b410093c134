/*
 * Lazy refcounts: what is counted may lag behind on disk (qcow2 specification,
 * "Header": incompatible features, bit 0; compatible features, bit 0).
 *
 * The dirty bit is stable before the first cluster is handed out. From then on
 * a commit (commit.c) writes no refcounts until the image is closed, reopened
 * or settled otherwise; after a crash they are counted anew (repair.c). New
 * refcount blocks still enter the refcount table in order, as the repair needs
 * the blocks.
 *
 * A commit then has no need to flush before it writes L2 tables, either, as
 * long as these refer to clusters that were never written before, where there
 * were only zeroes (see reserve.c). Everything else (reused clusters, shared
 * ones, what lies over a backing file) sets needs_order.
 *
 * So a table may name a cluster behind the end of the file, if the crash came
 * before the file had grown: it reads as zeroes, and the repair makes the file
 * long enough to count it.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>

int co_qcow2_lag(struct qcow2 *s)
{
    if (G_LIKELY(!s->lazy || s->lagging)) {
        return 0;
    }
    int ret = co_qcow2_update_incompat(s, QCOW2_INCOMPAT_DIRTY, 0);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    s->lagging = ret == 0;
    return ret;
}

int co_qcow2_catch_up(struct qcow2 *s)
{
    if (!s->lagging) {
        return 0;
    }
    int ret = co_meta_cache_write_all(&s->rb);
    if (ret == 0) {
        ret = co_qcow2_flush_files(s);
    }
    if (ret == 0) {
        ret = co_qcow2_update_incompat(s, 0, QCOW2_INCOMPAT_DIRTY);
    }
    s->lagging = ret < 0;
    return ret;
}

/* ---- after a crash ------------------------------------------------------- */

/* The end of what the table refers to, at least *end, at most limit. */
static void cover_entries(const struct qcow2 *s, const uint64_t *table,
                          int64_t limit, int64_t *end)
{
    for (unsigned i = 0; i < 1u << s->l2_bits; i++) {
        struct mapping m;
        qcow2_decode_entry(s, be64toh(table[(size_t)i << s->extended]), &m);
        if (m.host && m.type != CLUSTER_COMPRESSED &&
            m.host <= limit - s->cluster_size) {
            *end = max_i64(*end, m.host + s->cluster_size);
        }
    }
}

int co_qcow2_cover_references(struct qcow2 *s)
{
    int64_t length = qcow2_file(s)->length;
    /* No crash leaves more: each cluster of the disk, and its tables, once. */
    int64_t limit = align_up(length, s->cluster_size) +
                    align_up(s->node->length, s->cluster_size) +
                    (int64_t)s->l1_size * s->cluster_size;
    int64_t end = length;
    int ret = 0;

    if (s->external) {
        return 0;
    }
    uint64_t *table = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);
    if (!table) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; ret == 0 && i < s->l1_size; i++) {
        int64_t at = s->l1[i] & QCOW2_OFFSET_MASK;
        if (!at || at > limit - s->cluster_size) {
            continue;
        }
        end = max_i64(end, at + s->cluster_size);
        if (range_within(at, s->cluster_size, length)) {
            ret = co_node_pread(qcow2_file(s), at, table, s->cluster_size, 0);
            if (ret == 0) {
                cover_entries(s, table, limit, &end);
            }
        }
    }
    io_buffer_free(table);
    if (ret == 0 && end > length &&
        !co_node_truncate(qcow2_file(s), end, false, PREALLOC_MODE_OFF, 0,
                          NULL)) {
        ret = -EIO;
    }
    return ret;
}
