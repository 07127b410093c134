/*
 * Queue mechanics: taking chains of buffers off a virtqueue and returning them.
 *
 * Knows nothing of disks. A queue has a ring format (split or packed) and a
 * slot of the caller's size for each chain that can be in flight, whose first
 * member is the struct vq_chain. Slots are made once; nothing allocates between
 * start and stop.
 *
 * The other side may write anything anywhere at any time. Whatever it does,
 * each chain that was popped can be pushed once, no pointer leaves guest
 * memory, and a violation of the specification breaks the queue: from then on
 * it pops and pushes nothing until it is stopped. One loop's thread.
 */
#ifndef VARVE_HW_VIRTQUEUE_H
#define VARVE_HW_VIRTQUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hw/virtio-blk/dirty_log.h"
#include "hw/virtio-blk/guest_memory.h"
#include "util/iov.h"

#define VIRTQUEUE_MAX_SIZE 1024
/* Chains of up to this many pieces stay in their slot's own cache lines. */
#define VQ_INLINE_VECS     6

struct vring_desc;
struct vring_avail;
struct vring_used;
struct vring_packed_desc;
struct ring_format;
struct inflight;
struct inflight_format;

/* One chain of buffers: what the device may read, then what it may write. */
struct vq_chain {
    struct iovec *vec; /* `readable` entries, then `writable` ones */
    uint16_t head;     /* names the chain: first descriptor, or buffer id */
    uint16_t readable, writable;
    bool in_flight; /* popped and not yet pushed */
    uint16_t descs; /* of a packed ring that it occupies */
    uint32_t readable_bytes, writable_bytes;
    struct iovec inline_vec[VQ_INLINE_VECS];
};

static inline struct iov vq_chain_readable(const struct vq_chain *c)
{
    return (struct iov){c->vec, c->readable, 0, c->readable_bytes};
}

static inline struct iov vq_chain_writable(const struct vq_chain *c)
{
    return (struct iov){c->vec + c->readable, c->writable, 0,
                        c->writable_bytes};
}

/* What the driver has just written on another processor comes from there line
 * by line, but side by side if a whole batch is asked for before any is needed:
 * of a chain, its first bytes (a header), and the last, which is to be written.
 */
static inline void vq_chain_expect(const struct vq_chain *c)
{
    const struct iovec *last = &c->vec[c->readable + c->writable - 1];

    __builtin_prefetch(c->vec[0].iov_base);
    __builtin_prefetch((char *)last->iov_base + last->iov_len - 1, 1);
}

/* What the driver and the device agreed on, before the queue starts. */
struct virtqueue_setup {
    uint16_t size; /* entries, <= max_size; a power of 2 if split */
    /* Guest-physical (2.6). Of a packed ring (2.7) these are the descriptors,
     * the driver's event structure, and the device's. */
    uint64_t desc, avail, used;
    bool event_idx, indirect; /* features */
    /* Where to go on; a new queue begins at its format's `first`. */
    uint16_t avail_idx, used_idx;
    struct inflight *inflight; /* books that outlive us, or NULL */
};

struct virtqueue {
    /* hot */
    const struct ring_format *format; /* NULL: stopped */
    const struct guest_memory *memory;
    union { /* split, packed */
        struct vring_desc *desc;
        struct vring_packed_desc *ring;
    };
    union {
        struct vring_avail *avail;
        const uint32_t *driver_event;
    };
    union {
        struct vring_used *used;
        uint32_t *device_event;
    };
    char *slots;
    size_t slot_bytes;
    uint16_t size;
    /* Indices that run freely, or positions with a wrap counter (packed). */
    uint16_t last_avail;     /* next entry to pop */
    uint16_t used_idx;       /* next entry to push; published later */
    uint16_t published_used; /* what the driver can see */
    uint16_t in_flight;
    uint16_t descs_in_flight;  /* packed */
    uint16_t first_used_flags; /* packed: written last of what is pushed */
    bool event_idx, indirect;
    bool notify_on;     /* the driver is asked to notify */
    const char *broken; /* reason, or NULL */
    /* for the books */
    const struct ring_format *base; /* what the driver speaks */
    struct inflight *inflight;      /* or NULL */
    uint16_t resubmits;             /* left to be done again */
    struct dirty_log_use log;
    /* cold */
    uint16_t max_size;      /* also the most buffers of a chain; see pop */
    struct iovec *big_vecs; /* max_vecs entries a slot; untouched when unused */
    unsigned max_vecs;
    struct vring_packed_desc *gathered; /* max_size entries for pop's use */
    struct virtqueue_setup setup;
};

/* A ring format: how chains lie in guest memory. */
struct ring_format {
    const char *name;
    uint16_t first; /* avail_idx and used_idx of a new queue */
    /* Looks the areas up in guest memory; false: queue_break() was called. */
    bool (*map)(struct virtqueue *vq);
    int (*pop)(struct virtqueue *vq, uint16_t *heads, unsigned max);
    void (*push)(struct virtqueue *vq, uint16_t head, uint32_t written);
    bool (*publish)(struct virtqueue *vq);
    bool (*has_work)(const struct virtqueue *vq);
    void (*set_notify)(struct virtqueue *vq, bool on);
    const struct inflight_format *inflight;
};
extern const struct ring_format split_ring_format, packed_ring_format;
/* In front of the others, for a queue with books or a log. */
extern const struct ring_format tracked_ring_format;

/* Makes the slots; max_size is a power of 2 <= VIRTQUEUE_MAX_SIZE, slot_bytes
 * counts the struct vq_chain at the start of each slot. */
void virtqueue_init(struct virtqueue *vq, uint16_t max_size, size_t slot_bytes);
void virtqueue_destroy(struct virtqueue *vq);

/* Begins to use the areas that setup names; memory must stay until the stop.
 * With books, what they say was in flight is popped before anything else.
 * false, and the queue is broken, if they are not in guest memory, are not
 * aligned as 2.6 and 2.7 demand, or the size is bad. */
bool virtqueue_start(struct virtqueue *vq, const struct ring_format *format,
                     const struct guest_memory *memory,
                     const struct virtqueue_setup *setup);
/* What is logged from now on; of a queue that has started. */
void virtqueue_set_log(struct virtqueue *vq, const struct dirty_log_use *use);
/* Forgets everything. The caller has seen the end of all chains in flight. */
void virtqueue_stop(struct virtqueue *vq);

/* The caller's slot of a chain; valid for any head below max_size. */
static inline void *virtqueue_slot(const struct virtqueue *vq, uint16_t head)
{
    return vq->slots + (size_t)head * vq->slot_bytes;
}

static inline bool virtqueue_running(const struct virtqueue *vq)
{
    return vq->format && !vq->broken;
}

/* Takes up to max chains in one go; returns how many, their heads in heads[]. A
 * chain may have more buffers than the ring has entries: 2.6.5.3.1 forbids
 * that, but Linux goes by seg_max alone where it has indirect descriptors.
 * -EBADMSG once the queue broke; then none of this batch counts as popped. */
int virtqueue_pop(struct virtqueue *vq, uint16_t *heads, unsigned max);

/* Gives a chain back with the number of bytes that were written to it. The
 * other side sees it after the next publish. A broken queue swallows it. */
void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written);
/* Shows all that was pushed to the driver; true if it wants a notification. */
bool virtqueue_publish(struct virtqueue *vq);

/* True if there is a chain to pop: one read of memory. */
static inline bool virtqueue_has_work(const struct virtqueue *vq)
{
    return virtqueue_running(vq) && vq->format->has_work(vq);
}

/* Asks for a notification when the driver adds the next chain; true if there
 * is one already, so that the caller must not sleep. */
bool virtqueue_arm(struct virtqueue *vq);
/* Does without notifications, because the caller looks by itself. */
void virtqueue_disarm(struct virtqueue *vq);

/* ---- for ring formats ---- */

/* An area of the ring that fields are accessed in: NULL if it is not wholly in
 * one region, or not aligned. */
void *virtqueue_area(const struct virtqueue *vq, uint64_t gpa, uint64_t bytes,
                     unsigned align);

void virtqueue_note_break(struct virtqueue *vq, const char *reason)
    __attribute__((cold));
/* Notes why and refuses all further work; returns false. reason is static. */
static inline bool virtqueue_break(struct virtqueue *vq, const char *reason)
{
    virtqueue_note_break(vq, reason);
    return false;
}
/* An empty chain for head, or NULL (and broken) if that head is out of range
 * or in flight. */
struct vq_chain *virtqueue_chain_begin(struct virtqueue *vq, uint16_t head);
/* Undoes the pop of a batch that broke; returns -EBADMSG. */
int virtqueue_unpop(struct virtqueue *vq, const uint16_t *heads, unsigned n);
/* Builds the chain that begins at this descriptor of the ring; false: broken.
 */
bool split_read_chain(struct virtqueue *vq, uint16_t head);
/* Builds a chain of the first n of vq->gathered; false: broken. */
bool packed_build_chain(struct virtqueue *vq, unsigned n, uint16_t *head);
/* Appends a buffer of guest memory with all checks; false: broken. */
bool virtqueue_chain_add_slow(struct virtqueue *vq, struct vq_chain *chain,
                              uint64_t gpa, uint32_t bytes, bool writable);
/* The same; a buffer with nothing special about it is added inline. */
static inline bool virtqueue_chain_add(struct virtqueue *vq, struct vq_chain *c,
                                       uint64_t gpa, uint32_t bytes,
                                       bool writable)
{
    unsigned n = c->readable + c->writable;
    uint64_t total = (uint64_t)c->readable_bytes + c->writable_bytes + bytes;
    void *host = guest_memory_at(vq->memory, gpa, bytes);

    if (G_UNLIKELY(!host || !bytes || n >= VQ_INLINE_VECS ||
                   total > UINT32_MAX || (!writable && c->writable))) {
        return virtqueue_chain_add_slow(vq, c, gpa, bytes, writable);
    }
    c->vec[n].iov_base = host;
    c->vec[n].iov_len = bytes;
    if (writable) {
        c->writable++;
        c->writable_bytes += bytes;
    } else {
        c->readable++;
        c->readable_bytes += bytes;
    }
    return true;
}

#endif
