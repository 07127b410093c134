/*
 * A virtqueue over guest memory that is allocated to the byte, so that
 * AddressSanitizer sees every access outside of it.
 */
#ifndef VARVE_TESTS_RING_H
#define VARVE_TESTS_RING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

#define SIZE     8
#define MAX_SIZE 16 /* that the queue could have */

enum {
    LOW = 0x10000,   /* 16 KiB */
    HIGH = 0x14000,  /* 16 KiB behind it, somewhere else in the host */
    APART = 0x40000, /* 4 KiB */
    DESC = LOW,
    AVAIL = LOW + 0x1000,
    USED = LOW + 0x1800,
    TABLE = LOW + 0x2000,
    DATA = LOW + 0x3000,
};

struct slot {
    struct vq_chain chain;
};

struct fixture {
    struct guest_memory memory;
    struct guest_region regions[3];
    struct virtqueue vq;
    struct virtqueue_setup setup;
    struct vring_desc *desc, *table;
    struct vring_avail *avail;
    struct vring_used *used;
    /* packed */
    struct vring_packed_desc *ring, *packed_table;
    uint32_t *driver_event, *device_event;
    uint16_t next; /* the driver's position */
    bool packed;
};

static inline int setup(void **state)
{
    struct fixture *f = g_new0(struct fixture, 1);

    f->regions[0] = (struct guest_region){HIGH, 0x4000, g_malloc0(0x4000)};
    f->regions[1] = (struct guest_region){LOW, 0x4000, g_malloc0(0x4000)};
    f->regions[2] = (struct guest_region){APART, 0x1000, g_malloc0(0x1000)};
    assert_true(guest_memory_set(&f->memory, f->regions, 3, NULL));
    uint8_t *low = f->regions[1].host;
    f->desc = (void *)low;
    f->avail = (void *)(low + (AVAIL - LOW));
    f->used = (void *)(low + (USED - LOW));
    f->table = (void *)(low + (TABLE - LOW));
    f->setup = (struct virtqueue_setup){
        .size = SIZE,
        .desc = DESC,
        .avail = AVAIL,
        .used = USED,
        .event_idx = true,
        .indirect = true,
    };
    f->ring = (void *)f->desc;
    f->packed_table = (void *)f->table;
    f->driver_event = (void *)f->avail;
    f->device_event = (void *)f->used;
    virtqueue_init(&f->vq, MAX_SIZE, sizeof(struct slot));
    *state = f;
    return 0;
}

static inline int setup_packed(void **state)
{
    setup(state);
    struct fixture *f = *state;

    f->packed = true;
    f->setup.avail_idx = f->setup.used_idx = packed_ring_format.first;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;

    virtqueue_stop(&f->vq);
    virtqueue_destroy(&f->vq);
    guest_memory_clear(&f->memory);
    for (unsigned i = 0; i < 3; i++) {
        g_free(f->regions[i].host);
    }
    g_free(f);
    return 0;
}

static inline bool try_start(struct fixture *f)
{
    return virtqueue_start(&f->vq,
                           f->packed ? &packed_ring_format : &split_ring_format,
                           &f->memory, &f->setup);
}

static inline void start(struct fixture *f)
{
    f->next = f->setup.avail_idx;
    assert_true(try_start(f));
}

static inline void set(struct vring_desc *d, uint64_t addr, uint32_t len,
                       uint16_t flags, uint16_t next)
{
    *d = (struct vring_desc){addr, len, flags, next};
}

static inline void make_available(struct fixture *f, uint16_t head)
{
    uint16_t idx = f->avail->idx;

    f->avail->ring[idx % f->setup.size] = head;
    store_release_u16(&f->avail->idx, idx + 1);
}

/* Makes the next descriptor of a packed ring available. */
static inline void put(struct fixture *f, uint64_t addr, uint32_t len,
                       uint16_t flags, uint16_t id)
{
    struct vring_packed_desc *d = &f->ring[vring_packed_index(f->next)];

    *d = (struct vring_packed_desc){addr, len, id, d->flags};
    store_release_u16(&d->flags, flags | vring_packed_avail(f->next));
    f->next = vring_packed_advance(f->next, 1, f->setup.size);
}

static inline void set_packed(struct vring_packed_desc *d, uint64_t addr,
                              uint32_t len, uint16_t flags)
{
    *d = (struct vring_packed_desc){addr, len, 0xdead, flags};
}

static inline struct vq_chain *pop_one(struct fixture *f)
{
    uint16_t head;

    assert_int_equal(virtqueue_pop(&f->vq, &head, 1), 1);
    return virtqueue_slot(&f->vq, head);
}

#define CASE(f)   cmocka_unit_test_setup_teardown(f, setup, teardown)
#define PACKED(f) cmocka_unit_test_setup_teardown(f, setup_packed, teardown)

#endif
