/*
 * The inside of a vhost-user server: its one session, shared by its files.
 */
#ifndef VARVE_HW_VHOST_USER_INTERNAL_H
#define VARVE_HW_VHOST_USER_INTERNAL_H

#include "aio/timer.h"
#include "hw/vhost_user_blk.h"
#include "hw/virtio-blk/device.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/vhost_user_memory.h"
#include "hw/virtio-blk/vhost_user_message.h"
#include "hw/virtio-blk/vhost_user_shared.h"

/* What the front-end said about a queue. */
struct vhost_user_vring {
    struct vhost_user_session *session;
    unsigned index;
    uint32_t size; /* 0: not told */
    /* Where the ring goes on: the next available entry, and of a packed ring
     * the next used one in bits 16-31. */
    uint32_t base;
    bool has_base; /* else it is a new ring */
    struct vhost_user_vring_addr addr;
    bool has_addr, enabled;
    int kick, call, err; /* -1: none */
};

/* The region of requests in flight that the front-end handed over. */
struct vhost_user_inflight {
    struct vhost_user_shared shared;
    uint64_t bytes;
    unsigned num_queues; /* 0: there is none */
    uint16_t queue_size;
    struct inflight *queues;
};

/* Where writes to guest memory are logged. */
struct vhost_user_log {
    struct vhost_user_shared shared;
    struct dirty_log log;
};

/* One connection. Lives on the device's loop, from accept to its end. */
struct vhost_user_session {
    struct vhost_user_server *server;
    struct virtio_blk *dev;
    int socket;
    int backend_channel; /* for requests of ours, or -1 */
    bool closing;        /* the export goes away */
    bool busy;           /* a coroutine reads or carries out a message */
    bool config_due;     /* the channel was full */
    bool features_set, begun;
    uint8_t status; /* what the driver wrote, if the front-end tells */
    uint64_t features, protocol_features;
    struct vhost_user_vring *vrings;
    struct vhost_user_memory memory;
    struct vhost_user_inflight inflight;
    struct vhost_user_log log;
};

struct vhost_user_server {
    struct virtio_blk *dev;
    char *id;
    char *path; /* of the socket file that we made, or NULL */
    int listener;
    bool stopping;
    struct vhost_user_session *session; /* NULL: nobody is connected */
    struct co_queue ended;              /* waits for the session's end */
    struct timer retry;                 /* accepting failed */
};

/* Takes over the socket of a connection, and tells of its end. */
void vhost_user_session_begin(struct vhost_user_server *server, int socket);
void vhost_user_session_ended(struct vhost_user_server *server);
/* Makes it end soon. */
void vhost_user_session_close(struct vhost_user_session *s);
/* Around a move of the device to another loop, while it is not busy. */
void vhost_user_session_leave(struct vhost_user_session *s);
void vhost_user_session_arrive(struct vhost_user_session *s);
/* The transport of every export's device; opaque is the server. */
extern const struct virtio_transport vhost_user_transport;
extern const struct virtio_transport_move vhost_user_move;

/* Tells the front-end that the configuration has changed, if it listens. */
void vhost_user_send_config_change(struct vhost_user_session *s);
/* Carries out a checked message. *reply is the number of bytes of the payload
 * to answer with, for a message that has an answer. */
bool co_vhost_user_handle(struct vhost_user_session *s,
                          struct vhost_user_message *m, uint32_t *reply,
                          GError **error);
/* ---- vhost_user_vring.c ---- */

typedef bool vhost_user_handler_fn(struct vhost_user_session *s,
                                   struct vhost_user_message *m,
                                   uint32_t *reply, GError **error);

vhost_user_handler_fn vhost_user_on_set_vring_num, vhost_user_on_set_vring_addr,
    vhost_user_on_set_vring_base, co_vhost_user_on_get_vring_base,
    vhost_user_on_set_vring_kick, vhost_user_on_set_vring_call,
    vhost_user_on_set_vring_err, vhost_user_on_set_vring_enable;

/* The rings of running queues, in memory that has changed. */
bool vhost_user_relocate_rings(struct vhost_user_session *s, GError **error);
void vhost_user_drop_kick(struct vhost_user_vring *v);
/* Begins and ends to listen to the kicks of a ring that runs. */
void vhost_user_watch_kick(struct vhost_user_vring *v, bool on);
/* Stops all queues and forgets them. Suspends. */
void co_vhost_user_stop_all(struct vhost_user_session *s);

/* A descriptor that can be waited for or signalled; made non-blocking. */
bool vhost_user_check_eventfd(const struct vhost_user_message *m, int fd,
                              GError **error);

/* ---- vhost_user_log.c ---- */

vhost_user_handler_fn vhost_user_on_set_log_base, vhost_user_on_set_log_fd;

/* The log, the features or a ring have changed: what each queue logs. */
void vhost_user_log_update(struct vhost_user_session *s);
void vhost_user_log_drop(struct vhost_user_session *s);

/* ---- vhost_user_inflight.c ---- */

vhost_user_handler_fn vhost_user_on_get_inflight_fd,
    vhost_user_on_set_inflight_fd;

/* The books of a queue that is about to start, NULL if there is no region; an
 * error does not name the message. */
bool vhost_user_inflight_of(struct vhost_user_session *s, unsigned queue,
                            struct inflight **inflight, GError **error);
/* The queue was reset: nothing of it is in flight. */
void vhost_user_inflight_forget(struct vhost_user_session *s, unsigned queue);
void vhost_user_inflight_drop(struct vhost_user_session *s);

#endif
