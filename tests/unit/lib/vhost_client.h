/*
 * A vhost-user front-end with a driver on real rings, for tests and load.
 *
 * It speaks to any back-end of vhost-user-blk, in this process or another. It
 * never blocks by itself: while there is nothing to read it calls `wait`, which
 * runs the loop of a server in this process, or sleeps.
 */
#ifndef VARVE_TESTS_VHOST_CLIENT_H
#define VARVE_TESTS_VHOST_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "hw/virtio-blk/guest_queue.h"
#include "hw/virtio-blk/vhost_user_message.h"

#define VHOST_CLIENT_MAX_QUEUES 4
/* Guest-physical addresses begin here, the front-end's own elsewhere. */
#define VHOST_CLIENT_GPA        UINT64_C(0x100000)
#define VHOST_CLIENT_USER       UINT64_C(0x7f0000000000)

struct vhost_client_queue {
    struct guest_queue ring;
    int kick, call, err;
    unsigned calls; /* notifications that came */
};

struct vhost_client {
    int socket;
    int backend_channel; /* our end, after vhost_client_open_channel() */
    void (*wait)(void *opaque);
    void *opaque;
    uint64_t features, protocol_features; /* negotiated */
    uint16_t queue_size;
    unsigned num_queues;
    struct vhost_client_queue queues[VHOST_CLIENT_MAX_QUEUES];
    int ram_fd;
    uint8_t *ram;
    uint64_t ram_bytes, region_bytes; /* one region a queue */
    int inflight_fd;                  /* -1: none */
    struct vhost_user_inflight_area inflight;
    uint8_t *inflight_region; /* mapped */
    bool log_rings;           /* queues start with VHOST_VRING_F_LOG ... */
    uint64_t log_shift;       /* and this far from where they are */
};

/* path "@name" is in the abstract name space. wait NULL: sleeps until something
 * may have come. */
bool vhost_client_connect(struct vhost_client *c, const char *path,
                          void (*wait)(void *opaque), void *opaque);
void vhost_client_close(struct vhost_client *c);
/* The connection ends, memory and rings stay, as when the back-end dies; and
 * the same driver goes on with another back-end. */
void vhost_client_lose(struct vhost_client *c);
bool vhost_client_return(struct vhost_client *c, const char *path);

/* ---- messages ---- */

bool vhost_client_send(struct vhost_client *c, uint32_t request, uint32_t flags,
                       const void *payload, uint32_t bytes, const int *fds,
                       unsigned num_fds);
/* false: the back-end hung up. */
bool vhost_client_receive(struct vhost_client *c, struct vhost_user_message *m);
/* The same; *fd is a descriptor that came with it, or -1. */
bool vhost_client_receive_fd(struct vhost_client *c,
                             struct vhost_user_message *m, int *fd);
/* Sends, and waits for the acknowledgement if that was negotiated, else for the
 * answer to a later question; false if it was refused. */
bool vhost_client_set(struct vhost_client *c, uint32_t request,
                      const void *payload, uint32_t bytes, const int *fds,
                      unsigned num_fds);
/* Sends payload and puts the answer of as many bytes there. */
bool vhost_client_get(struct vhost_client *c, uint32_t request, void *payload,
                      uint32_t bytes);
bool vhost_client_set_u64(struct vhost_client *c, uint32_t request,
                          uint64_t value, int fd);
bool vhost_client_set_state(struct vhost_client *c, uint32_t request,
                            uint32_t index, uint32_t num);
bool vhost_client_get_config(struct vhost_client *c,
                             struct virtio_blk_config *config);

/* ---- the driver ---- */

/* Takes what is offered, but for these bits. */
bool vhost_client_negotiate(struct vhost_client *c, uint64_t without,
                            uint64_t protocol_without);
/* Makes memory and shows it: by one table, or region by region. */
bool vhost_client_share_memory(struct vhost_client *c, unsigned num_queues,
                               uint16_t queue_size, bool by_slots);
bool vhost_client_start_queue(struct vhost_client *c, unsigned i,
                              uint32_t base);
/* The base of the ring, or -1. */
int64_t vhost_client_stop_queue(struct vhost_client *c, unsigned i);
/* The base of a ring with n descriptors that came and went, 0 for a new one, as
 * SET_VRING_BASE and GET_VRING_BASE have it. */
uint32_t vhost_client_base(const struct vhost_client *c, unsigned n);
/* RING_RESET: stops the queue, and makes its ring anew. What the back-end had
 * not taken off it is added again. */
bool vhost_client_reset_queue(struct vhost_client *c, unsigned i);
/* All of the above. */
bool vhost_client_start(struct vhost_client *c, unsigned num_queues,
                        uint16_t queue_size);
/* Passes a socket for requests of the back-end. */
bool vhost_client_open_channel(struct vhost_client *c);

/* Asks for a region of requests in flight, and hands it over. Before the first
 * queue starts. */
bool vhost_client_get_inflight(struct vhost_client *c, unsigned num_queues,
                               uint16_t queue_size);
bool vhost_client_set_inflight(struct vhost_client *c);

/* Tells the addresses of a queue; also of one that runs. */
bool vhost_client_set_addr(struct vhost_client *c, unsigned i);

void vhost_client_kick(struct vhost_client *c, unsigned queue);
/* Takes completions; true if there were any. */
bool vhost_client_reap(struct vhost_client *c);
/* One request from start to end: the status byte, or -1 if it never came. */
int vhost_client_io(struct vhost_client *c, unsigned queue, uint32_t type,
                    uint64_t sector, void *buf, uint32_t bytes);
/* The same without waiting; *status is 0xff until it has ended. */
struct guest_slot *vhost_client_submit(struct vhost_client *c, unsigned queue,
                                       uint32_t type, uint64_t sector,
                                       const void *buf, uint32_t bytes,
                                       int *status);

#endif
