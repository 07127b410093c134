/*
 * A guest over vhost-user: its connections, one after the other.
 *
 * The control coroutine lives as long as the guest: it waits beside the socket
 * for the end of the connection, reads the configuration when the back-end says
 * that it has changed, and looks for the next back-end. While there is none,
 * requests are added to the rings as ever, and wait there. The next back-end
 * goes on from the rings and the in-flight region; one that does not know such
 * regions gets rings that begin with all that was in flight. When patience
 * ends, the guest breaks: requests fail, until a back-end comes that starts
 * with empty rings.
 *
 * A back-end that breaks the rules is dropped for good, because what it did to
 * the requests is unknown. Runs on the guest's loop.
 */
#include "hw/guest_vhost.h"

#include <errno.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hw/virtio-blk/guest_vhost.h"
#include "util/error.h"
#include "util/range.h"

#define DEFAULT_QUEUE_SIZE 128
#define MAX_PAUSE_NS       INT64_C(500000000)
/* For the last answers before we leave. */
#define GOODBYE_NS         INT64_C(5000000000)

static struct guest_vhost *vhost_of(struct guest *g)
{
    return (struct guest_vhost *)g; /* its first member */
}

static void lose(struct guest_vhost *v)
{
    v->lost = true;
    co_queue_wake_all(&v->event);
}

/* No other connection either. */
static void give_up(struct guest_vhost *v, const char *why)
{
    if (!v->hopeless) {
        g_warning("vhost-user %s: %s", v->opt.path, why);
    }
    v->hopeless = true;
    guest_break(&v->g);
    lose(v);
}

/* ---- rings ---- */

static void kick(struct guest *g, uint32_t queues)
{
    struct guest_vhost *v = vhost_of(g);

    for (unsigned i = 0; i < g->num_queues; i++) {
        if (queues & (1u << i)) {
            eventfd_write(v->kick[i], 1);
        }
    }
}

static void betrayed(struct guest *g)
{
    give_up(vhost_of(g),
            "the back-end returned a request that it does not have");
}

static const struct guest_link vhost_link = {
    .kick = kick,
    .betrayed = betrayed,
};

static void on_call(void *opaque)
{
    struct guest_vhost *v = opaque;
    eventfd_t count;

    for (unsigned i = 0; i < v->g.num_queues; i++) {
        if (eventfd_read(v->call[i], &count) == 0) {
            v->g.interrupts++;
        }
    }
    guest_reap(&v->g);
}

static void on_err(void *opaque)
{
    struct guest_vhost *v = opaque;
    eventfd_t count;

    eventfd_read(v->err, &count);
    give_up(v, "the back-end says that the device needs a reset");
}

static void on_flush(void *opaque)
{
    struct guest *g = opaque;

    if (!g->broken) {
        guest_ring(g);
    }
}

/* ---- requests of the back-end ---- */

static void co_channel(void *opaque)
{
    struct guest_vhost *v = opaque;
    struct vhost_user_message m;
    GError *error = NULL;

    while (co_vhost_user_receive(v->channel, &m, &error)) {
        bool known = m.header.request == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;

        vhost_user_close_fds(&m);
        if (known) {
            v->config_due = true;
            co_queue_wake_all(&v->event);
        }
        if (m.header.flags & VHOST_USER_FLAG_NEED_REPLY) {
            m.payload.u64 = !known;
            if (!co_vhost_user_reply(v->channel, &m, sizeof(m.payload.u64))) {
                break;
            }
        }
        co_share_loop();
    }
    if (error) {
        g_info("vhost-user %s: %s", v->opt.path, error->message);
        g_error_free(error);
    }
    v->channel_open = false;
    co_queue_wake_all(&v->ended);
}

/* ---- one connection ---- */

static void co_hang_up(struct guest_vhost *v)
{
    if (v->channel_open) {
        shutdown(v->channel, SHUT_RDWR);
    }
    while (v->channel_open) {
        co_queue_wait(&v->ended);
    }
    guest_vhost_close_fd(v, &v->channel);
    guest_vhost_close_fd(v, &v->socket);
    v->started = false;
}

static bool co_open(struct guest_vhost *v, bool again, GError **error)
{
    if (!co_guest_vhost_connect(v, error)) {
        return false;
    }
    if (!co_guest_vhost_set_up(v, again, error) || v->hopeless) {
        g_prefix_error(error, "vhost-user %s: ", v->opt.path);
        co_hang_up(v);
        return false;
    }
    v->started = true;
    v->lost = v->config_due = false;
    v->connections++;
    if (v->channel >= 0) {
        v->channel_open = true;
        co_enter(co_create(co_channel, v));
    }
    v->g.broken = false;
    /* Whatever was added meanwhile; a needless kick does no harm. */
    guest_ring(&v->g);
    kick(&v->g, ~0u);
    return true;
}

static void on_socket(void *opaque)
{
    struct guest_vhost *v = opaque;
    char c;
    ssize_t n = recv(v->socket, &c, 1, MSG_PEEK | MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    loop_fd_set(v->g.loop, v->socket, NULL, NULL, NULL);
    if (n > 0) {
        give_up(v, "the back-end sends what nobody asked for");
        return;
    }
    g_info("vhost-user %s: the back-end hung up", v->opt.path);
    lose(v);
}

static void co_config_changed(struct guest_vhost *v)
{
    int64_t before = v->g.disk_bytes;
    g_autoptr(GError) error = NULL;

    v->config_due = false;
    if (!co_guest_vhost_read_config(v, &error)) {
        g_info("vhost-user %s: %s", v->opt.path, error->message);
        v->lost = true;
    } else if (v->g.disk_bytes != before && v->opt.co_resized) {
        v->opt.co_resized(v->opt.opaque);
    }
}

/* Until the connection ends, or is to end. */
static void co_serve(struct guest_vhost *v)
{
    while (!v->lost && !v->closing) {
        if (v->config_due) {
            co_config_changed(v);
            continue;
        }
        loop_fd_set(v->g.loop, v->socket, on_socket, NULL, v);
        co_queue_wait(&v->event);
        loop_fd_set(v->g.loop, v->socket, NULL, NULL, NULL);
    }
    if (v->lost) {
        /* What it had returned before it went. */
        guest_reap(&v->g);
    }
}

/* ---- between two ---- */

static void on_patience_ends(void *opaque)
{
    struct guest_vhost *v = opaque;

    if (v->closing) {
        shutdown(v->socket, SHUT_RDWR);
        return;
    }
    g_warning("vhost-user %s: no back-end for %" G_GINT64_FORMAT " s",
              v->opt.path, v->opt.reconnect_ns / 1000000000);
    guest_break(&v->g);
}

/* The next back-end must know nothing of what the last one did. */
static void co_begin_anew(struct guest_vhost *v)
{
    while (v->g.users) {
        co_pause();
    }
    guest_vhost_close_fd(v, &v->inflight_fd);
}

static void co_reconnect(struct guest_vhost *v)
{
    int64_t pause = GUEST_VHOST_PAUSE_NS;
    int64_t before = v->g.disk_bytes;

    timer_arm(&v->patience, v->opt.reconnect_ns);
    while (!v->closing && !v->hopeless) {
        g_autoptr(GError) error = NULL;

        if (v->g.broken) {
            co_begin_anew(v);
        }
        if (co_open(v, !v->g.broken, &error)) {
            break;
        }
        g_info("%s", error->message);
        if (v->closing) {
            break; /* whoever waits for that would have to wait for a pause */
        }
        co_sleep_wait(&v->pause, pause);
        pause = min_i64(2 * pause, MAX_PAUSE_NS);
    }
    timer_cancel(&v->patience);
    if (v->started && v->g.disk_bytes != before && v->opt.co_resized) {
        v->opt.co_resized(v->opt.opaque);
    }
}

static void co_control(void *opaque)
{
    struct guest_vhost *v = opaque;

    while (!v->closing) {
        co_serve(v);
        if (v->closing) {
            break;
        }
        co_hang_up(v);
        if (!v->opt.reconnect_ns) {
            give_up(v, "the back-end hung up");
        }
        co_reconnect(v);
        while (v->hopeless && !v->closing) {
            co_queue_wait(&v->event);
        }
    }
    v->control_open = false;
    co_queue_wake_all(&v->ended);
}

/* ---- life ---- */

static bool make_fds(struct guest_vhost *v, GError **error)
{
    int flags = EFD_CLOEXEC | EFD_NONBLOCK;
    bool ok = (v->err = eventfd(0, flags)) >= 0;

    for (unsigned i = 0; i < v->g.num_queues; i++) {
        ok = ok && (v->kick[i] = eventfd(0, flags)) >= 0 &&
             (v->call[i] = eventfd(0, flags)) >= 0;
    }
    return ok || error_set_errno(error, errno, "Could not make an eventfd");
}

static bool check_options(struct guest_vhost_options *o, GError **error)
{
    o->num_queues = o->num_queues ? o->num_queues : 1;
    o->queue_size = o->queue_size ? o->queue_size : DEFAULT_QUEUE_SIZE;
    if (o->num_queues > GUEST_MAX_QUEUES) {
        return error_set(error, "A guest has at most %d queues",
                         GUEST_MAX_QUEUES);
    }
    return (is_power_of_2(o->queue_size) && o->queue_size >= 4 &&
            o->queue_size <= VIRTQUEUE_MAX_SIZE) ||
           error_set(error, "A queue's size is a power of 2 from 4 to %d",
                     VIRTQUEUE_MAX_SIZE);
}

static void release(struct guest_vhost *v)
{
    for (unsigned i = 0; i < v->g.num_queues; i++) {
        guest_vhost_close_fd(v, &v->kick[i]);
        guest_vhost_close_fd(v, &v->call[i]);
    }
    guest_vhost_close_fd(v, &v->err);
    guest_vhost_close_fd(v, &v->inflight_fd);
    guest_destroy(&v->g);
    g_free((char *)v->opt.path);
    g_free(v);
}

static void listen_to_rings(struct guest_vhost *v, bool on)
{
    struct loop *loop = v->g.loop;

    for (unsigned i = 0; i < v->g.num_queues; i++) {
        loop_fd_set(loop, v->call[i], on ? on_call : NULL, NULL, v);
    }
    loop_fd_set(loop, v->err, on ? on_err : NULL, NULL, v);
    if (on) {
        loop_hook_add(loop, &v->g.hook);
    } else {
        loop_hook_remove(loop, &v->g.hook);
    }
}

static struct guest_vhost *new_guest(const struct guest_vhost_options *options)
{
    struct guest_vhost *v = g_new0(struct guest_vhost, 1);

    v->opt = *options;
    v->opt.path = g_strdup(options->path);
    v->socket = v->channel = v->inflight_fd = v->err = -1;
    for (unsigned i = 0; i < GUEST_MAX_QUEUES; i++) {
        v->kick[i] = v->call[i] = -1;
    }
    guest_init(&v->g, &vhost_link, loop_current(), options->num_queues);
    v->g.hook.flush = on_flush;
    timer_init(&v->patience, v->g.loop, on_patience_ends, v);
    return v;
}

struct guest *co_guest_connect(const struct guest_vhost_options *options,
                               GError **error)
{
    struct guest_vhost_options o = *options;

    if (!check_options(&o, error)) {
        return NULL;
    }
    struct guest_vhost *v = new_guest(&o);

    if (!make_fds(v, error) || !guest_map_ram(&v->g, o.queue_size, error) ||
        !co_open(v, false, error)) {
        release(v);
        return NULL;
    }
    v->g.running = true;
    listen_to_rings(v, true);
    v->control_open = true;
    co_start(co_control, v);
    return &v->g;
}

static void co_say_goodbye(struct guest_vhost *v)
{
    g_autoptr(GError) error = NULL;

    if (!v->lost && !co_guest_vhost_stop(v, &error)) {
        g_warning("vhost-user %s: %s", v->opt.path, error->message);
    }
}

void co_guest_disconnect(struct guest *g)
{
    struct guest_vhost *v = vhost_of(g);

    v->closing = true;
    co_queue_wake_all(&v->event);
    co_sleep_wake(&v->pause);
    if (!v->started && v->socket >= 0) {
        shutdown(v->socket, SHUT_RDWR); /* in the middle of a set-up */
    }
    timer_arm(&v->patience, GOODBYE_NS);
    while (v->control_open) {
        co_queue_wait(&v->ended);
    }
    if (v->started) {
        timer_arm(&v->patience, GOODBYE_NS); /* co_reconnect() may end it */
        co_say_goodbye(v);
    }
    timer_cancel(&v->patience);
    guest_break(g);
    while (g->users) {
        co_pause();
    }
    co_hang_up(v);
    listen_to_rings(v, false);
    release(v);
}

void guest_vhost_query(const struct guest *g, struct guest_vhost_info *info)
{
    const struct guest_vhost *v = (const struct guest_vhost *)g;
    uint64_t f = g->features;
    bool discard = f & VIRTIO_BIT(VIRTIO_BLK_F_DISCARD);
    bool zeroes = f & VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES);

    *info = (struct guest_vhost_info){
        .features = f,
        .protocol_features = v->protocol_features,
        .read_only = f & VIRTIO_BIT(VIRTIO_BLK_F_RO),
        .logical_bytes = g->logical_bytes,
        .max_transfer = g->max_transfer,
        .max_discard = discard ? g->max_discard_sectors : 0,
        .max_zeroes = zeroes ? g->max_zeroes_sectors : 0,
        .connections = v->connections,
    };
    if (discard) {
        info->discard_alignment = le32toh(v->config.discard_sector_alignment);
    }
    if (f & VIRTIO_BIT(VIRTIO_BLK_F_TOPOLOGY)) {
        info->opt_io_bytes =
            le32toh(v->config.topology.opt_io_size) * g->logical_bytes;
    }
}
