/*
 * The making, finding and end of virtio-blk devices.
 *
 * A device is found through the backend that it is attached to, so there is no
 * list of devices. It asks for the rights it needs on the backend, and gives
 * them back at its end. Runs on the graph's loop.
 */
#include <string.h>

#include "hw/guest.h"
#include "hw/virtio-blk/device.h"
#include "util/error.h"
#include "util/range.h"

static bool check_props(struct virtio_blk_props *p, GError **error)
{
    p->num_queues = p->num_queues ? p->num_queues : 1;
    p->queue_size = p->queue_size ? p->queue_size : 256;
    p->logical_bytes =
        p->logical_bytes ? p->logical_bytes : VIRTIO_BLK_SECTOR_BYTES;
    p->physical_bytes = MAX(p->physical_bytes, p->logical_bytes);
    if (p->num_queues > VIRTIO_BLK_MAX_QUEUES) {
        return error_set(error, "num-queues must be between 1 and %d",
                         VIRTIO_BLK_MAX_QUEUES);
    }
    if (p->queue_size < 4 || p->queue_size > VIRTQUEUE_MAX_SIZE ||
        !is_power_of_2(p->queue_size)) {
        return error_set(error,
                         "invalid queue-size property (%u), must be a power "
                         "of 2 between 4 and %d",
                         p->queue_size, VIRTQUEUE_MAX_SIZE);
    }
    if (!is_power_of_2(p->logical_bytes) ||
        p->logical_bytes < VIRTIO_BLK_SECTOR_BYTES ||
        p->logical_bytes > (2 << 20) || !is_power_of_2(p->physical_bytes) ||
        p->physical_bytes > (2 << 20)) {
        return error_set(error, "logical_block_size and physical_block_size "
                                "must be powers of 2 between 512 and 2 MiB");
    }
    if (p->size_max && (p->size_max < VIRTIO_BLK_MIN_SIZE_MAX ||
                        p->size_max % p->logical_bytes)) {
        return error_set(error,
                         "size-max must be a multiple of logical_block_size "
                         "and at least %d",
                         VIRTIO_BLK_MIN_SIZE_MAX);
    }
    if (p->min_io_bytes % p->logical_bytes ||
        p->min_io_bytes / p->logical_bytes > UINT16_MAX ||
        p->opt_io_bytes % p->logical_bytes) {
        return error_set(error, "min_io_size and opt_io_size must be multiples "
                                "of logical_block_size");
    }
    if (p->serial && strlen(p->serial) > VIRTIO_BLK_ID_BYTES) {
        return error_set(error, "serial is longer than %d bytes",
                         VIRTIO_BLK_ID_BYTES);
    }
    return true;
}

struct virtio_blk *co_virtio_blk_new(const struct virtio_blk_props *props,
                                     struct backend *backend, GError **error)
{
    struct virtio_blk_props p = *props;
    unsigned shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED |
                      PERM_RESIZE | (p.share_rw ? PERM_WRITE : 0);
    unsigned perm =
        PERM_CONSISTENT_READ | (backend->read_only ? 0 : PERM_WRITE);

    if (!backend->node) {
        error_set(error, "Device needs media, but drive is empty");
        return NULL;
    }
    if (!check_props(&p, error)) {
        return NULL;
    }
    struct virtio_blk *dev = g_new0(struct virtio_blk, 1);

    if (!backend_attach_device(backend, p.id, &virtio_blk_backend_ops, dev,
                               error)) {
        g_free(dev);
        return NULL;
    }
    dev->old_perm = backend->root->perm;
    dev->old_shared = backend->root->shared;
    dev->old_read_only = backend->read_only;
    if (!co_backend_set_perm(backend, perm, shared, error)) {
        backend_detach_device(backend);
        g_free(dev);
        return NULL;
    }
    dev->backend = backend_ref(backend);
    backend->write_cache = !p.no_write_cache; /* until a driver has its say */
    dev->loop = loop_current();
    dev->id = g_strdup(p.id);
    if (p.serial) {
        memcpy(dev->serial, p.serial, strlen(p.serial));
    }
    p.id = p.serial = NULL; /* the caller's */
    dev->props = p;
    dev->logical_bytes = p.logical_bytes;
    dev->num_queues = p.num_queues;
    TAILQ_INIT(&dev->held);
    dev->queues = g_new0(struct virtio_blk_queue, dev->num_queues);
    for (unsigned i = 0; i < dev->num_queues; i++) {
        struct virtio_blk_queue *q = &dev->queues[i];

        q->dev = dev;
        q->index = i;
        virtqueue_init(&q->vq, p.queue_size, sizeof(struct virtio_blk_req));
        for (unsigned head = 0; head < p.queue_size; head++) {
            struct virtio_blk_req *req = virtqueue_slot(&q->vq, head);
            req->queue = q;
        }
    }
    dev->length = -1;
    virtio_blk_config_init(dev);
    virtio_blk_init_hooks(dev);
    return dev;
}

void co_virtio_blk_free(struct virtio_blk *dev)
{
    if (dev->guest) {
        co_guest_free(dev->guest);
    }
    virtio_blk_reset(dev);
    while (dev->in_flight) {
        co_queue_wait(&dev->idle);
    }
    runstate_listener_remove(&dev->run);
    loop_defer_cancel(dev->loop, &dev->process);
    backend_detach_device(dev->backend);
    /* Asks for less than before, or for what it had: cannot fail but by the
     * storage, and then the rights just stay. */
    co_backend_set_perm(dev->backend, dev->old_perm, dev->old_shared, NULL);
    dev->backend->read_only = dev->old_read_only;
    co_backend_unref(dev->backend);
    for (unsigned i = 0; i < dev->num_queues; i++) {
        virtqueue_destroy(&dev->queues[i].vq);
    }
    g_free(dev->queues);
    g_free(dev->id);
    g_free(dev);
}

struct guest *co_virtio_blk_guest(struct virtio_blk *dev, GError **error)
{
    return dev->guest ? dev->guest : co_guest_new(dev, dev->loop, error);
}

/* The first device of the graph with that name, or with any (NULL). */
static struct virtio_blk *find(const char *name)
{
    struct backend *b;

    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (b->device_ops == &virtio_blk_backend_ops &&
            !((struct virtio_blk *)b->device)->props.exported &&
            (!name || g_strcmp0(b->device_id, name) == 0 ||
             g_strcmp0(b->name, name) == 0)) {
            return b->device;
        }
    }
    return NULL;
}

struct virtio_blk *virtio_blk_any(void)
{
    return find(NULL);
}

struct virtio_blk *virtio_blk_find(const char *name, GError **error)
{
    struct virtio_blk *dev = find(name);

    if (!dev) {
        error_set_class(error, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        name);
    }
    return dev;
}
