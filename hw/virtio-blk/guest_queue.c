/*
 * The driver's side of a split virtqueue.
 *
 * Slot i owns descriptor i where indirect descriptors were negotiated, and
 * descriptors 3i to 3i+2 where not, so that no descriptor is ever searched for.
 * Invariant: a slot is free, with its user, or in flight; only the device's
 * used ring ends the latter. Runs on the guest's loop, does not suspend.
 */
#include "hw/virtio-blk/guest_queue.h"

#include <string.h>

#include "aio/atomic.h"
#include "util/range.h"

#define PAGE 4096

_Static_assert(sizeof(struct guest_slot_control) == 512, "layout of a slot");

struct layout {
    uint64_t avail, used, control, data, end;
    unsigned slots;
};

static struct layout layout_of(uint16_t size)
{
    struct layout l;

    l.slots = MIN(size, GUEST_MAX_SLOTS);
    l.avail = align_up(vring_desc_bytes(size), 64);
    l.used = align_up(l.avail + vring_avail_bytes(size), 64);
    l.control = align_up(l.used + vring_used_bytes(size), PAGE);
    l.data =
        align_up(l.control + l.slots * sizeof(struct guest_slot_control), PAGE);
    l.end = l.data + (uint64_t)l.slots * GUEST_MAX_TRANSFER;
    return l;
}

uint64_t guest_queue_bytes(uint16_t size)
{
    return layout_of(size).end;
}

void guest_queue_init(struct guest_queue *q, uint16_t size, void *host,
                      uint64_t gpa, bool event_idx, bool indirect)
{
    struct layout l = layout_of(size);
    uint8_t *base = host;

    memset(q, 0, sizeof(*q));
    memset(host, 0, l.control); /* both indices begin at zero */
    q->size = size;
    q->event_idx = event_idx;
    q->indirect = indirect;
    q->desc = host;
    q->desc_gpa = gpa;
    q->avail = (void *)(base + l.avail);
    q->avail_gpa = gpa + l.avail;
    q->used = (void *)(base + l.used);
    q->used_gpa = gpa + l.used;
    q->num_slots = indirect ? l.slots : MIN(l.slots, size / 3u);
    q->slots = g_new0(struct guest_slot, q->num_slots);
    for (unsigned i = q->num_slots; i-- > 0;) {
        struct guest_slot *s = &q->slots[i];
        uint64_t control = l.control + i * sizeof(*s->control);
        uint64_t data = l.data + (uint64_t)i * GUEST_MAX_TRANSFER;

        s->queue = q;
        s->control = (void *)(base + control);
        s->control_gpa = gpa + control;
        s->data = base + data;
        s->data_gpa = gpa + data;
        s->next_free = q->free;
        q->free = s;
    }
}

void guest_queue_destroy(struct guest_queue *q)
{
    g_free(q->slots);
    memset(q, 0, sizeof(*q));
}

struct guest_slot *guest_queue_get(struct guest_queue *q)
{
    struct guest_slot *s = q->free;

    if (s) {
        q->free = s->next_free;
    }
    return s;
}

void guest_queue_put(struct guest_slot *s)
{
    s->done = NULL;
    s->next_free = s->queue->free;
    s->queue->free = s;
}

static void describe(struct vring_desc *d, uint64_t gpa, uint32_t bytes,
                     uint16_t flags, uint16_t next)
{
    d->addr = htole64(gpa);
    d->len = htole32(bytes);
    d->flags = htole16(flags);
    d->next = htole16(next);
}

static uint16_t head_of(const struct guest_slot *s)
{
    unsigned i = s - s->queue->slots;

    return s->queue->indirect ? i : 3 * i;
}

void guest_queue_add_raw(struct guest_queue *q, uint16_t head)
{
    q->avail->ring[q->avail_idx++ & (q->size - 1)] = htole16(head);
}

/* Header, data and status as n descriptors at table[first..]. */
static unsigned chain(const struct guest_slot *s, struct vring_desc *table,
                      unsigned first, uint32_t data_bytes, unsigned segments,
                      bool device_fills)
{
    uint16_t flags =
        VRING_DESC_F_NEXT | (device_fills ? VRING_DESC_F_WRITE : 0);
    unsigned n = first;
    uint32_t done = 0;

    describe(&table[n], s->control_gpa, sizeof(s->control->header),
             VRING_DESC_F_NEXT, n + 1);
    n++;
    for (unsigned i = 0; i < segments && done < data_bytes; i++) {
        uint32_t left = data_bytes - done;
        uint32_t part = i + 1 == segments
                            ? left
                            : MIN(left, align_up(data_bytes / segments, 512));

        if (!part) {
            continue;
        }
        describe(&table[n], s->data_gpa + done, part, flags, n + 1);
        done += part;
        n++;
    }
    describe(&table[n],
             s->control_gpa + offsetof(struct guest_slot_control, status), 1,
             VRING_DESC_F_WRITE, 0);
    return n + 1 - first;
}

void guest_queue_add(struct guest_slot *s, uint32_t type, uint64_t sector,
                     uint32_t data_bytes, unsigned segments)
{
    struct guest_queue *q = s->queue;
    bool fills = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    uint16_t head = head_of(s);

    s->control->header = (struct virtio_blk_header){
        .type = htole32(type),
        .sector = htole64(sector),
    };
    s->control->status = 0xff;
    if (q->indirect) {
        unsigned n = chain(s, s->control->table, 0, data_bytes,
                           MIN(segments, GUEST_MAX_SEGMENTS), fills);
        describe(&q->desc[head],
                 s->control_gpa + offsetof(struct guest_slot_control, table),
                 n * sizeof(struct vring_desc), VRING_DESC_F_INDIRECT, 0);
    } else {
        chain(s, q->desc, head, data_bytes, 1, fills);
    }
    s->in_flight = true;
    q->in_flight++;
    guest_queue_add_raw(q, head);
}

bool guest_queue_show(struct guest_queue *q)
{
    uint16_t old = q->shown_idx;

    if (old == q->avail_idx) {
        return false;
    }
    q->shown_idx = q->avail_idx;
    store_release_u16(&q->avail->idx, htole16(q->avail_idx));
    memory_barrier();
    if (q->event_idx) {
        uint16_t *event = (uint16_t *)&q->used->ring[q->size];
        return vring_need_event(guest_read_16(event), q->avail_idx, old);
    }
    return !(guest_read_16(&q->used->flags) & VRING_USED_F_NO_NOTIFY);
}

bool guest_queue_reap(struct guest_queue *q)
{
    uint16_t now = le16toh(load_acquire_u16(&q->used->idx));
    bool any = now != q->last_used;

    while (q->last_used != now) {
        const struct vring_used_elem *e =
            &q->used->ring[q->last_used++ & (q->size - 1)];
        uint32_t id = guest_read_32(&e->id);
        uint32_t i = q->indirect ? id : id / 3;

        if (i >= q->num_slots || !q->slots[i].in_flight ||
            head_of(&q->slots[i]) != id) {
            q->violations++;
            continue;
        }
        struct guest_slot *s = &q->slots[i];

        s->in_flight = false;
        q->in_flight--;
        s->done(s, s->opaque);
    }
    return any;
}

bool guest_queue_interrupts_on(struct guest_queue *q)
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

void guest_queue_interrupts_off(struct guest_queue *q)
{
    if (!q->interrupts_off && !q->event_idx) {
        store_release_u16(&q->avail->flags,
                          htole16(VRING_AVAIL_F_NO_INTERRUPT));
    }
    q->interrupts_off = true;
}
