/*
 * Packed rings (virtio 1.1, 2.7): one ring of descriptors, in which the driver
 * makes buffers available and the device overwrites them as used.
 *
 * A position counts descriptors and laps (its wrap counter); a descriptor is
 * available in the device's lap if its two marks say so. Every field that the
 * driver writes is fetched once and checked before use: the buffer id of a
 * chain of several descriptors is in its last one, so these are gathered first.
 *
 * Invariants: descs_in_flight counts descriptors that were popped and not
 * pushed, so that a used descriptor never overtakes an available one; of what
 * was pushed since the last publish() only the first descriptor's flags are not
 * in the ring yet, and the driver looks at nothing behind that one. Runs on the
 * device's loop, does not suspend.
 */
#include <errno.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/ring_table.h"

static bool packed_map(struct virtqueue *vq)
{
    const struct virtqueue_setup *s = &vq->setup;

    if (vring_packed_index(s->avail_idx) >= vq->size ||
        vring_packed_index(s->used_idx) >= vq->size) {
        return virtqueue_break(vq, "position outside of the ring");
    }
    vq->ring = virtqueue_area(vq, s->desc, vring_desc_bytes(vq->size),
                              VRING_DESC_ALIGN);
    vq->driver_event =
        virtqueue_area(vq, s->avail, VRING_EVENT_BYTES, VRING_EVENT_ALIGN);
    vq->device_event =
        virtqueue_area(vq, s->used, VRING_EVENT_BYTES, VRING_EVENT_ALIGN);
    if (!vq->ring || !vq->driver_event || !vq->device_event) {
        return virtqueue_break(vq, "ring outside guest memory or unaligned");
    }
    return true;
}

static struct vring_packed_desc *at(const struct virtqueue *vq, uint16_t pos)
{
    return &vq->ring[vring_packed_index(pos)];
}

static struct vring_packed_desc fetch(const struct vring_packed_desc *from,
                                      uint16_t flags)
{
    return (struct vring_packed_desc){
        .addr = guest_read_64(&from->addr),
        .len = guest_read_32(&from->len),
        .id = guest_read_16(&from->id),
        .flags = flags,
    };
}

/* 2.7.7: all entries of the table belong to the chain, in their order. */
static bool add_table(struct virtqueue *vq, struct vq_chain *c,
                      const struct vring_packed_desc *d)
{
    struct vring_packed_desc copy;
    struct ring_table t = {0};

    if (!ring_table_open(vq, &t, d->addr, d->len)) {
        return false;
    }
    if (t.count > vq->max_size) {
        return virtqueue_break(vq, "chain too long");
    }
    for (uint32_t i = 0; i < t.count; i++) {
        const struct vring_packed_desc *e = ring_table_at(vq, &t, i, &copy);

        if (!e) {
            return false;
        }
        uint16_t flags = guest_read_16(&e->flags);

        if (G_UNLIKELY(flags & VRING_DESC_F_INDIRECT)) {
            return virtqueue_break(vq, "indirect descriptor in indirect table");
        }
        if (!virtqueue_chain_add(vq, c, guest_read_64(&e->addr),
                                 guest_read_32(&e->len),
                                 flags & VRING_DESC_F_WRITE)) {
            return false;
        }
    }
    return true;
}

/* The descriptors of the chain at last_avail, of which the first was fetched
 * already: how many there are, or 0 (broken). */
static unsigned gather(struct virtqueue *vq)
{
    struct vring_packed_desc *g = vq->gathered;
    unsigned room = vq->size - vq->descs_in_flight;
    uint16_t pos = vq->last_avail;
    unsigned n = 0;

    while (g[n].flags & VRING_DESC_F_NEXT) {
        if (g[n].flags & VRING_DESC_F_INDIRECT) {
            virtqueue_break(vq, "indirect descriptor in a chain");
            return 0;
        }
        if (++n >= room) {
            virtqueue_break(vq, "chain longer than the queue");
            return 0;
        }
        pos = vring_packed_advance(pos, 1, vq->size);
        const struct vring_packed_desc *d = at(vq, pos);
        uint16_t flags = guest_read_16(&d->flags);

        if (!vring_packed_marked(flags, vring_packed_avail(pos))) {
            virtqueue_break(vq, "chain ends in an unavailable descriptor");
            return 0;
        }
        g[n] = fetch(d, flags);
    }
    if (n && g[n].flags & VRING_DESC_F_INDIRECT) {
        virtqueue_break(vq, "indirect descriptor in a chain");
        return 0;
    }
    return n + 1;
}

bool packed_build_chain(struct virtqueue *vq, unsigned n, uint16_t *head)
{
    const struct vring_packed_desc *d = vq->gathered;
    struct vq_chain *c = virtqueue_chain_begin(vq, d[n - 1].id);

    if (!c) {
        return false;
    }
    if (d[0].flags & VRING_DESC_F_INDIRECT) {
        if (!add_table(vq, c, &d[0])) {
            return false;
        }
    } else {
        for (unsigned i = 0; i < n; i++) {
            if (!virtqueue_chain_add(vq, c, d[i].addr, d[i].len,
                                     d[i].flags & VRING_DESC_F_WRITE)) {
                return false;
            }
        }
    }
    c->in_flight = true;
    c->descs = n;
    vq->descs_in_flight += n;
    *head = c->head;
    return true;
}

/* The chain at last_avail; false: broken. */
static bool read_chain(struct virtqueue *vq, uint16_t flags, uint16_t *head)
{
    struct vring_packed_desc *d = vq->gathered;
    unsigned n = 1;

    if (vq->descs_in_flight >= vq->size) {
        return virtqueue_break(vq, "more descriptors than the ring holds");
    }
    d[0] = fetch(at(vq, vq->last_avail), flags);
    if (flags & VRING_DESC_F_NEXT) {
        n = gather(vq);
        if (!n) {
            return false;
        }
    }
    if (!packed_build_chain(vq, n, head)) {
        return false;
    }
    vq->last_avail = vring_packed_advance(vq->last_avail, n, vq->size);
    return true;
}

/* As if each chain were one descriptor, which it is if it is a table. */
static void expect_tables(const struct virtqueue *vq, unsigned max)
{
    uint16_t pos = vq->last_avail;

    for (unsigned n = 0; n < max; n++) {
        const struct vring_packed_desc *d = at(vq, pos);
        uint16_t flags = guest_read_16(&d->flags);

        if (!vring_packed_marked(flags, vring_packed_avail(pos))) {
            break;
        }
        if (flags & VRING_DESC_F_INDIRECT) {
            ring_table_expect(vq, guest_read_64(&d->addr));
        }
        pos = vring_packed_advance(pos, 1, vq->size);
    }
}

static int packed_pop(struct virtqueue *vq, uint16_t *heads, unsigned max)
{
    uint16_t first = vq->last_avail;
    unsigned n;

    expect_tables(vq, max);
    for (n = 0; n < max; n++) {
        /* 2.7.13.3: nothing else is read before the flags. */
        uint16_t flags =
            le16toh(load_acquire_u16(&at(vq, vq->last_avail)->flags));

        if (!vring_packed_marked(flags, vring_packed_avail(vq->last_avail))) {
            break;
        }
        if (!read_chain(vq, flags, &heads[n])) {
            vq->last_avail = first;
            return virtqueue_unpop(vq, heads, n);
        }
        vq_chain_expect(virtqueue_slot(vq, heads[n]));
    }
    return n;
}

static void packed_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    const struct vq_chain *c = virtqueue_slot(vq, head);
    struct vring_packed_desc *d = at(vq, vq->used_idx);
    uint16_t flags = vring_packed_used(vq->used_idx);

    flags |= written ? VRING_DESC_F_WRITE : 0;
    d->id = htole16(head);
    d->len = htole32(written);
    if (vq->used_idx == vq->published_used) {
        vq->first_used_flags = flags;
    } else {
        d->flags = htole16(flags);
    }
    vq->descs_in_flight -= c->descs;
    vq->used_idx = vring_packed_advance(vq->used_idx, c->descs, vq->size);
}

static bool packed_publish(struct virtqueue *vq)
{
    uint16_t old = vq->published_used;

    vq->published_used = vq->used_idx;
    store_release_u16(&at(vq, old)->flags, htole16(vq->first_used_flags));
    /* 2.7.13.4: the flags must be out before the driver's wish is read. */
    memory_barrier();
    return vring_packed_need_event(guest_read_32(vq->driver_event),
                                   vq->used_idx, old, vq->size);
}

static bool packed_has_work(const struct virtqueue *vq)
{
    uint16_t flags = le16toh(load_relaxed_u16(&at(vq, vq->last_avail)->flags));

    return vring_packed_marked(flags, vring_packed_avail(vq->last_avail));
}

static void packed_set_notify(struct virtqueue *vq, bool on)
{
    uint32_t event = !on ? VRING_EVENT(VRING_EVENT_DISABLE, 0)
                     : vq->event_idx
                         ? VRING_EVENT(VRING_EVENT_DESC, vq->last_avail)
                         : VRING_EVENT(VRING_EVENT_ENABLE, 0);

    store_release_u32(vq->device_event, htole32(event));
}

const struct ring_format packed_ring_format = {
    .name = "packed",
    .first = VRING_PACKED_FIRST,
    .map = packed_map,
    .pop = packed_pop,
    .push = packed_push,
    .publish = packed_publish,
    .has_work = packed_has_work,
    .set_notify = packed_set_notify,
    .inflight = &packed_inflight_format,
};
