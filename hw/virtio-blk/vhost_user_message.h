/*
 * One vhost-user message: reading it off a socket, and checking its form.
 */
#ifndef VARVE_HW_VHOST_USER_MESSAGE_H
#define VARVE_HW_VHOST_USER_MESSAGE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "hw/virtio-blk/vhost_user_proto.h"

struct vhost_user_message {
    struct vhost_user_header header;
    union vhost_user_payload payload;
    int fds[VHOST_USER_MAX_FDS]; /* -1 where a handler took it */
    unsigned num_fds;
    int reply_fd;     /* goes with the answer, which closes it; -1: none */
    const char *name; /* after the check */
    bool replies;     /* after the check: has an answer of its own */
};

/* The next message with its descriptors, of a non-blocking stream socket. false
 * without *error: the other side closed the connection, between messages.
 * Nothing is left to close after a failure. Suspends. */
bool co_vhost_user_receive(int socket, struct vhost_user_message *m,
                           GError **error);
/* Size, descriptors, flags and values that need no more than the message and
 * the negotiated features; sets m->name. An error names the message. */
bool vhost_user_check(struct vhost_user_message *m, uint64_t protocol_features,
                      GError **error);
/* Answers m with the first `bytes` of its payload, and reply_fd. Suspends while
 * the other side does not read. false if it is gone. */
bool co_vhost_user_reply(int socket, struct vhost_user_message *m,
                         uint32_t bytes);
/* Sends the message as it is, with fd, if that is not -1. */
bool co_vhost_user_send(int socket, const struct vhost_user_message *m, int fd);
/* The name of a front-end's request. */
const char *vhost_user_request_name(uint32_t request);
/* Moves a descriptor out of m. */
int vhost_user_take_fd(struct vhost_user_message *m, unsigned i);
void vhost_user_close_fds(struct vhost_user_message *m);

#endif
