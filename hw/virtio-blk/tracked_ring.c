/*
 * A ring whose requests are entered in books, or whose writes to guest memory
 * are logged: the ring format of a queue for which more is to be done than to
 * move chains.
 *
 * It stands in front of the format that the driver speaks (vq->base), so that a
 * queue without books or a log pays nothing for them. What the books say is to
 * be done again is popped first. Runs on the device's loop, does not suspend.
 */
#include <errno.h>

#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/virtqueue.h"

static bool tracked_map(struct virtqueue *vq)
{
    return vq->base->map(vq);
}

static int pop_again(struct virtqueue *vq, uint16_t *heads, unsigned max)
{
    const struct inflight *inf = vq->inflight;
    unsigned n = MIN(vq->resubmits, max);

    for (unsigned i = 0; i < n; i++) {
        uint16_t entry = inf->again[inf->again_count - vq->resubmits + i];

        if (!vq->base->inflight->read_again(vq, entry, &heads[i])) {
            return virtqueue_unpop(vq, heads, i);
        }
    }
    vq->resubmits -= n;
    return n;
}

static int tracked_pop(struct virtqueue *vq, uint16_t *heads, unsigned max)
{
    if (G_UNLIKELY(vq->resubmits)) {
        return pop_again(vq, heads, max);
    }
    uint16_t pos = vq->last_avail;
    int n = vq->base->pop(vq, heads, max);

    if (n > 0 && vq->inflight &&
        !vq->base->inflight->taken(vq, heads, n, pos)) {
        return virtqueue_unpop(vq, heads, n);
    }
    return n;
}

static void tracked_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    if (vq->inflight && !inflight_give_back(vq, head)) {
        return;
    }
    if (vq->log.log) {
        dirty_log_chain(vq, virtqueue_slot(vq, head));
    }
    if (G_LIKELY(!vq->broken)) {
        vq->base->push(vq, head, written);
    }
}

static bool tracked_publish(struct virtqueue *vq)
{
    if (vq->inflight) {
        vq->base->inflight->showing(vq);
    }
    bool notify = vq->base->publish(vq);

    if (vq->inflight) {
        vq->base->inflight->shown(vq);
    }
    if (vq->log.log) {
        dirty_log_ring(vq);
        dirty_log_tell(vq->log.log);
    }
    return notify;
}

static bool tracked_has_work(const struct virtqueue *vq)
{
    return vq->resubmits || vq->base->has_work(vq);
}

static void tracked_set_notify(struct virtqueue *vq, bool on)
{
    vq->base->set_notify(vq, on);
    if (vq->log.log) {
        dirty_log_ring(vq);
    }
}

const struct ring_format tracked_ring_format = {
    .name = "tracked",
    .map = tracked_map,
    .pop = tracked_pop,
    .push = tracked_push,
    .publish = tracked_publish,
    .has_work = tracked_has_work,
    .set_notify = tracked_set_notify,
};
