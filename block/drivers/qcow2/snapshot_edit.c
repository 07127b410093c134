/*
 * Changes of snapshots, put together from parts and made at once; see
 * snapshot_edit.h. Runs on the node's loop, in a drained section.
 */
#include "block/drivers/qcow2/snapshot_edit.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include "block/drivers/qcow2/qcow2.h"
#include "block/drivers/qcow2/snapshot_refs.h"

static int64_t clusters_of(const struct qcow2 *s, int64_t bytes)
{
    return div_round_up(bytes, s->cluster_size);
}

int64_t snapshot_used_entries(const uint64_t *l1, uint32_t n)
{
    int64_t used = 0;

    for (uint32_t i = 0; i < n; i++) {
        used += (l1[i] & QCOW2_OFFSET_MASK) != 0;
    }
    return used;
}

/* entries: of L1 tables that will be written; tables: L2 tables that may be. */
int co_snapshot_edit_begin(struct qcow2 *s, struct snapshot_edit *e,
                           int64_t entries, int64_t tables)
{
    *e = (struct snapshot_edit){
        .s = s,
        .to =
            {
                .size = s->header.size,
                .l1_size = s->l1_size,
                .l1_offset = s->header.l1_table_offset,
                .nb_snapshots = s->header.nb_snapshots,
                .snapshots_offset = s->header.snapshots_offset,
            },
    };
    if (s->broken) {
        return -EIO;
    }
    return co_qcow2_shadow_begin(
        s, &e->shadow,
        tables + clusters_of(s, entries * 8) + 2 +
            clusters_of(s, s->snapshots.table_bytes + (1 << 18)));
}

static void edit_free(struct snapshot_edit *e)
{
    io_buffer_free(e->l1);
    if (e->list) {
        g_ptr_array_unref(e->list);
    }
}

void co_snapshot_edit_abort(struct snapshot_edit *e)
{
    co_qcow2_shadow_abort(e->s, &e->shadow);
    edit_free(e);
}

/* Clusters for a table; nothing is written yet. */
static int co_take(struct qcow2 *s, int64_t bytes, uint64_t *offset)
{
    *offset = 0;
    if (!bytes) {
        return 0;
    }
    int64_t host =
        co_qcow2_alloc_contiguous(s, clusters_of(s, bytes), "snapshot table");
    if (host < 0) {
        return host;
    }
    qcow2_meta_add(s, host, bytes);
    *offset = host;
    return 0;
}

/* The clusters of a table have one user less. */
int co_snapshot_edit_let_go(struct snapshot_edit *e, uint64_t offset,
                            int64_t bytes)
{
    return bytes ? co_qcow2_refcount_add(e->s, offset,
                                         align_up(bytes, e->s->cluster_size),
                                         -1, e->shadow.gone)
                 : 0;
}

int co_snapshot_write_l1(struct qcow2 *s, const uint64_t *l1, uint32_t n,
                         uint64_t *offset)
{
    int64_t bytes = (int64_t)n * 8;
    int ret = co_take(s, bytes, offset);

    if (ret < 0 || !n) {
        return ret;
    }
    uint64_t *disk = io_buffer_try_alloc(qcow2_file(s), bytes);
    if (!disk) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        disk[i] = htobe64(l1[i]);
    }
    ret = co_node_pwrite(qcow2_file(s), *offset, disk, bytes, 0);
    io_buffer_free(disk);
    return ret;
}

static int co_write_list(struct snapshot_edit *e)
{
    struct qcow2 *s = e->s;
    int64_t bytes = qcow2_snapshots_bytes(e->list);

    if (bytes > QCOW2_MAX_SNAPSHOT_TABLE) {
        return -EFBIG;
    }
    int ret = co_take(s, bytes, &e->to.snapshots_offset);
    if (ret == 0 && bytes) {
        ret = co_qcow2_snapshots_write(s, e->list, e->to.snapshots_offset);
    }
    e->to.nb_snapshots = e->list->len;
    return ret < 0 ? ret
                   : co_snapshot_edit_let_go(e, s->header.snapshots_offset,
                                             s->snapshots.table_bytes);
}

static int co_write_parts(struct snapshot_edit *e)
{
    struct qcow2 *s = e->s;
    int ret = 0;

    if (e->l1) {
        ret = co_snapshot_write_l1(s, e->l1, e->to.l1_size, &e->to.l1_offset);
        if (ret == 0) {
            ret = co_snapshot_edit_let_go(e, s->header.l1_table_offset,
                                          (int64_t)s->l1_size * 8);
        }
    }
    return ret == 0 && e->list ? co_write_list(e) : ret;
}

/* What is in memory follows the disk. */
static void adopt(struct snapshot_edit *e)
{
    struct qcow2 *s = e->s;

    if (e->l1) {
        io_buffer_free(s->l1);
        s->l1 = g_steal_pointer(&e->l1);
        s->l1_size = e->to.l1_size;
        meta_cache_forget(&s->l2);
    }
    if (e->list) {
        g_ptr_array_unref(s->snapshots.list);
        s->snapshots.list = g_steal_pointer(&e->list);
        s->snapshots.table_bytes = qcow2_snapshots_bytes(s->snapshots.list);
    }
    s->pack_at = 0;
    qcow2_guard_snapshots(s);
}

/* Makes it so, or undoes it; e is no more. */
int co_snapshot_edit_finish(struct snapshot_edit *e)
{
    int ret = co_write_parts(e);

    if (ret < 0) {
        co_snapshot_edit_abort(e);
        return ret;
    }
    ret = co_qcow2_shadow_commit(e->s, &e->shadow, &e->to);
    if (ret == 0) {
        adopt(e);
        /* What is left is to free clusters, which may fail: they leak. */
        (void)co_qcow2_settle(e->s);
    }
    edit_free(e);
    return ret;
}

/* A copy of the list but for one; UINT_MAX: of all. */
GPtrArray *snapshot_list_without(const struct qcow2 *s, unsigned index)
{
    GPtrArray *list = qcow2_snapshot_list();

    for (unsigned i = 0; i < s->snapshots.list->len; i++) {
        if (i != index) {
            g_ptr_array_add(list, qcow2_snapshot_copy(
                                      g_ptr_array_index(s->snapshots.list, i)));
        }
    }
    return list;
}

uint64_t *snapshot_copy_l1(struct qcow2 *s)
{
    size_t bytes = MAX((size_t)s->l1_size * 8, 8);
    uint64_t *copy = io_buffer_try_alloc(qcow2_file(s), bytes);

    return copy ? memcpy(copy, s->l1, bytes) : NULL;
}
