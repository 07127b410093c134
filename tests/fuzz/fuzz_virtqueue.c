/*
 * A hostile driver against the virtio-blk device and a disk in memory.
 *
 * The input is a script of steps: descriptors, headers and ring entries that
 * are mostly valid, plain pokes into guest memory, kicks, drained sections,
 * resets. Guest memory is two regions allocated to the byte. Besides what the
 * sanitizers see: after a reset no request is left, and the device works again.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "block/graph.h"
#include "hw/runstate.h"
#include "hw/virtio-blk/device.h"
#include "tests/unit/lib/guest_disk.h"

#define CHECK(x)     \
    do {             \
        if (!(x)) {  \
            abort(); \
        }            \
    } while (0)

enum {
    SIZE = 8,
    BASE = 0x10000,
    REGION = 0x2000, /* each of two, one behind the other */
    AVAIL = 0x100,
    USED = 0x200,
    MAX_STEPS = 200,
};

static struct loop *loop;
static struct virtio_blk *dev;
static struct guest_memory memory;
static uint8_t *low, *high;
static unsigned drained;

struct script {
    const uint8_t *at;
    size_t left;
};

static uint8_t u8(struct script *s)
{
    if (!s->left) {
        return 0;
    }
    s->left--;
    return *s->at++;
}

static uint16_t u16(struct script *s)
{
    uint8_t a = u8(s);

    return a | u8(s) << 8;
}

static void nothing(void *opaque)
{
}

static void notify(void *opaque, unsigned queue)
{
}

static const struct virtio_transport transport = {
    .notify_queue = notify,
    .notify_config = nothing,
};

static void start(uint8_t flags)
{
    struct virtqueue_setup setup = {
        .size = SIZE, .desc = BASE, .avail = BASE + AVAIL, .used = BASE + USED};
    uint64_t features = virtio_blk_offered(dev);

    if (flags & 1) {
        features &= ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    }
    if (flags & 2) {
        features &= ~VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
    }
    if (flags & 4) {
        setup.used = BASE + 2 * REGION - 72 + (flags >> 3);
    }
    memset(low, 0, AVAIL + 0x200);
    virtio_blk_set_status(dev, 3);
    virtio_blk_ack(dev, features);
    virtio_blk_set_status(dev, 11);
    virtio_blk_set_queue(dev, 0, &setup);
    virtio_blk_set_status(dev, 15);
}

static void settle(void)
{
    for (unsigned i = 0; i < 8; i++) {
        loop_pass(loop, false);
    }
}

static void drain(bool begin)
{
    if (begin && !drained) {
        drained++;
        disk.backend->device_ops->drained_begin(dev);
    } else if (!begin && drained) {
        drained--;
        disk.backend->device_ops->drained_end(dev);
    }
}

static void reset(void)
{
    virtio_blk_set_status(dev, 0);
    guest_disk_open_gate();
    settle();
    CHECK(virtio_blk_status(dev) == 0);
    CHECK(!dev->in_flight && !disk.inside && !disk.backend->in_flight);
}

static void co_cont(void *opaque)
{
    co_vm_start();
}

static struct vring_avail *avail(void)
{
    return (struct vring_avail *)(low + AVAIL);
}

static void step(struct script *s)
{
    uint8_t what = u8(s);
    struct virtio_blk_header h = {0};
    struct vring_desc d;
    unsigned i;

    switch (what % 10) {
    case 0: /* a descriptor whose buffer is in memory, or nearly */
    case 1:
        i = u8(s) % SIZE;
        d.addr = BASE + u16(s) % (2 * REGION + 64);
        d.len = u16(s) % 2049;
        d.flags = u8(s) & 7;
        d.next = u8(s) % (SIZE + 1);
        memcpy(low + i * sizeof(d), &d, sizeof(d));
        break;
    case 2: /* the same in a table */
        i = u8(s) % SIZE;
        d.addr = BASE + u16(s) % (2 * REGION + 64);
        d.len = u16(s) % 2049;
        d.flags = u8(s) & 7;
        d.next = u8(s) % (SIZE + 1);
        memcpy(low + 0x1000 + i * sizeof(d), &d, sizeof(d));
        break;
    case 3: /* a header */
        h.type = u8(s) % 16;
        h.sector = u16(s) % 300;
        memcpy(low + 0x800 + (u8(s) & 0x70), &h, sizeof(h));
        break;
    case 4:
    case 5:
        avail()->ring[avail()->idx % SIZE] = u8(s) % (SIZE + (what > 250));
        avail()->idx++;
        virtio_blk_kick(dev, 0);
        break;
    case 6:
        settle();
        break;
    case 7: { /* a poke anywhere */
        uint16_t at = u16(s) % REGION;
        (what & 16 ? high : low)[at] = u8(s);
        break;
    }
    case 8:
        disk.gate = what & 16;
        if (!disk.gate) {
            guest_disk_open_gate();
        }
        drain(what & 32);
        if (what & 64) {
            loop_run_co(loop, co_cont, NULL);
        }
        break;
    case 9:
        guest_disk_fail(u8(s), what & 16 ? 28 : 5, u8(s) % 4);
        if (what & 32) {
            reset();
            start(u8(s));
        }
        break;
    }
}

/* After all that, an honest request. */
static void honest(void)
{
    struct virtio_blk_header h = {.type = VIRTIO_BLK_T_GET_ID};
    struct vring_desc d[3] = {
        {BASE + 0x800, 16, VRING_DESC_F_NEXT, 1},
        {BASE + 0x900, 20, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2},
        {BASE + 0xa00, 1, VRING_DESC_F_WRITE, 0},
    };

    start(0);
    memcpy(low, d, sizeof(d));
    memcpy(low + 0x800, &h, sizeof(h));
    low[0xa00] = 0xee;
    avail()->idx = 1;
    virtio_blk_kick(dev, 0);
    settle();
    CHECK(low[0xa00] == VIRTIO_BLK_S_OK);
    CHECK(((struct vring_used *)(low + USED))->idx == 1);
    reset();
}

static void co_set_up(void *opaque)
{
    struct virtio_blk_props props = {.id = "vd0", .queue_size = SIZE};

    co_guest_disk_new(128 * 1024, false);
    dev = co_virtio_blk_new(&props, disk.backend, NULL);
    co_vm_start();
}

static void set_up(void)
{
    loop = loop_new("fuzz", LOOP_CLOCK_SIMULATED);
    loop_run_co(loop, co_set_up, NULL);
    CHECK(dev);
    low = g_malloc0(REGION);
    high = g_malloc0(REGION);
    struct guest_region regions[] = {{BASE, REGION, low},
                                     {BASE + REGION, REGION, high}};

    CHECK(guest_memory_set(&memory, regions, 2, NULL));
    loop_bind(loop);
    virtio_blk_set_transport(dev, &transport, NULL, &memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct script s = {data, size};

    if (!loop) {
        set_up();
    }
    start(u8(&s));
    for (unsigned i = 0; s.left && i < MAX_STEPS; i++) {
        step(&s);
    }
    settle();
    drain(false);
    guest_disk_fail(0, 0, 0);
    reset();
    loop_run_co(loop, co_cont, NULL); /* werror=enospc may have stopped it */
    honest();
    return 0;
}
