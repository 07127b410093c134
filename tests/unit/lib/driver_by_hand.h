/*
 * A device whose registers and descriptors the test writes by hand, as a driver
 * would. Guest memory is allocated to the byte.
 */
#ifndef VARVE_TESTS_DRIVER_BY_HAND_H
#define VARVE_TESTS_DRIVER_BY_HAND_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "hw/runstate.h"
#include "hw/virtio-blk/device.h"
#include "guest_disk.h"

#define KIB        INT64_C(1024)
#define DISK_BYTES (1024 * KIB)
#define SIZE       16

enum {
    BASE = 0x1000000, /* guest memory: 64 KiB, to the byte */
    DESC = 0,
    AVAIL = 0x400,
    USED = 0x800,
    HEADER = 0x1000,
    STATUS = 0x1100,
    DATA = 0x2000,
    MEMORY = 0x10000,
};

struct fixture {
    struct virtio_blk_props props;
    bool read_only;
    uint64_t drop; /* features that the driver does not take */
    void (*co_test)(struct fixture *f);
    struct virtio_blk *dev;
    struct guest_memory memory;
    uint8_t *ram;
    struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    unsigned queue_notifications, config_notifications;
};

static inline void on_queue(void *opaque, unsigned queue)
{
    struct fixture *f = opaque;

    f->queue_notifications++;
}

static inline void on_config(void *opaque)
{
    struct fixture *f = opaque;

    f->config_notifications++;
}

static const struct virtio_transport transport = {
    .notify_queue = on_queue,
    .notify_config = on_config,
};

static inline void settle(void)
{
    for (unsigned i = 0; i < 10; i++) {
        co_pause();
    }
}

static inline void start(struct fixture *f)
{
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    struct virtqueue_setup setup = {
        .size = SIZE,
        .desc = BASE + DESC,
        .avail = BASE + AVAIL,
        .used = BASE + USED,
    };

    memset(f->ram, 0, MEMORY);
    virtio_blk_set_status(f->dev, status);
    virtio_blk_ack(f->dev, virtio_blk_offered(f->dev) & ~f->drop);
    status |= VIRTIO_STATUS_FEATURES_OK;
    virtio_blk_set_status(f->dev, status);
    assert_int_equal(virtio_blk_status(f->dev), status);
    virtio_blk_set_queue(f->dev, 0, &setup);
    virtio_blk_set_status(f->dev, status | VIRTIO_STATUS_DRIVER_OK);
}

static inline void co_body(void *opaque)
{
    struct fixture *f = opaque;

    f->ram = g_malloc0(MEMORY);
    f->desc = (void *)(f->ram + DESC);
    f->avail = (void *)(f->ram + AVAIL);
    f->used = (void *)(f->ram + USED);
    assert_true(guest_memory_set(
        &f->memory, &(struct guest_region){BASE, MEMORY, f->ram}, 1, NULL));
    co_guest_disk_new(DISK_BYTES, f->read_only);
    f->dev = co_virtio_blk_new(&f->props, disk.backend, NULL);
    assert_non_null(f->dev);
    virtio_blk_set_transport(f->dev, &transport, f, &f->memory);
    co_vm_start();
    start(f);
    f->co_test(f);
    guest_disk_open_gate();
    co_virtio_blk_free(f->dev);
    co_guest_disk_free();
    guest_memory_clear(&f->memory);
    g_free(f->ram);
}

static inline void run_fixture(struct fixture f)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    loop_run_co(loop, co_body, &f);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
}

static inline void run(void (*co_test)(struct fixture *f))
{
    run_fixture((struct fixture){.co_test = co_test});
}

static inline void make_available(struct fixture *f, uint16_t head)
{
    f->avail->ring[f->avail->idx % SIZE] = head;
    f->avail->idx++;
    virtio_blk_kick(f->dev, 0);
}

static inline void describe(struct fixture *f, unsigned i, uint32_t at,
                            uint32_t len, uint16_t flags)
{
    f->desc[i] = (struct vring_desc){BASE + at, len, flags,
                                     flags & VRING_DESC_F_NEXT ? i + 1 : 0};
}

static inline void header(struct fixture *f, uint32_t type, uint64_t sector)
{
    struct virtio_blk_header h = {.type = type, .sector = sector};

    memcpy(f->ram + HEADER, &h, sizeof(h));
}

#define NEXT  VRING_DESC_F_NEXT
#define WRITE VRING_DESC_F_WRITE

/* A request with one data buffer of `bytes`; returns its status byte. */
static inline uint8_t request(struct fixture *f, uint32_t type, uint64_t sector,
                              uint32_t bytes, bool fills)
{
    uint16_t done = f->used->idx;
    unsigned n = 0;

    header(f, type, sector);
    f->ram[STATUS] = 0xee;
    describe(f, n++, HEADER, 16, NEXT);
    if (bytes) {
        describe(f, n++, DATA, bytes, NEXT | (fills ? WRITE : 0));
    }
    describe(f, n, STATUS, 1, WRITE);
    make_available(f, 0);
    settle();
    assert_int_equal(f->used->idx, (uint16_t)(done + 1));
    assert_int_equal(f->used->ring[done % SIZE].id, 0);
    return f->ram[STATUS];
}

static inline uint32_t last_length(struct fixture *f)
{
    return f->used->ring[(uint16_t)(f->used->idx - 1) % SIZE].len;
}

static inline struct virtio_blk_config config(struct fixture *f)
{
    struct virtio_blk_config c;

    virtio_blk_config_read(f->dev, 0, &c, sizeof(c));
    return c;
}

#endif
