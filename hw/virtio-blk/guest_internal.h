/*
 * The inside of the in-process guest, shared by its driver and its workload.
 */
#ifndef VARVE_HW_GUEST_INTERNAL_H
#define VARVE_HW_GUEST_INTERNAL_H

#include <sys/queue.h>

#include "aio/colock.h"
#include "aio/loop.h"
#include "hw/guest.h"
#include "hw/virtio-blk/device.h"
#include "hw/virtio-blk/guest_queue.h"

struct guest_workload;

/* A single request that its coroutine waits for; on that one's stack. */
struct guest_pending {
    struct guest_slot *slot;
    struct coroutine *co;
    bool finished;
    enum guest_status status; /* with finished */
    LIST_ENTRY(guest_pending) link;
};
LIST_HEAD(guest_pending_list, guest_pending);

struct guest {
    /* the driver, on the guest's loop */
    struct loop *loop;
    struct guest_queue *queues;
    unsigned num_queues, next_queue;
    bool attached; /* hears of completions */
    bool broken;   /* the device wants a reset, or goes away */
    bool running;  /* the virtual machine runs */
    int64_t now;   /* the clock, read once a batch */
    int64_t disk_bytes;
    uint32_t logical_bytes;
    uint32_t max_discard_sectors, max_zeroes_sectors;
    uint64_t features;
    struct guest_pending_list pending;
    struct co_queue slot_free;
    struct co_queue idle; /* a workload has ended, or cannot go on */
    unsigned users;       /* coroutines that wait inside the guest */
    uint64_t kicks, interrupts;
    struct guest_workload *workload; /* the last one; NULL before the first */
    struct guest_record *record;     /* what verifying workloads wrote */
    struct loop_hook hook;           /* threaded */
    struct deferred reap;            /* on the device's loop */
    /* towards the device */
    struct virtio_blk *dev;
    struct loop *dev_loop;
    struct co_mutex reset_lock; /* on its loop: one reset at a time */
    int kick_fd, call_fd;       /* threaded; else -1 */
    struct deferred config;
    struct runstate_listener run;
    int ram_fd;
    uint8_t *ram;
    uint64_t ram_bytes;
    struct guest_memory memory;
};

/* ---- guest.c ---- */

/* A free slot on the next queue that has one, or NULL. */
struct guest_slot *guest_get_slot(struct guest *g);
void guest_put_slot(struct guest *g, struct guest_slot *slot);
/* Shows all added requests to the device, and rings if it wants that. */
void guest_ring(struct guest *g);
enum guest_status guest_slot_status(const struct guest_slot *slot);
/* The chain of a discard or write-zeroes request: one segment. */
void guest_put_segment(struct guest_slot *slot, int64_t offset, int64_t bytes,
                       bool unmap);
/* Why the guest cannot issue requests; NULL if it can. */
const char *guest_obstacle(const struct guest *g);

/* ---- guest_request.c ---- */

/* Ends all waits of single requests with status; a slot that is in flight stays
 * with its queue until the device returns it. */
void guest_abandon_pending(struct guest *g, enum guest_status status);

/* ---- guest_workload.c ---- */

/* Issues what depth and rate allow; the caller rings. */
void guest_workload_pump(struct guest *g);
/* The device is broken: nothing that is in flight will return. */
void guest_workload_fail(struct guest *g);
void guest_workload_free(struct guest *g);

#endif
