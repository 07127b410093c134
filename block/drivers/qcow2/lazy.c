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
#include "block/drivers/qcow2/table_walk.h"

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

struct cover {
    const struct qcow2 *s;
    int64_t limit;
    int64_t end; /* of all that is referred to, up to the limit */
};

static void cover_cluster(struct cover *c, int64_t host)
{
    if (host && host <= c->limit - c->s->cluster_size) {
        c->end = max_i64(c->end, host + c->s->cluster_size);
    }
}

static int cover_table(void *opaque, const struct table_seen *seen)
{
    struct cover *c = opaque;

    cover_cluster(c, (int64_t)seen->offset);
    for (unsigned i = 0; seen->ret == 0 && i < 1u << c->s->l2_bits; i++) {
        struct mapping m;
        qcow2_decode_entry(
            c->s, be64toh(seen->table[(size_t)i << c->s->extended]), &m);
        if (m.type != CLUSTER_COMPRESSED) {
            cover_cluster(c, m.host);
        }
    }
    return 0;
}

int co_qcow2_cover_references(struct qcow2 *s)
{
    int64_t length = qcow2_file(s)->length;
    /* No crash leaves more: each cluster of the disk, and its tables, once. */
    struct cover c = {
        .s = s,
        .limit = align_up(length, s->cluster_size) +
                 align_up(s->node->length, s->cluster_size) +
                 (int64_t)s->l1_size * s->cluster_size,
        .end = length,
    };

    if (s->external) {
        return 0;
    }
    int ret = co_qcow2_walk_tables(s, s->l1, s->l1_size, cover_table, &c);
    if (ret == 0 && c.end > length &&
        !co_node_truncate(qcow2_file(s), c.end, false, PREALLOC_MODE_OFF, 0,
                          NULL)) {
        ret = -EIO;
    }
    return ret;
}
