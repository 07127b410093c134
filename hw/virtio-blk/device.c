/*
 * The virtio-blk device: status register, queues, and when requests are taken.
 *
 * Chains are popped only while the driver is up (`active`), the guest runs, and
 * no drained section wants quiet. The loop's hook looks at the queues in each
 * pass; notifications from the driver are asked for only before the loop
 * sleeps. Completions are collected and shown to the driver once a pass, with
 * one notification a queue.
 *
 * Invariants: in_flight counts popped chains that were not given back, held
 * ones as well; after virtio_blk_break() or during a reset nothing is popped
 * and nothing of guest memory is written but by transfers in flight; a reset
 * ends when in_flight is zero. Runs on the device's loop.
 */
#include "hw/virtio-blk/device.h"

#include <string.h>

/* Chains taken off a queue in one go. */
#define POP_BATCH 64

static bool may_pop(const struct virtio_blk *dev)
{
    return dev->active && dev->running && !dev->quiesced;
}

/* ---- status ---- */

void virtio_blk_break(struct virtio_blk *dev, const char *reason)
{
    if (dev->broken) {
        return;
    }
    g_info("virtio-blk %s: %s; the device needs a reset",
           dev->id ? dev->id : "(no id)", reason);
    dev->broken = reason;
    dev->active = false;
    dev->status |= VIRTIO_STATUS_NEEDS_RESET;
    virtio_blk_release_held(dev, true);
    if (dev->status & VIRTIO_STATUS_DRIVER_OK && dev->transport) {
        dev->transport->notify_config(dev->transport_opaque);
    }
}

void virtio_blk_check_memory(struct virtio_blk *dev)
{
    dev->seen_lost = sigbus_count();
    if (dev->transport && dev->transport->memory_lost) {
        const char *lost = dev->transport->memory_lost(dev->transport_opaque);

        if (lost) {
            virtio_blk_break(dev, lost);
        }
    }
}

static void hook(struct virtio_blk *dev, bool on)
{
    if (on && !dev->hooked) {
        loop_hook_add(dev->loop, &dev->hook);
    } else if (!on && dev->hooked) {
        loop_hook_remove(dev->loop, &dev->hook);
    }
    dev->hooked = on;
}

static void finish_reset(struct virtio_blk *dev)
{
    for (unsigned i = 0; i < dev->num_queues; i++) {
        virtqueue_stop(&dev->queues[i].vq);
        dev->queues[i].enabled = false;
        dev->queues[i].paused = false;
    }
    dev->resetting = false;
    dev->broken = NULL;
    dev->status = 0;
    dev->acked = 0;
    dev->config.writeback = !dev->props.no_write_cache;
}

void virtio_blk_reset(struct virtio_blk *dev)
{
    dev->active = false;
    dev->resetting = true;
    loop_defer_cancel(dev->loop, &dev->process);
    hook(dev, false);
    virtio_blk_release_held(dev, true);
    if (!dev->in_flight) {
        finish_reset(dev);
    }
}

/* What the features that were negotiated say about a queue. */
static bool start_queue(struct virtio_blk_queue *q)
{
    struct virtio_blk *dev = q->dev;

    q->setup.event_idx = virtio_blk_has(dev, VIRTIO_F_EVENT_IDX);
    q->setup.indirect = virtio_blk_has(dev, VIRTIO_F_INDIRECT_DESC);
    if (virtqueue_start(&q->vq, virtio_blk_ring_format(dev->acked), dev->memory,
                        &q->setup)) {
        return true;
    }
    virtio_blk_break(dev, q->vq.broken);
    return false;
}

static bool start_new_queue(struct virtio_blk_queue *q)
{
    q->setup.avail_idx = q->setup.used_idx =
        virtio_blk_ring_format(q->dev->acked)->first;
    return start_queue(q);
}

static void driver_ok(struct virtio_blk *dev)
{
    virtio_blk_config_driver_ok(dev);
    dev->active = true;
    hook(dev, true);
    for (unsigned i = 0; i < dev->num_queues; i++) {
        struct virtio_blk_queue *q = &dev->queues[i];

        if (q->enabled && !start_new_queue(q)) {
            return;
        }
    }
    loop_defer(dev->loop, &dev->process);
}

uint8_t virtio_blk_status(const struct virtio_blk *dev)
{
    return dev->status;
}

void virtio_blk_ack(struct virtio_blk *dev, uint64_t features)
{
    if (!(dev->status & VIRTIO_STATUS_FEATURES_OK)) {
        dev->acked = features;
    }
}

void virtio_blk_set_status(struct virtio_blk *dev, uint8_t status)
{
    uint8_t new_bits = status & ~dev->status;

    if (dev->resetting) {
        return;
    }
    if (!status) {
        virtio_blk_reset(dev);
        return;
    }
    if (new_bits & VIRTIO_STATUS_FEATURES_OK &&
        (dev->acked & ~dev->offered ||
         !virtio_blk_has(dev, VIRTIO_F_VERSION_1))) {
        /* 3.1.1: the driver sees that its choice was not taken. */
        status &= ~VIRTIO_STATUS_FEATURES_OK;
    }
    if (!((status | dev->status) & VIRTIO_STATUS_FEATURES_OK)) {
        status &= ~VIRTIO_STATUS_DRIVER_OK;
    }
    /* 2.1.1: a driver only adds bits, and NEEDS_RESET is not its own. */
    dev->status |= status & ~VIRTIO_STATUS_NEEDS_RESET;
    if (new_bits & status & VIRTIO_STATUS_DRIVER_OK && !dev->broken) {
        driver_ok(dev);
    }
}

void virtio_blk_set_queue(struct virtio_blk *dev, unsigned index,
                          const struct virtqueue_setup *setup)
{
    bool up = dev->status & VIRTIO_STATUS_DRIVER_OK;

    if (index >= dev->num_queues || dev->resetting ||
        (up && (!virtio_blk_has(dev, VIRTIO_F_RING_RESET) || !dev->active ||
                dev->queues[index].enabled))) {
        return;
    }
    struct virtio_blk_queue *q = &dev->queues[index];

    q->setup = *setup;
    q->enabled = true;
    if (up && start_new_queue(q)) {
        virtio_blk_kick(dev, index);
    }
}

/* ---- queues ---- */

static void drop_popped(struct virtio_blk_queue *q, const uint16_t *heads,
                        int n)
{
    for (int i = 0; i < n; i++) {
        virtio_blk_end(virtqueue_slot(&q->vq, heads[i]), 0);
    }
}

/* Takes what is there; at most one queue's worth, because nothing that is
 * completed here can come again before it is published. */
static bool process_queue(struct virtio_blk_queue *q)
{
    struct virtio_blk *dev = q->dev;
    uint16_t heads[POP_BATCH];
    bool any = false;

    /* What is done again was popped once, before the queue was paused. */
    while (may_pop(dev) && (!q->paused || q->vq.resubmits) &&
           virtqueue_has_work(&q->vq)) {
        int n = virtqueue_pop(&q->vq, heads, POP_BATCH);

        if (n < 0) {
            virtio_blk_break(dev, q->vq.broken);
            return true;
        }
        any = true;
        dev->in_flight += n;
        for (int i = 0; i < n; i++) {
            struct virtio_blk_req *req = virtqueue_slot(&q->vq, heads[i]);

            if (!dev->active) {
                drop_popped(q, heads + i, n - i);
                break;
            }
            virtio_blk_start(req);
        }
    }
    return any;
}

static bool process_all(struct virtio_blk *dev)
{
    bool any = false;

    for (unsigned i = 0; i < dev->num_queues; i++) {
        any |= process_queue(&dev->queues[i]);
    }
    return any;
}

void virtio_blk_end(struct virtio_blk_req *req, uint32_t written)
{
    struct virtio_blk_queue *q = req->queue;
    struct virtio_blk *dev = q->dev;

    if (G_LIKELY(dev->active)) {
        virtqueue_push(&q->vq, req->chain.head, written);
    }
    if (!--dev->in_flight && dev->resetting) {
        finish_reset(dev);
    }
    if (G_UNLIKELY(dev->idle.first)) {
        co_queue_wake_all(&dev->idle);
    }
}

static void on_process(void *opaque)
{
    process_all(opaque);
}

void virtio_blk_kick(struct virtio_blk *dev, unsigned index)
{
    if (may_pop(dev)) {
        loop_defer(dev->loop, &dev->process);
    }
}

static void on_flush(void *opaque)
{
    struct virtio_blk *dev = opaque;

    if (G_UNLIKELY(sigbus_count() != dev->seen_lost)) {
        virtio_blk_check_memory(dev);
    }
    if (!dev->active) {
        return;
    }
    for (unsigned i = 0; i < dev->num_queues; i++) {
        struct virtqueue *vq = &dev->queues[i].vq;

        if (virtqueue_publish(vq)) {
            dev->transport->notify_queue(dev->transport_opaque, i);
        }
        if (G_UNLIKELY(vq->broken)) {
            virtio_blk_break(dev, vq->broken);
            return;
        }
    }
}

static bool on_poll(void *opaque)
{
    return process_all(opaque);
}

static bool on_arm(void *opaque)
{
    struct virtio_blk *dev = opaque;
    bool work = false;

    /* While nothing may be popped, new chains are no reason to stay awake. */
    if (!may_pop(dev)) {
        return false;
    }
    for (unsigned i = 0; i < dev->num_queues; i++) {
        /* A kick for a paused queue comes when it goes on. */
        work |= !dev->queues[i].paused && virtqueue_arm(&dev->queues[i].vq);
    }
    return work;
}

static void on_disarm(void *opaque)
{
    struct virtio_blk *dev = opaque;

    for (unsigned i = 0; dev->active && i < dev->num_queues; i++) {
        virtqueue_disarm(&dev->queues[i].vq);
    }
}

/* ---- what the block layer and the run state want ---- */

static void resume(struct virtio_blk *dev)
{
    if (may_pop(dev)) {
        loop_defer(dev->loop, &dev->process);
    }
}

static void on_drained_begin(void *opaque)
{
    struct virtio_blk *dev = opaque;

    dev->quiesced++;
}

static void on_drained_end(void *opaque)
{
    struct virtio_blk *dev = opaque;

    g_assert(dev->quiesced);
    dev->quiesced--;
    resume(dev);
}

static void on_resized(void *opaque)
{
    struct virtio_blk *dev = opaque;

    if (virtio_blk_config_resize(dev) &&
        dev->status & VIRTIO_STATUS_DRIVER_OK && dev->transport) {
        dev->transport->notify_config(dev->transport_opaque);
    }
}

const struct backend_device_ops virtio_blk_backend_ops = {
    .drained_begin = on_drained_begin,
    .drained_end = on_drained_end,
    .resized = on_resized,
    .move = &virtio_blk_move_ops,
};

static void on_run_state(void *opaque, bool running, enum run_state state)
{
    struct virtio_blk *dev = opaque;

    dev->running = running;
    if (running) {
        virtio_blk_release_held(dev, false);
        resume(dev);
    } else {
        co_queue_wake_all(&dev->idle);
    }
}

/* ---- a driver that starts queues one by one ---- */

void virtio_blk_begin(struct virtio_blk *dev, uint64_t features)
{
    g_assert(!dev->status && !dev->resetting);
    dev->acked = features;
    dev->status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                  VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK;
    driver_ok(dev);
}

bool virtio_blk_start_queue(struct virtio_blk *dev, unsigned index,
                            const struct virtqueue_setup *setup)
{
    struct virtio_blk_queue *q = &dev->queues[index];

    q->setup = *setup;
    q->paused = false;
    if (!start_queue(q)) {
        return false;
    }
    virtio_blk_kick(dev, index);
    return true;
}

void virtio_blk_pause_queue(struct virtio_blk *dev, unsigned index, bool paused)
{
    dev->queues[index].paused = paused;
    if (!paused) {
        virtio_blk_kick(dev, index);
    }
}

uint32_t co_virtio_blk_stop_queue(struct virtio_blk *dev, unsigned index)
{
    struct virtio_blk_queue *q = &dev->queues[index];

    q->paused = true;
    /* Once the device is not active, chains are not given back any more. */
    while (dev->active ? q->vq.in_flight || q->vq.resubmits : dev->in_flight) {
        co_queue_wait(&dev->idle);
    }
    if (dev->active && virtqueue_publish(&q->vq)) {
        dev->transport->notify_queue(dev->transport_opaque, index);
    }
    uint32_t next = q->vq.last_avail | (uint32_t)q->vq.used_idx << 16;

    virtqueue_stop(&q->vq);
    q->paused = false;
    return next;
}

bool co_virtio_blk_reset_queue(struct virtio_blk *dev, unsigned index)
{
    struct virtio_blk_queue *q = &dev->queues[index];

    q->paused = true;
    while (dev->active && q->vq.in_flight) {
        if (!dev->running) {
            virtio_blk_pause_queue(dev, index, false);
            return false;
        }
        co_queue_wait(&dev->idle);
    }
    co_virtio_blk_stop_queue(dev, index);
    q->enabled = false;
    return true;
}

void co_virtio_blk_halt(struct virtio_blk *dev)
{
    uint8_t writeback = dev->config.writeback;

    virtio_blk_reset(dev);
    while (dev->in_flight) {
        co_queue_wait(&dev->idle);
    }
    dev->config.writeback = writeback;
}

void co_virtio_blk_memory_begin(struct virtio_blk *dev)
{
    dev->quiesced++;
    while (dev->in_flight) {
        co_queue_wait(&dev->idle);
    }
}

void virtio_blk_memory_end(struct virtio_blk *dev)
{
    for (unsigned i = 0; dev->active && i < dev->num_queues; i++) {
        struct virtqueue *vq = &dev->queues[i].vq;

        if (virtqueue_running(vq) && !vq->format->map(vq)) {
            virtio_blk_break(dev, vq->broken);
        }
    }
    on_drained_end(dev);
}

/* ---- life ---- */

void virtio_blk_set_transport(struct virtio_blk *dev,
                              const struct virtio_transport *transport,
                              void *opaque, const struct guest_memory *memory)
{
    g_assert(!dev->status && (!transport || !dev->transport));
    dev->transport = transport;
    dev->transport_opaque = opaque;
    dev->memory = memory;
}

void virtio_blk_init_hooks(struct virtio_blk *dev)
{
    dev->process = (struct deferred){.fn = on_process, .opaque = dev};
    dev->hook = (struct loop_hook){
        .flush = on_flush,
        .poll = on_poll,
        .arm = on_arm,
        .disarm = on_disarm,
        .opaque = dev,
    };
    dev->run = (struct runstate_listener){
        .changed = on_run_state,
        .opaque = dev,
        .order = RUNSTATE_DEVICES,
    };
    runstate_listener_add(&dev->run);
    dev->running = vm_running();
}

void virtio_blk_leave_loop(struct virtio_blk *dev)
{
    loop_defer_cancel(dev->loop, &dev->process);
    if (dev->hooked) {
        loop_hook_remove(dev->loop, &dev->hook);
    }
    runstate_listener_remove(&dev->run);
}

void virtio_blk_enter_loop(struct virtio_blk *dev, struct loop *loop)
{
    dev->loop = loop;
    runstate_listener_add(&dev->run);
    dev->running = vm_running();
    if (dev->hooked) {
        loop_hook_add(loop, &dev->hook);
    }
    resume(dev);
}
