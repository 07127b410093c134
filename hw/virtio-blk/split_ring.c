/*
 * Split rings (virtio 1.1, 2.6): descriptor table, available ring, used ring.
 *
 * Every field that the driver writes is fetched once and checked before use.
 * Indices run freely over 16 bits; the difference to ours says how many entries
 * are new, and more than the ring holds is a violation. A chain has at most
 * max_size buffers, so a loop of descriptors ends as a violation too. Runs on
 * the device's loop, does not suspend.
 */
#include <errno.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/ring_table.h"
#include "util/range.h"

/* The areas must lie in one region each: their fields are accessed in place. */
static bool split_map(struct virtqueue *vq)
{
    const struct virtqueue_setup *s = &vq->setup;

    if (!is_power_of_2(vq->size)) {
        return virtqueue_break(vq, "invalid queue size");
    }
    vq->desc = virtqueue_area(vq, s->desc, vring_desc_bytes(vq->size),
                              VRING_DESC_ALIGN);
    vq->avail = virtqueue_area(vq, s->avail, vring_avail_bytes(vq->size),
                               VRING_AVAIL_ALIGN);
    vq->used = virtqueue_area(vq, s->used, vring_used_bytes(vq->size),
                              VRING_USED_ALIGN);
    if (!vq->desc || !vq->avail || !vq->used) {
        return virtqueue_break(vq, "ring outside guest memory or unaligned");
    }
    return true;
}

static uint16_t *used_event(const struct virtqueue *vq)
{
    return &vq->avail->ring[vq->size];
}

static uint16_t *avail_event(const struct virtqueue *vq)
{
    return (uint16_t *)&vq->used->ring[vq->size];
}

static uint16_t avail_idx(const struct virtqueue *vq)
{
    return le16toh(load_acquire_u16(&vq->avail->idx));
}

static struct vring_desc fetch(const struct vring_desc *from)
{
    return (struct vring_desc){
        .addr = guest_read_64(&from->addr),
        .len = guest_read_32(&from->len),
        .flags = guest_read_16(&from->flags),
        .next = guest_read_16(&from->next),
    };
}

static bool fetch_from(struct virtqueue *vq, const struct ring_table *t,
                       uint32_t index, struct vring_desc *d)
{
    struct vring_desc copy;

    if (index >= t->count) {
        return virtqueue_break(vq, "next descriptor out of range");
    }
    const struct vring_desc *from = ring_table_at(vq, t, index, &copy);

    if (!from) {
        return false;
    }
    *d = fetch(from);
    return true;
}

/* 2.6.5.3: the last descriptor of the ring's own table may refer to a table
 * that continues the chain. */
static G_ALWAYS_INLINE inline bool enter_indirect(struct virtqueue *vq,
                                                  struct ring_table *t,
                                                  const struct vring_desc *d)
{
    if (t->indirect) {
        return virtqueue_break(vq, "indirect descriptor in indirect table");
    }
    if (d->flags & VRING_DESC_F_NEXT) {
        return virtqueue_break(vq, "indirect descriptor with a next one");
    }
    return ring_table_open(vq, t, d->addr, d->len);
}

static G_ALWAYS_INLINE inline bool read_chain(struct virtqueue *vq,
                                              uint16_t head)
{
    struct vq_chain *c = virtqueue_chain_begin(vq, head);
    struct ring_table t = {.entries = vq->desc, .count = vq->size};
    uint32_t index = head;
    unsigned buffers = 0;
    struct vring_desc d;

    if (!c) {
        return false;
    }
    for (;;) {
        if (!fetch_from(vq, &t, index, &d)) {
            return false;
        }
        if (d.flags & VRING_DESC_F_INDIRECT) {
            if (!enter_indirect(vq, &t, &d)) {
                return false;
            }
            index = 0;
            continue;
        }
        if (++buffers > vq->max_size) {
            return virtqueue_break(vq, "chain too long, or a loop");
        }
        if (!virtqueue_chain_add(vq, c, d.addr, d.len,
                                 d.flags & VRING_DESC_F_WRITE)) {
            return false;
        }
        if (!(d.flags & VRING_DESC_F_NEXT)) {
            break;
        }
        index = d.next;
    }
    c->in_flight = true;
    return true;
}

bool split_read_chain(struct virtqueue *vq, uint16_t head)
{
    return read_chain(vq, head);
}

static int split_pop(struct virtqueue *vq, uint16_t *heads, unsigned max)
{
    uint16_t mask = vq->size - 1;
    uint16_t ready = avail_idx(vq) - vq->last_avail;
    unsigned n;

    if (ready > vq->size) {
        virtqueue_break(vq, "available index jumped");
        return -EBADMSG;
    }
    if (ready < max) {
        max = ready;
    }
    for (n = 0; n < max; n++) {
        heads[n] = guest_read_16(&vq->avail->ring[(vq->last_avail + n) & mask]);
        if (heads[n] < vq->size) {
            __builtin_prefetch(&vq->desc[heads[n]]);
            __builtin_prefetch(virtqueue_slot(vq, heads[n]), 1);
        }
    }
    for (n = 0; n < max; n++) {
        const struct vring_desc *d = &vq->desc[heads[n]];
        if (heads[n] < vq->size &&
            guest_read_16(&d->flags) & VRING_DESC_F_INDIRECT) {
            ring_table_expect(vq, guest_read_64(&d->addr));
        }
    }
    for (n = 0; n < max; n++) {
        if (!read_chain(vq, heads[n])) {
            return virtqueue_unpop(vq, heads, n);
        }
        vq_chain_expect(virtqueue_slot(vq, heads[n]));
    }
    vq->last_avail += max;
    return max;
}

static void split_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    struct vring_used_elem *e = &vq->used->ring[vq->used_idx & (vq->size - 1)];

    e->id = htole32(head);
    e->len = htole32(written);
    vq->used_idx++;
}

static bool split_publish(struct virtqueue *vq)
{
    uint16_t old = vq->published_used;

    vq->published_used = vq->used_idx;
    store_release_u16(&vq->used->idx, htole16(vq->used_idx));
    /* 2.6.8: the index must be out before the driver's wish is read. */
    memory_barrier();
    if (vq->event_idx) {
        return vring_need_event(guest_read_16(used_event(vq)), vq->used_idx,
                                old);
    }
    return !(guest_read_16(&vq->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
}

static bool split_has_work(const struct virtqueue *vq)
{
    return le16toh(load_relaxed_u16(&vq->avail->idx)) != vq->last_avail;
}

static void split_set_notify(struct virtqueue *vq, bool on)
{
    if (!vq->event_idx) {
        store_release_u16(&vq->used->flags,
                          htole16(on ? 0 : VRING_USED_F_NO_NOTIFY));
    } else if (on) {
        store_release_u16(avail_event(vq), htole16(vq->last_avail));
    }
    /* With EVENT_IDX an index that was passed already silences the driver. */
}

const struct ring_format split_ring_format = {
    .name = "split",
    .map = split_map,
    .pop = split_pop,
    .push = split_push,
    .publish = split_publish,
    .has_work = split_has_work,
    .set_notify = split_set_notify,
    .inflight = &split_inflight_format,
};
