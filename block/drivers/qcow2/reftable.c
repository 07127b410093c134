/*
 * New refcount blocks, and a larger refcount table when the old one is full.
 *
 * A new block is written as a whole before its table entry, and the entry is
 * written by a commit before any L2 entry that needs it, each stable before the
 * next. A larger table is built behind everything else, together with the
 * blocks that count it, and takes effect with one write of the header.
 *
 * Runs on the node's loop, with alloc_lock held.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "util/error.h"

/* Writes a block to `home` that counts clusters [first, end) once each and
 * belongs to the range that begins at `base`. */
static int co_write_block(struct qcow2 *s, int64_t home, int64_t base,
                          int64_t first, int64_t end)
{
    int64_t last = min_i64(end, base + (INT64_C(1) << s->rb_bits));
    void *block = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);

    if (!block) {
        return -ENOMEM;
    }
    memset(block, 0, s->cluster_size);
    for (int64_t c = max_i64(first, base); c < last; c++) {
        s->refcount_set(block, c - base, 1);
    }
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_REFBLOCK_ALLOC_WRITE);
    int ret = co_node_pwrite(qcow2_file(s), home << s->cluster_bits, block,
                             s->cluster_size, 0);
    io_buffer_free(block);
    return ret;
}

/* ---- a larger table ------------------------------------------------------ */

/* Where the new table and its blocks go: clusters [first, first + table +
 * blocks), all in ranges that no block counts yet. */
struct growth {
    int64_t first, table, blocks;
    uint64_t entries; /* of the new table */
};

static bool plan_growth(const struct qcow2 *s, int64_t cluster,
                        struct growth *g)
{
    int64_t per_cluster = s->cluster_size / 8;
    int64_t base = cluster >> s->rb_bits;

    g->first = cluster;
    g->table = g->blocks = 0;
    for (;;) {
        int64_t end = g->first + g->table + g->blocks;
        int64_t blocks = ((end - 1) >> s->rb_bits) - base + 1;
        int64_t need = max_i64(base + MAX(blocks, 1), s->rt_size * 3 / 2);
        int64_t table = div_round_up(need, per_cluster);
        if (table * s->cluster_size > QCOW2_MAX_REFTABLE_BYTES) {
            table = QCOW2_MAX_REFTABLE_BYTES >> s->cluster_bits;
            if (base + MAX(blocks, 1) > table * per_cluster) {
                return false;
            }
        }
        if (blocks <= g->blocks && table <= g->table) {
            g->entries = g->table * per_cluster;
            return true;
        }
        g->blocks = max_i64(blocks, MAX(g->blocks, 1));
        g->table = max_i64(table, g->table);
    }
}

/* The new blocks, then the new table; nothing refers to them yet. */
static int co_write_growth(struct qcow2 *s, const struct growth *g,
                           uint64_t *table)
{
    int64_t end = g->first + g->table + g->blocks;
    int64_t base = g->first >> s->rb_bits;
    int ret = 0;

    memcpy(table, s->rt, (size_t)s->rt_size * 8);
    for (int64_t i = 0; ret == 0 && i < g->blocks; i++) {
        int64_t home = g->first + g->table + i;
        ret = co_write_block(s, home, (base + i) << s->rb_bits, g->first, end);
        table[base + i] = home << s->cluster_bits;
    }
    if (ret < 0) {
        return ret;
    }
    uint64_t *disk = io_buffer_try_alloc(qcow2_file(s), g->entries * 8);
    if (!disk) {
        return -ENOMEM;
    }
    for (uint64_t i = 0; i < g->entries; i++) {
        disk[i] = htobe64(table[i]);
    }
    co_node_debug_event(qcow2_file(s),
                        BLKDEBUG_EVENT_REFBLOCK_ALLOC_WRITE_TABLE);
    ret = co_node_pwrite(qcow2_file(s), g->first << s->cluster_bits, disk,
                         g->entries * 8, 0);
    io_buffer_free(disk);
    return ret;
}

static int co_switch_table(struct qcow2 *s, const struct growth *g)
{
    struct {
        uint64_t offset;
        uint32_t clusters;
    } __attribute__((packed))
    field = {htobe64(g->first << s->cluster_bits), htobe32(g->table)};

    co_node_debug_event(qcow2_file(s),
                        BLKDEBUG_EVENT_REFBLOCK_ALLOC_SWITCH_TABLE);
    /* Entries that are not yet on disk are in the new table: their blocks must
     * be, and whatever those count. */
    int ret = co_meta_cache_write_all(&s->rb);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret == 0) {
        ret = co_qcow2_write_field(
            s, offsetof(struct qcow2_disk_header, refcount_table_offset),
            &field, sizeof(field));
    }
    return ret;
}

static int co_grow_table(struct qcow2 *s, int64_t cluster)
{
    struct growth g;

    if (!plan_growth(s, cluster, &g)) {
        return -EFBIG;
    }
    int ret =
        co_qcow2_guard_new(s, "refcount table", g.first << s->cluster_bits,
                           (g.table + g.blocks) << s->cluster_bits);
    if (ret < 0) {
        return ret;
    }
    uint64_t *table = io_buffer_try_alloc(qcow2_file(s), g.entries * 8);
    if (!table) {
        return -ENOMEM;
    }
    memset(table, 0, g.entries * 8);
    co_mutex_lock(&s->commit_lock);
    struct free_run old = {s->header.refcount_table_offset,
                           (int64_t)s->rt_size * 8, FREE_OTHER};
    ret = co_write_growth(s, &g, table);
    if (ret == 0) {
        ret = co_switch_table(s, &g);
    }
    if (ret < 0) {
        co_mutex_unlock(&s->commit_lock);
        io_buffer_free(table);
        return ret;
    }
    io_buffer_free(s->rt);
    s->rt = table;
    s->rt_size = g.entries;
    s->rt_dirt = (struct table_dirt){0};
    qcow2_meta_add(s, g.first << s->cluster_bits,
                   (g.table + g.blocks) << s->cluster_bits);
    qcow2_note_used(s, g.first + g.table + g.blocks);
    /* The next commit makes the header stable before the old table is free. */
    g_array_append_val(s->frees[FREE_PENDING], old);
    co_mutex_unlock(&s->commit_lock);
    return 0;
}

int co_qcow2_reserve_refcounts(struct qcow2 *s, int64_t end)
{
    int ret = 0;

    co_mutex_lock(&s->alloc_lock);
    while (ret == 0 && end > (int64_t)s->rt_size << s->rb_bits) {
        ret = co_grow_table(s, (int64_t)s->rt_size << s->rb_bits);
    }
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

/* ---- one block ----------------------------------------------------------- */

int co_qcow2_make_refcount_block(struct qcow2 *s, int64_t cluster, int64_t home)
{
    int64_t i = cluster >> s->rb_bits, base = i << s->rb_bits;
    struct meta_entry *slice;
    bool self = home >> s->rb_bits == i;

    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_REFBLOCK_ALLOC);
    if (i >= s->rt_size && s->rt_shadowed) {
        return -EFBIG;
    }
    if (i >= s->rt_size) {
        int ret = co_grow_table(s, cluster);
        return ret < 0 ? ret : -EAGAIN;
    }
    int ret = co_qcow2_guard_new(s, "refcount block", home << s->cluster_bits,
                                 s->cluster_size);
    if (ret == 0) {
        ret =
            co_write_block(s, home, base, self ? home : 0, self ? home + 1 : 0);
    }
    if (ret < 0) {
        return ret;
    }
    qcow2_note_used(s, home + 1);
    if (!self) {
        ret = co_qcow2_refcount_slice(s, home, &slice);
        if (ret < 0) {
            return ret;
        }
        meta_entry_change(&s->rb, slice);
        s->refcount_set(slice->data,
                        home & ((INT64_C(1) << s->rslice_bits) - 1), 1);
    }
    qcow2_meta_add(s, home << s->cluster_bits, s->cluster_size);
    s->rt[i] = home << s->cluster_bits;
    table_dirt_add(&s->rt_dirt, i);
    return 0;
}
