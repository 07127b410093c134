/*
 * The inside of a guest over vhost-user, shared by its files.
 */
#ifndef VARVE_HW_GUEST_VHOST_INTERNAL_H
#define VARVE_HW_GUEST_VHOST_INTERNAL_H

#include "aio/timer.h"
#include "hw/guest_vhost.h"
#include "hw/virtio-blk/guest_internal.h"
#include "hw/virtio-blk/vhost_user_message.h"

struct guest_vhost {
    struct guest g;
    struct guest_vhost_options opt;
    uint64_t protocol_features;
    struct virtio_blk_config config;
    int socket;  /* -1: not connected */
    int channel; /* for requests of the back-end, or -1 */
    int kick[GUEST_MAX_QUEUES], call[GUEST_MAX_QUEUES], err;
    /* What the back-end notes in it is none of our business. */
    int inflight_fd; /* -1: none */
    struct vhost_user_inflight_area inflight;
    uint64_t connections;
    bool started;                    /* the queues run, as far as we know */
    bool closing;                    /* the user is done */
    bool lost;                       /* the connection, or trust in it */
    bool hopeless;                   /* another connection would not help */
    bool config_due;                 /* the back-end says that it has changed */
    bool channel_open, control_open; /* their coroutines run */
    struct co_queue event;           /* one of the above was set */
    struct co_queue ended;           /* one of the coroutines has */
    struct timer patience;           /* then requests fail */
    struct co_sleep pause;           /* between two attempts */
};

/* ---- guest_vhost_message.c: one message at a time, on a coroutine ---- */

/* The first pause between two attempts to reach a back-end. */
#define GUEST_VHOST_PAUSE_NS INT64_C(1000000)
/* Sets v->socket; waits while others are in the queue for the back-end. */
bool co_guest_vhost_connect(struct guest_vhost *v, GError **error);
/* Forgets it on the loop, too; *fd may be -1. */
void guest_vhost_close_fd(struct guest_vhost *v, int *fd);
/* Sends a request with `bytes` of *payload and fd (-1: none), and waits for the
 * acknowledgement if those were negotiated. */
bool co_guest_vhost_set(struct guest_vhost *v, uint32_t request,
                        const void *payload, uint32_t bytes, int fd,
                        GError **error);
bool co_guest_vhost_set_u64(struct guest_vhost *v, uint32_t request,
                            uint64_t value, int fd, GError **error);
bool co_guest_vhost_set_state(struct guest_vhost *v, uint32_t request,
                              uint32_t index, uint32_t num, GError **error);
/* Sends a request with `bytes` of *payload, or none, and puts the answer, of
 * answer_bytes, there. fd NULL: the answer has no descriptor; else the caller
 * owns it. */
bool co_guest_vhost_get(struct guest_vhost *v, uint32_t request, void *payload,
                        uint32_t bytes, uint32_t answer_bytes, int *fd,
                        GError **error);

/* ---- guest_vhost_setup.c ---- */

/* From a fresh connection to running queues. again: with the features that are
 * negotiated already; the rings hold requests. */
bool co_guest_vhost_set_up(struct guest_vhost *v, bool again, GError **error);
/* Reads and checks the configuration space. */
bool co_guest_vhost_read_config(struct guest_vhost *v, GError **error);
/* Stops the queues, and checks where the back-end has stopped. */
bool co_guest_vhost_stop(struct guest_vhost *v, GError **error);

#endif
