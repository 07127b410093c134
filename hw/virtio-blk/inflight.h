/*
 * Books of the requests in flight, in memory that outlives this process.
 *
 * vhost-user, "Inflight I/O tracking": each queue has a part of a region that
 * the front-end keeps. After a crash the parts tell which requests were taken
 * off the ring and not given back; they are done again, in the order in which
 * they were taken.
 *
 * The process may be killed between any two stores, so their order in the
 * program is what counts (compiler_barrier()). Nothing that was written to the
 * region is read back while the queue runs; what is there at the start is
 * checked, for the front-end can write it as well. On the queue's loop.
 */
#ifndef VARVE_HW_INFLIGHT_H
#define VARVE_HW_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct virtqueue;

/* One queue's part, and what we know of it. */
struct inflight {
    void *region;     /* shared; aligned to INFLIGHT_ALIGN */
    uint16_t size;    /* entries that the region has room for */
    uint64_t counter; /* number of the next request */
    /* Of each, `size`. An entry is what the region knows a request by; of a
     * split ring that is its head. */
    uint16_t *entry_of; /* by head */
    uint16_t *batch;    /* entries of what is given back, but not shown yet */
    uint16_t *again;    /* entries of what is to be done again, in order */
    uint16_t *next, *last; /* packed: of an entry, as the region has it */
    unsigned batched, again_count;
    uint16_t last_batch_head;       /* split */
    uint16_t free_head, free_count; /* packed */
};

#define INFLIGHT_ALIGN 64

/* How the books of a ring format are kept; a member of its ring_format. */
struct inflight_format {
    size_t entry_bytes, head_bytes; /* of a part of the region */
    /* The rings are mapped: brings the books in order, and sets again and the
     * queue's last_avail. false: virtqueue_break() was called. */
    bool (*recover)(struct virtqueue *vq);
    /* Builds the chain of an entry that is done again; false: broken. */
    bool (*read_again)(struct virtqueue *vq, uint16_t entry, uint16_t *head);
    /* Popped from the ring at pos on; false: broken. */
    bool (*taken)(struct virtqueue *vq, const uint16_t *heads, unsigned n,
                  uint16_t pos);
    /* Before the driver sees the batch, and after. */
    void (*showing)(struct virtqueue *vq);
    void (*shown)(struct virtqueue *vq);
};
extern const struct inflight_format split_inflight_format,
    packed_inflight_format;

/* What a queue of size entries takes of the region. */
size_t inflight_bytes(const struct inflight_format *format, uint16_t size);
void inflight_init(struct inflight *inflight, void *region, uint16_t size);
void inflight_destroy(struct inflight *inflight);
/* Adds a head to the batch; false, and broken, if there is no room. */
bool inflight_give_back(struct virtqueue *vq, uint16_t head);
/* The driver has forgotten its ring: so does this part of a region. */
void inflight_forget(void *region);

/* ---- between the formats ---- */

/* A request that was in flight, and when it was taken. */
struct inflight_entry {
    uint64_t counter;
    uint16_t entry;
};
/* Sorts the entries and makes them the list of what is to be done again; false,
 * and broken, if two were taken at once. */
bool inflight_order(struct virtqueue *vq, struct inflight_entry *entries,
                    unsigned n);

/* What every format's part begins with. */
struct inflight_head {
    uint64_t features; /* none exist */
    uint16_t version;  /* 1, or 0 before the first use */
    uint16_t desc_num;
};
/* Checks it, *fresh if the part was not in use before; false: broken. */
bool inflight_check_head(struct virtqueue *vq, bool *fresh);

/* One fetch of what the other side may change. */
#define inflight_read(x) (*(const volatile __typeof__(x) *)&(x))

#endif
