/*
 * The guard of metadata; see guard.h.
 *
 * Bits are set for tables that the option does not choose, too, and stay for a
 * while when a table has moved: they only say where to look. Metadata that a
 * damaged image places beyond its own end are left out; they are found out when
 * they are used.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/guard.h"

#include <endian.h>
#include <errno.h>
#include "block/drivers/qcow2/qcow2.h"
#include "qapi/types.h"

/* ---- the option ---------------------------------------------------------- */

#define CONSTANT                                                            \
    (1u << META_HEADER | 1u << META_ACTIVE_L1 | 1u << META_REFCOUNT_TABLE | \
     1u << META_SNAPSHOT_TABLE | 1u << META_BITMAPS)
#define CACHED                                                     \
    (CONSTANT | 1u << META_ACTIVE_L2 | 1u << META_REFCOUNT_BLOCK | \
     1u << META_INACTIVE_L1)

static unsigned template_choice(enum qcow2_overlap_check_mode mode)
{
    static const unsigned choices[] = {
        [QCOW2_OVERLAP_CHECK_MODE_NONE] = 0,
        [QCOW2_OVERLAP_CHECK_MODE_CONSTANT] = CONSTANT,
        [QCOW2_OVERLAP_CHECK_MODE_CACHED] = CACHED,
        [QCOW2_OVERLAP_CHECK_MODE_ALL] = (1u << META_TABLES) - 1,
    };

    return choices[mode];
}

unsigned qcow2_guard_choice(const struct qcow2_overlap_checks *checks)
{
    if (!checks) {
        return CACHED;
    }
    if (checks->kind == QAPI_KIND_STRING) {
        return template_choice(checks->u.mode);
    }
    const struct qcow2_overlap_check_flags *f = &checks->u.flags;
    unsigned choice = f->has_template ? template_choice(f->template) : CACHED;
    const struct {
        bool given, value;
        enum meta_table table;
    } flags[] = {
        {f->has_main_header, f->main_header, META_HEADER},
        {f->has_active_l1, f->active_l1, META_ACTIVE_L1},
        {f->has_active_l2, f->active_l2, META_ACTIVE_L2},
        {f->has_refcount_table, f->refcount_table, META_REFCOUNT_TABLE},
        {f->has_refcount_block, f->refcount_block, META_REFCOUNT_BLOCK},
        {f->has_snapshot_table, f->snapshot_table, META_SNAPSHOT_TABLE},
        {f->has_inactive_l1, f->inactive_l1, META_INACTIVE_L1},
        {f->has_inactive_l2, f->inactive_l2, META_INACTIVE_L2},
        {f->has_bitmap_directory, f->bitmap_directory, META_BITMAPS},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(flags); i++) {
        if (flags[i].given) {
            choice &= ~(1u << flags[i].table);
            choice |= (unsigned)flags[i].value << flags[i].table;
        }
    }
    return choice;
}

/* ---- the bits ------------------------------------------------------------ */

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

/* Where the bits of a range end; what begins outside of them has none. A
 * damaged table may name any offset, so nothing is added to it here. */
static int64_t end_of_bits(const struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t size = hbitmap_size(s->meta);

    return offset < 0 || offset >= size
               ? INT64_MIN
               : offset + min_i64(bytes, size - offset);
}

void qcow2_meta_remove(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t end = end_of_bits(s, offset, bytes);

    if (offset < end) {
        hbitmap_clear(s->meta, offset, end - offset);
    }
}

bool qcow2_meta_overlaps(const struct qcow2 *s, int64_t offset, int64_t bytes)
{
    int64_t end = end_of_bits(s, offset, bytes);

    for (int64_t at = align_down(offset, s->cluster_size); at < end;
         at += s->cluster_size) {
        if (hbitmap_get(s->meta, at)) {
            return true;
        }
    }
    return false;
}

/* A table, as an open image says where it is. */
static void add_within(struct qcow2 *s, uint64_t offset, int64_t bytes)
{
    if (bytes && range_within(offset, bytes, hbitmap_size(s->meta))) {
        s->guard.tangled |= qcow2_meta_overlaps(s, offset, bytes);
        qcow2_meta_add(s, offset, bytes);
    }
}

bool qcow2_guard_build(struct qcow2 *s)
{
    int64_t size = align_up(qcow2_file(s)->length, s->cluster_size);

    s->meta = hbitmap_new(max_i64(size, s->cluster_size), s->cluster_size);
    if (!s->meta) {
        return false;
    }
    s->guard.tangled = false;
    /* L2 tables first: several L1 entries may name the same. */
    const uint64_t *l1 = s->l1, *end = l1 + s->l1_size;
    for (; l1 < end; l1++) {
        uint64_t table = *l1 & QCOW2_OFFSET_MASK;
        if (table && range_within(table, s->cluster_size, size)) {
            qcow2_meta_add(s, table, s->cluster_size);
        }
    }
    add_within(s, 0, s->cluster_size);
    add_within(s, s->header.l1_table_offset, (int64_t)s->l1_size * 8);
    add_within(s, s->header.refcount_table_offset, (int64_t)s->rt_size * 8);
    for (uint32_t i = 0; i < s->rt_size; i++) {
        uint64_t block = s->rt[i] & QCOW2_REFTABLE_MASK;
        add_within(s, block, block ? s->cluster_size : 0);
    }
    return true;
}

void qcow2_guard_snapshots(struct qcow2 *s)
{
    const struct qcow2_snapshots *t = &s->snapshots;
    struct qcow2_guard *g = &s->guard;
    struct table_place table = {s->header.snapshots_offset, t->table_bytes};

    if (!g->inactive_l1) {
        g->inactive_l1 = g_array_new(false, false, sizeof(struct table_place));
    }
    g_array_set_size(g->inactive_l1, 0);
    for (unsigned i = 0; i < t->list->len; i++) {
        const struct qcow2_snapshot *sn = g_ptr_array_index(t->list, i);
        struct table_place p = {sn->l1_offset, (int64_t)sn->l1_size * 8};
        if (p.bytes <= QCOW2_MAX_L1_BYTES && p.offset > 0 &&
            range_within(p.offset, p.bytes, hbitmap_size(s->meta))) {
            g_array_append_val(g->inactive_l1, p);
            qcow2_meta_add(s, p.offset, p.bytes);
        }
    }
    if (!range_within(table.offset, table.bytes, hbitmap_size(s->meta))) {
        table = (struct table_place){0};
    }
    g->snapshots = table;
    qcow2_meta_add(s, table.offset, table.bytes);
}

/* ---- the L2 tables of snapshots ------------------------------------------ */

typedef bool l2_table_fn(struct qcow2 *s, int64_t offset, void *opaque);

/* Calls fn for each L2 table of each snapshot until it returns true: 1. */
static int co_each_inactive_l2(struct qcow2 *s, l2_table_fn *fn, void *opaque)
{
    for (unsigned i = 0; s->guard.inactive_l1 && i < s->guard.inactive_l1->len;
         i++) {
        struct table_place p =
            g_array_index(s->guard.inactive_l1, struct table_place, i);
        uint64_t *l1 = io_buffer_try_alloc(qcow2_file(s), p.bytes + 8);
        int ret = l1 ? 0 : -ENOMEM;
        if (ret == 0 && p.bytes) {
            ret = co_node_pread(qcow2_file(s), p.offset, l1, p.bytes, 0);
        }
        for (int64_t k = 0; ret == 0 && k < p.bytes / 8; k++) {
            int64_t table = be64toh(l1[k]) & QCOW2_OFFSET_MASK;
            ret = table && fn(s, table, opaque);
        }
        io_buffer_free(l1);
        if (ret) {
            return ret;
        }
    }
    return 0;
}

static bool add_table(struct qcow2 *s, int64_t offset, void *opaque)
{
    if (range_within(offset, s->cluster_size, hbitmap_size(s->meta))) {
        qcow2_meta_add(s, offset, s->cluster_size);
    }
    return false;
}

int co_qcow2_guard_inactive(struct qcow2 *s)
{
    return co_each_inactive_l2(s, add_table, NULL);
}

/* ---- who is there -------------------------------------------------------- */

/* Whole clusters that are to be written. */
struct target {
    int64_t start, end;
    const char *hit; /* what is there */
};

static bool hits(const struct qcow2 *s, const struct target *t, int64_t offset,
                 int64_t bytes)
{
    return bytes && offset < t->end &&
           align_up(offset + bytes, s->cluster_size) > t->start;
}

static bool hits_place(const struct qcow2 *s, const struct target *t,
                       const struct table_place *p)
{
    return hits(s, t, p->offset, p->bytes);
}

static bool hits_header(const struct qcow2 *s, struct target *t)
{
    return t->start == 0;
}

static bool hits_active_l1(const struct qcow2 *s, struct target *t)
{
    return hits(s, t, s->header.l1_table_offset, (int64_t)s->l1_size * 8);
}

static bool hits_active_l2(const struct qcow2 *s, struct target *t)
{
    for (uint32_t i = 0; i < s->l1_size; i++) {
        int64_t table = s->l1[i] & QCOW2_OFFSET_MASK;
        if (table && hits(s, t, table, s->cluster_size)) {
            return true;
        }
    }
    return false;
}

static bool hits_refcount_table(const struct qcow2 *s, struct target *t)
{
    return hits(s, t, s->header.refcount_table_offset, (int64_t)s->rt_size * 8);
}

static bool hits_refcount_block(const struct qcow2 *s, struct target *t)
{
    for (uint32_t i = 0; i < s->rt_size; i++) {
        int64_t block = s->rt[i] & QCOW2_REFTABLE_MASK;
        if (block > 0 && block < QCOW2_MAX_HOST_OFFSET &&
            hits(s, t, block, s->cluster_size)) {
            return true;
        }
    }
    return false;
}

static bool hits_snapshot_table(const struct qcow2 *s, struct target *t)
{
    return hits_place(s, t, &s->guard.snapshots);
}

static bool hits_inactive_l1(const struct qcow2 *s, struct target *t)
{
    const GArray *l1 = s->guard.inactive_l1;

    for (unsigned i = 0; l1 && i < l1->len; i++) {
        if (hits_place(s, t, &g_array_index(l1, struct table_place, i))) {
            return true;
        }
    }
    return false;
}

/* False ends the walk. */
static bool miss_bitmap(void *opaque, const char *what, uint64_t offset,
                        uint64_t bytes, GError **error)
{
    struct target *t = opaque;

    if (offset < (uint64_t)t->end && offset + bytes > (uint64_t)t->start) {
        t->hit = what;
        return false;
    }
    return true;
}

static bool hits_bitmaps(const struct qcow2 *s, struct target *t)
{
    return !qcow2_bitmaps_walk(s, miss_bitmap, t, NULL);
}

static bool same_table(struct qcow2 *s, int64_t offset, void *opaque)
{
    return hits(s, opaque, offset, s->cluster_size);
}

static const struct {
    const char *name;
    bool (*hits)(const struct qcow2 *s, struct target *t);
} tables[META_TABLES] = {
    [META_HEADER] = {"qcow2_header", hits_header},
    [META_ACTIVE_L1] = {"active L1 table", hits_active_l1},
    [META_ACTIVE_L2] = {"active L2 table", hits_active_l2},
    [META_REFCOUNT_TABLE] = {"refcount table", hits_refcount_table},
    [META_REFCOUNT_BLOCK] = {"refcount block", hits_refcount_block},
    [META_SNAPSHOT_TABLE] = {"snapshot table", hits_snapshot_table},
    [META_INACTIVE_L1] = {"inactive L1 table", hits_inactive_l1},
    [META_INACTIVE_L2] = {"inactive L2 table", NULL}, /* takes reading */
    [META_BITMAPS] = {NULL, hits_bitmaps},
};

/* 1: t->hit is what is there. */
static int co_find(struct qcow2 *s, unsigned chosen, struct target *t)
{
    for (unsigned i = 0; i < META_TABLES; i++) {
        if ((chosen >> i & 1) && tables[i].hits && tables[i].hits(s, t)) {
            t->hit = tables[i].name ? tables[i].name : t->hit;
            return 1;
        }
    }
    int ret = chosen >> META_INACTIVE_L2 & 1
                  ? co_each_inactive_l2(s, same_table, t)
                  : 0;
    t->hit = tables[META_INACTIVE_L2].name;
    return ret;
}

int co_qcow2_guard(struct qcow2 *s, unsigned except, int64_t offset,
                   int64_t bytes)
{
    struct target t = {.start = align_down(offset, s->cluster_size),
                       .end = align_up(offset + bytes, s->cluster_size)};

    int ret = qcow2_meta_overlaps(s, offset, bytes)
                  ? co_find(s, s->guard.chosen & ~except, &t)
                  : 0;
    if (ret <= 0) {
        return ret;
    }
    return co_qcow2_corrupt(s, offset, bytes,
                            "Preventing invalid write on metadata (overlaps "
                            "with %s)",
                            t.hit);
}

int co_qcow2_guard_new(struct qcow2 *s, const char *what, int64_t offset,
                       int64_t bytes)
{
    int ret = offset || !what ? co_qcow2_guard(s, 0, offset, bytes) : 0;

    if (G_LIKELY(offset) || ret < 0) {
        return ret;
    }
    /* No table could say that something is there. */
    return co_qcow2_corrupt(s, offset, bytes,
                            "Preventing invalid allocation of %s at offset 0",
                            what ? what : "data cluster");
}
