/*
 * The driver's side of a virtqueue: what is the same for both ring formats.
 *
 * There are never more slots than chains that fit into the ring: one descriptor
 * each where indirect ones were negotiated, else three.
 * Invariant: a slot is free, with its user, or in flight; only the device's
 * used descriptors end the latter. Runs on the guest's loop, does not suspend.
 */
#include "hw/virtio-blk/guest_queue.h"

#include <stdlib.h>
#include <string.h>

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

/* Nothing is available or used. */
static void empty(struct guest_queue *q)
{
    memset(q->desc, 0, layout_of(q->size).control);
    q->avail_idx = q->shown_idx = q->last_used = q->format->first;
    q->held = q->interrupts_off = false;
}

void guest_queue_init(struct guest_queue *q, uint16_t size, void *host,
                      uint64_t gpa, uint64_t features)
{
    struct layout l = layout_of(size);
    uint8_t *base = host;

    memset(q, 0, sizeof(*q));
    q->size = size;
    q->format = features & VIRTIO_BIT(VIRTIO_F_RING_PACKED) ? &guest_packed_ring
                                                            : &guest_split_ring;
    q->event_idx = features & VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    q->indirect = features & VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
    q->desc = host;
    q->desc_gpa = gpa;
    q->avail = (void *)(base + l.avail);
    q->avail_gpa = gpa + l.avail;
    q->used = (void *)(base + l.used);
    q->used_gpa = gpa + l.used;
    empty(q);
    q->num_slots = q->indirect ? l.slots : MIN(l.slots, size / 3u);
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

    if (!s || q->held) {
        return NULL;
    }
    q->free = s->next_free;
    return s;
}

void guest_queue_put(struct guest_slot *s)
{
    s->done = NULL;
    s->next_free = s->queue->free;
    s->queue->free = s;
}

/* Header, data and status; returns how many buffers. */
static unsigned lay_out(const struct guest_slot *s, struct guest_buffer *b,
                        uint32_t data_bytes, unsigned segments,
                        bool device_fills)
{
    uint16_t flags = device_fills ? VRING_DESC_F_WRITE : 0;
    unsigned n = 0;
    uint32_t done = 0;

    b[n++] =
        (struct guest_buffer){s->control_gpa, sizeof(s->control->header), 0};
    for (unsigned i = 0; i < segments && done < data_bytes; i++) {
        uint32_t left = data_bytes - done;
        uint32_t part = i + 1 == segments
                            ? left
                            : MIN(left, align_up(data_bytes / segments, 512));

        if (!part) {
            continue;
        }
        b[n++] = (struct guest_buffer){s->data_gpa + done, part, flags};
        done += part;
    }
    b[n++] = (struct guest_buffer){
        s->control_gpa + offsetof(struct guest_slot_control, status), 1,
        VRING_DESC_F_WRITE};
    return n;
}

static void put_on_ring(struct guest_slot *s)
{
    struct guest_queue *q = s->queue;
    bool fills = s->type == VIRTIO_BLK_T_IN || s->type == VIRTIO_BLK_T_GET_ID;
    struct guest_buffer buffers[GUEST_MAX_SEGMENTS + 2];

    s->control->header = (struct virtio_blk_header){
        .type = htole32(s->type),
        .sector = htole64(s->sector),
    };
    s->control->status = 0xff;
    q->format->add(s, buffers,
                   lay_out(s, buffers, s->bytes, s->segments, fills));
}

void guest_queue_add(struct guest_slot *s, uint32_t type, uint64_t sector,
                     uint32_t data_bytes, unsigned segments)
{
    struct guest_queue *q = s->queue;

    s->type = type;
    s->sector = sector;
    s->bytes = data_bytes;
    s->segments = q->indirect ? MIN(segments, GUEST_MAX_SEGMENTS) : 1;
    s->sequence = q->added++;
    put_on_ring(s);
    s->in_flight = true;
    q->in_flight++;
}

static int by_sequence(const void *a, const void *b)
{
    const struct guest_slot *x = *(struct guest_slot *const *)a,
                            *y = *(struct guest_slot *const *)b;

    return (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

void guest_queue_renew(struct guest_queue *q)
{
    g_autofree struct guest_slot **slots =
        g_new(struct guest_slot *, q->num_slots);
    unsigned n = 0;

    empty(q);
    for (unsigned i = 0; i < q->num_slots; i++) {
        if (q->slots[i].in_flight) {
            slots[n++] = &q->slots[i];
        }
    }
    qsort(slots, n, sizeof(slots[0]), by_sequence);
    for (unsigned i = 0; i < n; i++) {
        put_on_ring(slots[i]);
    }
}

uint32_t guest_queue_base(const struct guest_queue *q)
{
    if (q->format == &guest_packed_ring) {
        return (uint32_t)q->last_used << 16 | q->last_used;
    }
    return guest_read_16(&q->used->idx);
}
