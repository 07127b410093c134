/*
 * The tables that are always in memory: L1, refcount table, and which clusters
 * hold metadata.
 *
 * The last one is a bitmap over the file: no guest write and no new cluster may
 * touch a cluster whose bit is set, whatever a damaged L2 table or refcount
 * says. It is filled from L1 and the refcount table, follows what this driver
 * allocates, and is looked at by every write, so it must be cheap.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include "util/error.h"

void table_dirt_add(struct table_dirt *d, uint32_t index)
{
    if (d->lo >= d->hi) {
        d->lo = index;
        d->hi = index + 1;
    } else {
        d->lo = MIN(d->lo, index);
        d->hi = MAX(d->hi, index + 1);
    }
}

/* ---- which clusters hold metadata ---------------------------------------- */

void qcow2_meta_add(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t start = align_down(offset, s->cluster_size);
    int64_t end = align_up(offset + bytes, s->cluster_size);

    /* If it cannot grow, the newest clusters are not guarded. */
    if (end > hbitmap_size(s->meta) && !hbitmap_resize(s->meta, end * 2)) {
        return;
    }
    hbitmap_set(s->meta, start, end - start);
}

void qcow2_meta_remove(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t end = min_i64(offset + bytes, hbitmap_size(s->meta));

    if (offset < end) {
        hbitmap_clear(s->meta, offset, end - offset);
    }
}

bool qcow2_meta_overlaps(const struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t end = min_i64(offset + bytes, hbitmap_size(s->meta));

    for (int64_t at = align_down(offset, s->cluster_size); at < end;
         at += s->cluster_size) {
        if (hbitmap_get(s->meta, at)) {
            return true;
        }
    }
    return false;
}

/* Metadata that a damaged file places beyond its own end is left out: it is
 * found out when it is used. */
static void meta_add_within(struct qcow2 *s, uint64_t offset, int64_t bytes)
{
    if (offset && range_within(offset, bytes, hbitmap_size(s->meta))) {
        qcow2_meta_add(s, offset, bytes);
    }
}

static bool build_meta(struct qcow2 *s, GError **error)
{
    int64_t size = align_up(qcow2_file(s)->length, s->cluster_size);

    s->meta = hbitmap_new(max_i64(size, s->cluster_size), s->cluster_size);
    if (!s->meta) {
        return error_set_errno(error, ENOMEM, "Could not map the metadata");
    }
    qcow2_meta_add(s, 0, 1);
    if (s->l1_size) {
        qcow2_meta_add(s, s->header.l1_table_offset, (int64_t)s->l1_size * 8);
    }
    qcow2_meta_add(s, s->header.refcount_table_offset, (int64_t)s->rt_size * 8);
    if (s->header.nb_snapshots) {
        meta_add_within(s, s->header.snapshots_offset, s->cluster_size);
    }
    for (uint32_t i = 0; i < s->l1_size; i++) {
        meta_add_within(s, s->l1[i] & QCOW2_OFFSET_MASK, s->cluster_size);
    }
    for (uint32_t i = 0; i < s->rt_size; i++) {
        meta_add_within(s, s->rt[i] & QCOW2_REFTABLE_MASK, s->cluster_size);
    }
    return true;
}

/* ---- loading ------------------------------------------------------------- */

static uint64_t *co_load_table(struct qcow2 *s, const char *name,
                               uint64_t offset, uint32_t entries,
                               GError **error)
{
    size_t bytes = MAX((size_t)entries * 8, 8);

    if (entries && offset >= (uint64_t)qcow2_file(s)->length) {
        error_set(error, "The %s lies beyond the end of the file", name);
        return NULL;
    }
    uint64_t *table = io_buffer_try_alloc(qcow2_file(s), bytes);

    if (!table) {
        error_set_errno(error, ENOMEM, "Could not read %s", name);
        return NULL;
    }
    int ret =
        entries ? co_node_pread(qcow2_file(s), offset, table, bytes, 0) : 0;
    if (ret < 0) {
        io_buffer_free(table);
        error_set_errno(error, ret, "Could not read %s", name);
        return NULL;
    }
    for (uint32_t i = 0; i < entries; i++) {
        table[i] = be64toh(table[i]);
    }
    return table;
}

bool co_qcow2_load_tables(struct qcow2 *s, GError **error)
{
    const struct qcow2_disk_header *h = &s->header;

    s->rt_size = h->refcount_table_clusters << (s->cluster_bits - 3);
    s->l1 = co_load_table(s, "L1 table", h->l1_table_offset, h->l1_size, error);
    if (!s->l1) {
        return false;
    }
    s->rt = co_load_table(s, "refcount table", h->refcount_table_offset,
                          s->rt_size, error);
    return s->rt && build_meta(s, error);
}

bool co_qcow2_reload_tables(struct qcow2 *s, GError **error)
{
    uint64_t *l1 = s->l1, *rt = s->rt;
    struct hbitmap *meta = s->meta;
    uint32_t rt_size = s->rt_size;

    s->l1 = s->rt = NULL;
    s->meta = NULL;
    bool ok = co_qcow2_load_tables(s, error);
    if (ok) {
        io_buffer_free(l1);
        io_buffer_free(rt);
        hbitmap_free(meta);
    } else {
        qcow2_free_tables(s);
        s->l1 = l1;
        s->rt = rt;
        s->meta = meta;
        s->rt_size = rt_size;
    }
    return ok;
}

void qcow2_free_tables(struct qcow2 *s)
{
    io_buffer_free(s->l1);
    io_buffer_free(s->rt);
    hbitmap_free(s->meta);
}
