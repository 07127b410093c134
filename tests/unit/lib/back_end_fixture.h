/*
 * A vhost-user back-end that answers as it is told, for tests of front-ends: a
 * coroutine beside that of the test, `be` is what it knows and does.
 */
#ifndef VARVE_TESTS_BACK_END_FIXTURE_H
#define VARVE_TESTS_BACK_END_FIXTURE_H

#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "aio/loop.h"
#include "hw/virtio-blk/guest_vhost.h"

#define PROTOCOL(name) VIRTIO_BIT(VHOST_USER_PROTOCOL_F_##name)

/* What the back-end does to an answer before it goes. */
typedef void spoil_fn(struct vhost_user_message *m, int *fd);

static struct back_end {
    char *directory, *path;
    int listener, socket, channel, err;
    uint32_t request; /* whose answer is spoilt */
    spoil_fn *spoil;
    bool hang_up, silent; /* in place of that answer */
    uint64_t without;     /* protocol features */
    uint64_t capacity;
    uint32_t base; /* of the last SET_VRING_BASE */
    unsigned connections, resized, inflight_made;
    bool ended;
} be;

static struct loop *loop;
static struct guest *g;
static inline void config_of(struct vhost_user_config *c)
{
    struct virtio_blk_config config = {
        .capacity = be.capacity,
        .seg_max = 126,
        .blk_size = 512,
    };

    memcpy(c->data, &config, sizeof(config));
}

static inline uint32_t answer(struct vhost_user_message *m, int *fd)
{
    switch (m->header.request) {
    case VHOST_USER_GET_FEATURES:
        m->payload.u64 = VIRTIO_BIT(VIRTIO_F_VERSION_1) |
                         VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES) |
                         VIRTIO_BIT(VIRTIO_BLK_F_BLK_SIZE) |
                         VIRTIO_BIT(VIRTIO_BLK_F_SEG_MAX) |
                         VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
        return 8;
    case VHOST_USER_GET_PROTOCOL_FEATURES:
        m->payload.u64 =
            (PROTOCOL(MQ) | PROTOCOL(REPLY_ACK) | PROTOCOL(BACKEND_REQ) |
             PROTOCOL(CONFIG) | PROTOCOL(INFLIGHT_SHMFD) | PROTOCOL(STATUS)) &
            ~be.without;
        return 8;
    case VHOST_USER_GET_QUEUE_NUM:
        m->payload.u64 = 1;
        return 8;
    case VHOST_USER_GET_STATUS:
        m->payload.u64 = VIRTIO_STATUS_FEATURES_OK;
        return 8;
    case VHOST_USER_GET_CONFIG:
        config_of(&m->payload.config);
        return m->header.size;
    case VHOST_USER_GET_INFLIGHT_FD:
        be.inflight_made++;
        *fd = memfd_create("inflight", MFD_CLOEXEC);
        return m->header.size;
    case VHOST_USER_GET_VRING_BASE:
        m->payload.state.num = ((struct guest_vhost *)g)->g.queues[0].avail_idx;
        return sizeof(m->payload.state);
    default:
        m->payload.u64 = 0;
        return m->header.flags & VHOST_USER_FLAG_NEED_REPLY ? 8 : 0;
    }
}

static inline void take_fds(struct vhost_user_message *m)
{
    if (m->header.request == VHOST_USER_SET_BACKEND_REQ_FD) {
        be.channel = vhost_user_take_fd(m, 0);
    } else if (m->header.request == VHOST_USER_SET_VRING_ERR) {
        be.err = vhost_user_take_fd(m, 0);
    } else if (m->header.request == VHOST_USER_SET_VRING_BASE) {
        be.base = m->payload.state.num;
    }
    vhost_user_close_fds(m);
}

static inline void forget(int *fd)
{
    if (*fd >= 0) {
        loop_fd_set(loop, *fd, NULL, NULL, NULL);
        close(*fd);
        *fd = -1;
    }
}

static inline bool co_one_answer(void)
{
    struct vhost_user_message m;
    int fd = -1;

    if (!co_vhost_user_receive(be.socket, &m, NULL)) {
        return false;
    }
    bool spoilt = m.header.request == be.request;

    take_fds(&m);
    if (spoilt && be.hang_up) {
        return false;
    }
    if (spoilt && be.silent) {
        return true;
    }
    uint32_t bytes = answer(&m, &fd);

    m.header.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
    m.header.size = bytes;
    if (spoilt && be.spoil) {
        be.spoil(&m, &fd);
    }
    bool ok = !bytes || co_vhost_user_send(be.socket, &m, fd);

    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

static inline int accept_one(void)
{
    struct sockaddr_un peer;
    socklen_t size = sizeof(peer);

    return accept4(be.listener, (struct sockaddr *)&peer, &size,
                   SOCK_CLOEXEC | SOCK_NONBLOCK);
}

static inline void co_back_end(void *opaque)
{
    for (;;) {
        co_fd_wait_readable(be.listener);
        be.socket = accept_one();
        if (be.socket < 0) {
            break;
        }
        be.connections++;
        while (co_one_answer()) {
        }
        forget(&be.socket);
        forget(&be.channel);
        forget(&be.err);
    }
    be.ended = true;
}

#endif
