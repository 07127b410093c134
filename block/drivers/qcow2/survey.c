/*
 * Reading all that refers to clusters, to count it; L1 and L2 tables are
 * survey_tables.c's.
 */
#include "block/drivers/qcow2/survey.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/check_report.h"
#include "util/error.h"

bool qcow2_survey_init(struct survey *v, struct qcow2 *s)
{
    *v = (struct survey){
        .s = s,
        .count = true,
        .counts = g_hash_table_new_full(NULL, NULL, NULL, g_free),
        .clusters = div_round_up(qcow2_file(s)->length, s->cluster_size),
        .counts_at = -1,
        .refs = g_try_malloc(s->rb.slice_size),
        .refs_at = -1,
    };
    return v->refs;
}

void qcow2_survey_clear(struct survey *v)
{
    g_free(v->refs);
    g_hash_table_destroy(v->counts);
}

uint32_t *qcow2_survey_count(struct survey *v, int64_t cluster, bool make)
{
    int64_t at = cluster >> SURVEY_COUNTS_BITS;

    if (at != v->counts_at || (make && !v->counts_now)) {
        gpointer key = GSIZE_TO_POINTER((gsize)at);
        v->counts_at = at;
        v->counts_now = g_hash_table_lookup(v->counts, key);
        if (!v->counts_now && make) {
            v->counts_now = g_new0(struct survey_counts, 1);
            g_hash_table_insert(v->counts, key, v->counts_now);
        }
    }
    return v->counts_now
               ? &v->counts_now->n[cluster & ((1 << SURVEY_COUNTS_BITS) - 1)]
               : NULL;
}

uint32_t qcow2_survey_count_at(struct survey *v, int64_t cluster)
{
    const uint32_t *n = qcow2_survey_count(v, cluster, false);
    return n ? *n : 0;
}

void qcow2_survey_forget_refcounts(struct survey *v)
{
    v->refs_at = -1;
}

/* Copies the slice that counts cluster. */
static int co_load_refs(struct survey *v, int64_t cluster)
{
    struct qcow2 *s = v->s;
    struct meta_entry *slice = NULL;
    int64_t i = cluster >> s->rb_bits;
    uint64_t block = i < s->rt_size ? s->rt[i] & QCOW2_REFTABLE_MASK : 0;

    /* What cannot be a block is not looked at: the image is not marked. */
    if (block & (uint64_t)(s->cluster_size - 1)) {
        return -EIO;
    }
    co_mutex_lock(&s->alloc_lock);
    int ret = block ? co_qcow2_refcount_slice(s, cluster, &slice) : 0;
    if (slice) {
        memcpy(v->refs, slice->data, s->rb.slice_size);
    } else {
        memset(v->refs, 0, s->rb.slice_size);
    }
    co_mutex_unlock(&s->alloc_lock);
    return ret;
}

int co_qcow2_survey_refcount(struct survey *v, int64_t cluster, uint64_t *value)
{
    struct qcow2 *s = v->s;
    int64_t at = cluster >> s->rslice_bits;

    if (at != v->refs_at) {
        v->refs_error = co_load_refs(v, cluster);
        v->refs_at = at;
    }
    *value = s->refcount_get(
        v->refs, (uint64_t)cluster & ((UINT64_C(1) << s->rslice_bits) - 1));
    return v->refs_error;
}

/* Most images have refcounts of 16 bits, and most clusters are as they should
 * be: that is seen without a call for each. How many of n from `cluster` on are
 * in one slice, loaded at *refs; 0 with any other width. */
static int64_t co_refs_16(struct survey *v, int64_t cluster, int64_t n,
                          const uint16_t **refs)
{
    int64_t in_slice = cluster & ((INT64_C(1) << v->s->rslice_bits) - 1);
    uint64_t first;

    if (v->s->refcount_order != 4 ||
        co_qcow2_survey_refcount(v, cluster, &first) < 0) {
        return 0;
    }
    *refs = (const uint16_t *)v->refs + in_slice;
    return min_i64(n, (INT64_C(1) << v->s->rslice_bits) - in_slice);
}

int64_t co_qcow2_survey_agree(struct survey *v, int64_t cluster, int64_t n,
                              int64_t *last)
{
    enum { BLOCK = 1 << SURVEY_COUNTS_BITS };
    const uint32_t *counts = qcow2_survey_count(v, cluster, false);
    const uint16_t *refs;
    int64_t i = 0;

    n = min_i64(n, BLOCK - (cluster & (BLOCK - 1)));
    n = co_refs_16(v, cluster, n, &refs);
    while (i < n && be16toh(refs[i]) == (counts ? counts[i] : 0)) {
        *last = refs[i] ? cluster + i : *last;
        i++;
    }
    return i;
}

bool co_qcow2_survey_all_once(struct survey *v, int64_t cluster, int64_t n)
{
    const uint16_t *refs;

    while (n) {
        int64_t here = co_refs_16(v, cluster, n, &refs);
        uint16_t differ = !here;
        for (int64_t i = 0; i < here; i++) {
            differ |= refs[i] ^ htobe16(1);
        }
        if (differ) {
            return false;
        }
        cluster += here;
        n -= here;
    }
    return true;
}

bool qcow2_survey_wrong(struct survey *v, GError **error, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    g_autofree char *message = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    if (!v->check) {
        return error_set(error, "%s", message);
    }
    check_report_add(v->check, CHECK_REPORT_ERROR, "%s", message);
    return true;
}

bool qcow2_survey_refer(struct survey *v, uint64_t offset, uint64_t bytes,
                        GError **error)
{
    unsigned bits = v->s->cluster_bits;

    if (!bytes) {
        return true;
    }
    if (offset > (uint64_t)QCOW2_MAX_HOST_OFFSET ||
        (int64_t)((offset + bytes - 1) >> bits) >= v->clusters) {
        return qcow2_survey_wrong(v, error,
                                  "counting reference for region exceeding the "
                                  "end of the file by one cluster or more: "
                                  "offset 0x%" PRIx64 " size 0x%" PRIx64,
                                  offset, bytes);
    }
    int64_t last = (int64_t)((offset + bytes - 1) >> bits);
    for (int64_t c = (int64_t)(offset >> bits); c <= last;) {
        uint32_t *n = qcow2_survey_count(v, c, true);
        do {
            (*n++)++;
            c++;
        } while (c <= last && c & ((1 << SURVEY_COUNTS_BITS) - 1));
    }
    v->end = max_i64(v->end, last + 1);
    return true;
}

/* ---- snapshots ----------------------------------------------------------- */

static bool co_survey_snapshot(struct survey *v,
                               const struct qcow2_snapshot *sn, GError **error)
{
    struct qcow2 *s = v->s;
    uint64_t end = sn->l1_offset + (uint64_t)sn->l1_size * 8;

    if (sn->l1_size > QCOW2_MAX_L1_BYTES / 8) {
        return qcow2_survey_wrong(v, error,
                                  "snapshot %s (%s) l1_size=%#" PRIx32
                                  ": L1 table is too large; "
                                  "snapshot table entry corrupted",
                                  sn->id, sn->name, sn->l1_size);
    }
    if ((sn->l1_offset & (uint64_t)(s->cluster_size - 1)) ||
        (sn->l1_size && !sn->l1_offset)) {
        return qcow2_survey_wrong(
            v, error,
            "snapshot %s (%s) l1_offset=%#" PRIx64 ": L1 table is not "
            "cluster aligned; snapshot table entry corrupted",
            sn->id, sn->name, sn->l1_offset);
    }
    if (end > (uint64_t)qcow2_file(s)->length && sn->l1_size) {
        /* Told as such; there is nothing to look at. */
        return qcow2_survey_refer(v, sn->l1_offset, (uint64_t)sn->l1_size * 8,
                                  error);
    }
    uint64_t *l1 = co_qcow2_snapshot_l1(s, sn, 0, error);
    bool ok =
        l1 && co_qcow2_survey_l1(v, l1, sn->l1_size, sn->l1_offset, error);
    io_buffer_free(l1);
    return ok;
}

static bool co_survey_snapshots(struct survey *v, GError **error)
{
    const struct qcow2_snapshots *t = &v->s->snapshots;

    for (unsigned i = 0; i < t->list->len; i++) {
        if (!co_survey_snapshot(v, g_ptr_array_index(t->list, i), error)) {
            return false;
        }
    }
    return qcow2_survey_refer(v, v->s->header.snapshots_offset, t->table_bytes,
                              error);
}

static bool refer_bitmap(void *opaque, const char *what, uint64_t offset,
                         uint64_t bytes, GError **error)
{
    return qcow2_survey_refer(opaque, offset, bytes, error);
}

/* ---- refcount blocks ----------------------------------------------------- */

/* A block that is not where it can be, or is something else too, is no base to
 * repair anything on. */
static bool refer_block(struct survey *v, uint32_t i, GError **error)
{
    struct qcow2 *s = v->s;
    uint64_t entry = v->s->rt[i], block = entry & QCOW2_REFTABLE_MASK;
    bool reserved = entry & ~QCOW2_REFTABLE_MASK;
    bool unaligned = block & (uint64_t)(s->cluster_size - 1);

    if (reserved || unaligned ||
        (block >> s->cluster_bits) >= (uint64_t)v->clusters) {
        /* One outside counts nothing that is inside. */
        v->rebuild = v->rebuild || reserved || unaligned ||
                     (v->check && v->check->fix_errors);
        v->block_errors++;
        return qcow2_survey_wrong(
            v, error, "refcount %s %" PRIu32 " %s",
            reserved ? "table entry" : "block", i,
            reserved    ? "has reserved bits set"
            : unaligned ? "is not cluster aligned; refcount table entry "
                          "corrupted"
                        : "is outside image");
    }
    if (!qcow2_survey_refer(v, block, s->cluster_size, error)) {
        return false;
    }
    uint32_t n = qcow2_survey_count_at(v, (int64_t)(block >> s->cluster_bits));
    if (n != 1) {
        v->rebuild = true;
        v->block_errors++;
        return qcow2_survey_wrong(
            v, error, "refcount block %" PRIu32 " refcount=%" PRIu32, i, n);
    }
    return true;
}

/* ---- everything ---------------------------------------------------------- */

bool co_qcow2_survey(struct survey *v, GError **error)
{
    struct qcow2 *s = v->s;

    if (!qcow2_survey_refer(v, 0, s->cluster_size, error)) {
        return false;
    }
    v->active = true;
    bool ok = co_qcow2_survey_l1(v, s->l1, s->l1_size,
                                 s->header.l1_table_offset, error);
    v->active = false;
    if (ok && v->check) {
        qcow2_bitmaps_report(s, v->check);
    }
    ok = ok && qcow2_bitmaps_walk(s, refer_bitmap, v, error) &&
         co_survey_snapshots(v, error) &&
         qcow2_survey_refer(v, s->header.refcount_table_offset,
                            (uint64_t)s->rt_size * 8, error);
    for (uint32_t i = 0; ok && i < s->rt_size; i++) {
        ok = !s->rt[i] || refer_block(v, i, error);
    }
    return ok;
}
