/*
 * Whether an image's refcounts are what its tables say, and making it so.
 *
 * A check reads all tables once, counting references (survey.c), and compares
 * them with the refcounts on disk. A repair goes on in an order that may end
 * anywhere:
 *
 *   1. refcounts become what the tables say, in place; or, where the refcount
 *      structures are no base for that, new ones are built in free clusters and
 *      take effect with one write of the header (rebuild.c);
 *   2. a snapshot table with something wrong in it is written anew;
 *   3. when those are stable, COPIED flags follow the refcounts;
 *   4. when nothing is wrong any more, the dirty and the corrupt bit go.
 *
 * On the node's loop, on an image that nobody uses, opened for a check.
 */
#include "block/drivers/qcow2/survey.h"

#include <errno.h>
#include <inttypes.h>
#include "block/check_report.h"
#include "util/error.h"

/* ---- refcounts ----------------------------------------------------------- */

struct comparison {
    struct survey *v;
    bool fix_leaks, fix_errors;
    int64_t last; /* cluster that something counts */
};

/* One cluster whose count differs; 0 or -errno of a repair. */
static int co_differs(struct comparison *c, int64_t cluster, uint64_t now,
                      uint32_t want)
{
    struct survey *v = c->v;
    bool leak = now > want;
    bool fix = leak ? c->fix_leaks : c->fix_errors;
    int ret = 0;

    if (fix) {
        ret = co_qcow2_set_refcount(v, cluster, want);
        fix = ret == 0;
    }
    check_report_fixable(
        v->check, leak ? CHECK_REPORT_LEAK : CHECK_REPORT_ERROR, fix,
        "cluster %" PRId64 " refcount=%" PRIu64 " reference=%" PRIu32, cluster,
        now, want);
    return ret == -ERANGE ? 0 : ret;
}

static int co_compare_counts(struct comparison *c)
{
    struct survey *v = c->v;
    int64_t end = max_i64(v->clusters, v->end);
    int ret = 0;

    c->last = 0;
    for (int64_t k = 0; ret == 0 && k < end; k++) {
        k += co_qcow2_survey_agree(v, k, end - k, &c->last);
        if (k == end) {
            break;
        }
        uint32_t want = qcow2_survey_count_at(v, k);
        uint64_t now;
        if (co_qcow2_survey_refcount(v, k, &now) < 0) {
            v->check->check_errors++;
            continue;
        }
        if (now || want) {
            c->last = k;
        }
        if (G_UNLIKELY(now != want)) {
            /* Nothing may be allocated where used clusters look free. */
            v->rebuild = v->rebuild || !now;
            ret = co_differs(c, k, now, want);
        }
    }
    v->check->end = (c->last + 1) * v->s->cluster_size;
    return ret;
}

static int co_stable(struct qcow2 *s)
{
    int ret = co_qcow2_commit(s);

    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

static void nobody_hears(struct check_report *check,
                         enum check_report_kind kind, bool fixed,
                         const char *message)
{
}

/* True if a repair cannot work on the refcounts that are there. */
static bool co_needs_rebuild(struct survey *v)
{
    struct check_report silent = {.found = nobody_hears}, *loud = v->check;
    struct comparison c = {.v = v};

    v->check = &silent;
    (void)co_compare_counts(&c);
    v->check = loud;
    return v->rebuild || silent.check_errors;
}

static bool co_rebuild(struct survey *v, GError **error)
{
    struct check_report *check = v->check;
    struct comparison c = {.v = v};

    /* What is wrong is told, and gone with the old structures. */
    int64_t others = check->errors;
    (void)co_compare_counts(&c);
    int64_t errors = check->errors - others, leaks = check->leaks;
    if (!co_qcow2_rebuild_refcounts(v, v->s->refcount_order, error)) {
        return false;
    }
    /* Of the blocks themselves the survey has told. */
    errors += MIN(v->block_errors, others);
    check->errors_fixed += errors;
    check->errors = others - MIN(v->block_errors, others);
    check->leaks_fixed += leaks;
    check->leaks = 0;
    check->check_errors = 0;
    return true;
}

static bool co_repair_refcounts(struct survey *v, GError **error)
{
    struct check_report *check = v->check;
    struct comparison c = {
        .v = v, .fix_leaks = check->fix_leaks, .fix_errors = check->fix_errors};

    if (co_needs_rebuild(v)) {
        if (check->fix_errors) {
            return co_rebuild(v, error);
        }
        (void)co_compare_counts(&(struct comparison){.v = v});
        return error_set(error, "Check failed: the refcount structures need to "
                                "be rebuilt");
    }
    int ret = co_compare_counts(&c);
    if (ret == 0) {
        ret = co_stable(v->s);
    }
    qcow2_survey_forget_refcounts(v);
    return ret == 0 ||
           error_set_errno(error, ret, "Could not repair the refcounts");
}

/* ---- flags --------------------------------------------------------------- */

/* The active tables once more. */
static bool co_repair_copied(struct survey *v, GError **error)
{
    const struct check_report *check = v->check;
    struct qcow2 *s = v->s;

    v->count = false;
    v->active = v->check_copied = true;
    v->fix_copied = check->fix_errors ||
                    (!check->errors && !check->leaks && !check->check_errors);
    if (!co_qcow2_survey_l1(v, s->l1, s->l1_size, s->header.l1_table_offset,
                            error)) {
        return false;
    }
    int ret = co_stable(s);
    return ret == 0 || error_set_errno(error, ret,
                                       "Could not repair the "
                                       "tables");
}

static bool co_repair_bits(struct survey *v, GError **error)
{
    struct qcow2 *s = v->s;
    uint64_t bits = s->header.incompatible &
                    (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    int ret = 0;

    if (bits && !v->check->errors && !v->check->check_errors) {
        /* If this is lost, the next check clears them. */
        ret = co_qcow2_update_incompat(s, 0, bits);
        if (ret == 0) {
            s->damage_told = s->broken = s->node->unusable = false;
        }
    }
    return ret == 0 ||
           error_set_errno(error, ret, "Could not update qcow2 header");
}

/* ---- all together -------------------------------------------------------- */

static bool co_repair_bitmaps(struct qcow2 *s, struct check_report *check,
                              GError **error)
{
    unsigned dropped;

    if (!check->fix_errors) {
        return true;
    }
    if (!co_qcow2_bitmaps_repair(s, &dropped, error)) {
        return false;
    }
    check->errors_fixed += dropped;
    return true;
}

/* Looks at the snapshot table; *rewrite: what is wrong with it would be gone if
 * it were written anew. */
static bool co_look_at_snapshots(struct qcow2 *s, struct check_report *check,
                                 bool *rewrite, GError **error)
{
    const struct qcow2_snapshots *t = &s->snapshots;

    if (t->damage && !check->fix_errors) {
        return error_set(error, "failed to read the snapshot table: %s",
                         t->damage->message);
    }
    if (t->damage) {
        *rewrite = true;
        if (!co_qcow2_snapshots_salvage(s, check, error)) {
            return false;
        }
    }
    for (unsigned i = 0; s->version >= 3 && i < t->list->len; i++) {
        if (!qcow2_snapshot_has_size(g_ptr_array_index(t->list, i))) {
            check_report_fixable(check, CHECK_REPORT_ERROR, check->fix_errors,
                                 "snapshot table entry %u is incomplete", i);
            *rewrite = check->fix_errors;
        }
    }
    return true;
}

/* `fixed` errors are gone then. */
static bool co_rewrite_snapshots(struct survey *v, int64_t fixed,
                                 GError **error)
{
    struct check_report *check = v->check;

    /* On refcounts that are wrong nothing can be built. */
    if (check->errors) {
        check->errors += fixed;
        check->errors_fixed -= fixed;
        return true;
    }
    int ret = co_qcow2_snapshots_rewrite(v->s);
    qcow2_survey_forget_refcounts(v);
    return ret == 0 ||
           error_set_errno(error, ret, "failed to update snapshot table");
}

/* in_table: errors to be fixed by a new snapshot table. What shared a cluster
 * with the old one may be alone in it then, so flags come later. */
static bool co_check_and_repair(struct survey *v, bool rewrite,
                                int64_t in_table, GError **error)
{
    struct check_report *check = v->check;
    bool repair = check->fix_leaks || check->fix_errors;

    v->check_copied = !repair;
    if (!co_qcow2_survey(v, error)) {
        return false;
    }
    if (!repair) {
        return co_compare_counts(&(struct comparison){.v = v}) == 0;
    }
    return co_repair_refcounts(v, error) &&
           (!rewrite || co_rewrite_snapshots(v, in_table, error)) &&
           co_repair_copied(v, error) && co_repair_bits(v, error);
}

bool co_qcow2_check(struct node *node, struct check_report *check,
                    GError **error)
{
    struct qcow2 *s = node->state;
    struct survey v;
    bool rewrite = false;

    check->total = div_round_up(node->length, s->cluster_size);
    if (!co_look_at_snapshots(s, check, &rewrite, error)) {
        return false;
    }
    int64_t in_table = check->errors_fixed;
    if (!co_repair_bitmaps(s, check, error)) {
        return false;
    }
    bool ok = qcow2_survey_init(&v, s) ||
              error_set_errno(error, ENOMEM, "Could not check the image");
    v.check = check;
    ok = ok && co_check_and_repair(&v, rewrite, in_table, error);
    qcow2_survey_clear(&v);
    return ok;
}
