/*
 * The driver's side of a packed ring.
 *
 * The buffer id of a chain is the number of its slot. Descriptors are taken in
 * the order of the ring; the flags of the first one that the device has not
 * been shown yet are written when it is shown, after all others. Runs on the
 * guest's loop, does not suspend.
 */
#include "aio/atomic.h"
#include "hw/virtio-blk/guest_queue.h"

static struct vring_packed_desc *at(const struct guest_queue *q, uint16_t pos)
{
    return &q->ring[vring_packed_index(pos)];
}

static void describe(struct vring_packed_desc *d, uint64_t gpa, uint32_t bytes,
                     uint16_t id)
{
    d->addr = htole64(gpa);
    d->len = htole32(bytes);
    d->id = htole16(id);
}

void guest_packed_put(struct guest_queue *q, uint64_t gpa, uint32_t bytes,
                      uint16_t flags, uint16_t id)
{
    uint16_t pos = q->avail_idx;
    struct vring_packed_desc *d = at(q, pos);

    flags |= vring_packed_avail(pos);
    describe(d, gpa, bytes, id);
    if (pos == q->shown_idx) {
        q->first_flags = flags;
    } else {
        d->flags = htole16(flags);
    }
    q->avail_idx = vring_packed_advance(pos, 1, q->size);
}

static void packed_add(struct guest_slot *s, const struct guest_buffer *b,
                       unsigned n)
{
    struct guest_queue *q = s->queue;
    struct vring_packed_desc *t = s->control->packed_table;
    uint16_t id = s - q->slots;

    s->descs = q->indirect ? 1 : n;
    if (!q->indirect) {
        for (unsigned i = 0; i < n; i++) {
            guest_packed_put(q, b[i].gpa, b[i].bytes,
                             b[i].flags | (i + 1 < n ? VRING_DESC_F_NEXT : 0),
                             id);
        }
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        describe(&t[i], b[i].gpa, b[i].bytes, 0);
        t[i].flags = htole16(b[i].flags);
    }
    guest_packed_put(
        q, s->control_gpa + offsetof(struct guest_slot_control, packed_table),
        n * sizeof(*t), VRING_DESC_F_INDIRECT, id);
}

static void packed_add_raw(struct guest_queue *q, uint16_t head)
{
    guest_packed_put(q, q->slots[0].control_gpa, 1, 0, head);
}

static bool packed_show(struct guest_queue *q)
{
    uint16_t old = q->shown_idx;

    q->shown_idx = q->avail_idx;
    store_release_u16(&at(q, old)->flags, htole16(q->first_flags));
    memory_barrier();
    return vring_packed_need_event(guest_read_32(q->device_event), q->avail_idx,
                                   old, q->size);
}

static bool packed_reap(struct guest_queue *q)
{
    bool any = false;

    for (;;) {
        const struct vring_packed_desc *d = at(q, q->last_used);
        uint16_t flags = le16toh(load_acquire_u16(&d->flags));

        if (!vring_packed_marked(flags, vring_packed_used(q->last_used))) {
            return any;
        }
        uint16_t id = guest_read_16(&d->id);
        unsigned descs = id < q->num_slots ? q->slots[id].descs : 1;

        any = true;
        q->last_used = vring_packed_advance(q->last_used, descs, q->size);
        guest_queue_returned(q, id);
    }
}

static bool packed_interrupts_on(struct guest_queue *q)
{
    uint32_t event = q->event_idx ? VRING_EVENT(VRING_EVENT_DESC, q->last_used)
                                  : VRING_EVENT(VRING_EVENT_ENABLE, 0);

    q->interrupts_off = false;
    store_release_u32(q->driver_event, htole32(event));
    memory_barrier();
    uint16_t flags = le16toh(load_relaxed_u16(&at(q, q->last_used)->flags));

    return vring_packed_marked(flags, vring_packed_used(q->last_used));
}

static void packed_interrupts_off(struct guest_queue *q)
{
    if (!q->interrupts_off) {
        store_release_u32(q->driver_event,
                          htole32(VRING_EVENT(VRING_EVENT_DISABLE, 0)));
    }
    q->interrupts_off = true;
}

const struct guest_ring_format guest_packed_ring = {
    .first = VRING_PACKED_FIRST,
    .add = packed_add,
    .add_raw = packed_add_raw,
    .show = packed_show,
    .reap = packed_reap,
    .interrupts_on = packed_interrupts_on,
    .interrupts_off = packed_interrupts_off,
};
