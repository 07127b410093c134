/*
 * Messages of vhost-user: off the socket, and their form.
 *
 * A message is one row of the table: its sizes, its descriptors, the protocol
 * feature that it needs. What the table refuses never reaches a handler, so
 * handlers look at values only. Descriptors that came with a message are closed
 * unless a handler took them. Runs on the device's loop.
 */
#include "hw/virtio-blk/vhost_user_message.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "aio/loop.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "util/error.h"

#define ANY_FEATURE 0

/* How many descriptors a message has. */
enum fds {
    NO_FD,
    ONE_FD,
    VRING_FD,   /* one, unless the payload says none */
    MAYBE_FD,   /* old front-ends send one that nobody needs */
    REGION_FDS, /* one a region */
};

#define SIZE(member) sizeof(((union vhost_user_payload *)NULL)->member)
#define TABLE_HEAD   offsetof(struct vhost_user_mem_table, regions)
#define CONFIG_HEAD  offsetof(struct vhost_user_config, data)

static const struct row {
    const char *name;
    uint32_t min, max; /* bytes of payload */
    enum fds fds;
    bool replies;
    uint64_t feature; /* bit of the protocol feature that it needs */
} rows[] = {
#define ROW(message, ...) [VHOST_USER_##message] = {#message, __VA_ARGS__}
#define NEEDS(name)       VIRTIO_BIT(VHOST_USER_PROTOCOL_F_##name)
    ROW(GET_FEATURES, 0, 0, NO_FD, true, ANY_FEATURE),
    ROW(SET_FEATURES, 8, 8, NO_FD, false, ANY_FEATURE),
    ROW(SET_OWNER, 0, 0, NO_FD, false, ANY_FEATURE),
    ROW(RESET_OWNER, 0, 0, NO_FD, false, ANY_FEATURE),
    ROW(SET_MEM_TABLE, TABLE_HEAD, SIZE(table), REGION_FDS, false, ANY_FEATURE),
    ROW(SET_LOG_BASE, SIZE(log), SIZE(log), ONE_FD, true, NEEDS(LOG_SHMFD)),
    ROW(SET_LOG_FD, 0, 8, ONE_FD, false, ANY_FEATURE),
    ROW(SET_VRING_NUM, SIZE(state), SIZE(state), NO_FD, false, ANY_FEATURE),
    ROW(SET_VRING_ADDR, SIZE(addr), SIZE(addr), NO_FD, false, ANY_FEATURE),
    ROW(SET_VRING_BASE, SIZE(state), SIZE(state), NO_FD, false, ANY_FEATURE),
    ROW(GET_VRING_BASE, SIZE(state), SIZE(state), NO_FD, true, ANY_FEATURE),
    ROW(SET_VRING_KICK, 8, 8, VRING_FD, false, ANY_FEATURE),
    ROW(SET_VRING_CALL, 8, 8, VRING_FD, false, ANY_FEATURE),
    ROW(SET_VRING_ERR, 8, 8, VRING_FD, false, ANY_FEATURE),
    ROW(GET_PROTOCOL_FEATURES, 0, 0, NO_FD, true, ANY_FEATURE),
    ROW(SET_PROTOCOL_FEATURES, 8, 8, NO_FD, false, ANY_FEATURE),
    ROW(GET_QUEUE_NUM, 0, 0, NO_FD, true, NEEDS(MQ)),
    ROW(SET_VRING_ENABLE, SIZE(state), SIZE(state), NO_FD, false, ANY_FEATURE),
    ROW(SET_BACKEND_REQ_FD, 0, 8, ONE_FD, false, NEEDS(BACKEND_REQ)),
    ROW(GET_CONFIG, CONFIG_HEAD, SIZE(config), NO_FD, true, NEEDS(CONFIG)),
    ROW(SET_CONFIG, CONFIG_HEAD, SIZE(config), NO_FD, false, NEEDS(CONFIG)),
    ROW(GET_INFLIGHT_FD, VHOST_USER_INFLIGHT_AREA_BYTES, SIZE(inflight), NO_FD,
        true, NEEDS(INFLIGHT_SHMFD)),
    ROW(SET_INFLIGHT_FD, VHOST_USER_INFLIGHT_AREA_BYTES, SIZE(inflight), ONE_FD,
        false, NEEDS(INFLIGHT_SHMFD)),
    ROW(RESET_DEVICE, 0, 0, NO_FD, false, NEEDS(RESET_DEVICE)),
    ROW(GET_MAX_MEM_SLOTS, 0, 0, NO_FD, true, NEEDS(CONFIGURE_MEM_SLOTS)),
    ROW(ADD_MEM_REG, SIZE(region), SIZE(region), ONE_FD, false,
        NEEDS(CONFIGURE_MEM_SLOTS)),
    ROW(REM_MEM_REG, SIZE(region), SIZE(region), MAYBE_FD, false,
        NEEDS(CONFIGURE_MEM_SLOTS)),
    ROW(SET_STATUS, 8, 8, NO_FD, false, NEEDS(STATUS)),
    ROW(GET_STATUS, 0, 0, NO_FD, true, NEEDS(STATUS)),
#undef ROW
#undef NEEDS
};

/* ---- descriptors ---- */

int vhost_user_take_fd(struct vhost_user_message *m, unsigned i)
{
    int fd = i < m->num_fds ? m->fds[i] : -1;

    if (fd >= 0) {
        m->fds[i] = -1;
    }
    return fd;
}

void vhost_user_close_fds(struct vhost_user_message *m)
{
    for (unsigned i = 0; i < m->num_fds; i++) {
        if (m->fds[i] >= 0) {
            close(m->fds[i]);
        }
    }
    m->num_fds = 0;
}

/* ---- the form of a message ---- */

static bool check_fds(const struct vhost_user_message *m, enum fds fds,
                      GError **error)
{
    unsigned want = 0;

    switch (fds) {
    case NO_FD:
        break;
    case ONE_FD:
        want = 1;
        break;
    case VRING_FD:
        want = !(m->payload.u64 & VHOST_USER_VRING_NO_FD);
        break;
    case MAYBE_FD:
        want = MIN(m->num_fds, 1);
        break;
    case REGION_FDS:
        want = m->payload.table.count;
        break;
    }
    return m->num_fds == want ||
           error_set(error, "%s: %u file descriptors, expected %u", m->name,
                     m->num_fds, want);
}

/* Sizes that depend on a count inside. */
static bool check_counts(const struct vhost_user_message *m, GError **error)
{
    const union vhost_user_payload *p = &m->payload;
    uint32_t size = m->header.size;

    if (m->header.request == VHOST_USER_SET_MEM_TABLE) {
        if (p->table.count > VHOST_USER_BASE_REGIONS) {
            return error_set(error, "%s: %u memory regions, the limit is %d",
                             m->name, p->table.count, VHOST_USER_BASE_REGIONS);
        }
        /* Some front-ends always send the whole array. */
        if (size <
            TABLE_HEAD + p->table.count * sizeof(struct vhost_user_region)) {
            return error_set(error, "%s: %u bytes for %u memory regions",
                             m->name, size, p->table.count);
        }
    }
    if (m->header.request == VHOST_USER_GET_CONFIG ||
        m->header.request == VHOST_USER_SET_CONFIG) {
        if (p->config.offset > VHOST_USER_MAX_CONFIG ||
            p->config.size > VHOST_USER_MAX_CONFIG - p->config.offset ||
            size != CONFIG_HEAD + p->config.size) {
            return error_set(error,
                             "%s: %u bytes at %u of the configuration space "
                             "in a payload of %u bytes",
                             m->name, p->config.size, p->config.offset, size);
        }
    }
    return true;
}

bool vhost_user_check(struct vhost_user_message *m, uint64_t protocol_features,
                      GError **error)
{
    const struct vhost_user_header *h = &m->header;
    const struct row *row =
        h->request < G_N_ELEMENTS(rows) && rows[h->request].name
            ? &rows[h->request]
            : NULL;

    m->name = row ? row->name : "unknown";
    if (!row) {
        return error_set(error, "message %u is not known", h->request);
    }
    m->replies = row->replies;
    if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
        h->flags & VHOST_USER_FLAG_REPLY) {
        return error_set(error, "%s: flags 0x%x are not those of a request",
                         m->name, h->flags);
    }
    if (h->size < row->min || h->size > row->max) {
        return error_set(error, "%s: payload of %u bytes", m->name, h->size);
    }
    if (row->feature & ~protocol_features) {
        return error_set(error, "%s: its protocol feature was not negotiated",
                         m->name);
    }
    return check_counts(m, error) && check_fds(m, row->fds, error);
}

/* ---- the socket ---- */

static bool keep_fds(struct vhost_user_message *m, struct msghdr *msg,
                     GError **error)
{
    bool fits = true;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        unsigned n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (unsigned i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (m->num_fds < VHOST_USER_MAX_FDS) {
                m->fds[m->num_fds++] = fd;
            } else {
                fits = false;
                close(fd);
            }
        }
    }
    return (fits && !(msg->msg_flags & MSG_CTRUNC)) ||
           error_set(error, "message %u: more than %d file descriptors",
                     m->header.request, VHOST_USER_MAX_FDS);
}

/* Reads exactly `bytes`; false and *error, or *eof if nothing came at all. */
static bool co_read(int socket, struct vhost_user_message *m, void *buf,
                    size_t bytes, bool *eof, GError **error)
{
    size_t done = 0;

    while (done < bytes) {
        struct iovec vec = {(char *)buf + done, bytes - done};
        union {
            struct cmsghdr align;
            char space[CMSG_SPACE(VHOST_USER_MAX_FDS * sizeof(int))];
        } control;
        struct msghdr msg = {
            .msg_iov = &vec,
            .msg_iovlen = 1,
            .msg_control = &control,
            .msg_controllen = sizeof(control),
        };
        ssize_t n = recvmsg(socket, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            co_fd_wait_readable(socket);
            continue;
        }
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return error_set_errno(error, errno, "reading a message");
        }
        if (!keep_fds(m, &msg, error)) {
            return false;
        }
        if (!n && !done && eof) {
            *eof = true;
            return false;
        }
        if (!n) {
            return error_set(error, "the connection ended inside a message");
        }
        done += n;
    }
    return true;
}

bool co_vhost_user_receive(int socket, struct vhost_user_message *m,
                           GError **error)
{
    bool eof = false;

    memset(m, 0, sizeof(*m));
    m->reply_fd = -1;
    if (!co_read(socket, m, &m->header, sizeof(m->header), &eof, error)) {
        vhost_user_close_fds(m);
        return false;
    }
    if (m->header.size > sizeof(m->payload)) {
        error_set(error, "message %u: payload of %u bytes", m->header.request,
                  m->header.size);
        vhost_user_close_fds(m);
        return false;
    }
    if (!co_read(socket, m, &m->payload, m->header.size, NULL, error)) {
        vhost_user_close_fds(m);
        return false;
    }
    return true;
}

/* A descriptor goes with the first byte, and only once. */
static ssize_t send_some(int socket, const char *buf, size_t bytes, int fd)
{
    struct iovec vec = {(char *)buf, bytes};
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr msg = {.msg_iov = &vec, .msg_iovlen = 1};

    if (fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof(control);
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(int));
    }
    return sendmsg(socket, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool co_vhost_user_send(int socket, const struct vhost_user_message *m, int fd)
{
    size_t total = sizeof(m->header) + m->header.size, done = 0;
    char buf[sizeof(m->header) + sizeof(m->payload)];

    memcpy(buf, &m->header, sizeof(m->header));
    memcpy(buf + sizeof(m->header), &m->payload, m->header.size);
    while (done < total) {
        ssize_t n = send_some(socket, buf + done, total - done, done ? -1 : fd);

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            co_fd_wait_writable(socket);
        } else if (n < 0 && errno != EINTR) {
            return false;
        } else if (n > 0) {
            done += n;
        }
    }
    return true;
}

bool co_vhost_user_reply(int socket, struct vhost_user_message *m,
                         uint32_t bytes)
{
    m->header.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
    m->header.size = bytes;
    bool ok = co_vhost_user_send(socket, m, m->reply_fd);

    if (m->reply_fd >= 0) {
        close(m->reply_fd);
        m->reply_fd = -1;
    }
    return ok;
}

const char *vhost_user_request_name(uint32_t request)
{
    return request < G_N_ELEMENTS(rows) && rows[request].name
               ? rows[request].name
               : "unknown";
}
