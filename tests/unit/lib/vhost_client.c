/*
 * The front-end of vhost_client.h.
 */
#include "vhost_client.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <glib.h>

#include "aio/atomic.h"
#include "util/range.h"

/* Calls of wait, or milliseconds, until a back-end counts as dead. */
#define PATIENCE 120000

static void nap(struct vhost_client *c)
{
    struct pollfd fds[1 + VHOST_CLIENT_MAX_QUEUES] = {{c->socket, POLLIN, 0}};
    unsigned n = 1;

    for (unsigned i = 0; i < c->num_queues; i++) {
        fds[n++] = (struct pollfd){c->queues[i].call, POLLIN, 0};
    }
    poll(fds, n, 1);
}

static void wait_a_little(struct vhost_client *c)
{
    if (c->wait) {
        c->wait(c->opaque);
    } else {
        nap(c);
    }
}

static bool open_socket(struct vhost_client *c, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    socklen_t size = sizeof(addr);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    if (*path == '@') {
        addr.sun_path[0] = 0;
        size = offsetof(struct sockaddr_un, sun_path) + strlen(path);
    }
    c->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return connect(c->socket, (struct sockaddr *)&addr, size) == 0;
}

bool vhost_client_connect(struct vhost_client *c, const char *path,
                          void (*wait)(void *opaque), void *opaque)
{
    memset(c, 0, sizeof(*c));
    c->wait = wait;
    c->opaque = opaque;
    c->backend_channel = c->ram_fd = c->inflight_fd = -1;
    for (unsigned i = 0; i < VHOST_CLIENT_MAX_QUEUES; i++) {
        c->queues[i].kick = c->queues[i].call = c->queues[i].err = -1;
    }
    return open_socket(c, path);
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

static void forget_inflight(struct vhost_client *c)
{
    if (c->inflight_region) {
        munmap(c->inflight_region, c->inflight.mmap_size);
        c->inflight_region = NULL;
    }
    close_fd(&c->inflight_fd);
}

static void forget_memory(struct vhost_client *c)
{
    for (unsigned i = 0; i < c->num_queues; i++) {
        struct vhost_client_queue *q = &c->queues[i];

        guest_queue_destroy(&q->ring);
        close_fd(&q->kick);
        close_fd(&q->call);
        close_fd(&q->err);
    }
    c->num_queues = 0;
    if (c->ram) {
        munmap(c->ram, c->ram_bytes);
        c->ram = NULL;
    }
    close_fd(&c->ram_fd);
}

void vhost_client_close(struct vhost_client *c)
{
    close_fd(&c->socket);
    close_fd(&c->backend_channel);
    forget_memory(c);
    forget_inflight(c);
}

void vhost_client_lose(struct vhost_client *c)
{
    close_fd(&c->socket);
    close_fd(&c->backend_channel);
}

/* ---- messages ---- */

bool vhost_client_send(struct vhost_client *c, uint32_t request, uint32_t flags,
                       const void *payload, uint32_t bytes, const int *fds,
                       unsigned num_fds)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | flags, bytes};
    struct iovec vec[2] = {{&h, sizeof(h)}, {(void *)payload, bytes}};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(32 * sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = vec, .msg_iovlen = bytes ? 2 : 1};

    if (num_fds) {
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(num_fds * sizeof(int));
        struct cmsghdr *head = CMSG_FIRSTHDR(&msg);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(num_fds * sizeof(int));
        memcpy(CMSG_DATA(head), fds, num_fds * sizeof(int));
    }
    return sendmsg(c->socket, &msg, MSG_NOSIGNAL) ==
           (ssize_t)(sizeof(h) + bytes);
}

static ssize_t read_some(struct vhost_client *c, void *buf, size_t bytes,
                         int *fd)
{
    struct iovec vec = {buf, bytes};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct msghdr msg = {
        .msg_iov = &vec,
        .msg_iovlen = 1,
        .msg_control = fd ? &control : NULL,
        .msg_controllen = fd ? sizeof(control) : 0,
    };
    ssize_t n = recvmsg(c->socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    struct cmsghdr *head = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    if (head && head->cmsg_type == SCM_RIGHTS) {
        memcpy(fd, CMSG_DATA(head), sizeof(int));
    }
    return n;
}

static bool read_all(struct vhost_client *c, void *buf, size_t bytes, int *fd)
{
    size_t done = 0;

    for (unsigned i = 0; done < bytes && i < PATIENCE; i++) {
        ssize_t n = read_some(c, (char *)buf + done, bytes - done, fd);

        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
            return false;
        }
        if (n < 0) {
            wait_a_little(c);
        } else {
            done += n;
        }
    }
    return done == bytes;
}

bool vhost_client_receive_fd(struct vhost_client *c,
                             struct vhost_user_message *m, int *fd)
{
    memset(m, 0, sizeof(*m));
    if (fd) {
        *fd = -1;
    }
    return read_all(c, &m->header, sizeof(m->header), fd) &&
           m->header.size <= sizeof(m->payload) &&
           read_all(c, &m->payload, m->header.size, NULL) &&
           m->header.flags & VHOST_USER_FLAG_REPLY;
}

bool vhost_client_receive(struct vhost_client *c, struct vhost_user_message *m)
{
    return vhost_client_receive_fd(c, m, NULL);
}

bool vhost_client_get(struct vhost_client *c, uint32_t request, void *payload,
                      uint32_t bytes)
{
    bool asks = request == VHOST_USER_GET_VRING_BASE ||
                request == VHOST_USER_GET_CONFIG;
    struct vhost_user_message m;

    if (!vhost_client_send(c, request, 0, payload, asks ? bytes : 0, NULL, 0) ||
        !vhost_client_receive(c, &m) || m.header.request != request ||
        m.header.size != bytes) {
        return false;
    }
    memcpy(payload, &m.payload, bytes);
    return true;
}

bool vhost_client_set(struct vhost_client *c, uint32_t request,
                      const void *payload, uint32_t bytes, const int *fds,
                      unsigned num_fds)
{
    bool ack =
        c->protocol_features & VIRTIO_BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
    struct vhost_user_message m;
    uint64_t ignored;

    if (!vhost_client_send(c, request, ack ? VHOST_USER_FLAG_NEED_REPLY : 0,
                           payload, bytes, fds, num_fds)) {
        return false;
    }
    if (!ack) {
        return vhost_client_get(c, VHOST_USER_GET_FEATURES, &ignored,
                                sizeof(ignored));
    }
    return vhost_client_receive(c, &m) && m.header.request == request &&
           m.header.size == 8 && m.payload.u64 == 0;
}

bool vhost_client_set_u64(struct vhost_client *c, uint32_t request,
                          uint64_t value, int fd)
{
    return vhost_client_set(c, request, &value, sizeof(value), &fd, fd >= 0);
}

bool vhost_client_set_state(struct vhost_client *c, uint32_t request,
                            uint32_t index, uint32_t num)
{
    struct vhost_user_vring_state state = {index, num};

    return vhost_client_set(c, request, &state, sizeof(state), NULL, 0);
}

bool vhost_client_get_config(struct vhost_client *c,
                             struct virtio_blk_config *config)
{
    struct vhost_user_config p = {.size = sizeof(*config)};

    if (!vhost_client_get(c, VHOST_USER_GET_CONFIG, &p,
                          offsetof(struct vhost_user_config, data) +
                              sizeof(*config))) {
        return false;
    }
    memcpy(config, p.data, sizeof(*config));
    return true;
}

/* ---- the driver ---- */

bool vhost_client_negotiate(struct vhost_client *c, uint64_t without,
                            uint64_t protocol_without)
{
    uint64_t f, p;

    if (!vhost_client_get(c, VHOST_USER_GET_FEATURES, &f, sizeof(f))) {
        return false;
    }
    f &= ~without;
    c->protocol_features = 0;
    if (f & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES)) {
        if (!vhost_client_get(c, VHOST_USER_GET_PROTOCOL_FEATURES, &p,
                              sizeof(p)) ||
            !vhost_client_set_u64(c, VHOST_USER_SET_PROTOCOL_FEATURES,
                                  p & ~protocol_without, -1)) {
            return false;
        }
        c->protocol_features = p & ~protocol_without;
    }
    c->features = f;
    return vhost_client_set(c, VHOST_USER_SET_OWNER, NULL, 0, NULL, 0) &&
           vhost_client_set_u64(c, VHOST_USER_SET_FEATURES, f, -1);
}

/* Regions leave gaps in both address spaces. */
static struct vhost_user_region region(const struct vhost_client *c, unsigned i)
{
    return (struct vhost_user_region){
        .gpa = VHOST_CLIENT_GPA + 2 * i * c->region_bytes,
        .bytes = c->region_bytes,
        .user = VHOST_CLIENT_USER + 3 * i * c->region_bytes,
        .mmap_offset = i * c->region_bytes,
    };
}

static bool show_memory(struct vhost_client *c, bool by_slots)
{
    struct vhost_user_mem_table table = {.count = c->num_queues};
    int fds[VHOST_CLIENT_MAX_QUEUES];
    bool ok = true;

    for (unsigned i = 0; i < c->num_queues; i++) {
        struct vhost_user_mem_region one = {.region = region(c, i)};

        table.regions[i] = one.region;
        fds[i] = c->ram_fd;
        if (by_slots) {
            ok = ok && vhost_client_set(c, VHOST_USER_ADD_MEM_REG, &one,
                                        sizeof(one), &c->ram_fd, 1);
        }
    }
    if (by_slots) {
        return ok;
    }
    return vhost_client_set(
        c, VHOST_USER_SET_MEM_TABLE, &table,
        offsetof(struct vhost_user_mem_table, regions[c->num_queues]), fds,
        c->num_queues);
}

bool vhost_client_share_memory(struct vhost_client *c, unsigned num_queues,
                               uint16_t queue_size, bool by_slots)
{
    forget_memory(c);
    c->queue_size = queue_size;
    c->region_bytes = align_up(guest_queue_bytes(queue_size), 4096);
    c->ram_bytes = num_queues * c->region_bytes;
    c->ram_fd = memfd_create("vhost-client", MFD_CLOEXEC);
    if (c->ram_fd < 0 || ftruncate(c->ram_fd, c->ram_bytes) < 0) {
        return false;
    }
    c->ram = mmap(NULL, c->ram_bytes, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_NORESERVE, c->ram_fd, 0);
    if (c->ram == MAP_FAILED) {
        c->ram = NULL;
        return false;
    }
    c->num_queues = num_queues;
    for (unsigned i = 0; i < num_queues; i++) {
        guest_queue_init(&c->queues[i].ring, queue_size,
                         c->ram + i * c->region_bytes, region(c, i).gpa,
                         c->features);
    }
    return show_memory(c, by_slots);
}

uint32_t vhost_client_base(const struct vhost_client *c, unsigned n)
{
    if (!(c->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED))) {
        return n;
    }
    uint32_t pos =
        n % c->queue_size | (n / c->queue_size % 2 ? 0 : VRING_PACKED_WRAP);

    return pos | pos << 16;
}

bool vhost_client_set_addr(struct vhost_client *c, unsigned i)
{
    struct vhost_client_queue *q = &c->queues[i];
    struct vhost_user_region r = region(c, i);
    struct vhost_user_vring_addr addr = {
        .index = i,
        .flags = c->log_rings ? VHOST_VRING_F_LOG : 0,
        .log = q->ring.used_gpa + c->log_shift,
        .desc = q->ring.desc_gpa - r.gpa + r.user,
        .used = q->ring.used_gpa - r.gpa + r.user,
        .avail = q->ring.avail_gpa - r.gpa + r.user,
    };

    return vhost_client_set(c, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr),
                            NULL, 0);
}

bool vhost_client_start_queue(struct vhost_client *c, unsigned i, uint32_t base)
{
    struct vhost_client_queue *q = &c->queues[i];

    close_fd(&q->kick);
    close_fd(&q->call);
    close_fd(&q->err);
    q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return vhost_client_set_state(c, VHOST_USER_SET_VRING_NUM, i,
                                  c->queue_size) &&
           vhost_client_set_state(c, VHOST_USER_SET_VRING_BASE, i, base) &&
           vhost_client_set_addr(c, i) &&
           vhost_client_set_u64(c, VHOST_USER_SET_VRING_ERR, i, q->err) &&
           vhost_client_set_u64(c, VHOST_USER_SET_VRING_CALL, i, q->call) &&
           vhost_client_set_u64(c, VHOST_USER_SET_VRING_KICK, i, q->kick) &&
           (!(c->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES)) ||
            vhost_client_set_state(c, VHOST_USER_SET_VRING_ENABLE, i, 1));
}

int64_t vhost_client_stop_queue(struct vhost_client *c, unsigned i)
{
    struct vhost_user_vring_state state = {.index = i};

    return vhost_client_get(c, VHOST_USER_GET_VRING_BASE, &state, sizeof(state))
               ? (int64_t)state.num
               : -1;
}

bool vhost_client_reset_queue(struct vhost_client *c, unsigned i)
{
    struct guest_queue *ring = &c->queues[i].ring;

    if (vhost_client_stop_queue(c, i) < 0) {
        return false;
    }
    guest_queue_reap(ring);
    guest_queue_renew(ring);
    if (!vhost_client_start_queue(c, i, vhost_client_base(c, 0))) {
        return false;
    }
    vhost_client_kick(c, i);
    return true;
}

bool vhost_client_start(struct vhost_client *c, unsigned num_queues,
                        uint16_t queue_size)
{
    if (!vhost_client_negotiate(c, 0, 0) ||
        !vhost_client_share_memory(c, num_queues, queue_size, false)) {
        return false;
    }
    for (unsigned i = 0; i < num_queues; i++) {
        if (!vhost_client_start_queue(c, i, vhost_client_base(c, 0))) {
            return false;
        }
    }
    return true;
}

bool vhost_client_get_inflight(struct vhost_client *c, unsigned num_queues,
                               uint16_t queue_size)
{
    struct vhost_user_inflight_area area = {.num_queues = num_queues,
                                            .queue_size = queue_size};
    struct vhost_user_message m;

    forget_inflight(c);
    if (!vhost_client_send(c, VHOST_USER_GET_INFLIGHT_FD, 0, &area,
                           sizeof(area), NULL, 0) ||
        !vhost_client_receive_fd(c, &m, &c->inflight_fd) ||
        m.header.request != VHOST_USER_GET_INFLIGHT_FD ||
        m.header.size != sizeof(area) || c->inflight_fd < 0) {
        return false;
    }
    c->inflight = m.payload.inflight;
    c->inflight_region =
        mmap(NULL, c->inflight.mmap_size, PROT_READ | PROT_WRITE, MAP_SHARED,
             c->inflight_fd, c->inflight.mmap_offset);
    if (c->inflight_region == MAP_FAILED) {
        c->inflight_region = NULL;
        return false;
    }
    return vhost_client_set_inflight(c);
}

bool vhost_client_set_inflight(struct vhost_client *c)
{
    return vhost_client_set(c, VHOST_USER_SET_INFLIGHT_FD, &c->inflight,
                            sizeof(c->inflight), &c->inflight_fd, 1);
}

/* Where a queue goes on whose back-end has died: what can be seen of it in
 * memory. */
static uint32_t base_after_death(const struct vhost_client *c, unsigned i)
{
    const struct guest_queue *q = &c->queues[i].ring;

    if (c->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED)) {
        return q->last_used | (uint32_t)q->last_used << 16;
    }
    return le16toh(load_acquire_u16(&q->used->idx));
}

bool vhost_client_return(struct vhost_client *c, const char *path)
{
    uint64_t features = c->features, protocol = c->protocol_features;

    if (!open_socket(c, path) ||
        !vhost_client_negotiate(c, ~features, ~protocol) ||
        !show_memory(c, false) ||
        (c->inflight_fd >= 0 && !vhost_client_set_inflight(c))) {
        return false;
    }
    for (unsigned i = 0; i < c->num_queues; i++) {
        if (!vhost_client_start_queue(c, i, base_after_death(c, i))) {
            return false;
        }
        /* Added while nobody was there. */
        eventfd_write(c->queues[i].kick, 1);
    }
    return true;
}

bool vhost_client_open_channel(struct vhost_client *c)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
        return false;
    }
    close_fd(&c->backend_channel);
    c->backend_channel = pair[0];
    bool ok = vhost_client_set(c, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0,
                               &pair[1], 1);
    close(pair[1]);
    return ok;
}

void vhost_client_kick(struct vhost_client *c, unsigned queue)
{
    if (guest_queue_show(&c->queues[queue].ring)) {
        eventfd_write(c->queues[queue].kick, 1);
    }
}

bool vhost_client_reap(struct vhost_client *c)
{
    bool any = false;
    eventfd_t count;

    for (unsigned i = 0; i < c->num_queues; i++) {
        struct vhost_client_queue *q = &c->queues[i];

        if (q->call >= 0 && eventfd_read(q->call, &count) == 0) {
            q->calls++;
        }
        any |= guest_queue_reap(&q->ring);
        any |=
            guest_queue_interrupts_on(&q->ring) && guest_queue_reap(&q->ring);
    }
    return any;
}

static void finished(struct guest_slot *slot, void *opaque)
{
    *(int *)opaque = slot->control->status;
}

struct guest_slot *vhost_client_submit(struct vhost_client *c, unsigned queue,
                                       uint32_t type, uint64_t sector,
                                       const void *buf, uint32_t bytes,
                                       int *status)
{
    struct guest_slot *slot = guest_queue_get(&c->queues[queue].ring);

    if (!slot) {
        return NULL;
    }
    if (buf) {
        memcpy(slot->data, buf, bytes);
    }
    slot->done = finished;
    slot->opaque = status;
    *status = 0xff;
    guest_queue_add(slot, type, sector, bytes, 1);
    return slot;
}

int vhost_client_io(struct vhost_client *c, unsigned queue, uint32_t type,
                    uint64_t sector, void *buf, uint32_t bytes)
{
    bool fills = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
    int status;
    struct guest_slot *slot = vhost_client_submit(
        c, queue, type, sector, fills ? NULL : buf, bytes, &status);

    if (!slot) {
        return -1;
    }
    vhost_client_kick(c, queue);
    for (unsigned i = 0; status == 0xff && i < PATIENCE; i++) {
        if (!vhost_client_reap(c)) {
            wait_a_little(c);
        }
    }
    if (status == 0xff) {
        return -1;
    }
    if (fills && status == VIRTIO_BLK_S_OK) {
        memcpy(buf, slot->data, bytes);
    }
    guest_queue_put(slot);
    return status;
}
