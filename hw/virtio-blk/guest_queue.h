/*
 * The driver's side of a virtqueue, split or packed (virtio 1.1, 2.6.13 and
 * 2.6.14, 2.7.15 to 2.7.22).
 *
 * A request takes a slot: room for its header, status, indirect table and data
 * in guest memory. Requests are added, then shown to the device by one kick;
 * completions are reaped in batches. On the guest's loop.
 */
#ifndef VARVE_HW_GUEST_QUEUE_H
#define VARVE_HW_GUEST_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

/* The largest transfer of one request, and its most data buffers. */
#define GUEST_MAX_TRANSFER (1 << 20)
#define GUEST_MAX_SEGMENTS 14
/* Requests of one queue that can be in flight. */
#define GUEST_MAX_SLOTS    256

struct guest_queue;
struct guest_slot;

/* A part of a request. */
struct guest_buffer {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags; /* 0 or VRING_DESC_F_WRITE */
};

/* A ring format, from the driver's side; the functions of guest_queue_*(). */
struct guest_ring_format {
    uint16_t first; /* avail_idx and last_used of a new queue */
    void (*add)(struct guest_slot *slot, const struct guest_buffer *buffers,
                unsigned n);
    void (*add_raw)(struct guest_queue *q, uint16_t head);
    bool (*show)(struct guest_queue *q);
    bool (*reap)(struct guest_queue *q);
    bool (*interrupts_on)(struct guest_queue *q);
    void (*interrupts_off)(struct guest_queue *q);
};
extern const struct guest_ring_format guest_split_ring, guest_packed_ring;

/* What a slot has in guest memory; 512 bytes. */
struct guest_slot_control {
    struct virtio_blk_header header;
    uint8_t status;
    uint8_t pad[47];
    union {
        struct vring_desc table[GUEST_MAX_SEGMENTS + 2];
        struct vring_packed_desc packed_table[GUEST_MAX_SEGMENTS + 2];
    };
    uint8_t pad2[192];
};

struct guest_slot {
    struct guest_slot_control *control;
    uint64_t control_gpa;
    uint8_t *data; /* GUEST_MAX_TRANSFER bytes */
    uint64_t data_gpa;
    struct guest_queue *queue;
    bool in_flight;
    uint16_t descs; /* of a packed ring that it occupies */
    /* Called when the device has returned it; takes the slot over. */
    void (*done)(struct guest_slot *slot, void *opaque);
    void *opaque;
    int64_t started_ns;
    int64_t offset; /* for the owner's use */
    uint32_t kind, extra;
    /* The request; the device can change what is in guest memory. */
    uint64_t sector;
    uint32_t type, bytes;
    unsigned segments;
    uint64_t sequence; /* when it was added, among those of its queue */
    struct guest_slot *next_free;
};

struct guest_queue {
    struct guest_slot *slots;
    unsigned num_slots;
    struct guest_slot *free; /* last in, first out: stays in the cache */
    unsigned in_flight;
    uint64_t added;
    const struct guest_ring_format *format;
    uint16_t size;
    /* Indices that run freely, or positions with a wrap counter (packed). */
    uint16_t avail_idx, shown_idx, last_used;
    uint16_t first_flags; /* packed: written last of what is shown */
    bool event_idx, indirect;
    bool interrupts_off;
    bool held; /* nothing is added: the ring is about to be made anew */
    union {    /* split, packed */
        struct vring_desc *desc;
        struct vring_packed_desc *ring;
    };
    union {
        struct vring_avail *avail;
        uint32_t *driver_event;
    };
    union {
        struct vring_used *used;
        const uint32_t *device_event;
    };
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint64_t violations; /* by the device: wrong or repeated heads */
};

/* Bytes of guest memory that a queue of size entries takes. */
uint64_t guest_queue_bytes(uint16_t size);
/* Lays the queue out in guest memory at host (aligned to a page), which
 * the device knows as gpa. size is a power of 2 without RING_PACKED in the
 * features that were negotiated. */
void guest_queue_init(struct guest_queue *q, uint16_t size, void *host,
                      uint64_t gpa, uint64_t features);
void guest_queue_destroy(struct guest_queue *q);
/* Where the device is to go on, as SET_VRING_BASE wants it, if it has nothing
 * in flight but what a region tells. */
uint32_t guest_queue_base(const struct guest_queue *q);

struct guest_slot *guest_queue_get(
    struct guest_queue *q); /* NULL: full, held */
void guest_queue_put(struct guest_slot *slot);
/* Adds a request; header.type says which way the data goes. segments >= 1 needs
 * indirect descriptors for more than one. */
void guest_queue_add(struct guest_slot *slot, uint32_t type, uint64_t sector,
                     uint32_t data_bytes, unsigned segments);
/* Empties the rings, as the device does at a reset of the queue, and adds again
 * what it had not returned by then; it is not held any more. */
void guest_queue_renew(struct guest_queue *q);
/* Adds any chain, for tests of what a device refuses: the one that begins at
 * descriptor `head`, or (packed) a descriptor with that buffer id. */
static inline void guest_queue_add_raw(struct guest_queue *q, uint16_t head)
{
    q->format->add_raw(q, head);
}
/* Adds one descriptor with any content to a packed ring. */
void guest_packed_put(struct guest_queue *q, uint64_t gpa, uint32_t bytes,
                      uint16_t flags, uint16_t id);

/* Shows what was added; true if the device wants to be told. */
static inline bool guest_queue_show(struct guest_queue *q)
{
    return q->shown_idx != q->avail_idx && q->format->show(q);
}
/* Calls done for all that the device has returned; true if there was any. */
static inline bool guest_queue_reap(struct guest_queue *q)
{
    return q->format->reap(q);
}
/* Asks for interrupts; true if something came in the meantime. */
static inline bool guest_queue_interrupts_on(struct guest_queue *q)
{
    return q->format->interrupts_on(q);
}
static inline void guest_queue_interrupts_off(struct guest_queue *q)
{
    q->format->interrupts_off(q);
}

/* ---- for ring formats ---- */

/* The device has returned slot i of the queue; false if it cannot have. */
static inline bool guest_queue_returned(struct guest_queue *q, uint32_t i)
{
    if (i >= q->num_slots || !q->slots[i].in_flight) {
        q->violations++;
        return false;
    }
    struct guest_slot *s = &q->slots[i];

    s->in_flight = false;
    q->in_flight--;
    s->done(s, s->opaque);
    return true;
}

#endif
