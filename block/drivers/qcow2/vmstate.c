/*
 * The state of a virtual machine: clusters that are mapped behind the end of
 * the disk, from the next L1 entry on (qcow2 specification, "Cluster mapping",
 * and the vm_state_size of snapshots).
 *
 * They are read and written like the guest's data, but are never looked up in a
 * backing file: see qcow2_backing_covers(). The L1 table grows as it must.
 * Where the state begins follows from the size of the disk, so a resize that
 * moves that place drops it.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>

int64_t qcow2_vmstate_offset(const struct qcow2 *s, int64_t size)
{
    return align_up(size, qcow2_table_bytes(s));
}

int co_qcow2_load_vmstate(struct node *node, int64_t offset,
                          const struct iov *iov)
{
    struct qcow2 *s = node->state;
    int64_t from = qcow2_vmstate_offset(s, node->length);

    if (!range_within(offset, (int64_t)iov->bytes, BLOCK_MAX_LENGTH - from)) {
        return -EIO;
    }
    return co_qcow2_preadv(node, from + offset, (int64_t)iov->bytes, iov, 0);
}

int co_qcow2_save_vmstate(struct node *node, int64_t offset,
                          const struct iov *iov)
{
    struct qcow2 *s = node->state;
    int64_t from = qcow2_vmstate_offset(s, node->length), bytes = iov->bytes;

    int64_t end = min_i64(QCOW2_MAX_L1_BYTES / 8 * qcow2_table_bytes(s),
                          BLOCK_MAX_LENGTH);

    if (!range_within(offset, bytes, end - from)) {
        return -EFBIG;
    }
    uint32_t entries =
        div_round_up(from + offset + bytes, qcow2_table_bytes(s));
    if (entries > s->l1_size) {
        int ret = co_qcow2_grow_l1(s, entries);
        if (ret < 0) {
            return ret;
        }
    }
    return co_qcow2_pwritev(node, from + offset, bytes, iov, 0);
}

int co_qcow2_move_vmstate(struct qcow2 *s, int64_t size)
{
    int64_t from = qcow2_vmstate_offset(s, s->node->length);
    int64_t end = (int64_t)s->l1_size * qcow2_table_bytes(s);

    if (from >= end || from == qcow2_vmstate_offset(s, size)) {
        return 0;
    }
    return co_qcow2_unmap(s, from, end - from);
}
