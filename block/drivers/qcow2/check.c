/*
 * Whether an image's refcounts are what its tables say. Changes nothing; runs
 * on the node's loop, on an image that is opened for reading only.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/drivers/qcow2/survey.h"
#include "block/check_report.h"
#include "util/error.h"

static int co_compare_counts(struct survey *v)
{
    int64_t last = -1;

    for (int64_t c = 0; c < v->clusters; c++) {
        uint32_t want = qcow2_survey_count_at(v, c);
        uint64_t now;
        int ret = co_qcow2_refcount(v->s, c, &now);
        if (ret < 0) {
            return ret;
        }
        if (now || want) {
            last = c;
        }
        if (now == want) {
            continue;
        }
        bool leak = now > want;
        check_report_add(
            v->check, leak ? CHECK_REPORT_LEAK : CHECK_REPORT_ERROR,
            "cluster %" PRId64 " refcount=%" PRIu64 " reference=%" PRIu32, c,
            now, want);
    }
    v->check->end = (last + 1) * v->s->cluster_size;
    return 0;
}

bool co_qcow2_check(struct node *node, struct check_report *check,
                    GError **error)
{
    struct qcow2 *s = node->state;
    struct survey v;
    bool ok = qcow2_survey_init(&v, s) ||
              error_set_errno(error, ENOMEM, "Could not check the image");

    check->total = div_round_up(node->length, s->cluster_size);
    if (ok) {
        v.check = check;
        ok = co_qcow2_survey(&v, error);
    }
    if (ok) {
        int ret = co_compare_counts(&v);
        ok = ret == 0 || error_set_errno(error, ret, "Could not read refcount");
    }
    qcow2_survey_clear(&v);
    return ok;
}
