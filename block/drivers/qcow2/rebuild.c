/*
 * New refcount structures, where the old ones cannot be trusted.
 *
 * Counts come from a survey. Each new block goes to the first cluster that
 * nothing refers to, the old structures counted as in use; the new table goes
 * where it fits. They are written, made stable, and take effect with one write
 * of the header, so an end at any time leaves the image as damaged as it was.
 *
 * Runs on the node's loop, on an image that nobody uses.
 */
#include "block/drivers/qcow2/survey.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include "util/error.h"

struct rebuild {
    struct survey *v;
    uint64_t *table;         /* in the host's byte order */
    int64_t entries;         /* of the table */
    int64_t place;           /* of the table: a cluster */
    int64_t search;          /* no cluster below is free */
    unsigned order, rb_bits; /* as in struct qcow2, of the new structures */
};

/* The first of n clusters that nothing refers to. */
static int64_t take(struct rebuild *r, int64_t n)
{
    int64_t run = 0, c = r->search;

    while (run < n) {
        run = qcow2_survey_count_at(r->v, c++) ? 0 : run + 1;
    }
    for (int64_t i = c - n; i < c; i++) {
        *qcow2_survey_count(r->v, i, true) = 1;
    }
    r->v->end = max_i64(r->v->end, c);
    r->search = n == 1 ? c : r->search;
    return c - n;
}

static bool range_used(struct rebuild *r, int64_t i)
{
    struct survey *v = r->v;
    int64_t base = i << r->rb_bits;
    int64_t end = min_i64(base + (INT64_C(1) << r->rb_bits), v->end);

    for (int64_t c = base; c < end; c++) {
        if (qcow2_survey_count_at(v, c)) {
            return true;
        }
    }
    return false;
}

/* Gives each range that is in use a block, and the table a place; a place may
 * put further ranges into use. */
static int plan(struct rebuild *r)
{
    struct survey *v = r->v;
    struct qcow2 *s = v->s;
    int64_t per_cluster = s->cluster_size / 8, clusters = 0;
    bool again = true;

    while (again) {
        again = false;
        for (int64_t i = 0; i << r->rb_bits < v->end; i++) {
            if (i >= QCOW2_MAX_REFTABLE_BYTES / 8) {
                return -EFBIG;
            }
            if (!r->table[i] && range_used(r, i)) {
                r->table[i] = (uint64_t)take(r, 1) << s->cluster_bits;
                again = true;
            }
            if (r->table[i]) {
                r->entries = max_i64(r->entries, i + 1);
            }
        }
        if (clusters < div_round_up(r->entries, per_cluster)) {
            /* What was taken before is free again: nothing is there yet. */
            for (int64_t c = 0; c < clusters; c++) {
                *qcow2_survey_count(v, r->place + c, true) = 0;
            }
            clusters = div_round_up(r->entries, per_cluster);
            r->place = take(r, clusters);
            again = true;
        }
    }
    r->entries = clusters * per_cluster;
    return 0;
}

/* What only the old structures were good for is free in the new ones. */
static void forget_old(struct survey *v)
{
    struct qcow2 *s = v->s;
    int64_t table = s->header.refcount_table_offset >> s->cluster_bits;

    for (int64_t c = 0; c < s->header.refcount_table_clusters; c++) {
        uint32_t *n = qcow2_survey_count(v, table + c, false);
        if (n && *n) {
            --*n;
        }
    }
    for (uint32_t i = 0; i < s->rt_size; i++) {
        int64_t c = (int64_t)(s->rt[i] >> s->cluster_bits);
        bool counted = s->rt[i] && c < v->clusters &&
                       !(s->rt[i] & (uint64_t)(s->cluster_size - 1));
        uint32_t *n = counted ? qcow2_survey_count(v, c, false) : NULL;
        if (n && *n) {
            --*n;
        }
    }
}

/* Refcounts of the new width, for a moment. */
static int co_write_blocks(struct rebuild *r)
{
    struct qcow2 *s = r->v->s;
    unsigned old_order = s->refcount_order;
    uint8_t *block = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);
    int64_t n = INT64_C(1) << r->rb_bits;
    int ret = block ? 0 : -ENOMEM;

    for (int64_t i = 0; ret == 0 && i << r->rb_bits < r->v->end; i++) {
        if (!r->table[i]) {
            continue;
        }
        memset(block, 0, s->cluster_size);
        s->refcount_order = r->order;
        qcow2_refcount_init(s);
        for (int64_t k = 0; k < n && (i << r->rb_bits) + k < r->v->end; k++) {
            uint32_t count = qcow2_survey_count_at(r->v, (i << r->rb_bits) + k);
            if (count > s->refcount_max) {
                ret = -ERANGE;
                break;
            }
            s->refcount_set(block, k, count);
        }
        s->refcount_order = old_order;
        qcow2_refcount_init(s);
        if (ret == 0) {
            ret = co_node_pwrite(qcow2_file(s), r->table[i], block,
                                 s->cluster_size, 0);
        }
    }
    io_buffer_free(block);
    return ret;
}

static void put_structures(struct header_area *h, void *opaque)
{
    const struct rebuild *r = opaque;
    const struct qcow2 *s = r->v->s;

    h->fields.refcount_table_offset = (uint64_t)r->place << s->cluster_bits;
    h->fields.refcount_table_clusters =
        (uint32_t)(r->entries * 8 >> s->cluster_bits);
    h->fields.refcount_order = r->order;
}

static int co_write_table(struct rebuild *r)
{
    struct qcow2 *s = r->v->s;
    uint64_t *disk = io_buffer_try_alloc(qcow2_file(s), r->entries * 8);
    int ret = disk ? 0 : -ENOMEM;

    for (int64_t i = 0; ret == 0 && i < r->entries; i++) {
        disk[i] = htobe64(r->table[i]);
    }
    if (ret == 0) {
        ret = co_node_pwrite(qcow2_file(s), r->place << s->cluster_bits, disk,
                             r->entries * 8, 0);
    }
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    io_buffer_free(disk);
    return ret;
}

/* Everything that knew the old structures. */
static bool co_adopt(struct rebuild *r, GError **error)
{
    struct qcow2 *s = r->v->s;

    meta_cache_forget(&s->rb);
    s->refcount_order = r->order;
    s->rb_bits = r->rb_bits;
    s->rslice_bits = g_bit_nth_lsf(s->rb.slice_size, -1) + 3 - r->order;
    qcow2_refcount_init(s);
    qcow2_survey_forget_refcounts(r->v);
    s->rt_dirt = (struct table_dirt){0};
    s->alloc_hint = 0;
    qcow2_note_used(s, r->v->end);
    return co_qcow2_reload_tables(s, error);
}

bool co_qcow2_rebuild_refcounts(struct survey *v, unsigned order,
                                GError **error)
{
    struct rebuild r = {
        .v = v, .order = order, .rb_bits = v->s->cluster_bits + 3 - order};

    r.table = g_try_malloc0(QCOW2_MAX_REFTABLE_BYTES);
    int ret = r.table ? plan(&r) : -ENOMEM;
    if (ret == 0) {
        forget_old(v);
        ret = co_write_blocks(&r);
    }
    if (ret == 0) {
        ret = co_write_table(&r);
    }
    bool ok = ret == 0 ? co_qcow2_edit_header(v->s, put_structures, &r, error)
                       : error_set_errno(error, ret,
                                         "Could not rebuild the "
                                         "refcount structures");
    ok = ok && co_adopt(&r, error);
    g_free(r.table);
    return ok;
}
