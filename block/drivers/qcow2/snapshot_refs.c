/*
 * References of L1 tables, and COPIED flags; see snapshot_refs.h.
 *
 * Each way from an L1 table to a cluster counts: a cluster in an L2 table that
 * two L1 tables share counts twice. Counts change in runs of neighbours.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/snapshot_refs.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include "block/drivers/qcow2/qcow2.h"
#include "block/drivers/qcow2/table_walk.h"

/* ---- counts -------------------------------------------------------------- */

/* One more, or one less: a count that would become zero stays, and its cluster
 * is noted. */
static int change_count(struct qcow2 *s, struct meta_entry *slice, int64_t c,
                        int change, struct hbitmap *gone)
{
    int64_t offset = c << s->cluster_bits;
    uint64_t value =
        slice ? s->refcount_get(slice->data,
                                c & ((INT64_C(1) << s->rslice_bits) - 1))
              : 0;
    bool none = !value || (value == 1 && offset < hbitmap_size(gone) &&
                           hbitmap_get(gone, offset));

    if (none || (change < 0 && offset >= hbitmap_size(gone))) {
        return -EIO;
    }
    if (change > 0 && value == s->refcount_max) {
        return -EINVAL;
    }
    if (change < 0 && value == 1) {
        hbitmap_set(gone, offset, s->cluster_size);
        return 0;
    }
    s->refcount_set(slice->data, c & ((INT64_C(1) << s->rslice_bits) - 1),
                    value + change);
    return 0;
}

int co_qcow2_refcount_add(struct qcow2 *s, int64_t offset, int64_t bytes,
                          int change, struct hbitmap *gone)
{
    int64_t c = offset >> s->cluster_bits,
            end = (offset + bytes) >> s->cluster_bits;
    int ret = 0;

    assert(is_aligned(offset | bytes, s->cluster_size));
    co_mutex_lock(&s->alloc_lock);
    while (ret == 0 && c < end) {
        struct meta_entry *slice;
        ret = co_qcow2_refcount_to_change(s, c, &slice);
        if (ret < 0) {
            break;
        }
        if (slice) {
            meta_entry_change(&s->rb, slice);
        }
        do {
            ret = change_count(s, slice, c, change, gone);
            c++;
        } while (ret == 0 && c < end &&
                 (c & ((INT64_C(1) << s->rslice_bits) - 1)));
    }
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

/* Clusters that follow each other in the file, not yet counted. */
struct run {
    int64_t offset, bytes;
};

struct walk {
    struct qcow2 *s;
    struct l1_change *c;
    struct run run;
};

static int co_count_run(struct walk *w)
{
    int ret = co_qcow2_refcount_add(w->s, w->run.offset, w->run.bytes,
                                    w->c->count, w->c->gone);
    w->run.bytes = 0;
    return ret;
}

static int co_count(struct walk *w, int64_t offset, int64_t bytes)
{
    struct run *run = &w->run;
    int ret = 0;

    if (run->bytes && run->offset + run->bytes != offset) {
        ret = co_count_run(w);
    }
    if (!run->bytes) {
        run->offset = offset;
    }
    run->bytes += bytes;
    return ret;
}

static int co_count_entry(struct walk *w, const struct mapping *m)
{
    struct qcow2 *s = w->s;
    int64_t host, bytes;

    if (m->type != CLUSTER_COMPRESSED) {
        return m->host ? co_count(w, m->host, s->cluster_size) : 0;
    }
    qcow2_compressed_extent(s, m->entry, &host, &bytes);
    int64_t start = align_down(host, s->cluster_size);
    return co_count(w, start, align_up(host + bytes, s->cluster_size) - start);
}

/* The table itself, and what is in it. */
static int co_count_table(struct walk *w, const struct table_seen *seen)
{
    struct qcow2 *s = w->s;
    int64_t guest = (int64_t)seen->index << (s->l2_bits + s->cluster_bits);
    int ret = co_qcow2_refcount_add(s, seen->offset, s->cluster_size,
                                    w->c->count, w->c->gone);

    for (int64_t i = 0; ret == 0 && i < INT64_C(1) << s->l2_bits; i++) {
        const uint64_t *at = qcow2_entry_at(s, seen->table, i);
        struct mapping m;
        if (!*at) {
            continue;
        }
        qcow2_decode_entry(s, be64toh(*at), &m);
        ret = co_qcow2_check_entry(s, guest + (i << s->cluster_bits), &m,
                                   MAP_READ);
        if (ret == 0) {
            ret = co_count_entry(w, &m);
        }
    }
    return ret < 0 || !w->run.bytes ? ret : co_count_run(w);
}

/* ---- flags --------------------------------------------------------------- */

/* Whether what is at host has the flag. */
static int co_wanted(struct walk *w, int64_t host, bool *wanted)
{
    uint64_t count = 0;
    int ret = w->c->flags == FLAGS_BY_COUNT
                  ? co_qcow2_refcount(w->s, host >> w->s->cluster_bits, &count)
                  : 0;

    *wanted = count == 1;
    return ret;
}

/* alone: the table has no other owner, so its clusters may have none. */
static int co_flag_entries(struct walk *w, const struct table_seen *seen,
                           bool alone, bool *changed)
{
    struct qcow2 *s = w->s;
    int ret = 0;

    *changed = false;
    for (int64_t i = 0; ret == 0 && i < INT64_C(1) << s->l2_bits; i++) {
        uint64_t *at = qcow2_entry_at(s, seen->table, i);
        uint64_t entry = be64toh(*at);
        int64_t host = entry & QCOW2_OFFSET_MASK;
        bool wanted = false;
        if (!host || (entry & QCOW2_COMPRESSED)) {
            continue;
        }
        if (alone) {
            ret = co_wanted(w, host, &wanted);
        }
        if (wanted != !!(entry & QCOW2_COPIED)) {
            *at = htobe64(entry ^ QCOW2_COPIED);
            *changed = true;
        }
    }
    return ret;
}

/* Another table takes the place of the one that was seen. */
static int co_replace_table(struct walk *w, const struct table_seen *seen,
                            int64_t *place)
{
    struct qcow2 *s = w->s;

    *place = co_qcow2_alloc_contiguous(s, 1, "L2 table");
    if (*place < 0) {
        return *place;
    }
    qcow2_meta_add(s, *place, s->cluster_size);
    int ret =
        co_node_pwrite(qcow2_file(s), *place, seen->table, s->cluster_size, 0);
    for (unsigned i = 0; ret == 0 && i < w->c->owners; i++) {
        ret = co_qcow2_refcount_add(s, seen->offset, s->cluster_size, -1,
                                    w->c->gone);
        if (ret == 0 && i) {
            ret = co_qcow2_refcount_add(s, *place, s->cluster_size, 1,
                                        w->c->gone);
        }
    }
    return ret;
}

static int co_flag_table(struct walk *w, const struct table_seen *seen)
{
    struct l1_change *c = w->c;
    int64_t place = seen->offset;
    bool alone, changed;
    int ret = co_wanted(w, seen->offset, &alone);

    if (ret == 0) {
        ret = co_flag_entries(w, seen, alone, &changed);
    }
    if (ret == 0 && changed) {
        ret = co_replace_table(w, seen, &place);
        alone = c->owners == 1;
    }
    if (ret < 0) {
        return ret;
    }
    uint64_t entry = place | (alone ? QCOW2_COPIED : 0);
    c->changed = c->changed || entry != c->l1[seen->index];
    c->l1[seen->index] = entry;
    return 0;
}

/* ---- tables -------------------------------------------------------------- */

static int co_see_table(void *opaque, const struct table_seen *seen)
{
    struct walk *w = opaque;
    struct qcow2 *s = w->s;

    if (seen->ret < 0) {
        return seen->ret;
    }
    if (seen->offset & (uint64_t)(s->cluster_size - 1)) {
        return co_qcow2_corrupt(s, -1, -1,
                                "L2 table offset %#" PRIx64
                                " unaligned (L1 index: %#" PRIx32 ")",
                                seen->offset, seen->index);
    }
    int ret = w->c->count ? co_count_table(w, seen) : 0;
    return ret < 0 || w->c->flags == FLAGS_STAY ? ret : co_flag_table(w, seen);
}

int co_qcow2_change_l1(struct qcow2 *s, struct l1_change *c)
{
    struct walk w = {.s = s, .c = c};

    return co_qcow2_walk_tables(s, c->l1, c->n, co_see_table, &w);
}
