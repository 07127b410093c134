/*
 * Refcounts from scratch, for an image that was not closed while its refcounts
 * were allowed to lag (the dirty bit; qcow2 specification, "Header",
 * incompatible features, bit 0): what is counted on disk is made equal to what
 * survey.c counts.
 *
 * Runs on the node's loop, inside open: no request is there yet.
 */
#include "block/drivers/qcow2/survey.h"

#include <errno.h>
#include "util/error.h"

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
    while (qcow2_survey_count_at(v, home)) {
        if (++home == base + (INT64_C(1) << s->rb_bits)) {
            return -ENOSPC;
        }
    }
    co_mutex_lock(&s->alloc_lock);
    int ret = co_qcow2_make_refcount_block(s, cluster, home);
    co_mutex_unlock(&s->alloc_lock);
    if (ret == 0) {
        *qcow2_survey_count(v, home, true) = 1;
        v->end = max_i64(v->end, home + 1);
        qcow2_survey_forget_refcounts(v);
    }
    return ret;
}

int co_qcow2_set_refcount(struct survey *v, int64_t cluster, uint32_t want)
{
    uint64_t now;
    int ret = co_qcow2_survey_refcount(v, cluster, &now);

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
            << SURVEY_COUNTS_BITS;
        for (int64_t c = first;
             ret == 0 && c < first + (1 << SURVEY_COUNTS_BITS); c++) {
            uint32_t want = qcow2_survey_count_at(v, c);
            ret = want ? co_qcow2_set_refcount(v, c, want) : 0;
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
            if (!qcow2_survey_count_at(v, c)) {
                ret = co_qcow2_set_refcount(v, c, 0);
            }
        }
    }
    return ret;
}

static bool co_repair(struct survey *v, GError **error)
{
    if (!co_qcow2_survey(v, error)) {
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
    struct survey v;

    int ret = co_qcow2_cover_references(s);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not repair the refcounts");
    }
    bool ok =
        qcow2_survey_init(&v, s)
            ? co_repair(&v, error)
            : error_set_errno(error, ENOMEM, "Could not repair the refcounts");

    qcow2_survey_clear(&v);
    return ok;
}
