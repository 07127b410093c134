/*
 * Write-zeroes, discard, and unmapping: changes of whole L2 entries without
 * data (qcow2 specification, "Standard Cluster Descriptor", bit 0).
 *
 * The entries of a slice change in one step without suspension, after no
 * allocation in flight touches them; clusters that lose their reference are
 * freed later (free.c). Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>

/* More runs than this waiting to be freed make a request commit. */
#define PENDING_MAX 4096

enum change {
    CHANGE_ZERO,       /* reads as zeroes, keeps its cluster */
    CHANGE_ZERO_UNMAP, /* reads as zeroes, gives its cluster back */
    CHANGE_DISCARD,
    CHANGE_UNMAP, /* nothing is left */
};

/* False if the format has no entry that reads as zeroes there. */
static bool new_entry(const struct qcow2 *s, enum change change, uint64_t old,
                      uint64_t *entry)
{
    struct mapping m;
    bool backing = s->node->backing;

    qcow2_decode_entry(s, old, &m);
    *entry = old;
    if (change == CHANGE_UNMAP) {
        *entry = 0;
        return true;
    }
    if (m.type == CLUSTER_UNALLOCATED && !backing) {
        return true;
    }
    if (s->version < 3) {
        *entry = 0;
        return change != CHANGE_ZERO && !backing;
    }
    if (change == CHANGE_DISCARD && m.type == CLUSTER_ZERO_PLAIN) {
        return true;
    }
    bool keep = change == CHANGE_ZERO && m.type != CLUSTER_COMPRESSED;
    *entry = keep ? old | QCOW2_ZERO : QCOW2_ZERO;
    return true;
}

/* n entries of the slice from index i on. */
static int change_entries(struct qcow2 *s, struct meta_entry *slice, unsigned i,
                          unsigned n, enum change change)
{
    const uint64_t *now = slice->data;
    bool any = false;
    uint64_t entry;

    for (unsigned j = i; j < i + n; j++) {
        if (!new_entry(s, change, be64toh(now[j]), &entry)) {
            return -ENOTSUP;
        }
        any = any || entry != be64toh(now[j]);
    }
    if (!any) {
        return 0;
    }
    meta_entry_change(&s->l2, slice);
    uint64_t *entries = slice->data;
    for (unsigned j = i; j < i + n; j++) {
        uint64_t old = be64toh(entries[j]);
        (void)new_entry(s, change, old, &entry);
        if (entry != old) {
            entries[j] = htobe64(entry);
            if (!(entry & QCOW2_OFFSET_MASK)) {
                qcow2_free_entry_later(s, old, FREE_REQUEST);
            }
        }
    }
    return 0;
}

/* The part of [offset, end) in one slice; *n is its length. */
static int co_change_in_slice(struct qcow2 *s, int64_t offset, int64_t end,
                              enum change change, int64_t *n)
{
    int64_t slice_bytes = qcow2_slice_bytes(s);
    int64_t slice_end = align_down(offset, slice_bytes) + slice_bytes;
    struct meta_entry *slice;
    int ret;

    *n = min_i64(end, slice_end) - offset;
    do {
        ret = co_qcow2_slice_if_any(s, offset, &slice);
        if (ret < 0) {
            return ret;
        }
        bool nothing = change == CHANGE_UNMAP || !s->node->backing;
        if (!slice && nothing) {
            /* An allocation in flight makes its table first. */
            return 0;
        }
        if (!slice && s->version < 3) {
            return -ENOTSUP;
        }
        ret = co_qcow2_slice_for_write(s, offset, &slice);
        if (ret < 0) {
            return ret;
        }
    } while (co_qcow2_wait_allocation(s, offset, *n));
    return change_entries(s, slice, qcow2_slice_index(s, offset),
                          *n >> s->cluster_bits, change);
}

static int co_change(struct qcow2 *s, int64_t offset, int64_t bytes,
                     enum change change)
{
    int64_t end = offset + bytes;
    int ret = s->broken ? -EIO : 0;

    while (ret == 0 && offset < end) {
        int64_t n;
        ret = co_change_in_slice(s, offset, end, change, &n);
        offset += n;
    }
    if (s->frees[FREE_PENDING]->len > PENDING_MAX) {
        /* What fails here fails again at the next flush, which reports it. */
        (void)co_qcow2_commit(s);
    }
    return ret;
}

/* ---- requests ------------------------------------------------------------ */

/* Part of a cluster: nothing to do if it reads as zeroes, else the engine
 * writes them. */
static int co_zero_part(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    struct mapping m;

    int ret = co_qcow2_map(s, offset, bytes, &m);
    if (ret < 0) {
        return ret;
    }
    bool zero =
        m.type == CLUSTER_ZERO_PLAIN || m.type == CLUSTER_ZERO_ALLOC ||
        (m.type == CLUSTER_UNALLOCATED && !qcow2_backing_covers(s, offset));
    return zero && m.bytes == bytes ? 0 : -ENOTSUP;
}

/* The end of the node counts as the end of a cluster. */
static int64_t whole_clusters(const struct qcow2 *s, int64_t offset,
                              int64_t bytes)
{
    int64_t end = offset + bytes;

    if (end == s->node->length) {
        end = align_up(end, s->cluster_size);
    }
    return is_aligned(offset | end, s->cluster_size) ? end - offset : 0;
}

int co_qcow2_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                           unsigned flags)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int64_t whole = whole_clusters(s, offset, bytes);
    int ret;

    if (whole) {
        ret =
            co_change(s, offset, whole,
                      flags & REQ_MAY_UNMAP ? CHANGE_ZERO_UNMAP : CHANGE_ZERO);
    } else {
        ret = co_zero_part(s, offset, bytes);
    }
    qcow2_leave(s, generation);
    return ret;
}

int co_qcow2_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct qcow2 *s = node->state;
    unsigned generation = qcow2_enter(s);
    int64_t whole = whole_clusters(s, offset, bytes);
    int ret = whole ? co_change(s, offset, whole, CHANGE_DISCARD) : -ENOTSUP;

    qcow2_leave(s, generation);
    return ret;
}

int co_qcow2_unmap(struct qcow2 *s, int64_t offset, int64_t bytes)
{
    unsigned generation = qcow2_enter(s);
    int ret = co_change(s, offset, bytes, CHANGE_UNMAP);

    qcow2_leave(s, generation);
    return ret;
}
