/*
 * The inside of a guest, shared by its driver, its workload, and its link to
 * the device.
 */
#ifndef VARVE_HW_GUEST_INTERNAL_H
#define VARVE_HW_GUEST_INTERNAL_H

#include <sys/queue.h>

#include "aio/colock.h"
#include "aio/loop.h"
#include "hw/guest.h"
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

/* What is between a driver and its device; on the guest's loop. */
struct guest_link {
    /* Tells the device that these queues (a bit each) have new requests. */
    void (*kick)(struct guest *g, uint32_t queues);
    /* The device returned what it does not have. NULL: it is trusted. */
    void (*betrayed)(struct guest *g);
};

/* The driver, on the guest's loop. */
struct guest {
    const struct guest_link *link;
    struct loop *loop;
    struct guest_queue *queues;
    unsigned num_queues, next_queue;
    bool broken;  /* the device wants a reset, or goes away */
    bool running; /* the virtual machine runs */
    int64_t now;  /* the clock, read once a batch */
    int64_t disk_bytes;
    uint32_t logical_bytes;
    uint32_t max_discard_sectors, max_zeroes_sectors;
    uint32_t max_transfer, max_segment; /* bytes of a request, of a buffer */
    uint64_t features;
    struct guest_pending_list pending;
    struct co_queue slot_free;
    struct co_queue idle; /* a workload has ended, or cannot go on */
    unsigned users;       /* coroutines that wait inside the guest */
    uint64_t kicks, interrupts;
    struct guest_workload *workload; /* the last one; NULL before the first */
    struct guest_record *record;     /* what verifying workloads wrote */
    struct loop_hook hook;           /* looks at the rings by itself */
    int ram_fd;
    uint8_t *ram; /* at GUEST_RAM_BASE for the device */
    uint64_t ram_bytes;
};

/* Where guest memory begins; zero is a bad address to every driver. */
#define GUEST_RAM_BASE   UINT64_C(0x100000)
/* More queues than processors would only take address space. */
#define GUEST_MAX_QUEUES 16

/* ---- guest.c ---- */

/* An empty guest; num_queues <= GUEST_MAX_QUEUES. */
void guest_init(struct guest *g, const struct guest_link *link,
                struct loop *loop, unsigned num_queues);
/* Memory for queues of queue_size entries: one memfd that keeps its size. */
bool guest_map_ram(struct guest *g, uint16_t queue_size, GError **error);
/* Makes all queues anew, with the features that were negotiated. */
void guest_lay_out(struct guest *g, uint16_t queue_size);
/* What guest_init() and later calls took; not g itself. */
void guest_destroy(struct guest *g);
/* Takes the parts of a configuration space that a driver uses. */
void guest_take_config(struct guest *g, const struct virtio_blk_config *c);

/* Takes completions, and lets the workload go on; true if there were any. */
bool guest_reap(struct guest *g);
/* Asks for interrupts on all queues; true if something came meanwhile. */
bool guest_interrupts_on(struct guest *g);
/* The device is not believed any more: whoever waits goes on without it. */
void guest_break(struct guest *g);
void guest_wake_all(struct guest *g);
/* A free slot on the next queue that has one, or NULL. */
struct guest_slot *guest_get_slot(struct guest *g);
void guest_put_slot(struct guest *g, struct guest_slot *slot);
/* Shows all added requests to the device, and rings if it wants that. */
void guest_ring(struct guest *g);
/* The buffers that so many bytes of data take at least. */
unsigned guest_segments(const struct guest *g, int64_t bytes);
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
