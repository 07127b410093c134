/*
 * Books of requests in flight for split rings.
 *
 * A request is known by its head, and the descriptor table still holds it: the
 * driver may not touch it before the device gives it back. So a mark and a
 * number a head are enough, and the list of the heads that the last store to
 * the used index has shown: after a crash some of their marks may still stand.
 *
 * Invariant, also after each single store: what was taken off the ring is
 * marked, or was shown, or will be taken off again; so the next entry of the
 * available ring is the used index plus the number of marks. Runs on the
 * queue's loop, does not suspend.
 */
#include <string.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

/* The specification's DescStateSplit and QueueRegionSplit. */
struct desc_state {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next; /* in the list of the last batch */
    uint64_t counter;
};

struct region {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct desc_state desc[];
};

static void begin_anew(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    memset(r, 0, sizeof(*r) + inf->size * sizeof(r->desc[0]));
    r->desc_num = inf->size;
    r->used_idx = vq->used_idx;
    compiler_barrier();
    r->version = 1;
}

/* Takes the marks off the batch that the driver has seen, but whose end the
 * region has not. */
static bool settle_last_batch(struct virtqueue *vq)
{
    struct region *r = vq->inflight->region;
    uint16_t n = vq->used_idx - inflight_read(r->used_idx);
    uint16_t head = inflight_read(r->last_batch_head);
    bool seen[VIRTQUEUE_MAX_SIZE] = {false};

    if (n > vq->size) {
        return virtqueue_break(vq, "in-flight region belongs to another ring");
    }
    for (; n; n--) {
        if (head >= vq->size) {
            return virtqueue_break(vq, "in-flight region has a head out of "
                                       "range in its last batch");
        }
        if (seen[head]) {
            return virtqueue_break(vq, "in-flight region has a loop in its "
                                       "last batch");
        }
        seen[head] = true;
        r->desc[head].inflight = 0;
        head = inflight_read(r->desc[head].next);
    }
    return true;
}

/* The marked heads; -1: broken. */
static int collect(struct virtqueue *vq, struct inflight_entry *entries)
{
    struct region *r = vq->inflight->region;
    int n = 0;

    for (unsigned i = 0; i < vq->inflight->size; i++) {
        uint8_t mark = inflight_read(r->desc[i].inflight);

        if (mark > 1 || (mark && i >= vq->size)) {
            virtqueue_break(vq, mark > 1 ? "in-flight region has an invalid "
                                           "mark"
                                         : "in-flight region has a head out of "
                                           "range");
            return -1;
        }
        if (mark) {
            entries[n++] =
                (struct inflight_entry){inflight_read(r->desc[i].counter), i};
        }
    }
    return n;
}

static bool split_recover(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;
    struct inflight_entry entries[VIRTQUEUE_MAX_SIZE];
    bool fresh;

    if (!inflight_check_head(vq, &fresh)) {
        return false;
    }
    inf->batched = 0;
    if (fresh) {
        begin_anew(vq);
        return inflight_order(vq, entries, 0);
    }
    inf->last_batch_head = inflight_read(r->last_batch_head);
    int n = collect(vq, entries);

    /* Without a mark there is nothing to settle, on whatever ring. */
    if (n > 0 && inflight_read(r->used_idx) != vq->used_idx) {
        n = settle_last_batch(vq) ? collect(vq, entries) : -1;
    }
    if (n < 0) {
        return false;
    }
    if (n > (uint16_t)(guest_read_16(&vq->avail->idx) - vq->used_idx)) {
        return virtqueue_break(vq, "in-flight region has more requests than "
                                   "were made available");
    }
    compiler_barrier();
    r->used_idx = vq->used_idx;
    vq->last_avail = vq->used_idx + n;
    return inflight_order(vq, entries, n);
}

static bool split_read_again(struct virtqueue *vq, uint16_t entry,
                             uint16_t *head)
{
    *head = entry;
    return split_read_chain(vq, entry);
}

static bool split_taken(struct virtqueue *vq, const uint16_t *heads, unsigned n,
                        uint16_t pos)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    for (unsigned i = 0; i < n; i++) {
        struct desc_state *d = &r->desc[heads[i]];

        d->counter = inf->counter++;
        compiler_barrier();
        d->inflight = 1;
        compiler_barrier(); /* the marks are a piece of the available ring */
    }
    return true;
}

static void split_showing(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    for (unsigned i = 0; i < inf->batched; i++) {
        r->desc[inf->batch[i]].next = inf->last_batch_head;
        inf->last_batch_head = inf->batch[i];
    }
    compiler_barrier();
    r->last_batch_head = inf->last_batch_head;
}

static void split_shown(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    compiler_barrier();
    for (unsigned i = 0; i < inf->batched; i++) {
        r->desc[inf->batch[i]].inflight = 0;
    }
    compiler_barrier();
    r->used_idx = vq->published_used;
    inf->batched = 0;
}

const struct inflight_format split_inflight_format = {
    .entry_bytes = sizeof(struct desc_state),
    .head_bytes = sizeof(struct region),
    .recover = split_recover,
    .read_again = split_read_again,
    .taken = split_taken,
    .showing = split_showing,
    .shown = split_shown,
};
