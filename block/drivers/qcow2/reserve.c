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
 * made long enough. Once both are stable, writes take clusters of the run and
 * pay no flush. Each run is twice as long as the one before, up to a limit, as
 * what a killed process leaves of it is leaked. What is left at close is given
 * back.
 *
 * The first commit after that makes a run stable, and all writes wait for its
 * flush. So that they need not, the next run is made ready while they use this
 * one: by one of them, and with writes that are stable by themselves, which
 * spares the disk all the data that the page cache holds. Such a write brings
 * the file's length to the disk as well: the kernel makes with it all metadata
 * of the file stable that a later read needs (as fdatasync() would).
 *
 * Runs on the node's loop; under alloc_lock where not said otherwise.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>

enum {
    RESERVE_MIN_BYTES = 1 << 20,
    RESERVE_MAX_BYTES = 64 << 20,
    RESERVE_MIN_CLUSTERS = 8,
    /* More single stable writes cost more than a flush. */
    STABLE_WRITES_MAX = 4,
};

static int64_t reserve_clusters(struct qcow2_reserve *r, unsigned cluster_bits)
{
    r->bytes =
        r->bytes ? min_i64(r->bytes * 2, RESERVE_MAX_BYTES) : RESERVE_MIN_BYTES;
    return max_i64(r->bytes >> cluster_bits, RESERVE_MIN_CLUSTERS);
}

static bool used_up(const struct reserved_run *run)
{
    return run->next == run->end;
}

static void give_back(struct qcow2 *s, struct reserved_run *run)
{
    struct free_run free = {run->next << s->cluster_bits,
                            (run->end - run->next) << s->cluster_bits,
                            FREE_OTHER};

    if (free.bytes) {
        g_array_append_val(s->frees[FREE_READY], free);
    }
    run->next = run->end;
}

/* Clusters that were written before come first, and one by one: they need a
 * flush before their entries are written anyway. */
static void co_refill(struct qcow2 *s, struct reserved_run *run)
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
    run->start = run->next = start >> s->cluster_bits;
    run->end = run->start + n;
    int64_t end = run->end << s->cluster_bits;
    if (qcow2_file(s)->length < end &&
        !co_node_truncate(qcow2_file(s), end, false, PREALLOC_MODE_OFF, 0,
                          NULL)) {
        give_back(s, run);
        r->failed = true;
        return;
    }
    run->generation = ++r->generation;
}

void co_qcow2_wait_reserve(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;

    while (r->preparing && used_up(&r->now)) {
        co_queue_wait(&r->prepared);
    }
}

int64_t co_qcow2_take_reserved(struct qcow2 *s, int64_t want, int64_t *got)
{
    struct qcow2_reserve *r = &s->reserve;

    if (used_up(&r->now)) {
        r->now = r->ahead;
        r->ahead.next = r->ahead.end;
    }
    if (used_up(&r->now) && !r->failed) {
        co_refill(s, &r->now);
    }
    if (used_up(&r->now)) {
        return -1;
    }
    int64_t start = r->now.next;
    *got = min_i64(want, r->now.end - start);
    r->now.next += *got;
    return start << s->cluster_bits;
}

/* Without the lock: makes the two runs stable, or leaves it to a commit, as for
 * refcounts in blocks that the table on disk may not name yet. */
static void co_stabilise(struct qcow2 *s, const struct reserved_run *now,
                         const struct reserved_run *ahead)
{
    struct qcow2_reserve *r = &s->reserve;

    if (s->lagging || s->rt_committing || s->rt_dirt.lo < s->rt_dirt.hi ||
        r->stable + 1 < now->generation) {
        return;
    }
    if (co_meta_cache_write_stable(&s->rb,
                                   (uint64_t)now->start >> s->rslice_bits,
                                   (uint64_t)(ahead->end - 1) >> s->rslice_bits,
                                   STABLE_WRITES_MAX) == 0) {
        r->stable = MAX(r->stable, ahead->generation);
    }
}

void co_qcow2_reserve_ahead(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;

    if (!r->bytes || !used_up(&r->ahead) || r->preparing || r->failed) {
        return;
    }
    r->preparing = true;
    co_mutex_lock(&s->alloc_lock);
    co_refill(s, &r->ahead);
    struct reserved_run now = r->now, ahead = r->ahead;
    co_mutex_unlock(&s->alloc_lock);
    if (!used_up(&ahead)) {
        co_stabilise(s, &now, &ahead);
    }
    r->preparing = false;
    co_queue_wake_all(&r->prepared);
}

static void co_drop_run(struct qcow2 *s, struct reserved_run *run)
{
    int64_t used = run->next << s->cluster_bits;
    int64_t end = run->end << s->cluster_bits;

    give_back(s, run);
    if (used < end && s->zero_from == end) {
        s->zero_from = used;
    }
    if (used < end && qcow2_file(s)->length == end) {
        /* If it cannot be, the file stays longer than it need be. */
        (void)co_node_truncate(qcow2_file(s), used, false, PREALLOC_MODE_OFF, 0,
                               NULL);
    }
}

void co_qcow2_drop_reserve(struct qcow2 *s)
{
    struct qcow2_reserve *r = &s->reserve;

    co_mutex_lock(&s->alloc_lock);
    co_drop_run(s, &r->ahead);
    co_drop_run(s, &r->now);
    r->bytes = 0;
    r->failed = false;
    co_mutex_unlock(&s->alloc_lock);
    co_qcow2_apply_frees(s);
}
