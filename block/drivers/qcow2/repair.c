/*
 * Refcounts from scratch, for an image that was not closed while its refcounts
 * were allowed to lag (the dirty bit; qcow2 specification, "Header",
 * incompatible features, bit 0).
 *
 * Everything that refers to clusters is read: header, tables, active and
 * snapshots' L1 and L2 tables. What is counted on disk is then made equal.
 * Memory follows the references that were read, not what the file claims to be.
 *
 * Runs on the node's loop, inside open: no request is there yet.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include "util/error.h"

#define COUNTS_BITS 8

/* Counts of 256 clusters. */
struct counts {
    uint32_t n[1 << COUNTS_BITS];
};

struct survey {
    struct qcow2 *s;
    GHashTable *counts; /* cluster >> COUNTS_BITS to struct counts */
    int64_t clusters;   /* of the file */
    uint64_t *table;    /* one L2 table */
};

static uint32_t *count_of(const struct survey *v, int64_t cluster, bool make)
{
    gpointer key = GSIZE_TO_POINTER((gsize)(cluster >> COUNTS_BITS));
    struct counts *c = g_hash_table_lookup(v->counts, key);

    if (!c && make) {
        c = g_new0(struct counts, 1);
        g_hash_table_insert(v->counts, key, c);
    }
    return c ? &c->n[cluster & ((1 << COUNTS_BITS) - 1)] : NULL;
}

static uint32_t count_at(const struct survey *v, int64_t cluster)
{
    const uint32_t *n = count_of(v, cluster, false);
    return n ? *n : 0;
}

/* One more reference to each cluster of the range; it must be in the file. */
static bool refer(struct survey *v, const char *what, uint64_t offset,
                  uint64_t bytes, GError **error)
{
    unsigned bits = v->s->cluster_bits;

    if (!bytes) {
        return true;
    }
    if (offset > (uint64_t)QCOW2_MAX_HOST_OFFSET ||
        (int64_t)((offset + bytes - 1) >> bits) >= v->clusters) {
        return error_set(
            error, "%s at offset %#" PRIx64 " lies beyond the end of the file",
            what, offset);
    }
    for (uint64_t c = offset >> bits; c <= (offset + bytes - 1) >> bits; c++) {
        (*count_of(v, c, true))++;
    }
    return true;
}

static bool co_survey_l2(struct survey *v, uint64_t offset, GError **error)
{
    struct qcow2 *s = v->s;

    if (!refer(v, "L2 table", offset, s->cluster_size, error)) {
        return false;
    }
    int ret =
        co_node_pread(qcow2_file(s), offset, v->table, s->cluster_size, 0);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not read L2 table");
    }
    for (int64_t i = 0; i < s->cluster_size / 8; i++) {
        struct mapping m;
        int64_t host, bytes;
        qcow2_decode_entry(s, be64toh(v->table[i]), &m);
        if (m.type == CLUSTER_COMPRESSED) {
            qcow2_compressed_extent(s, m.entry, &host, &bytes);
        } else {
            host = m.host;
            bytes = m.host ? s->cluster_size : 0;
        }
        if (!refer(v, "Data cluster", host, bytes, error)) {
            return false;
        }
    }
    return true;
}

static bool co_survey_l1(struct survey *v, const uint64_t *l1, uint32_t n,
                         uint64_t offset, GError **error)
{
    if (!refer(v, "L1 table", offset, (uint64_t)n * 8, error)) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint64_t l2 = l1[i] & QCOW2_OFFSET_MASK;
        if (l2 && !co_survey_l2(v, l2, error)) {
            return false;
        }
    }
    return true;
}

/* ---- snapshots ----------------------------------------------------------- */

/* qcow2 specification, "Snapshots": the fixed part of an entry. */
struct disk_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint16_t id_size, name_size;
    uint32_t seconds, nanoseconds;
    uint64_t vm_clock;
    uint32_t vm_state_size;
    uint32_t extra_size;
} __attribute__((packed));

static bool co_survey_snapshot(struct survey *v, const struct disk_snapshot *d,
                               GError **error)
{
    uint32_t n = be32toh(d->l1_size);
    uint64_t offset = be64toh(d->l1_offset);

    if (n > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "Snapshot L1 table too large");
    }
    uint64_t *l1 = io_buffer_try_alloc(qcow2_file(v->s), (size_t)n * 8 + 8);
    int ret = l1 ? 0 : -ENOMEM;
    if (ret == 0 && n) {
        ret = co_node_pread(qcow2_file(v->s), offset, l1, (int64_t)n * 8, 0);
    }
    bool ok;
    if (ret < 0) {
        ok = error_set_errno(error, ret, "Could not read snapshot L1 table");
    } else {
        for (uint32_t i = 0; i < n; i++) {
            l1[i] = be64toh(l1[i]);
        }
        ok = co_survey_l1(v, l1, n, offset, error);
    }
    io_buffer_free(l1);
    return ok;
}

static bool co_survey_snapshots(struct survey *v, GError **error)
{
    const struct qcow2_disk_header *h = &v->s->header;
    uint64_t at = h->snapshots_offset;

    for (uint32_t i = 0; i < h->nb_snapshots; i++) {
        struct disk_snapshot d;
        int ret = co_node_pread(qcow2_file(v->s), at, &d, sizeof(d), 0);
        if (ret < 0) {
            return error_set_errno(error, ret, "Could not read snapshot table");
        }
        if (!co_survey_snapshot(v, &d, error)) {
            return false;
        }
        at += align_up((int64_t)sizeof(d) + be32toh(d.extra_size) +
                           be16toh(d.id_size) + be16toh(d.name_size),
                       8);
        if (at > h->snapshots_offset + ((uint64_t)QCOW2_MAX_SNAPSHOTS << 10)) {
            return error_set(error, "Snapshot table too large");
        }
    }
    return refer(v, "Snapshot table", h->snapshots_offset,
                 at - h->snapshots_offset, error);
}

/* ---- everything ---------------------------------------------------------- */

static bool co_survey(struct survey *v, GError **error)
{
    struct qcow2 *s = v->s;

    if (!refer(v, "Header", 0, s->cluster_size, error) ||
        !refer(v, "Refcount table", s->header.refcount_table_offset,
               (uint64_t)s->rt_size * 8, error)) {
        return false;
    }
    for (uint32_t i = 0; i < s->rt_size; i++) {
        uint64_t block = s->rt[i] & QCOW2_REFTABLE_MASK;
        if (block &&
            !refer(v, "Refcount block", block, s->cluster_size, error)) {
            return false;
        }
    }
    return co_survey_l1(v, s->l1, s->l1_size, s->header.l1_table_offset,
                        error) &&
           co_survey_snapshots(v, error);
}

/* ---- making it so -------------------------------------------------------- */

/* A block for the range of cluster, in a cluster of it that nobody uses. */
static int co_add_block(struct survey *v, int64_t cluster)
{
    struct qcow2 *s = v->s;
    int64_t base = cluster >> s->rb_bits << s->rb_bits;
    int64_t home = base;

    if (cluster >> s->rb_bits >= s->rt_size) {
        return -EFBIG;
    }
    while (count_at(v, home)) {
        if (++home == base + (INT64_C(1) << s->rb_bits)) {
            return -ENOSPC;
        }
    }
    co_mutex_lock(&s->alloc_lock);
    int ret = co_qcow2_make_refcount_block(s, cluster, home);
    co_mutex_unlock(&s->alloc_lock);
    if (ret == 0) {
        *count_of(v, home, true) = 1;
    }
    return ret;
}

static int co_set_count(struct survey *v, int64_t cluster, uint32_t want)
{
    uint64_t now;
    int ret = co_qcow2_refcount(v->s, cluster, &now);

    if (ret < 0 || now == want) {
        return ret;
    }
    ret = co_qcow2_refcount_force(v->s, cluster, want);
    if (ret == -ENOENT && want) {
        ret = co_add_block(v, cluster);
        if (ret == 0) {
            ret = co_qcow2_refcount_force(v->s, cluster, want);
        }
    }
    return ret;
}

/* What is used must be counted before what is counted too high is found, as new
 * blocks come first. */
static int co_count_used(struct survey *v)
{
    g_autoptr(GArray) keys = g_array_new(false, false, sizeof(gpointer));
    GHashTableIter iter;
    gpointer key;
    int ret = 0;

    g_hash_table_iter_init(&iter, v->counts);
    while (g_hash_table_iter_next(&iter, &key, NULL)) {
        g_array_append_val(keys, key);
    }
    for (unsigned i = 0; ret == 0 && i < keys->len; i++) {
        int64_t first =
            (int64_t)GPOINTER_TO_SIZE(g_array_index(keys, gpointer, i))
            << COUNTS_BITS;
        for (int64_t c = first; ret == 0 && c < first + (1 << COUNTS_BITS);
             c++) {
            uint32_t want = count_at(v, c);
            ret = want ? co_set_count(v, c, want) : 0;
        }
    }
    return ret;
}

static int co_uncount_unused(struct survey *v)
{
    struct qcow2 *s = v->s;
    int64_t per_block = INT64_C(1) << s->rb_bits;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < s->rt_size; i++) {
        if (!(s->rt[i] & QCOW2_REFTABLE_MASK)) {
            continue;
        }
        for (int64_t c = i * per_block; ret == 0 && c < (i + 1) * per_block;
             c++) {
            if (!count_at(v, c)) {
                ret = co_set_count(v, c, 0);
            }
        }
    }
    return ret;
}

static bool co_repair(struct survey *v, GError **error)
{
    if (!co_survey(v, error)) {
        return false;
    }
    int ret = co_count_used(v);
    if (ret == 0) {
        ret = co_uncount_unused(v);
    }
    if (ret == 0) {
        ret = co_qcow2_commit(v->s);
    }
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(v->s));
    }
    return ret == 0 ||
           error_set_errno(error, ret, "Could not repair the refcounts");
}

bool co_qcow2_repair_refcounts(struct qcow2 *s, GError **error)
{
    struct survey v = {
        .s = s,
        .counts = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .clusters = div_round_up(qcow2_file(s)->length, s->cluster_size),
        .table = io_buffer_try_alloc(qcow2_file(s), s->cluster_size),
    };
    bool ok = v.table ? co_repair(&v, error)
                      : error_set_errno(error, ENOMEM,
                                        "Could not repair the refcounts");

    io_buffer_free(v.table);
    g_hash_table_destroy(v.counts);
    return ok;
}
