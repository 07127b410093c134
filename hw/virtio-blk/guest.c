/*
 * A guest: a virtio-blk driver over memory of its own.
 *
 * This is the part that does not know where the device is: slots, rings,
 * completions, and the memory that holds them, a sparse memfd of which
 * untouched parts cost nothing. The device is in this process (guest_local.c)
 * or behind a socket.
 *
 * Invariant: while `broken`, nothing is added to a queue and no completion is
 * believed; only the link ends that, with new queues. Runs on the guest's loop.
 */
#include "hw/virtio-blk/guest_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/error.h"
#include "util/range.h"

#define PAGE 4096

static bool has(const struct guest *g, unsigned feature)
{
    return g->features & VIRTIO_BIT(feature);
}

struct loop *guest_loop(const struct guest *g)
{
    return g->loop;
}

bool guest_broken(const struct guest *g)
{
    return g->broken;
}

int64_t guest_disk_bytes(const struct guest *g)
{
    return g->disk_bytes;
}

bool guest_has_write_cache(const struct guest *g)
{
    return has(g, VIRTIO_BLK_F_FLUSH);
}

const char *guest_obstacle(const struct guest *g)
{
    if (g->broken) {
        return "The guest's device needs a reset";
    }
    return g->running ? NULL : "The guest is not running";
}

/* ---- slots and rings ---- */

struct guest_slot *guest_get_slot(struct guest *g)
{
    for (unsigned i = 0; i < g->num_queues; i++) {
        struct guest_queue *q = &g->queues[g->next_queue];
        struct guest_slot *slot = guest_queue_get(q);

        g->next_queue = (g->next_queue + 1) % g->num_queues;
        if (slot) {
            return slot;
        }
    }
    return NULL;
}

void guest_put_slot(struct guest *g, struct guest_slot *slot)
{
    guest_queue_put(slot);
    co_queue_wake_one(&g->slot_free);
}

enum guest_status guest_slot_status(const struct guest_slot *slot)
{
    switch (slot->control->status) {
    case VIRTIO_BLK_S_OK:
        return GUEST_STATUS_OK;
    case VIRTIO_BLK_S_UNSUPP:
        return GUEST_STATUS_UNSUPP;
    default:
        return GUEST_STATUS_IOERR;
    }
}

void guest_put_segment(struct guest_slot *slot, int64_t offset, int64_t bytes,
                       bool unmap)
{
    *(struct virtio_blk_segment *)slot->data = (struct virtio_blk_segment){
        .sector = htole64(offset >> VIRTIO_BLK_SECTOR_BITS),
        .num_sectors = htole32(bytes >> VIRTIO_BLK_SECTOR_BITS),
        .flags = htole32(unmap ? VIRTIO_BLK_SEGMENT_UNMAP : 0),
    };
}

void guest_ring(struct guest *g)
{
    uint32_t queues = 0;

    for (unsigned i = 0; i < g->num_queues; i++) {
        if (guest_queue_show(&g->queues[i])) {
            queues |= 1u << i;
            g->kicks++;
        }
    }
    if (queues) {
        g->link->kick(g, queues);
    }
}

unsigned guest_segments(const struct guest *g, int64_t bytes)
{
    return bytes <= g->max_segment ? 1 : div_round_up(bytes, g->max_segment);
}

bool guest_reap(struct guest *g)
{
    uint64_t violations = 0;
    bool any = false;

    if (g->broken) {
        return false;
    }
    g->now = loop_now_ns(g->loop);
    for (unsigned i = 0; i < g->num_queues; i++) {
        any |= guest_queue_reap(&g->queues[i]);
        violations += g->queues[i].violations;
    }
    if (G_UNLIKELY(violations && g->link->betrayed)) {
        g->link->betrayed(g);
        return any;
    }
    if (any) {
        guest_workload_pump(g);
        guest_ring(g);
    }
    return any;
}

bool guest_interrupts_on(struct guest *g)
{
    bool more = false;

    for (unsigned i = 0; i < g->num_queues; i++) {
        more |= guest_queue_interrupts_on(&g->queues[i]);
    }
    return more;
}

static bool on_poll(void *opaque)
{
    return guest_reap(opaque);
}

static bool on_arm(void *opaque)
{
    struct guest *g = opaque;

    return !g->broken && guest_interrupts_on(g);
}

static void on_disarm(void *opaque)
{
    struct guest *g = opaque;

    for (unsigned i = 0; !g->broken && i < g->num_queues; i++) {
        guest_queue_interrupts_off(&g->queues[i]);
    }
}

void guest_wake_all(struct guest *g)
{
    co_queue_wake_all(&g->slot_free);
    co_queue_wake_all(&g->idle);
}

void guest_break(struct guest *g)
{
    if (g->broken) {
        return;
    }
    g->broken = true;
    guest_abandon_pending(g, GUEST_STATUS_NEEDS_RESET);
    guest_workload_fail(g);
    guest_wake_all(g);
}

/* ---- memory ---- */

static uint64_t bytes_of_queue(uint16_t size)
{
    return align_up(guest_queue_bytes(size), PAGE);
}

bool guest_map_ram(struct guest *g, uint16_t queue_size, GError **error)
{
    g->ram_bytes = g->num_queues * bytes_of_queue(queue_size);
    g->ram_fd = memfd_create("guest-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    /* Whoever else maps it could take it away, and us with it. */
    if (g->ram_fd < 0 || ftruncate(g->ram_fd, g->ram_bytes) < 0 ||
        fcntl(g->ram_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_SEAL) < 0) {
        return error_set_errno(error, errno, "Could not make guest memory");
    }
    g->ram = mmap(NULL, g->ram_bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_NORESERVE, g->ram_fd, 0);
    if (g->ram == MAP_FAILED) {
        g->ram = NULL;
        return error_set_errno(error, errno, "Could not map guest memory");
    }
    return true;
}

void guest_lay_out(struct guest *g, uint16_t queue_size)
{
    uint64_t each = bytes_of_queue(queue_size);

    for (unsigned i = 0; i < g->num_queues; i++) {
        struct guest_queue *q = &g->queues[i];

        guest_queue_destroy(q);
        guest_queue_init(q, queue_size, g->ram + i * each,
                         GUEST_RAM_BASE + i * each, g->features);
    }
}

/* ---- life ---- */

void guest_take_config(struct guest *g, const struct virtio_blk_config *c)
{
    uint64_t segment = GUEST_MAX_TRANSFER, segments = 1;

    g->disk_bytes = le64toh(c->capacity) << VIRTIO_BLK_SECTOR_BITS;
    g->logical_bytes = has(g, VIRTIO_BLK_F_BLK_SIZE) ? le32toh(c->blk_size)
                                                     : VIRTIO_BLK_SECTOR_BYTES;
    g->max_discard_sectors = le32toh(c->max_discard_sectors);
    g->max_zeroes_sectors = le32toh(c->max_write_zeroes_sectors);
    /* QEMU offers it, and says 0. */
    if (has(g, VIRTIO_BLK_F_SIZE_MAX) && c->size_max) {
        segment = align_down(MIN(le32toh(c->size_max), segment),
                             VIRTIO_BLK_SECTOR_BYTES);
    }
    if (has(g, VIRTIO_BLK_F_SEG_MAX) && has(g, VIRTIO_F_INDIRECT_DESC)) {
        segments = MIN(le32toh(c->seg_max), GUEST_MAX_SEGMENTS);
    }
    g->max_segment = segment;
    g->max_transfer = align_down(MIN(segment * segments, GUEST_MAX_TRANSFER),
                                 g->logical_bytes);
}

void guest_init(struct guest *g, const struct guest_link *link,
                struct loop *loop, unsigned num_queues)
{
    g->link = link;
    g->loop = loop;
    g->ram_fd = -1;
    g->num_queues = num_queues;
    g->queues = g_new0(struct guest_queue, num_queues);
    g->hook = (struct loop_hook){
        .poll = on_poll, .arm = on_arm, .disarm = on_disarm, .opaque = g};
}

void guest_destroy(struct guest *g)
{
    for (unsigned i = 0; i < g->num_queues; i++) {
        guest_queue_destroy(&g->queues[i]);
    }
    if (g->ram) {
        munmap(g->ram, g->ram_bytes);
    }
    if (g->ram_fd >= 0) {
        close(g->ram_fd);
    }
    guest_workload_free(g);
    g_free(g->queues);
}
