/*
 * The virtio-blk device model and its seam to a transport.
 *
 * A transport (the in-process guest, vhost-user) carries register accesses and
 * notifications between a driver and the device. It owns the guest memory
 * table. All functions run on the device's loop and do not suspend.
 */
#ifndef VARVE_HW_VIRTIO_BLK_DEVICE_H
#define VARVE_HW_VIRTIO_BLK_DEVICE_H

#include <sys/queue.h>

#include "aio/colock.h"
#include "aio/loop.h"
#include "aio/sigbus.h"
#include "block/backend.h"
#include "hw/runstate.h"
#include "hw/virtio-blk/guest_memory.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"
#include "hw/virtio_blk.h"

/* How a transport goes along when its device moves to another loop; dev->loop
 * is the old one in leave, and the new one in arrive. None may suspend. */
struct virtio_transport_move {
    bool (*may_leave)(const void *opaque, GError **error);
    void (*leave)(void *opaque);
    void (*arrive)(void *opaque);
};

/* What the device asks of its transport; called outside and inside of
 * coroutines, must not suspend. */
struct virtio_transport {
    void (*notify_queue)(void *opaque, unsigned queue); /* used buffers */
    void (*notify_config)(void *opaque); /* configuration or status changed */
    /* A page of shared memory was lost: what has gone away if it is one of this
     * device's, else NULL. May be NULL. */
    const char *(*memory_lost)(void *opaque);
    const struct virtio_transport_move *move; /* NULL: it stays */
};

struct virtio_blk_queue {
    struct virtqueue vq;
    struct virtio_blk *dev;
    struct virtqueue_setup setup;
    uint16_t index;
    bool enabled; /* by the driver; starts at DRIVER_OK */
    bool paused;  /* nothing is popped: disabled, or about to stop */
};

TAILQ_HEAD(virtio_blk_held, virtio_blk_req);

struct virtio_blk {
    /* hot */
    struct backend *backend;
    struct virtio_blk_queue *queues;
    unsigned num_queues;
    unsigned in_flight; /* popped chains; held ones count */
    bool active;        /* DRIVER_OK, not broken, no reset going on */
    bool running;       /* the guest runs */
    unsigned quiesced;  /* depth of drained sections */
    uint64_t acked;     /* features that the driver took */
    uint32_t logical_bytes;
    int64_t length; /* bytes; what the configuration space says */
    uint64_t next_seq;
    unsigned seen_lost; /* sigbus_count() at the last look */
    /* cold */
    struct virtio_blk_held held; /* wait for the guest to run again */
    uint8_t status;
    bool resetting;     /* until the requests in flight have ended */
    const char *broken; /* why NEEDS_RESET is set, or NULL */
    uint64_t offered;
    uint8_t config_generation;
    struct virtio_blk_config config;
    struct virtio_blk_props props;
    char *id;
    char serial[VIRTIO_BLK_ID_BYTES];
    struct loop *loop;
    const struct virtio_transport *transport;
    void *transport_opaque;
    const struct guest_memory *memory;
    struct deferred process;
    struct loop_hook hook;
    bool hooked;
    struct runstate_listener run;
    struct co_queue idle; /* waits for in_flight to fall to zero */
    struct guest *guest;
    unsigned old_perm, old_shared; /* of the backend, to put back */
    bool old_read_only;
};

/* One request: the slot of its chain, so that nothing is allocated for it. */
struct virtio_blk_req {
    struct vq_chain chain; /* first: it is the slot */
    struct virtio_blk_queue *queue;
    uint8_t *status; /* the last writable byte, in guest memory */
    struct iov data; /* without header and status */
    uint64_t sector;
    uint32_t type;
    uint64_t seq; /* order of arrival */
    struct coroutine *co;
    bool dropped; /* while held: a reset ended it */
    TAILQ_ENTRY(virtio_blk_req) link;
};

/* ---- for transports ---- */

/* One at a time; NULL takes it away, after a reset. */
void virtio_blk_set_transport(struct virtio_blk *dev,
                              const struct virtio_transport *transport,
                              void *opaque, const struct guest_memory *memory);
static inline uint64_t virtio_blk_offered(const struct virtio_blk *dev)
{
    return dev->offered;
}
/* What the driver wants; checked when it sets FEATURES_OK. */
void virtio_blk_ack(struct virtio_blk *dev, uint64_t features);
uint8_t virtio_blk_status(const struct virtio_blk *dev);
/* 2.1, 3.1: 0 starts a reset, which is over when the status reads 0. */
void virtio_blk_set_status(struct virtio_blk *dev, uint8_t status);
/* 2.4; bytes outside the space read as 0, and writing them does nothing. */
void virtio_blk_config_read(const struct virtio_blk *dev, unsigned offset,
                            void *buf, unsigned bytes);
void virtio_blk_config_write(struct virtio_blk *dev, unsigned offset,
                             const void *buf, unsigned bytes);
/* Enables a new queue: before DRIVER_OK, or after a reset of the queue. At any
 * other time, or out of range, it is ignored. */
void virtio_blk_set_queue(struct virtio_blk *dev, unsigned index,
                          const struct virtqueue_setup *setup);
/* 2.6.1 of virtio 1.2 (RING_RESET): the queue's requests end and are shown to
 * the driver, then the queue is forgotten. false, and nothing has changed, if
 * the machine was stopped before they ended. Suspends. */
bool co_virtio_blk_reset_queue(struct virtio_blk *dev, unsigned index);
/* The driver's notification: the queue is looked at soon. */
void virtio_blk_kick(struct virtio_blk *dev, unsigned index);

/* ---- for transports whose driver starts queues one by one (vhost-user) ----
 *
 * These take the place of the status register: the device is up from begin to
 * halt, and each queue between its start and its stop. */

/* The driver took these features; the caller has checked them. */
void virtio_blk_begin(struct virtio_blk *dev, uint64_t features);
/* false, and the device is broken, if the areas are not in guest memory. */
bool virtio_blk_start_queue(struct virtio_blk *dev, unsigned index,
                            const struct virtqueue_setup *setup);
/* A paused queue keeps what is in flight, and pops nothing more. */
void virtio_blk_pause_queue(struct virtio_blk *dev, unsigned index,
                            bool paused);
/* Waits for the requests of the queue (held ones as well), shows their ends to
 * the driver, and stops it. Returns where the queue would go on: avail_idx in
 * the low half, used_idx in the high one. Suspends. */
uint32_t co_virtio_blk_stop_queue(struct virtio_blk *dev, unsigned index);
/* Ends everything: held requests are dropped, those in flight are waited for,
 * and nothing more is shown to the driver. The mode of the write cache stays,
 * for the driver may still believe in it. Suspends. */
void co_virtio_blk_halt(struct virtio_blk *dev);
/* Around a change of guest memory: waits until no request refers to it. The
 * queues are looked up anew at the end. begin suspends. */
void co_virtio_blk_memory_begin(struct virtio_blk *dev);
void virtio_blk_memory_end(struct virtio_blk *dev);
/* Of the queues of a driver that took these features. */
static inline const struct ring_format *virtio_blk_ring_format(
    uint64_t features)
{
    return features & VIRTIO_BIT(VIRTIO_F_RING_PACKED) ? &packed_ring_format
                                                       : &split_ring_format;
}
/* The queue is between start and stop. */
static inline bool virtio_blk_queue_started(const struct virtio_blk *dev,
                                            unsigned index)
{
    return dev->queues[index].vq.format;
}

/* Any device of the current graph, or NULL. */
struct virtio_blk *virtio_blk_any(void);

/* ---- between the files of the device ---- */

/* A violation by the driver (2.1.2): stops everything until a reset. */
void virtio_blk_break(struct virtio_blk *dev, const char *reason);
/* After a page was lost somewhere: the device breaks if it is the guest's. */
void virtio_blk_check_memory(struct virtio_blk *dev);
/* Stops everything; the reset is over when no request is in flight. */
void virtio_blk_reset(struct virtio_blk *dev);
/* Sets up what the loop and the run state call. */
void virtio_blk_init_hooks(struct virtio_blk *dev);
/* Takes them away from the loop, and sets them up on another, in the same
 * state. */
void virtio_blk_leave_loop(struct virtio_blk *dev);
void virtio_blk_enter_loop(struct virtio_blk *dev, struct loop *loop);
extern const struct backend_device_ops virtio_blk_backend_ops;
extern const struct backend_device_move_ops virtio_blk_move_ops;
/* The end of a request: gives the chain back and counts. */
void virtio_blk_end(struct virtio_blk_req *req, uint32_t written);
/* Parses a popped chain and runs it. */
void virtio_blk_start(struct virtio_blk_req *req);
/* Reissues (or drops) what was held, in order of arrival. */
void virtio_blk_release_held(struct virtio_blk *dev, bool drop);

void virtio_blk_config_init(struct virtio_blk *dev);
/* The length changed: new capacity, and true if it differs. */
bool virtio_blk_config_resize(struct virtio_blk *dev);
/* 5.2.5.2: who switches the write cache when the driver is up. */
void virtio_blk_config_driver_ok(struct virtio_blk *dev);

/* "VIRTIO_BLK_F_FLUSH"-like names without their prefix, for messages and
 * tables; NULL for a bit that this device does not know. */
const char *virtio_blk_feature_name(unsigned bit);

static inline bool virtio_blk_has(const struct virtio_blk *dev, unsigned bit)
{
    return dev->acked & VIRTIO_BIT(bit);
}

#endif
