/*
 * The front-end's half of a vhost-user conversation: the socket, and questions
 * with their answers.
 *
 * The back-end may be anything, so an answer is believed only if it belongs to
 * the question, has the right size, and brings no descriptors that nobody asked
 * for. An error names the message. One exchange at a time, on the guest's loop.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hw/virtio-blk/guest_vhost.h"
#include "util/error.h"

void guest_vhost_close_fd(struct guest_vhost *v, int *fd)
{
    if (*fd >= 0) {
        loop_fd_set(v->g.loop, *fd, NULL, NULL, NULL);
        close(*fd);
        *fd = -1;
    }
}

bool co_guest_vhost_connect(struct guest_vhost *v, GError **error)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *path = v->opt.path;
    size_t n = strlen(path);

    if (n >= sizeof(addr.sun_path)) {
        return error_set(error, "UNIX socket path '%s' is too long", path);
    }
    memcpy(addr.sun_path, path, n + 1);
    if (*path == '@') {
        addr.sun_path[0] = 0;
    } else {
        n++;
    }
    v->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (v->socket < 0) {
        return error_set_errno(error, errno, "Failed to create Unix socket");
    }
    while (connect(v->socket, (struct sockaddr *)&addr,
                   offsetof(struct sockaddr_un, sun_path) + n) < 0) {
        /* Others wait there already. */
        if (errno != EAGAIN || v->closing) {
            error_set_errno(error, errno, "Failed to connect to '%s'", path);
            guest_vhost_close_fd(v, &v->socket);
            return false;
        }
        co_sleep_wait(&v->pause, GUEST_VHOST_PAUSE_NS);
    }
    return true;
}

static bool refuse(struct vhost_user_message *m, GError **error,
                   const char *name, const char *what)
{
    vhost_user_close_fds(m);
    return error_set(error, "%s: %s", name, what);
}

/* The answer to the request in *m, in its place, with at most max_fds. */
static bool co_answer(struct guest_vhost *v, struct vhost_user_message *m,
                      uint32_t bytes, unsigned max_fds, GError **error)
{
    uint32_t request = m->header.request;
    const char *name = vhost_user_request_name(request);
    GError *cause = NULL;

    if (!co_vhost_user_receive(v->socket, m, &cause)) {
        error_set(error, "%s: %s", name,
                  cause ? cause->message : "the back-end hung up");
        g_clear_error(&cause);
        return false;
    }
    if (m->header.request != request ||
        (m->header.flags & ~VHOST_USER_FLAG_NEED_REPLY) !=
            (VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY)) {
        return refuse(m, error, name, "the answer is to something else");
    }
    if (m->header.size != bytes) {
        return refuse(m, error, name, "the answer has a wrong size");
    }
    if (m->num_fds > max_fds) {
        return refuse(m, error, name, "the answer has a file descriptor");
    }
    return true;
}

static bool co_send(struct guest_vhost *v, struct vhost_user_message *m,
                    uint32_t request, uint32_t flags, const void *payload,
                    uint32_t bytes, int fd, GError **error)
{
    memset(m, 0, sizeof(*m));
    m->reply_fd = -1;
    m->header = (struct vhost_user_header){
        .request = request,
        .flags = VHOST_USER_VERSION | flags,
        .size = bytes,
    };
    if (bytes) {
        memcpy(&m->payload, payload, bytes);
    }
    return co_vhost_user_send(v->socket, m, fd) ||
           error_set(error, "%s: the back-end hung up",
                     vhost_user_request_name(request));
}

bool co_guest_vhost_set(struct guest_vhost *v, uint32_t request,
                        const void *payload, uint32_t bytes, int fd,
                        GError **error)
{
    bool ack =
        v->protocol_features & VIRTIO_BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
    struct vhost_user_message m;

    if (!co_send(v, &m, request, ack ? VHOST_USER_FLAG_NEED_REPLY : 0, payload,
                 bytes, fd, error)) {
        return false;
    }
    if (ack && !co_answer(v, &m, sizeof(m.payload.u64), 0, error)) {
        return false;
    }
    return !ack || !m.payload.u64 ||
           error_set(error, "%s: the back-end refused it",
                     vhost_user_request_name(request));
}

bool co_guest_vhost_set_u64(struct guest_vhost *v, uint32_t request,
                            uint64_t value, int fd, GError **error)
{
    return co_guest_vhost_set(v, request, &value, sizeof(value), fd, error);
}

bool co_guest_vhost_set_state(struct guest_vhost *v, uint32_t request,
                              uint32_t index, uint32_t num, GError **error)
{
    struct vhost_user_vring_state state = {index, num};

    return co_guest_vhost_set(v, request, &state, sizeof(state), -1, error);
}

bool co_guest_vhost_get(struct guest_vhost *v, uint32_t request, void *payload,
                        uint32_t bytes, uint32_t answer_bytes, int *fd,
                        GError **error)
{
    struct vhost_user_message m;

    if (!co_send(v, &m, request, 0, payload, bytes, -1, error) ||
        !co_answer(v, &m, answer_bytes, fd ? 1 : 0, error)) {
        return false;
    }
    memcpy(payload, &m.payload, answer_bytes);
    if (fd) {
        *fd = vhost_user_take_fd(&m, 0);
    }
    return true;
}
