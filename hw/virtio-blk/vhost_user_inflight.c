/*
 * The region of requests in flight of a vhost-user connection, and the messages
 * that carry it.
 *
 * The back-end makes the region, the front-end keeps it, and hands it over on
 * each connection. Each queue has a part of the same size in it, one behind the
 * other. A part is bound to its queue when the ring starts, for only then is it
 * known what kind of ring it is. Runs on the device's loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"

void vhost_user_inflight_drop(struct vhost_user_session *s)
{
    struct vhost_user_inflight *i = &s->inflight;

    for (unsigned q = 0; q < i->num_queues; q++) {
        inflight_destroy(&i->queues[q]);
    }
    g_clear_pointer(&i->queues, g_free);
    vhost_user_shared_unmap(&i->shared);
    i->num_queues = 0;
}

static uint64_t part_bytes(const struct vhost_user_session *s,
                           uint16_t queue_size)
{
    return inflight_bytes(virtio_blk_ring_format(s->features)->inflight,
                          queue_size);
}

/* NULL: there is none, or not for this queue. */
static void *part_of(const struct vhost_user_session *s, unsigned queue)
{
    const struct vhost_user_inflight *i = &s->inflight;

    if (!i->num_queues || !virtio_blk_ring_format(s->features)->inflight) {
        return NULL;
    }
    uint64_t part = part_bytes(s, i->queue_size);

    return queue < i->num_queues && (queue + 1) * part <= i->bytes
               ? i->shared.host + queue * part
               : NULL;
}

void vhost_user_inflight_forget(struct vhost_user_session *s, unsigned queue)
{
    void *part = part_of(s, queue);

    if (part) {
        inflight_forget(part);
    }
}

bool vhost_user_inflight_of(struct vhost_user_session *s, unsigned queue,
                            struct inflight **inflight, GError **error)
{
    struct vhost_user_inflight *i = &s->inflight;
    void *part = part_of(s, queue);

    *inflight = NULL;
    if (!i->num_queues) {
        return true;
    }
    if (!part) {
        return error_set(error, "queue %u has no part of the in-flight region",
                         queue);
    }
    *inflight = &i->queues[queue];
    inflight_destroy(*inflight);
    inflight_init(*inflight, part, i->queue_size);
    return true;
}

/* ---- messages ---- */

static bool check_numbers(const struct vhost_user_session *s,
                          const struct vhost_user_message *m, GError **error)
{
    const struct vhost_user_inflight_area *p = &m->payload.inflight;

    if (!virtio_blk_ring_format(s->features)->inflight) {
        return error_set(error, "%s: packed rings have no such region",
                         m->name);
    }
    if (!p->num_queues || p->num_queues > s->dev->num_queues) {
        return error_set(error, "%s: %u queues, but there are %u", m->name,
                         p->num_queues, s->dev->num_queues);
    }
    if (!p->queue_size || p->queue_size > s->dev->props.queue_size) {
        return error_set(error, "%s: %u entries, the limit is %u", m->name,
                         p->queue_size, s->dev->props.queue_size);
    }
    return true;
}

bool vhost_user_on_get_inflight_fd(struct vhost_user_session *s,
                                   struct vhost_user_message *m,
                                   uint32_t *reply, GError **error)
{
    struct vhost_user_inflight_area *p = &m->payload.inflight;

    if (!check_numbers(s, m, error)) {
        return false;
    }
    uint64_t bytes = p->num_queues * part_bytes(s, p->queue_size);
    int fd = memfd_create("varve-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
        error_set_errno(error, errno, "%s: making the region", m->name);
        if (fd >= 0) {
            close(fd);
        }
        return false;
    }
    p->mmap_size = bytes;
    p->mmap_offset = 0;
    m->reply_fd = fd;
    *reply = m->header.size;
    return true;
}

bool vhost_user_on_set_inflight_fd(struct vhost_user_session *s,
                                   struct vhost_user_message *m,
                                   uint32_t *reply, GError **error)
{
    const struct vhost_user_inflight_area *p = &m->payload.inflight;
    struct vhost_user_inflight *i = &s->inflight;

    if (!check_numbers(s, m, error)) {
        return false;
    }
    if (s->begun) {
        return error_set(error, "%s: a queue is running", m->name);
    }
    if (p->mmap_size < p->num_queues * part_bytes(s, p->queue_size)) {
        return error_set(error,
                         "%s: %" PRIu64 " bytes for %u queues of %u entries",
                         m->name, p->mmap_size, p->num_queues, p->queue_size);
    }
    if (p->mmap_offset % INFLIGHT_ALIGN) {
        return error_set(error, "%s: offset %" PRIu64, m->name, p->mmap_offset);
    }
    vhost_user_inflight_drop(s);
    if (!vhost_user_shared_map(&i->shared, m->fds[0], p->mmap_offset,
                               p->mmap_size, "the region", error)) {
        g_prefix_error(error, "%s: ", m->name);
        return false;
    }
    i->bytes = p->mmap_size;
    i->num_queues = p->num_queues;
    i->queue_size = p->queue_size;
    i->queues = g_new0(struct inflight, i->num_queues);
    return true;
}
