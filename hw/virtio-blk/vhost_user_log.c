/*
 * Logging of what the device writes to guest memory, for a front-end that
 * migrates its guest: the messages about it, and what each queue logs.
 *
 * Data is logged while VHOST_F_LOG_ALL is among the features, the ring itself
 * while its addresses have VHOST_VRING_F_LOG. Both come and go while the queues
 * run, and so does the log. Runs on the device's loop.
 */
#include <inttypes.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"

void vhost_user_log_update(struct vhost_user_session *s)
{
    struct dirty_log *log = s->log.shared.host ? &s->log.log : NULL;
    bool data = s->features & VIRTIO_BIT(VHOST_F_LOG_ALL);

    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        const struct vhost_user_vring_addr *addr = &s->vrings[i].addr;
        struct virtqueue *vq = &s->dev->queues[i].vq;
        bool ring = addr->flags & VHOST_VRING_F_LOG;

        if (virtqueue_running(vq)) {
            virtqueue_set_log(vq, &(struct dirty_log_use){
                                      .log = data || ring ? log : NULL,
                                      .data = data,
                                      .ring = ring,
                                      .used = addr->log,
                                  });
        }
    }
}

void vhost_user_log_drop(struct vhost_user_session *s)
{
    vhost_user_shared_unmap(&s->log.shared);
    if (s->log.log.fd >= 0) {
        close(s->log.log.fd);
    }
    s->log.log = (struct dirty_log){.fd = -1};
}

bool vhost_user_on_set_log_base(struct vhost_user_session *s,
                                struct vhost_user_message *m, uint32_t *reply,
                                GError **error)
{
    const struct vhost_user_log_area *p = &m->payload.log;

    vhost_user_shared_unmap(&s->log.shared);
    bool ok = vhost_user_shared_map(&s->log.shared, m->fds[0], p->mmap_offset,
                                    p->mmap_size, "the log", error);

    s->log.log = (struct dirty_log){
        .bits = s->log.shared.host,
        .bytes = ok ? p->mmap_size : 0,
        .fd = s->log.log.fd,
    };
    vhost_user_log_update(s);
    if (!ok) {
        g_prefix_error(error, "%s: ", m->name);
    }
    *reply = 0;
    return ok;
}

bool vhost_user_on_set_log_fd(struct vhost_user_session *s,
                              struct vhost_user_message *m, uint32_t *reply,
                              GError **error)
{
    if (!vhost_user_check_eventfd(m, m->fds[0], error)) {
        return false;
    }
    if (s->log.log.fd >= 0) {
        close(s->log.log.fd);
    }
    s->log.log.fd = vhost_user_take_fd(m, 0);
    return true;
}
