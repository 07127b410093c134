/*
 * Room for compressed data, which are shorter than a cluster.
 *
 * They follow each other byte by byte, so several share a cluster of the file,
 * whose refcount says how many, and one may lie across the border of two
 * neighbours. s->pack_at is where the last ones ended. What is freed in a
 * shared cluster is not used again before all of the cluster is.
 *
 * A cluster that nobody refers to any more, or that is about to be discarded,
 * is closed first (qcow2_pack_close()); both happen under alloc_lock, or before
 * its next owner runs. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <assert.h>
#include <errno.h>

/* One reference more to a cluster from a refcount of at least `min` on; 1 if it
 * was given, 0 if the refcount does not allow it. */
static int co_add_reference(struct qcow2 *s, int64_t cluster, uint64_t min,
                            uint64_t max)
{
    uint64_t i = (uint64_t)cluster & ((UINT64_C(1) << s->rslice_bits) - 1);
    struct meta_entry *slice;

    int ret = co_qcow2_refcount_to_change(s, cluster, &slice);
    if (ret < 0 || !slice) {
        return ret;
    }
    uint64_t value = s->refcount_get(slice->data, i);
    if (value < min || value > max) {
        return 0;
    }
    meta_entry_change(&s->rb, slice);
    s->refcount_set(slice->data, i, value + 1);
    return 1;
}

static int co_share(struct qcow2 *s, int64_t cluster)
{
    return co_add_reference(s, cluster, 1, s->refcount_max - 1);
}

/* 1 if co_share() would give a reference. */
static int co_may_share(struct qcow2 *s, int64_t cluster)
{
    struct meta_entry *slice;

    int ret = co_qcow2_refcount_slice(s, cluster, &slice);
    if (ret < 0 || !slice) {
        return ret;
    }
    uint64_t value = s->refcount_get(
        slice->data, (uint64_t)cluster & ((UINT64_C(1) << s->rslice_bits) - 1));
    return value && value < s->refcount_max;
}

/* Takes this very cluster if it is free and may be used. */
static int co_take_neighbour(struct qcow2 *s, int64_t cluster)
{
    if ((cluster + 1) << s->cluster_bits > QCOW2_MAX_HOST_OFFSET ||
        qcow2_meta_overlaps(s, cluster << s->cluster_bits, s->cluster_size)) {
        return 0;
    }
    int ret = co_add_reference(s, cluster, 0, 0);
    if (ret == 1) {
        qcow2_note_used(s, cluster + 1);
    }
    return ret;
}

/* Behind what was packed last; 0 if there is no room. */
static int64_t co_pack_behind(struct qcow2 *s, int64_t bytes)
{
    int64_t cluster = s->pack_at >> s->cluster_bits;
    int64_t left = align_up(s->pack_at, s->cluster_size) - s->pack_at;
    bool across = bytes > left;

    int ret = co_may_share(s, cluster);
    if (ret == 1 && across) {
        ret = co_take_neighbour(s, cluster + 1);
    }
    if (ret <= 0) {
        return ret;
    }
    ret = co_share(s, cluster);
    if (ret <= 0 && across) {
        /* It could not be read again. */
        struct free_run run = {(cluster + 1) << s->cluster_bits,
                               s->cluster_size, FREE_OTHER};
        g_array_append_val(s->frees[FREE_READY], run);
    }
    return ret <= 0 ? ret : s->pack_at;
}

static int64_t co_pack(struct qcow2 *s, int64_t bytes)
{
    int64_t host = s->pack_at ? co_pack_behind(s, bytes) : 0;

    if (host == 0) {
        host = co_qcow2_alloc_contiguous_locked(s, 1, "compressed cluster");
    }
    if (host > 0) {
        int64_t end = host + bytes;
        s->pack_at = is_aligned(end, s->cluster_size) ? 0 : end;
    }
    return host;
}

int64_t co_qcow2_alloc_packed(struct qcow2 *s, int64_t bytes)
{
    assert(bytes > 0 && bytes <= s->cluster_size);
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_CLUSTER_ALLOC_BYTES);
    co_mutex_lock(&s->alloc_lock);
    int64_t host = co_pack(s, bytes);
    co_mutex_unlock(&s->alloc_lock);
    return host;
}
