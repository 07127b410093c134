/*
 * The driver's side of a split virtqueue (virtio 1.1, 2.6.13 and 2.6.14).
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

/* What a slot has in guest memory; 512 bytes. */
struct guest_slot_control {
    struct virtio_blk_header header;
    uint8_t status;
    uint8_t pad[47];
    struct vring_desc table[GUEST_MAX_SEGMENTS + 2];
    uint8_t pad2[192];
};

struct guest_slot {
    struct guest_slot_control *control;
    uint64_t control_gpa;
    uint8_t *data; /* GUEST_MAX_TRANSFER bytes */
    uint64_t data_gpa;
    struct guest_queue *queue;
    bool in_flight;
    /* Called when the device has returned it; takes the slot over. */
    void (*done)(struct guest_slot *slot, void *opaque);
    void *opaque;
    int64_t started_ns;
    int64_t offset; /* for the owner's use */
    uint32_t bytes;
    uint32_t kind, extra;
    struct guest_slot *next_free;
};

struct guest_queue {
    struct guest_slot *slots;
    unsigned num_slots;
    struct guest_slot *free; /* last in, first out: stays in the cache */
    unsigned in_flight;
    uint16_t size;
    uint16_t avail_idx, shown_idx, last_used;
    bool event_idx, indirect;
    bool interrupts_off;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    uint64_t desc_gpa, avail_gpa, used_gpa;
    uint64_t violations; /* by the device: wrong or repeated heads */
};

/* Bytes of guest memory that a queue of size entries takes. */
uint64_t guest_queue_bytes(uint16_t size);
/* Lays the queue out in guest memory at host (aligned to a page), which
 * the device knows as gpa. */
void guest_queue_init(struct guest_queue *q, uint16_t size, void *host,
                      uint64_t gpa, bool event_idx, bool indirect);
void guest_queue_destroy(struct guest_queue *q);

struct guest_slot *guest_queue_get(struct guest_queue *q); /* NULL: full */
void guest_queue_put(struct guest_slot *slot);
/* Adds a request; header.type says which way the data goes. segments >= 1 needs
 * indirect descriptors for more than one. */
void guest_queue_add(struct guest_slot *slot, uint32_t type, uint64_t sector,
                     uint32_t data_bytes, unsigned segments);
/* Adds any chain, for tests of what a device refuses. */
void guest_queue_add_raw(struct guest_queue *q, uint16_t head);
/* Shows what was added; true if the device wants to be told. */
bool guest_queue_show(struct guest_queue *q);
/* Calls done for all that the device has returned; true if there was any. */
bool guest_queue_reap(struct guest_queue *q);
/* Asks for interrupts; true if something came in the meantime. */
bool guest_queue_interrupts_on(struct guest_queue *q);
void guest_queue_interrupts_off(struct guest_queue *q);

#endif
