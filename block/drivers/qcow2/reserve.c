/*
 * Clusters that are counted ahead of use.
 *
 * Where the end of a write has to outlive the process (a ring with an in-flight
 * region), its L2 entries are in the file before it ends. A crash of the
 * machine may then keep any part of what no flush has covered, so an entry may
 * go there without a flush only if
 *
 *   - the refcount of the cluster is stable already;
 *   - the file is stable as far as the cluster reaches;
 *   - the guest sees the same, whether the data have reached the cluster or
 * not: both it and what was visible before read as zeroes.
 *
 * Hence refcounts are set for a whole run of clusters at once, and the file is
 * made long enough. The first commit after that makes both stable; from then on
 * writes take clusters of the run and pay no flush. Each run is twice as long
 * as the one before, up to a limit, as what a killed process leaves of it is
 * leaked. What is left at close is given back.
 *
 * Runs on the node's loop; under alloc_lock where not said otherwise.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>

enum {
    RESERVE_MIN_BYTES = 1 << 20,
    RESERVE_MAX_BYTES = 64 << 20,
    RESERVE_MIN_CLUSTERS = 8,
};

static int64_t reserve_clusters(struct qcow2_reserve *r, unsigned cluster_bits)
{
    r->bytes =
        r->bytes ? min_i64(r->bytes * 2, RESERVE_MAX_BYTES) : RESERVE_MIN_BYTES;
    return max_i64(r->bytes >> cluster_bits, RESERVE_MIN_CLUSTERS);
}

static void give_back(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;
    struct free_run run = {r->next << s->cluster_bits,
                           (r->end - r->next) << s->cluster_bits, FREE_OTHER};

    if (run.bytes) {
        g_array_append_val(s->frees[FREE_READY], run);
    }
    r->next = r->end;
}

/* Clusters that were written before come first, and one by one: they need a
 * flush before their entries are written anyway. */
static void co_refill(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;
    int64_t n, old_bytes = r->bytes;

    int64_t start = co_qcow2_alloc_fresh_locked(
        s, reserve_clusters(r, s->cluster_bits), &n);
    if (start < 0) {
        r->bytes = old_bytes;
        r->failed = start != -ENOENT;
        return;
    }
    r->next = start >> s->cluster_bits;
    r->end = r->next + n;
    int64_t end = r->end << s->cluster_bits;
    if (qcow2_file(s)->length < end &&
        !co_node_truncate(qcow2_file(s), end, false, PREALLOC_MODE_OFF, 0,
                          NULL)) {
        give_back(s);
        r->failed = true;
        return;
    }
    r->generation++;
}

int64_t co_qcow2_take_reserved(struct qcow2 *s, int64_t want, int64_t *got)
{
    struct qcow2_reserve *r = &s->reserve;

    if (r->next == r->end && !r->failed) {
        co_refill(s);
    }
    if (r->next == r->end) {
        return -1;
    }
    int64_t start = r->next;
    *got = min_i64(want, r->end - start);
    r->next += *got;
    return start << s->cluster_bits;
}

void co_qcow2_drop_reserve(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;

    co_mutex_lock(&s->alloc_lock);
    int64_t used = r->next << s->cluster_bits;
    int64_t end = r->end << s->cluster_bits;
    give_back(s);
    r->bytes = 0;
    r->failed = false;
    if (used < end && s->zero_from == end) {
        s->zero_from = used;
    }
    if (used < end && qcow2_file(s)->length == end) {
        /* If it cannot be, the file stays longer than it need be. */
        (void)co_node_truncate(qcow2_file(s), used, false, PREALLOC_MODE_OFF, 0,
                               NULL);
    }
    co_mutex_unlock(&s->alloc_lock);
    co_qcow2_apply_frees(s);
}
