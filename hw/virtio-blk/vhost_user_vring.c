/*
 * The rings of a vhost-user connection, and the messages about them.
 *
 * A ring runs while the front-end has told its size, addresses and a kick
 * descriptor, and has it enabled; from the first such ring to the stop of the
 * last the device is up. Addresses of rings are translated when the ring starts
 * and whenever memory changes. Runs on the device's loop.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"
#include "util/range.h"

static struct vhost_user_vring *vring_of(struct vhost_user_session *s,
                                         const struct vhost_user_message *m,
                                         uint32_t index, GError **error)
{
    if (index >= s->dev->num_queues) {
        error_set(error, "%s: queue %u, but there are %u", m->name, index,
                  s->dev->num_queues);
        return NULL;
    }
    return &s->vrings[index];
}

static bool started(const struct vhost_user_vring *v)
{
    return virtio_blk_queue_started(v->session->dev, v->index);
}

/* The same, for what may not change while the ring runs. */
static struct vhost_user_vring *stopped_vring(
    struct vhost_user_session *s, const struct vhost_user_message *m,
    uint32_t index, GError **error)
{
    struct vhost_user_vring *v = vring_of(s, m, index, error);

    if (v && started(v)) {
        error_set(error, "%s: queue %u is running", m->name, index);
        return NULL;
    }
    return v;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void vhost_user_drop_kick(struct vhost_user_vring *v)
{
    if (v->kick >= 0) {
        loop_fd_set(v->session->dev->loop, v->kick, NULL, NULL, NULL);
        close_fd(&v->kick);
    }
}

static void on_kick(void *opaque)
{
    struct vhost_user_vring *v = opaque;
    uint64_t count;
    ssize_t n = read(v->kick, &count, sizeof(count));

    if (G_UNLIKELY(n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))) {
        vhost_user_drop_kick(v); /* it would be readable for ever */
    }
    virtio_blk_kick(v->session->dev, v->index);
}

void vhost_user_watch_kick(struct vhost_user_vring *v, bool on)
{
    if (v->kick >= 0 && started(v)) {
        loop_fd_set(v->session->dev->loop, v->kick, on ? on_kick : NULL, NULL,
                    v);
    }
}

static bool packed(const struct vhost_user_session *s)
{
    return s->features & VIRTIO_BIT(VIRTIO_F_RING_PACKED);
}

/* From the front-end's addresses to those of the guest. Of a packed ring
 * `avail` is the driver's event structure, and `used` the device's. */
static bool locate(const struct vhost_user_vring *v,
                   struct virtqueue_setup *setup)
{
    const struct vhost_user_memory *m = &v->session->memory;
    bool events = packed(v->session);
    uint64_t avail = events ? VRING_EVENT_BYTES : vring_avail_bytes(v->size);
    uint64_t used = events ? VRING_EVENT_BYTES : vring_used_bytes(v->size);

    return vhost_user_memory_gpa(m, v->addr.desc, vring_desc_bytes(v->size),
                                 &setup->desc) &&
           vhost_user_memory_gpa(m, v->addr.avail, avail, &setup->avail) &&
           vhost_user_memory_gpa(m, v->addr.used, used, &setup->used);
}

static uint32_t base_of(const struct vhost_user_vring *v)
{
    uint32_t first = virtio_blk_ring_format(v->session->features)->first;

    return v->has_base ? v->base : first | first << 16;
}

/* Where the ring goes on. The used index of a split ring is in its memory. */
static bool set_position(const struct vhost_user_vring *v,
                         struct virtqueue_setup *setup)
{
    const struct vhost_user_session *s = v->session;
    uint16_t used_idx;

    setup->avail_idx = base_of(v);
    if (packed(s)) {
        setup->used_idx = base_of(v) >> 16;
        return true;
    }
    if (guest_memory_read(&s->memory.table,
                          setup->used + offsetof(struct vring_used, idx),
                          &used_idx, sizeof(used_idx)) < 0) {
        return false;
    }
    setup->used_idx = le16toh(used_idx);
    return true;
}

/* Starts the ring if everything is there; an error does not name it. */
static bool maybe_start(struct vhost_user_vring *v, GError **error)
{
    struct vhost_user_session *s = v->session;
    struct virtqueue_setup setup = {.size = v->size};

    if (started(v) || !s->features_set || !v->enabled || !v->size ||
        !v->has_addr || v->kick < 0) {
        return true;
    }
    if (!locate(v, &setup) || !set_position(v, &setup)) {
        return error_set(error, "queue %u is not within guest memory",
                         v->index);
    }
    if (!vhost_user_inflight_of(s, v->index, &setup.inflight, error)) {
        return false;
    }
    if (!s->begun) {
        s->begun = true;
        virtio_blk_begin(s->dev, s->features);
    }
    if (!virtio_blk_start_queue(s->dev, v->index, &setup)) {
        return error_set(error, "queue %u: %s", v->index, s->dev->broken);
    }
    vhost_user_watch_kick(v, true);
    vhost_user_log_update(s);
    if (setup.inflight) {
        /* Who ended before us may have shown something and not told. */
        vhost_user_transport.notify_queue(s->server, v->index);
    }
    return true;
}

static bool start_named(struct vhost_user_vring *v,
                        const struct vhost_user_message *m, GError **error)
{
    if (maybe_start(v, error)) {
        return true;
    }
    g_prefix_error(error, "%s: ", m->name);
    return false;
}

static void co_halt_if_idle(struct vhost_user_session *s)
{
    if (!s->begun) {
        return;
    }
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        if (started(&s->vrings[i])) {
            return;
        }
    }
    co_virtio_blk_halt(s->dev);
    s->begun = false;
}

static void co_stop_vring(struct vhost_user_vring *v)
{
    if (started(v)) {
        vhost_user_drop_kick(v);
        v->base = co_virtio_blk_stop_queue(v->session->dev, v->index);
        v->has_base = true;
    }
    vhost_user_drop_kick(v);
    close_fd(&v->call);
}

void co_vhost_user_stop_all(struct vhost_user_session *s)
{
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        vhost_user_drop_kick(&s->vrings[i]);
    }
    if (s->begun) {
        co_virtio_blk_halt(s->dev);
        s->begun = false;
    }
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        close_fd(&s->vrings[i].call);
        close_fd(&s->vrings[i].err);
    }
}

bool vhost_user_on_set_vring_num(struct vhost_user_session *s,
                                 struct vhost_user_message *m, uint32_t *reply,
                                 GError **error)
{
    const struct vhost_user_vring_state *p = &m->payload.state;
    struct vhost_user_vring *v = stopped_vring(s, m, p->index, error);

    if (!v) {
        return false;
    }
    if (!p->num || p->num > s->dev->props.queue_size ||
        (!packed(s) && !is_power_of_2(p->num))) {
        return error_set(error, "%s: %u entries, must be %s up to %u", m->name,
                         p->num, packed(s) ? "1" : "a power of 2",
                         s->dev->props.queue_size);
    }
    v->size = p->num;
    return start_named(v, m, error);
}

bool vhost_user_on_set_vring_addr(struct vhost_user_session *s,
                                  struct vhost_user_message *m, uint32_t *reply,
                                  GError **error)
{
    const struct vhost_user_vring_addr *p = &m->payload.addr;
    struct vhost_user_vring *v = vring_of(s, m, p->index, error);

    if (!v) {
        return false;
    }
    if (p->flags & ~VHOST_VRING_F_LOG) {
        return error_set(error, "%s: unknown flags 0x%x", m->name, p->flags);
    }
    if (started(v) && (p->desc != v->addr.desc || p->used != v->addr.used ||
                       p->avail != v->addr.avail)) {
        return error_set(error, "%s: queue %u is running", m->name, p->index);
    }
    v->addr = *p;
    v->has_addr = true;
    vhost_user_log_update(s);
    return start_named(v, m, error);
}

bool vhost_user_on_set_vring_base(struct vhost_user_session *s,
                                  struct vhost_user_message *m, uint32_t *reply,
                                  GError **error)
{
    const struct vhost_user_vring_state *p = &m->payload.state;
    struct vhost_user_vring *v = stopped_vring(s, m, p->index, error);

    if (!v) {
        return false;
    }
    if (!packed(s) && p->num > UINT16_MAX) {
        return error_set(error, "%s: index %u", m->name, p->num);
    }
    v->base = p->num;
    v->has_base = true;
    return true;
}

bool co_vhost_user_on_get_vring_base(struct vhost_user_session *s,
                                     struct vhost_user_message *m,
                                     uint32_t *reply, GError **error)
{
    struct vhost_user_vring *v = vring_of(s, m, m->payload.state.index, error);

    if (!v) {
        return false;
    }
    co_stop_vring(v);
    co_halt_if_idle(s);
    m->payload.state.num = base_of(v) & (packed(s) ? UINT32_MAX : UINT16_MAX);
    *reply = sizeof(m->payload.state);
    return true;
}

bool vhost_user_check_eventfd(const struct vhost_user_message *m, int fd,
                              GError **error)
{
    struct stat st;

    /* An eventfd has no type; a pipe or a socket would work as well. */
    if (fstat(fd, &st) < 0 ||
        ((st.st_mode & S_IFMT) && !S_ISFIFO(st.st_mode) &&
         !S_ISSOCK(st.st_mode)) ||
        fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        return error_set(error, "%s: the descriptor is no eventfd", m->name);
    }
    return true;
}

/* Takes the descriptor of a SET_VRING_{KICK,CALL,ERR}: NULL if it, or the
 * queue, will not do. *fd is -1 for none. */
static struct vhost_user_vring *vring_fd(struct vhost_user_session *s,
                                         struct vhost_user_message *m, int *fd,
                                         GError **error)
{
    uint64_t value = m->payload.u64;

    if (value &
        ~(uint64_t)(VHOST_USER_VRING_INDEX_MASK | VHOST_USER_VRING_NO_FD)) {
        error_set(error, "%s: value 0x%" PRIx64, m->name, value);
        return NULL;
    }
    struct vhost_user_vring *v =
        vring_of(s, m, value & VHOST_USER_VRING_INDEX_MASK, error);

    *fd = -1;
    if (!v || value & VHOST_USER_VRING_NO_FD) {
        return v;
    }
    if (!vhost_user_check_eventfd(m, m->fds[0], error)) {
        return NULL;
    }
    *fd = vhost_user_take_fd(m, 0);
    return v;
}

bool vhost_user_on_set_vring_kick(struct vhost_user_session *s,
                                  struct vhost_user_message *m, uint32_t *reply,
                                  GError **error)
{
    int fd;
    struct vhost_user_vring *v = vring_fd(s, m, &fd, error);

    if (!v) {
        return false;
    }
    if (fd < 0) {
        return error_set(error,
                         "%s: polling without a descriptor is not "
                         "offered",
                         m->name);
    }
    vhost_user_drop_kick(v);
    v->kick = fd;
    if (started(v)) {
        vhost_user_watch_kick(v, true);
        virtio_blk_kick(s->dev, v->index); /* one may have been missed */
        return true;
    }
    return start_named(v, m, error);
}

bool vhost_user_on_set_vring_call(struct vhost_user_session *s,
                                  struct vhost_user_message *m, uint32_t *reply,
                                  GError **error)
{
    int fd;
    struct vhost_user_vring *v = vring_fd(s, m, &fd, error);

    if (!v) {
        return false;
    }
    close_fd(&v->call);
    v->call = fd;
    if (started(v) && fd >= 0) {
        /* What was notified to the old one may not have been seen. */
        vhost_user_transport.notify_queue(s->server, v->index);
    }
    return true;
}

bool vhost_user_on_set_vring_err(struct vhost_user_session *s,
                                 struct vhost_user_message *m, uint32_t *reply,
                                 GError **error)
{
    int fd;
    struct vhost_user_vring *v = vring_fd(s, m, &fd, error);

    if (!v) {
        return false;
    }
    close_fd(&v->err);
    v->err = fd;
    return true;
}

bool vhost_user_on_set_vring_enable(struct vhost_user_session *s,
                                    struct vhost_user_message *m,
                                    uint32_t *reply, GError **error)
{
    const struct vhost_user_vring_state *p = &m->payload.state;
    struct vhost_user_vring *v = vring_of(s, m, p->index, error);

    if (!v) {
        return false;
    }
    if (!(s->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES))) {
        return error_set(error, "%s: protocol features were not negotiated",
                         m->name);
    }
    if (p->num > 1) {
        return error_set(error, "%s: value %u", m->name, p->num);
    }
    v->enabled = p->num;
    if (started(v)) {
        virtio_blk_pause_queue(s->dev, v->index, !v->enabled);
    }
    return start_named(v, m, error);
}

bool vhost_user_relocate_rings(struct vhost_user_session *s, GError **error)
{
    bool ok = true;

    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        struct vhost_user_vring *v = &s->vrings[i];

        if (started(v) && ok && !locate(v, &s->dev->queues[i].vq.setup)) {
            ok = error_set(error, "queue %u is not within guest memory", i);
        }
    }
    return ok;
}
