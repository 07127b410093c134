/*
 * The in-process guest: a virtio-blk driver over memory of its own.
 *
 * Registers are accessed on the device's loop, rings on the guest's. Where both
 * are one loop, notifications are deferred calls; else they are eventfds, as a
 * virtual machine monitor would use, and the guest's loop polls its used rings.
 * Guest memory is a sparse memfd: what was never touched costs nothing.
 *
 * Invariant: while `broken`, nothing is added to a queue and no completion is
 * believed; only co_guest_reset() ends that, after the device's reset is over.
 */
#include "hw/virtio-blk/guest_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "aio/mailbox.h"
#include "util/error.h"
#include "util/range.h"

/* Where guest memory begins; zero is a bad address to every driver. */
#define RAM_BASE   UINT64_C(0x100000)
/* More queues than processors would only take address space. */
#define MAX_QUEUES 16

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

static bool threaded(const struct guest *g)
{
    return g->loop != g->dev_loop;
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
    bool kick = false;

    for (unsigned i = 0; i < g->num_queues; i++) {
        if (!guest_queue_show(&g->queues[i])) {
            continue;
        }
        g->kicks++;
        kick = true;
        if (!threaded(g)) {
            virtio_blk_kick(g->dev, i);
        }
    }
    if (kick && threaded(g)) {
        eventfd_write(g->kick_fd, 1);
    }
}

/* Takes completions, and lets the workload go on. */
static bool reap(struct guest *g)
{
    bool any = false;

    if (g->broken) {
        return false;
    }
    g->now = loop_now_ns(g->loop);
    for (unsigned i = 0; i < g->num_queues; i++) {
        any |= guest_queue_reap(&g->queues[i]);
    }
    if (any) {
        guest_workload_pump(g);
        guest_ring(g);
    }
    return any;
}

static bool interrupts_on(struct guest *g)
{
    bool more = false;

    for (unsigned i = 0; i < g->num_queues; i++) {
        more |= guest_queue_interrupts_on(&g->queues[i]);
    }
    return more;
}

static void on_reap(void *opaque)
{
    struct guest *g = opaque;

    g->interrupts++;
    reap(g);
    if (!g->broken && interrupts_on(g)) {
        loop_defer(g->loop, &g->reap);
    }
}

/* ---- the same on a loop of its own ---- */

static void on_call_fd(void *opaque)
{
    struct guest *g = opaque;
    eventfd_t count;

    eventfd_read(g->call_fd, &count);
    g->interrupts++;
    reap(g);
}

static bool on_poll(void *opaque)
{
    return reap(opaque);
}

static bool on_arm(void *opaque)
{
    struct guest *g = opaque;

    return !g->broken && interrupts_on(g);
}

static void on_disarm(void *opaque)
{
    struct guest *g = opaque;

    for (unsigned i = 0; !g->broken && i < g->num_queues; i++) {
        guest_queue_interrupts_off(&g->queues[i]);
    }
}

/* On the device's loop. */
static void on_kick_fd(void *opaque)
{
    struct guest *g = opaque;
    eventfd_t count;

    eventfd_read(g->kick_fd, &count);
    virtio_blk_kick(g->dev, 0);
}

/* ---- what the device and the machine tell ---- */

static void wake_all(struct guest *g)
{
    co_queue_wake_all(&g->slot_free);
    co_queue_wake_all(&g->idle);
}

static void become_broken(struct guest *g)
{
    if (g->broken) {
        return;
    }
    g->broken = true;
    guest_abandon_pending(g, GUEST_STATUS_NEEDS_RESET);
    guest_workload_fail(g);
    wake_all(g);
}

struct news {
    struct guest *guest;
    bool needs_reset, running;
    int64_t disk_bytes;
};

/* On the guest's loop. */
static void apply_news(const struct news *n)
{
    struct guest *g = n->guest;
    bool was_running = g->running;

    g->disk_bytes = n->disk_bytes;
    g->running = n->running;
    if (n->needs_reset) {
        become_broken(g);
    } else if (was_running && !g->running) {
        guest_abandon_pending(g, GUEST_STATUS_HELD);
        wake_all(g);
    } else if (!was_running && g->running && !g->broken) {
        g->now = loop_now_ns(g->loop);
        guest_workload_pump(g);
        guest_ring(g);
    }
}

static void on_news_mail(void *opaque)
{
    apply_news(opaque);
    g_free(opaque);
}

/* On the device's loop: reads the registers for the driver. */
static void tell_news(void *opaque)
{
    struct guest *g = opaque;
    uint64_t capacity;

    virtio_blk_config_read(g->dev, offsetof(struct virtio_blk_config, capacity),
                           &capacity, sizeof(capacity));
    struct news n = {
        .guest = g,
        .needs_reset = virtio_blk_status(g->dev) & VIRTIO_STATUS_NEEDS_RESET,
        .running = vm_running(),
        .disk_bytes = le64toh(capacity) << VIRTIO_BLK_SECTOR_BITS,
    };
    if (threaded(g)) {
        loop_post_call(g->loop, on_news_mail, g_memdup2(&n, sizeof(n)));
    } else {
        apply_news(&n);
    }
}

static void notify_queue(void *opaque, unsigned queue)
{
    struct guest *g = opaque;

    if (threaded(g)) {
        eventfd_write(g->call_fd, 1);
    } else {
        loop_defer(g->loop, &g->reap);
    }
}

static void notify_config(void *opaque)
{
    struct guest *g = opaque;

    loop_defer(g->dev_loop, &g->config);
}

static const struct virtio_transport transport = {
    .notify_queue = notify_queue,
    .notify_config = notify_config,
};

static void on_run_state(void *opaque, bool running, enum run_state state)
{
    tell_news(opaque);
}

/* ---- life: on the device's loop ---- */

static void read_config(struct guest *g)
{
    struct virtio_blk_config c;

    virtio_blk_config_read(g->dev, 0, &c, sizeof(c));
    g->disk_bytes = le64toh(c.capacity) << VIRTIO_BLK_SECTOR_BITS;
    g->logical_bytes = le32toh(c.blk_size);
    g->max_discard_sectors = le32toh(c.max_discard_sectors);
    g->max_zeroes_sectors = le32toh(c.max_write_zeroes_sectors);
}

/* 3.1.1: what a driver does to a device that was reset. */
static bool probe(struct guest *g, GError **error)
{
    struct virtio_blk *dev = g->dev;
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    uint16_t size = dev->props.queue_size;
    uint64_t each = align_up(guest_queue_bytes(size), 4096);

    virtio_blk_set_status(dev, status);
    virtio_blk_ack(dev, g->features);
    status |= VIRTIO_STATUS_FEATURES_OK;
    virtio_blk_set_status(dev, status);
    if (!(virtio_blk_status(dev) & VIRTIO_STATUS_FEATURES_OK)) {
        return error_set(error, "The device refused the guest's features");
    }
    read_config(g);
    for (unsigned i = 0; i < g->num_queues; i++) {
        struct guest_queue *q = &g->queues[i];

        guest_queue_destroy(q);
        guest_queue_init(q, size, g->ram + i * each, RAM_BASE + i * each,
                         g->features & VIRTIO_BIT(VIRTIO_F_EVENT_IDX),
                         g->features & VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC));
        virtio_blk_set_queue(dev, i,
                             &(struct virtqueue_setup){
                                 .size = size,
                                 .desc = q->desc_gpa,
                                 .avail = q->avail_gpa,
                                 .used = q->used_gpa,
                             });
    }
    g->running = vm_running();
    g->broken = false;
    virtio_blk_set_status(dev, status | VIRTIO_STATUS_DRIVER_OK);
    return true;
}

static bool map_ram(struct guest *g, GError **error)
{
    uint64_t each = align_up(guest_queue_bytes(g->dev->props.queue_size), 4096);

    g->ram_bytes = g->num_queues * each;
    g->ram_fd = memfd_create("guest-ram", MFD_CLOEXEC);
    if (g->ram_fd < 0 || ftruncate(g->ram_fd, g->ram_bytes) < 0) {
        return error_set_errno(error, errno, "Could not make guest memory");
    }
    g->ram = mmap(NULL, g->ram_bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_NORESERVE, g->ram_fd, 0);
    if (g->ram == MAP_FAILED) {
        g->ram = NULL;
        return error_set_errno(error, errno, "Could not map guest memory");
    }
    struct guest_region region = {RAM_BASE, g->ram_bytes, g->ram};

    return guest_memory_set(&g->memory, &region, 1, error);
}

static void release(struct guest *g)
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
    if (g->kick_fd >= 0) {
        close(g->kick_fd);
    }
    if (g->call_fd >= 0) {
        close(g->call_fd);
    }
    guest_memory_clear(&g->memory);
    guest_workload_free(g);
    g_free(g->queues);
    g_free(g);
}

/* On the guest's loop. */
static void co_attach(void *opaque)
{
    struct guest *g = opaque;

    g->attached = true;
    if (threaded(g)) {
        loop_fd_set(g->loop, g->call_fd, on_call_fd, NULL, g);
        loop_hook_add(g->loop, &g->hook);
    } else {
        interrupts_on(g);
    }
}

static void co_detach(void *opaque)
{
    struct guest *g = opaque;

    become_broken(g);
    if (!g->attached) {
        return;
    }
    g->attached = false;
    if (threaded(g)) {
        loop_fd_set(g->loop, g->call_fd, NULL, NULL, NULL);
        loop_hook_remove(g->loop, &g->hook);
    } else {
        loop_defer_cancel(g->loop, &g->reap);
    }
    /* Whoever waits for anything leaves before its memory goes. */
    while (g->users) {
        co_pause();
    }
}

static void co_nothing(void *opaque)
{
}

static bool open_fds(struct guest *g, GError **error)
{
    if (!threaded(g)) {
        return true;
    }
    g->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    g->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return (g->kick_fd >= 0 && g->call_fd >= 0) ||
           error_set_errno(error, errno, "Could not make an eventfd");
}

struct guest *co_guest_new(struct virtio_blk *dev, struct loop *loop,
                           GError **error)
{
    if (dev->transport) {
        error_set(error, "The device has a driver already");
        return NULL;
    }
    struct guest *g = g_new0(struct guest, 1);

    g->dev = dev;
    g->dev_loop = dev->loop;
    g->loop = loop;
    g->ram_fd = g->kick_fd = g->call_fd = -1;
    g->features = virtio_blk_offered(dev);
    g->num_queues = MIN(dev->num_queues, MAX_QUEUES);
    g->queues = g_new0(struct guest_queue, g->num_queues);
    g->reap = (struct deferred){.fn = on_reap, .opaque = g};
    g->config = (struct deferred){.fn = tell_news, .opaque = g};
    g->hook = (struct loop_hook){
        .poll = on_poll, .arm = on_arm, .disarm = on_disarm, .opaque = g};
    if (!map_ram(g, error) || !open_fds(g, error)) {
        release(g);
        return NULL;
    }
    virtio_blk_set_transport(dev, &transport, g, &g->memory);
    if (!probe(g, error)) {
        virtio_blk_set_status(dev, 0);
        virtio_blk_set_transport(dev, NULL, NULL, NULL);
        release(g);
        return NULL;
    }
    g->run = (struct runstate_listener){
        .changed = on_run_state, .opaque = g, .order = RUNSTATE_GUESTS};
    runstate_listener_add(&g->run);
    if (threaded(g)) {
        loop_fd_set(g->dev_loop, g->kick_fd, on_kick_fd, NULL, g);
    }
    dev->guest = g;
    co_call_on(g->loop, co_attach, g);
    return g;
}

static void co_reset_device(struct guest *g)
{
    virtio_blk_set_status(g->dev, 0);
    while (virtio_blk_status(g->dev)) {
        co_queue_wait(&g->dev->idle);
    }
    loop_defer_cancel(g->dev_loop, &g->config);
}

bool co_guest_reset(struct guest *g, GError **error)
{
    co_mutex_lock(&g->reset_lock);
    co_call_on(g->loop, co_detach, g);
    co_reset_device(g);
    bool ok = probe(g, error);

    if (ok) {
        co_call_on(g->loop, co_attach, g);
    }
    co_mutex_unlock(&g->reset_lock);
    return ok;
}

void co_guest_free(struct guest *g)
{
    runstate_listener_remove(&g->run);
    co_call_on(g->loop, co_detach, g);
    co_reset_device(g);
    if (threaded(g)) {
        loop_fd_set(g->dev_loop, g->kick_fd, NULL, NULL, NULL);
    }
    virtio_blk_set_transport(g->dev, NULL, NULL, NULL);
    g->dev->guest = NULL;
    /* Behind the last news on its way, which refers to the guest. */
    co_call_on(g->loop, co_nothing, g);
    release(g);
}
