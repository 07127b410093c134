/*
 * A device that moves to another loop.
 *
 * Only the device of an export does: it has a transport that can go along, and
 * its front-end does not notice. Requests cannot, for each is a coroutine: the
 * move waits until those that were taken are done, and is refused while some
 * are held until the guest runs again.
 */
#include "hw/virtio-blk/device.h"
#include "util/error.h"

static unsigned count_held(const struct virtio_blk *dev)
{
    const struct virtio_blk_req *req;
    unsigned n = 0;

    TAILQ_FOREACH (req, &dev->held, link) {
        n++;
    }
    return n;
}

static void co_quiet(void *opaque)
{
    struct virtio_blk *dev = opaque;

    virtio_blk_backend_ops.drained_begin(dev);
    while (dev->in_flight > count_held(dev)) {
        co_queue_wait(&dev->idle);
    }
}

static void resume(void *opaque)
{
    virtio_blk_backend_ops.drained_end(opaque);
}

static bool may_leave(const void *opaque, bool drained, GError **error)
{
    const struct virtio_blk *dev = opaque;

    if (!dev->transport || !dev->transport->move) {
        return error_set(error,
                         "Cannot change iothread of active block backend");
    }
    if (!drained) {
        return true;
    }
    if (dev->in_flight) {
        return error_set(error, "Node '%s' has requests that wait for 'cont'",
                         dev->backend->node->name);
    }
    return dev->transport->move->may_leave(dev->transport_opaque, error);
}

static void leave(void *opaque)
{
    struct virtio_blk *dev = opaque;

    dev->transport->move->leave(dev->transport_opaque);
    virtio_blk_leave_loop(dev);
}

static void arrive(void *opaque)
{
    struct virtio_blk *dev = opaque;

    virtio_blk_enter_loop(dev, loop_current());
    dev->transport->move->arrive(dev->transport_opaque);
}

const struct backend_device_move_ops virtio_blk_move_ops = {
    .co_quiet = co_quiet,
    .resume = resume,
    .may_leave = may_leave,
    .leave = leave,
    .arrive = arrive,
};
