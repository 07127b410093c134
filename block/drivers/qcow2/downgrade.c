/*
 * What an image needs to be one of version 2, which knows no zero clusters and
 * no feature bits.
 *
 * The disk's zero clusters become holes or data, and an image with some of
 * either is still one of version 3, so a downgrade may end anywhere. Those of
 * snapshots stay: their tables are shared, and to fill a cluster for all who
 * share it is worth nobody's while.
 *
 * Runs on the node's loop, while nobody else writes to the node.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include <inttypes.h>
#include "block/drivers/qcow2/table_walk.h"
#include "util/error.h"

/* ---- whether it can be ----------------------------------------------------
 */

/* Ends the walk with 1 at a zero cluster. */
static int look_for_zero(void *opaque, const struct table_seen *seen)
{
    const struct qcow2 *s = opaque;

    if (seen->ret < 0) {
        return seen->ret;
    }
    for (uint32_t i = 0; i < s->cluster_size / sizeof(uint64_t); i++) {
        uint64_t entry = be64toh(seen->table[i]);
        if (!(entry & QCOW2_COMPRESSED) && entry & QCOW2_ZERO) {
            return 1;
        }
    }
    return 0;
}

/* The clusters of snapshots are shared, and filled by nobody. */
static bool co_check_snapshot_zeroes(struct qcow2 *s, GError **error)
{
    for (unsigned i = 0; i < s->snapshots.list->len; i++) {
        const struct qcow2_snapshot *sn =
            g_ptr_array_index(s->snapshots.list, i);
        uint64_t *l1 = co_qcow2_snapshot_l1(s, sn, 0, error);
        if (!l1) {
            return false;
        }
        int ret = co_qcow2_walk_tables(s, l1, sn->l1_size, look_for_zero, s);
        io_buffer_free(l1);
        if (ret < 0) {
            return error_set_errno(error, ret,
                                   "Cannot read the L2 tables of snapshot '%s'",
                                   sn->name);
        }
        if (ret) {
            return error_set(error,
                             "Cannot downgrade an image whose snapshot '%s' "
                             "has zero clusters; delete the snapshot first",
                             sn->name);
        }
    }
    return true;
}

bool co_qcow2_check_downgrade(struct qcow2 *s, GError **error)
{
    uint64_t features = s->header.incompatible & ~QCOW2_INCOMPAT_DIRTY;

    if (features) {
        return error_set(error,
                         "Cannot downgrade an image with incompatible features "
                         "%#" PRIx64 " set",
                         features);
    }
    for (unsigned i = 0; i < s->snapshots.list->len; i++) {
        const struct qcow2_snapshot *sn =
            g_ptr_array_index(s->snapshots.list, i);
        /* Version 2 has one size for all. */
        if (qcow2_snapshot_has_size(sn) && sn->disk_size != s->header.size) {
            return error_set(error, "Internal snapshots prevent downgrade of "
                                    "image");
        }
    }
    return co_check_snapshot_zeroes(s, error);
}

/* ---- zero clusters of the disk ------------------------------------------- */

/* -ECANCELED if it is to end here. */
static int co_tell(struct amend_request *request, int64_t done, int64_t more)
{
    return !request->co_progress || request->co_progress(request, done, more)
               ? 0
               : -ECANCELED;
}

static int co_fill_zeroes(struct qcow2 *s, int64_t offset, int64_t bytes,
                          void *zeroes, size_t room)
{
    int ret = 0;

    for (int64_t n; ret == 0 && bytes; bytes -= n, offset += n) {
        n = min_i64(bytes, (int64_t)room);
        ret = co_node_pwrite(s->node, offset, zeroes, n, 0);
    }
    return ret;
}

int co_qcow2_expand_zeroes(struct qcow2 *s, struct amend_request *request)
{
    size_t room = MAX((size_t)1 << 20, (size_t)s->cluster_size);
    g_autofree void *zeroes = g_try_malloc0(room);
    int64_t end = s->node->length;
    int ret = zeroes ? co_tell(request, 0, end) : -ENOMEM;
    struct mapping m;

    for (int64_t at = 0; ret == 0 && at < end; at += m.bytes) {
        ret = co_qcow2_map(s, at, end - at, &m, MAP_READ);
        bool zero =
            m.type == CLUSTER_ZERO_PLAIN || m.type == CLUSTER_ZERO_ALLOC;
        if (ret == 0 && zero && s->node->backing) {
            ret = co_fill_zeroes(s, at, m.bytes, zeroes, room);
        } else if (ret == 0 && zero) {
            /* What is not there reads as zeroes, too. */
            ret = co_qcow2_unmap(s, at, align_up(m.bytes, s->cluster_size));
        }
        if (ret == 0) {
            ret = co_tell(request, m.bytes, 0);
        }
    }
    return ret < 0 ? ret : co_qcow2_settle(s);
}
