/*
 * The order in which metadata reaches the disk.
 *
 * L2 slices, L1 entries, refcounts and refcount table entries change in memory
 * and stay there until a commit: at a flush, when a cache is full, at close,
 * and when what was written has to survive the process, as far as reserve.c has
 * not made that cheaper. A commit takes what is dirty at its begin, and
 *
 *   1. writes the refcounts;
 *   2. flushes the file: now stable are these refcounts, all new blocks and
 *      tables, and all guest data that the L2 entries to come point to;
 *   3. if there are new refcount blocks: writes their table entries and
 *      flushes, for each sector of the table;
 *   4. writes the L2 slices and L1 entries;
 *   5. if clusters lost a reference: flushes, and lets them be freed.
 *
 * While refcounts lag (lazy.c) step 1 is left out but for step 3, and step 2
 * where nothing needs it.
 *
 * So a cluster that any table on disk refers to is counted on disk, and a crash
 * between any two writes leaves clusters counted that nobody refers to, at
 * worst. The guest's flush itself is the engine's, after step 4.
 *
 * Changes go on meanwhile; they belong to the next commit. Runs on the node's
 * loop; one commit at a time.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>

/* What a commit has taken out of the state, and puts back if it fails. */
struct commit {
    struct table_dirt l1, rt;
    uint64_t *l1_entries, *rt_entries; /* as they go to disk */
    GArray *frees;
    uint64_t reserve; /* the last one made by now */
    bool needs_order;
};

static uint64_t *snapshot(const uint64_t *table, const struct table_dirt *d)
{
    if (d->lo >= d->hi) {
        return NULL;
    }
    uint64_t *copy = g_new(uint64_t, d->hi - d->lo);
    for (uint32_t i = d->lo; i < d->hi; i++) {
        copy[i - d->lo] = htobe64(table[i]);
    }
    return copy;
}

static void commit_begin(struct qcow2 *s, struct commit *c)
{
    *c = (struct commit){
        .l1 = s->l1_dirt,
        .rt = s->rt_dirt,
        .l1_entries = snapshot(s->l1, &s->l1_dirt),
        .rt_entries = snapshot(s->rt, &s->rt_dirt),
        .frees = s->frees[FREE_PENDING],
        .reserve = s->reserve.generation,
        .needs_order = s->needs_order,
    };
    s->needs_order = false;
    s->rt_committing = c->rt_entries != NULL;
    s->l1_dirt = s->rt_dirt = (struct table_dirt){0};
    s->frees[FREE_PENDING] = g_array_new(false, false, sizeof(struct free_run));
    meta_cache_freeze(&s->l2);
}

static void dirt_merge(struct table_dirt *to, const struct table_dirt *from)
{
    if (from->lo < from->hi) {
        table_dirt_add(to, from->lo);
        table_dirt_add(to, from->hi - 1);
    }
}

static void commit_end(struct qcow2 *s, struct commit *c, int ret)
{
    s->rt_committing = false;
    if (ret < 0) {
        meta_cache_unfreeze(&s->l2);
        dirt_merge(&s->l1_dirt, &c->l1);
        dirt_merge(&s->rt_dirt, &c->rt);
        s->needs_order = s->needs_order || c->needs_order;
    } else {
        s->reserve.stable = MAX(s->reserve.stable, c->reserve);
    }
    qcow2_frees_append(s->frees[ret < 0 ? FREE_PENDING : FREE_STABLE],
                       c->frees);
    g_array_free(c->frees, true);
    g_free(c->l1_entries);
    g_free(c->rt_entries);
}

static int co_write_entries(struct qcow2 *s, enum meta_table table,
                            const struct table_dirt *d, const uint64_t *entries)
{
    int64_t offset = table == META_ACTIVE_L1 ? s->header.l1_table_offset
                                             : s->header.refcount_table_offset;
    int64_t bytes = (int64_t)(d->hi - d->lo) * 8;

    offset += (int64_t)d->lo * 8;
    int ret = co_qcow2_guard_table(s, table, offset, bytes);
    return ret < 0 ? ret
                   : co_node_pwrite(qcow2_file(s), offset, entries, bytes, 0);
}

/* A new block may lie where another new one counts, whose entry is in an
 * earlier sector of the table; and a crash may cut a write between two sectors.
 */
static int co_hook_up_blocks(struct qcow2 *s, const struct commit *c)
{
    enum { PER_SECTOR = BLOCK_SECTOR_SIZE / 8 };
    struct table_dirt part = c->rt;
    int ret = 0;

    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_REFBLOCK_ALLOC_HOOKUP);
    while (ret == 0 && part.lo < c->rt.hi) {
        part.hi = MIN(c->rt.hi, (part.lo / PER_SECTOR + 1) * PER_SECTOR);
        ret = co_write_entries(s, META_REFCOUNT_TABLE, &part,
                               c->rt_entries + (part.lo - c->rt.lo));
        if (ret == 0) {
            ret = co_node_flush(qcow2_file(s));
        }
        part.lo = part.hi;
    }
    return ret;
}

int co_qcow2_flush_files(struct qcow2 *s)
{
    int ret = s->external ? co_node_flush(qcow2_data(s)) : 0;

    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

static int co_write_in_order(struct qcow2 *s, const struct commit *c)
{
    int ret =
        s->lagging && !c->rt_entries ? 0 : co_meta_cache_write_all(&s->rb);

    if (ret == 0 && (!s->lagging || c->needs_order || c->rt_entries)) {
        ret = co_qcow2_flush_files(s);
    }
    if (ret == 0 && c->rt_entries) {
        ret = co_hook_up_blocks(s, c);
    }
    if (ret == 0) {
        ret = co_meta_cache_write(&s->l2, 0);
    }
    if (ret == 0 && c->l1_entries) {
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_L1_UPDATE);
        ret = co_write_entries(s, META_ACTIVE_L1, &c->l1, c->l1_entries);
    }
    if (ret == 0 && c->frees->len) {
        ret = co_node_flush(qcow2_file(s));
    }
    return ret;
}

static bool refcounts_due(const struct qcow2 *s)
{
    return s->rb.n_dirty && !s->lagging;
}

int co_qcow2_commit_locked(struct qcow2 *s)
{
    struct commit c;

    if (s->broken) {
        return -EIO;
    }
    if (!s->l2.n_dirty && s->l1_dirt.lo >= s->l1_dirt.hi &&
        s->rt_dirt.lo >= s->rt_dirt.hi && !s->frees[FREE_PENDING]->len) {
        return refcounts_due(s) ? co_meta_cache_write_all(&s->rb) : 0;
    }
    commit_begin(s, &c);
    int ret = co_write_in_order(s, &c);
    commit_end(s, &c, ret);
    return ret;
}

int co_qcow2_commit(struct qcow2 *s)
{
    co_mutex_lock(&s->commit_lock);
    int ret = co_qcow2_commit_locked(s);
    co_mutex_unlock(&s->commit_lock);
    qcow2_frees_advance(s);
    co_qcow2_apply_frees(s);
    return ret;
}

static bool mapping_written(const struct qcow2 *s)
{
    return !s->l2.n_dirty && s->l1_dirt.lo >= s->l1_dirt.hi;
}

/* What is in memory only is then the refcounts of clusters that no table in the
 * file refers to. */
static int co_write_mapping(struct qcow2 *s)
{
    if (s->needs_order || s->l1_dirt.lo < s->l1_dirt.hi) {
        return co_qcow2_commit_locked(s);
    }
    if (s->broken) {
        return -EIO;
    }
    meta_cache_freeze(&s->l2);
    return co_meta_cache_write(&s->l2, 0);
}

int co_qcow2_write_back(struct node *node)
{
    struct qcow2 *s = node->state;
    int ret = 0;

    s->ends_survive = true;
    if (G_LIKELY(mapping_written(s) && !s->commit_lock.owner)) {
        return 0;
    }
    /* Who has the lock may be about to write what this caller waits for; and
     * while one commits, others wait here for the one after it. */
    co_mutex_lock(&s->commit_lock);
    if (!mapping_written(s)) {
        ret = co_write_mapping(s);
    }
    co_mutex_unlock(&s->commit_lock);
    if (ret == 0) {
        co_qcow2_reserve_ahead(s);
    }
    return ret;
}
