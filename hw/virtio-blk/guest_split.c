/*
 * The driver's side of a split ring.
 *
 * Slot i owns descriptor i where indirect descriptors were negotiated, and
 * descriptors 3i to 3i+2 where not, so that no descriptor is ever searched for.
 * Runs on the guest's loop, does not suspend.
 */
#include "aio/atomic.h"
#include "hw/virtio-blk/guest_queue.h"

static uint16_t head_of(const struct guest_slot *s)
{
    unsigned i = s - s->queue->slots;

    return s->queue->indirect ? i : 3 * i;
}

static void split_add_raw(struct guest_queue *q, uint16_t head)
{
    q->avail->ring[q->avail_idx++ & (q->size - 1)] = htole16(head);
}

static void describe(struct vring_desc *d, uint64_t gpa, uint32_t bytes,
                     uint16_t flags, uint16_t next)
{
    d->addr = htole64(gpa);
    d->len = htole32(bytes);
    d->flags = htole16(flags);
    d->next = htole16(next);
}

static void split_add(struct guest_slot *s, const struct guest_buffer *b,
                      unsigned n)
{
    struct guest_queue *q = s->queue;
    uint16_t head = head_of(s), at = q->indirect ? 0 : head;
    struct vring_desc *d = q->indirect ? s->control->table : &q->desc[head];

    for (unsigned i = 0; i + 1 < n; i++) {
        describe(&d[i], b[i].gpa, b[i].bytes, b[i].flags | VRING_DESC_F_NEXT,
                 ++at);
    }
    describe(&d[n - 1], b[n - 1].gpa, b[n - 1].bytes, b[n - 1].flags, 0);
    if (q->indirect) {
        describe(&q->desc[head],
                 s->control_gpa + offsetof(struct guest_slot_control, table),
                 n * sizeof(*d), VRING_DESC_F_INDIRECT, 0);
    }
    split_add_raw(q, head);
}

static bool split_show(struct guest_queue *q)
{
    uint16_t old = q->shown_idx;

    q->shown_idx = q->avail_idx;
    store_release_u16(&q->avail->idx, htole16(q->avail_idx));
    memory_barrier();
    if (q->event_idx) {
        uint16_t *event = (uint16_t *)&q->used->ring[q->size];
        return vring_need_event(guest_read_16(event), q->avail_idx, old);
    }
    return !(guest_read_16(&q->used->flags) & VRING_USED_F_NO_NOTIFY);
}

static bool split_reap(struct guest_queue *q)
{
    uint16_t now = le16toh(load_acquire_u16(&q->used->idx));
    bool any = now != q->last_used;

    while (q->last_used != now) {
        const struct vring_used_elem *e =
            &q->used->ring[q->last_used++ & (q->size - 1)];
        uint32_t id = guest_read_32(&e->id);

        if (!q->indirect) {
            /* One that is no slot's first descriptor is nobody's. */
            id = id % 3 ? UINT32_MAX : id / 3;
        }
        guest_queue_returned(q, id);
    }
    return any;
}

static bool split_interrupts_on(struct guest_queue *q)
{
    q->interrupts_off = false;
    if (q->event_idx) {
        store_release_u16(&q->avail->ring[q->size], htole16(q->last_used));
    } else {
        store_release_u16(&q->avail->flags, 0);
    }
    memory_barrier();
    return le16toh(load_relaxed_u16(&q->used->idx)) != q->last_used;
}

static void split_interrupts_off(struct guest_queue *q)
{
    if (!q->interrupts_off && !q->event_idx) {
        store_release_u16(&q->avail->flags,
                          htole16(VRING_AVAIL_F_NO_INTERRUPT));
    }
    q->interrupts_off = true;
}

const struct guest_ring_format guest_split_ring = {
    .first = 0,
    .add = split_add,
    .add_raw = split_add_raw,
    .show = split_show,
    .reap = split_reap,
    .interrupts_on = split_interrupts_on,
    .interrupts_off = split_interrupts_off,
};
