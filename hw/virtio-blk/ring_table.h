/*
 * Indirect tables, which have the same form in both ring formats but for what
 * a descriptor's last four bytes mean.
 */
#ifndef VARVE_HW_RING_TABLE_H
#define VARVE_HW_RING_TABLE_H

#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

#define RING_DESC_BYTES 16
_Static_assert(sizeof(struct vring_desc) == RING_DESC_BYTES, "2.6.5");
_Static_assert(sizeof(struct vring_packed_desc) == RING_DESC_BYTES, "2.7.13");

struct ring_table {
    const void *entries; /* NULL: look each one up by gpa */
    uint64_t gpa;
    uint32_t count;
    bool indirect;
};

/* The table that a descriptor refers to; false: broken. */
static inline bool ring_table_open(struct virtqueue *vq, struct ring_table *t,
                                   uint64_t gpa, uint32_t bytes)
{
    if (!vq->indirect) {
        return virtqueue_break(vq, "indirect descriptor was not negotiated");
    }
    if (!bytes || bytes % RING_DESC_BYTES) {
        return virtqueue_break(vq, "indirect table of odd length");
    }
    *t = (struct ring_table){
        .entries = guest_memory_at(vq->memory, gpa, bytes),
        .gpa = gpa,
        .count = bytes / RING_DESC_BYTES,
        .indirect = true,
    };
    if ((uintptr_t)t->entries % sizeof(uint64_t)) {
        t->entries = NULL; /* legal for the guest: copy each one out */
    }
    if (!t->entries && t->gpa > UINT64_MAX - bytes) {
        return virtqueue_break(vq, "indirect table outside guest memory");
    }
    return true;
}

/* Asks for the table's first line; see vq_chain_expect(). The address is only a
 * hint, and may be anything. */
static inline void ring_table_expect(const struct virtqueue *vq, uint64_t gpa)
{
    const void *table = guest_memory_at(vq->memory, gpa, RING_DESC_BYTES);

    if (table) {
        __builtin_prefetch(table);
    }
}

/* Where entry `index` < count is: in guest memory, or in *copy of as many
 * bytes. NULL: broken. */
static inline const void *ring_table_at(struct virtqueue *vq,
                                        const struct ring_table *t,
                                        uint32_t index, void *copy)
{
    uint64_t at = (uint64_t)index * RING_DESC_BYTES;

    if (G_LIKELY(t->entries)) {
        return (const char *)t->entries + at;
    }
    if (guest_memory_read(vq->memory, t->gpa + at, copy, RING_DESC_BYTES) < 0) {
        virtqueue_break(vq, "indirect table outside guest memory");
        return NULL;
    }
    return copy;
}

#endif
