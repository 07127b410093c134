/*
 * The in-process guest: a guest whose device is in this program.
 *
 * Registers are accessed on the device's loop, rings on the guest's. Where both
 * are one loop, notifications are deferred calls; else they are eventfds, as a
 * virtual machine monitor would use, and the guest's loop polls its used rings.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "aio/mailbox.h"
#include "hw/runstate.h"
#include "hw/virtio-blk/device.h"
#include "hw/virtio-blk/guest_internal.h"
#include "hw/virtio-blk/guest_memory.h"
#include "util/error.h"

struct guest_local {
    struct guest g;
    bool attached;        /* hears of completions; on the guest's loop */
    struct deferred reap; /* both on one loop */
    int kick_fd, call_fd; /* threaded; else -1 */
    struct virtio_blk *dev;
    struct loop *dev_loop;
    struct co_mutex reset_lock; /* on its loop: one reset at a time */
    struct deferred config;
    struct runstate_listener run;
    struct guest_memory memory;
};

static struct guest_local *local_of(struct guest *g)
{
    return (struct guest_local *)g; /* its first member */
}

static bool threaded(const struct guest_local *l)
{
    return l->g.loop != l->dev_loop;
}

/* ---- notifications, on the guest's loop ---- */

static void kick(struct guest *g, uint32_t queues)
{
    struct guest_local *l = local_of(g);

    if (threaded(l)) {
        eventfd_write(l->kick_fd, 1);
        return;
    }
    for (unsigned i = 0; i < g->num_queues; i++) {
        if (queues & (1u << i)) {
            virtio_blk_kick(l->dev, i);
        }
    }
}

static const struct guest_link local_link = {
    .kick = kick,
};

static void on_reap(void *opaque)
{
    struct guest_local *l = opaque;

    l->g.interrupts++;
    guest_reap(&l->g);
    if (!l->g.broken && guest_interrupts_on(&l->g)) {
        loop_defer(l->g.loop, &l->reap);
    }
}

static void on_call_fd(void *opaque)
{
    struct guest_local *l = opaque;
    eventfd_t count;

    eventfd_read(l->call_fd, &count);
    l->g.interrupts++;
    guest_reap(&l->g);
}

/* On the device's loop. */
static void on_kick_fd(void *opaque)
{
    struct guest_local *l = opaque;
    eventfd_t count;

    eventfd_read(l->kick_fd, &count);
    virtio_blk_kick(l->dev, 0);
}

/* ---- what the device and the machine tell ---- */

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
        guest_break(g);
    } else if (was_running && !g->running) {
        guest_abandon_pending(g, GUEST_STATUS_HELD);
        guest_wake_all(g);
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
    struct guest_local *l = opaque;
    uint64_t capacity;

    virtio_blk_config_read(l->dev, offsetof(struct virtio_blk_config, capacity),
                           &capacity, sizeof(capacity));
    struct news n = {
        .guest = &l->g,
        .needs_reset = virtio_blk_status(l->dev) & VIRTIO_STATUS_NEEDS_RESET,
        .running = vm_running(),
        .disk_bytes = le64toh(capacity) << VIRTIO_BLK_SECTOR_BITS,
    };
    if (threaded(l)) {
        loop_post_call(l->g.loop, on_news_mail, g_memdup2(&n, sizeof(n)));
    } else {
        apply_news(&n);
    }
}

static void notify_queue(void *opaque, unsigned queue)
{
    struct guest_local *l = opaque;

    if (threaded(l)) {
        eventfd_write(l->call_fd, 1);
    } else {
        loop_defer(l->g.loop, &l->reap);
    }
}

static void notify_config(void *opaque)
{
    struct guest_local *l = opaque;

    loop_defer(l->dev_loop, &l->config);
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

static void enable_queue(struct guest_local *l, unsigned index)
{
    const struct guest_queue *q = &l->g.queues[index];

    virtio_blk_set_queue(l->dev, index,
                         &(struct virtqueue_setup){
                             .size = q->size,
                             .desc = q->desc_gpa,
                             .avail = q->avail_gpa,
                             .used = q->used_gpa,
                         });
}

/* 3.1.1: what a driver does to a device that was reset. */
static bool probe(struct guest_local *l, GError **error)
{
    struct virtio_blk *dev = l->dev;
    struct guest *g = &l->g;
    uint8_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER;
    struct virtio_blk_config config;

    virtio_blk_set_status(dev, status);
    virtio_blk_ack(dev, g->features);
    status |= VIRTIO_STATUS_FEATURES_OK;
    virtio_blk_set_status(dev, status);
    if (!(virtio_blk_status(dev) & VIRTIO_STATUS_FEATURES_OK)) {
        return error_set(error, "The device refused the guest's features");
    }
    virtio_blk_config_read(dev, 0, &config, sizeof(config));
    guest_take_config(g, &config);
    guest_lay_out(g, dev->props.queue_size);
    for (unsigned i = 0; i < g->num_queues; i++) {
        enable_queue(l, i);
    }
    g->running = vm_running();
    g->broken = false;
    virtio_blk_set_status(dev, status | VIRTIO_STATUS_DRIVER_OK);
    return true;
}

static void release(struct guest_local *l)
{
    guest_destroy(&l->g);
    if (l->kick_fd >= 0) {
        close(l->kick_fd);
    }
    if (l->call_fd >= 0) {
        close(l->call_fd);
    }
    guest_memory_clear(&l->memory);
    g_free(l);
}

/* On the guest's loop. */
static void co_attach(void *opaque)
{
    struct guest_local *l = opaque;

    l->attached = true;
    if (threaded(l)) {
        loop_fd_set(l->g.loop, l->call_fd, on_call_fd, NULL, l);
        loop_hook_add(l->g.loop, &l->g.hook);
    } else {
        guest_interrupts_on(&l->g);
    }
}

static void co_detach(void *opaque)
{
    struct guest_local *l = opaque;

    guest_break(&l->g);
    if (!l->attached) {
        return;
    }
    l->attached = false;
    if (threaded(l)) {
        loop_fd_set(l->g.loop, l->call_fd, NULL, NULL, NULL);
        loop_hook_remove(l->g.loop, &l->g.hook);
    } else {
        loop_defer_cancel(l->g.loop, &l->reap);
    }
    /* Whoever waits for anything leaves before its memory goes. */
    while (l->g.users) {
        co_pause();
    }
}

static void co_nothing(void *opaque)
{
}

static bool make_memory(struct guest_local *l, GError **error)
{
    struct guest *g = &l->g;

    if (!guest_map_ram(g, l->dev->props.queue_size, error)) {
        return false;
    }
    struct guest_region region = {GUEST_RAM_BASE, g->ram_bytes, g->ram};

    return guest_memory_set(&l->memory, &region, 1, error);
}

static bool open_fds(struct guest_local *l, GError **error)
{
    if (!threaded(l)) {
        return true;
    }
    l->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return (l->kick_fd >= 0 && l->call_fd >= 0) ||
           error_set_errno(error, errno, "Could not make an eventfd");
}

struct guest *co_guest_new(struct virtio_blk *dev, struct loop *loop,
                           GError **error)
{
    if (dev->transport) {
        error_set(error, "The device has a driver already");
        return NULL;
    }
    struct guest_local *l = g_new0(struct guest_local, 1);

    guest_init(&l->g, &local_link, loop,
               MIN(dev->num_queues, GUEST_MAX_QUEUES));
    l->g.features = virtio_blk_offered(dev);
    l->dev = dev;
    l->dev_loop = dev->loop;
    l->kick_fd = l->call_fd = -1;
    l->reap = (struct deferred){.fn = on_reap, .opaque = l};
    l->config = (struct deferred){.fn = tell_news, .opaque = l};
    if (!make_memory(l, error) || !open_fds(l, error)) {
        release(l);
        return NULL;
    }
    virtio_blk_set_transport(dev, &transport, l, &l->memory);
    if (!probe(l, error)) {
        virtio_blk_set_status(dev, 0);
        virtio_blk_set_transport(dev, NULL, NULL, NULL);
        release(l);
        return NULL;
    }
    l->run = (struct runstate_listener){
        .changed = on_run_state, .opaque = l, .order = RUNSTATE_GUESTS};
    runstate_listener_add(&l->run);
    if (threaded(l)) {
        loop_fd_set(l->dev_loop, l->kick_fd, on_kick_fd, NULL, l);
    }
    dev->guest = &l->g;
    co_call_on(l->g.loop, co_attach, l);
    return &l->g;
}

static void co_reset_device(struct guest_local *l)
{
    virtio_blk_set_status(l->dev, 0);
    while (virtio_blk_status(l->dev)) {
        co_queue_wait(&l->dev->idle);
    }
    loop_defer_cancel(l->dev_loop, &l->config);
}

bool co_guest_reset(struct guest *g, GError **error)
{
    struct guest_local *l = local_of(g);

    co_mutex_lock(&l->reset_lock);
    co_call_on(g->loop, co_detach, l);
    co_reset_device(l);
    bool ok = probe(l, error);

    if (ok) {
        co_call_on(g->loop, co_attach, l);
    }
    co_mutex_unlock(&l->reset_lock);
    return ok;
}

/* ---- the reset of one queue ---- */

struct queue_reset {
    struct guest_local *l;
    unsigned index;
    const char *obstacle;
    bool done; /* by the device */
};

/* The steps of a driver; the first and the last two on the guest's loop. */
static void co_hold_queue(void *opaque)
{
    struct queue_reset *r = opaque;

    r->obstacle = guest_obstacle(&r->l->g);
    r->l->g.queues[r->index].held = true;
}

static void co_renew_queue(void *opaque)
{
    const struct queue_reset *r = opaque;
    struct guest *g = &r->l->g;
    struct guest_queue *q = &g->queues[r->index];

    if (r->done && !g->broken) {
        guest_queue_reap(q); /* what ended before */
        guest_queue_renew(q);
    }
    q->held = false;
}

static void co_use_queue(void *opaque)
{
    const struct queue_reset *r = opaque;
    struct guest *g = &r->l->g;

    if (!g->broken) {
        guest_workload_pump(g);
        guest_ring(g);
        guest_wake_all(g);
    }
}

bool co_guest_reset_queue(struct guest *g, unsigned index, GError **error)
{
    struct guest_local *l = local_of(g);
    struct queue_reset r = {.l = l, .index = index};

    if (!(g->features & VIRTIO_BIT(VIRTIO_F_RING_RESET))) {
        return error_set(error, "The device does not offer queue_reset");
    }
    if (index >= g->num_queues) {
        return error_set(error, "Queue %u, but there are %u", index,
                         g->num_queues);
    }
    co_mutex_lock(&l->reset_lock);
    co_call_on(g->loop, co_hold_queue, &r);
    r.done = !r.obstacle && co_virtio_blk_reset_queue(l->dev, index);
    co_call_on(g->loop, co_renew_queue, &r);
    if (r.done) {
        enable_queue(l, index);
    }
    co_call_on(g->loop, co_use_queue, &r);
    co_mutex_unlock(&l->reset_lock);
    if (r.obstacle) {
        return error_set(error, "%s", r.obstacle);
    }
    return r.done || error_set(error, "The guest was stopped before the "
                                      "queue's requests had ended");
}

void co_guest_free(struct guest *g)
{
    struct guest_local *l = local_of(g);

    runstate_listener_remove(&l->run);
    co_call_on(g->loop, co_detach, l);
    co_reset_device(l);
    if (threaded(l)) {
        loop_fd_set(l->dev_loop, l->kick_fd, NULL, NULL, NULL);
    }
    virtio_blk_set_transport(l->dev, NULL, NULL, NULL);
    l->dev->guest = NULL;
    /* Behind the last news on its way, which refers to the guest. */
    co_call_on(g->loop, co_nothing, l);
    release(l);
}
