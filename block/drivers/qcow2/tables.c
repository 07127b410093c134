/*
 * The tables that are always in memory: L1, refcount table, and, filled from
 * them, the map of clusters that hold metadata (guard.h).
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

/* ---- loading ------------------------------------------------------------- */

/* A table is read in pieces that the file driver reads at once where they are
 * cached, and turned into the host's byte order while the processor has them.
 */
static int co_read_table(struct node *file, uint64_t offset, uint64_t *table,
                         uint32_t entries)
{
    enum { PIECE = 256 * 1024 / 8 };
    int ret = 0;

    for (uint32_t at = 0; ret == 0 && at < entries; at += PIECE) {
        uint32_t n = MIN(entries - at, PIECE);
        ret = co_node_pread(file, offset + at * 8ull, table + at, n * 8ull, 0);
        for (uint32_t i = at; i < at + n; i++) {
            table[i] = be64toh(table[i]);
        }
    }
    return ret;
}

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
    int ret = co_read_table(qcow2_file(s), offset, table, entries);
    if (ret < 0) {
        io_buffer_free(table);
        error_set_errno(error, ret, "Could not read %s", name);
        return NULL;
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
    if (!s->rt) {
        return false;
    }
    if (!qcow2_guard_build(s)) {
        return error_set_errno(error, ENOMEM, "Could not map the metadata");
    }
    qcow2_guard_snapshots(s);
    return true;
}

bool co_qcow2_reload_tables(struct qcow2 *s, GError **error)
{
    uint64_t *l1 = s->l1, *rt = s->rt;
    struct hbitmap *meta = s->meta;
    bool tangled = s->guard.tangled;
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
        s->guard.tangled = tangled;
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
