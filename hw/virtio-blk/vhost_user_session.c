/*
 * A vhost-user connection: messages in, answers out, and its end.
 *
 * A coroutine reads a message and carries it out before the next is looked at;
 * between messages there is none, so that a connection can go to another loop
 * with its device. Whatever is wrong with a message is logged with the
 * message's name, and ends the connection; so does the front-end by hanging up.
 * At the end the device is halted: what is in flight ends, but the front-end's
 * memory is left as it is, for another connection may already go on from what
 * it reads there.
 *
 * Runs on the device's loop.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"

/* ---- towards the front-end ---- */

static void signal_fd(int fd)
{
    const uint64_t one = 1;

    /* A full counter is a notification that was not read yet. */
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0) {
        return;
    }
}

static void on_channel_writable(void *opaque)
{
    struct vhost_user_session *s = opaque;

    loop_fd_set(s->dev->loop, s->backend_channel, NULL, NULL, NULL);
    if (s->config_due) {
        s->config_due = false;
        vhost_user_send_config_change(s);
    }
}

void vhost_user_send_config_change(struct vhost_user_session *s)
{
    struct vhost_user_header h = {
        .request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
        .flags = VHOST_USER_VERSION,
    };

    if (s->backend_channel < 0 || s->config_due) {
        return;
    }
    if (send(s->backend_channel, &h, sizeof(h), MSG_DONTWAIT | MSG_NOSIGNAL) <
            0 &&
        (errno == EAGAIN || errno == EWOULDBLOCK)) {
        s->config_due = true;
        loop_fd_set(s->dev->loop, s->backend_channel, NULL, on_channel_writable,
                    s);
    }
}

static void notify_queue(void *opaque, unsigned queue)
{
    struct vhost_user_server *server = opaque;

    if (G_LIKELY(server->session)) {
        signal_fd(server->session->vrings[queue].call);
    }
}

static const char *memory_lost(void *opaque)
{
    struct vhost_user_server *server = opaque;
    const struct vhost_user_session *s = server->session;

    if (s && vhost_user_memory_lost(&s->memory)) {
        return "guest memory has gone away";
    }
    if (s && vhost_user_shared_lost(&s->inflight.shared)) {
        return "the in-flight region has gone away";
    }
    if (s && vhost_user_shared_lost(&s->log.shared)) {
        return "the log of dirty pages has gone away";
    }
    return NULL;
}

static void notify_config(void *opaque)
{
    struct vhost_user_server *server = opaque;
    struct vhost_user_session *s = server->session;

    if (!s) {
        return;
    }
    if (s->dev->broken) {
        /* What is read from memory that is gone makes no sense either. */
        const char *lost = memory_lost(server);

        g_warning("export %s: %s; the device needs a reset", server->id,
                  lost ? lost : s->dev->broken);
        for (unsigned i = 0; i < s->dev->num_queues; i++) {
            signal_fd(s->vrings[i].err);
        }
    }
    vhost_user_send_config_change(s);
}

const struct virtio_transport vhost_user_transport = {
    .notify_queue = notify_queue,
    .notify_config = notify_config,
    .memory_lost = memory_lost,
    .move = &vhost_user_move,
};

/* ---- the connection ---- */

static struct vhost_user_session *session_new(struct vhost_user_server *server,
                                              int socket)
{
    struct vhost_user_session *s = g_new0(struct vhost_user_session, 1);

    s->server = server;
    s->dev = server->dev;
    s->socket = socket;
    s->backend_channel = -1;
    s->log.log.fd = -1;
    s->vrings = g_new0(struct vhost_user_vring, s->dev->num_queues);
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        s->vrings[i] = (struct vhost_user_vring){
            .session = s, .index = i, .kick = -1, .call = -1, .err = -1};
    }
    vhost_user_memory_init(&s->memory);
    s->dev->memory = &s->memory.table;
    s->dev->seen_lost = sigbus_count();
    server->session = s;
    return s;
}

static void co_session_free(struct vhost_user_session *s)
{
    co_vhost_user_stop_all(s);
    s->dev->memory = NULL;
    vhost_user_inflight_drop(s);
    vhost_user_log_drop(s);
    vhost_user_memory_destroy(&s->memory);
    if (s->backend_channel >= 0) {
        loop_fd_set(s->dev->loop, s->backend_channel, NULL, NULL, NULL);
        close(s->backend_channel);
    }
    loop_fd_set(s->dev->loop, s->socket, NULL, NULL, NULL);
    close(s->socket);
    g_free(s->vrings);
    s->server->session = NULL;
    g_free(s);
}

void vhost_user_session_close(struct vhost_user_session *s)
{
    s->closing = true;
    shutdown(s->socket, SHUT_RDWR);
    /* It may wait for requests that are held. */
    if (s->begun) {
        virtio_blk_reset(s->dev);
    }
}

/* A message that failed is refused, if the front-end waits for an answer. */
static bool co_answer(struct vhost_user_session *s,
                      struct vhost_user_message *m, bool ok, uint32_t reply)
{
    bool ack =
        m->header.flags & VHOST_USER_FLAG_NEED_REPLY &&
        s->protocol_features & VIRTIO_BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);

    if (ok && m->replies) {
        return co_vhost_user_reply(s->socket, m, reply);
    }
    if (ack && !m->replies) {
        m->payload.u64 = !ok;
        return co_vhost_user_reply(s->socket, m, sizeof(m->payload.u64));
    }
    return true;
}

static bool co_one_message(struct vhost_user_session *s, GError **error)
{
    struct vhost_user_message m;
    uint32_t reply = 0;

    if (!co_vhost_user_receive(s->socket, &m, error)) {
        return false;
    }
    if (!vhost_user_check(&m, s->protocol_features, error)) {
        vhost_user_close_fds(&m);
        return false;
    }
    bool ok = co_vhost_user_handle(s, &m, &reply, error);

    vhost_user_close_fds(&m);
    return co_answer(s, &m, ok, reply) && ok;
}

static void on_message(void *opaque);

/* Carries out the next message, and waits for another or ends. */
static void co_next_message(void *opaque)
{
    struct vhost_user_session *s = opaque;
    struct vhost_user_server *server = s->server;
    g_autoptr(GError) error = NULL;

    s->busy = true;
    if (!s->closing && co_one_message(s, &error)) {
        s->busy = false;
        loop_fd_set(s->dev->loop, s->socket, on_message, NULL, s);
        return;
    }
    if (error && !s->closing) {
        g_warning("export %s: vhost-user: %s", server->id, error->message);
    }
    co_session_free(s);
    vhost_user_session_ended(server);
}

static void on_message(void *opaque)
{
    struct vhost_user_session *s = opaque;

    loop_fd_set(s->dev->loop, s->socket, NULL, NULL, NULL);
    co_enter(co_create(co_next_message, s));
}

void vhost_user_session_begin(struct vhost_user_server *server, int socket)
{
    struct vhost_user_session *s = session_new(server, socket);

    loop_fd_set(s->dev->loop, s->socket, on_message, NULL, s);
}

/* ---- moving to another loop ---- */

void vhost_user_session_leave(struct vhost_user_session *s)
{
    struct loop *loop = s->dev->loop;

    loop_fd_set(loop, s->socket, NULL, NULL, NULL);
    if (s->backend_channel >= 0) {
        loop_fd_set(loop, s->backend_channel, NULL, NULL, NULL);
    }
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        vhost_user_watch_kick(&s->vrings[i], false);
    }
}

void vhost_user_session_arrive(struct vhost_user_session *s)
{
    struct loop *loop = s->dev->loop;

    loop_fd_set(loop, s->socket, on_message, NULL, s);
    if (s->config_due) {
        loop_fd_set(loop, s->backend_channel, NULL, on_channel_writable, s);
    }
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        vhost_user_watch_kick(&s->vrings[i], true);
    }
}
