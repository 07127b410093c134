/*
 * A hostile driver against the virtio-blk device and a disk in memory.
 *
 * The input is a script of steps: descriptors, headers and ring entries that
 * are mostly valid, plain pokes into guest memory, kicks, drained sections,
 * resets; its first byte, and that of each reset, says which features and which
 * ring format. Guest memory is two regions allocated to the byte. Besides what
 * the sanitizers see: a chain comes back once, and after a reset no request is
 * left, and the device works again.
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
static bool packed;
static uint16_t next_pos; /* the driver's, in a packed ring */
static uint8_t ring_flags;
static bool resetting_queue;

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

static void set_queue(uint8_t flags)
{
    struct virtqueue_setup setup = {
        .size = SIZE, .desc = BASE, .avail = BASE + AVAIL, .used = BASE + USED};

    packed = flags & 0x80;
    next_pos = VRING_PACKED_FIRST;
    ring_flags = flags;
    if (packed && flags & 0x40) {
        setup.size = SIZE - 1;
    }
    if (flags & 4) {
        setup.used = BASE + 2 * REGION - 72 + (flags >> 3 & 31);
    }
    memset(low, 0, AVAIL + 0x200);
    virtio_blk_set_queue(dev, 0, &setup);
}

static void start(uint8_t flags)
{
    uint64_t features = virtio_blk_offered(dev);

    if (!(flags & 0x80)) {
        features &= ~VIRTIO_BIT(VIRTIO_F_RING_PACKED);
    }
    if (flags & 1) {
        features &= ~VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    }
    if (flags & 2) {
        features &= ~VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
    }
    virtio_blk_set_status(dev, 3);
    virtio_blk_ack(dev, features);
    virtio_blk_set_status(dev, 11);
    set_queue(flags);
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

/* Of the queue: the driver begins with an empty ring. */
static void co_reset_queue(void *opaque)
{
    uint8_t flags = ring_flags;

    if (dev->active && co_virtio_blk_reset_queue(dev, 0) && dev->active) {
        set_queue(flags);
    }
    resetting_queue = false;
}

static struct vring_avail *avail(void)
{
    return (struct vring_avail *)(low + AVAIL);
}

/* A descriptor whose buffer is in memory, or nearly. */
static struct vring_desc descriptor(struct script *s)
{
    struct vring_desc d;

    d.addr = BASE + u16(s) % (2 * REGION + 64);
    d.len = u16(s) % 2049;
    d.flags = u8(s) & 7;
    d.next = u8(s) % (SIZE + 1);
    return d;
}

/* The same in a packed ring, where it is made available, or nearly. */
static void put(struct script *s, uint8_t what)
{
    struct vring_desc d = descriptor(s);
    unsigned size = dev->queues[0].setup.size;
    struct vring_packed_desc p = {d.addr, d.len, d.next,
                                  d.flags | vring_packed_avail(next_pos)};

    if (what > 240) {
        p.flags ^= VRING_PACKED_F_USED;
    }
    memcpy(low + vring_packed_index(next_pos) * sizeof(p), &p, sizeof(p));
    next_pos = vring_packed_advance(next_pos, 1, size);
}

static void put_in_table(struct script *s)
{
    unsigned i = u8(s) % SIZE;
    struct vring_desc d = descriptor(s);
    struct vring_packed_desc p = {d.addr, d.len, d.next, d.flags};

    memcpy(low + 0x1000 + i * sizeof(d), packed ? (void *)&p : (void *)&d,
           sizeof(d));
}

static void make_available(struct script *s, uint8_t what)
{
    if (!packed) {
        avail()->ring[avail()->idx % SIZE] = u8(s) % (SIZE + (what > 250));
        avail()->idx++;
    }
    virtio_blk_kick(dev, 0);
}

static void step(struct script *s)
{
    uint8_t what = u8(s);
    struct virtio_blk_header h = {0};
    struct vring_desc d;
    unsigned i;

    switch (what % 10) {
    case 0:
    case 1:
        if (packed) {
            put(s, what);
            break;
        }
        i = u8(s) % SIZE;
        d = descriptor(s);
        memcpy(low + i * sizeof(d), &d, sizeof(d));
        break;
    case 2:
        put_in_table(s);
        break;
    case 3: /* a header */
        h.type = u8(s) % 16;
        h.sector = u16(s) % 300;
        memcpy(low + 0x800 + (u8(s) & 0x70), &h, sizeof(h));
        break;
    case 4:
    case 5:
        make_available(s, what);
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
        } else if (what & 64 && !resetting_queue) {
            resetting_queue = true;
            co_enter(co_create(co_reset_queue, NULL));
        }
        break;
    }
}

/* After all that, an honest request. */
static void honest(uint8_t flags)
{
    struct virtio_blk_header h = {.type = VIRTIO_BLK_T_GET_ID};
    struct vring_desc d[3] = {
        {BASE + 0x800, 16, VRING_DESC_F_NEXT, 1},
        {BASE + 0x900, 20, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2},
        {BASE + 0xa00, 1, VRING_DESC_F_WRITE, 0},
    };
    struct vring_packed_desc *ring = (struct vring_packed_desc *)low;

    start(flags);
    memcpy(low + 0x800, &h, sizeof(h));
    low[0xa00] = 0xee;
    for (unsigned i = 0; i < 3; i++) {
        if (packed) {
            ring[i] = (struct vring_packed_desc){
                d[i].addr, d[i].len, 5,
                d[i].flags | vring_packed_avail(VRING_PACKED_FIRST)};
        } else {
            memcpy(low + i * sizeof(d[i]), &d[i], sizeof(d[i]));
        }
    }
    if (!packed) {
        avail()->idx = 1;
    }
    virtio_blk_kick(dev, 0);
    settle();
    CHECK(low[0xa00] == VIRTIO_BLK_S_OK);
    if (packed) {
        CHECK(ring[0].id == 5 &&
              vring_packed_marked(ring[0].flags,
                                  vring_packed_used(VRING_PACKED_FIRST)));
    } else {
        CHECK(((struct vring_used *)(low + USED))->idx == 1);
    }
    reset();
}

static void co_set_up(void *opaque)
{
    struct virtio_blk_props props = {
        .id = "vd0", .queue_size = SIZE, .packed = true};

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
    honest(0);
    honest(0x80);
    return 0;
}
