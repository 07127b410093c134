/*
 * Books of requests in flight for packed rings.
 *
 * The driver's descriptors are overwritten by used ones, so the region holds a
 * copy of each that is in flight: chains of entries, and a list of free ones. A
 * buffer id says nothing about the place, so a request is known here by its
 * first entry.
 *
 * What a batch changes is written beside the old state and holds from the store
 * that makes its first descriptor used. used_idx to old_used_wrap lie in one
 * aligned word and are written by one store: a wrap counter without its index
 * would be a position of another lap.
 *
 * Invariant: the entries that are not in the list of old_free_head are those of
 * the marked chains, and a ring's next available descriptor is that of
 * old_used_idx plus their number. Nothing that the driver or the front-end can
 * write is read back while the queue runs: next and last are kept here as well.
 * Runs on the queue's loop, does not suspend.
 */
#include <string.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

/* The specification's DescStatePacked. */
struct desc_state {
    uint8_t inflight; /* of a chain's first entry, as are last to counter */
    uint8_t padding;
    uint16_t next;
    uint16_t last;
    uint16_t num;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

/* The positions of QueueRegionPacked, as one word. */
union position {
    struct {
        uint16_t used_idx, old_used_idx;
        uint8_t used_wrap, old_used_wrap;
        uint8_t padding[2];
    };
    uint64_t word;
};

/* The specification's QueueRegionPacked. */
struct region {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head, old_free_head; /* desc_num: the list is empty */
    union position pos;
    uint8_t padding[8];
    struct desc_state desc[];
};

_Static_assert(sizeof(struct region) == 32, "layout of the region");
_Static_assert(sizeof(struct desc_state) == 32, "layout of an entry");

static uint16_t position(uint16_t index, uint8_t wrap)
{
    return index | (wrap ? VRING_PACKED_WRAP : 0);
}

static void write_positions(struct region *r, uint16_t old, uint16_t now)
{
    const union position p = {
        .used_idx = vring_packed_index(now),
        .old_used_idx = vring_packed_index(old),
        .used_wrap = now >> 15,
        .old_used_wrap = old >> 15,
    };

    compiler_barrier();
    *(volatile uint64_t *)&r->pos.word = p.word;
    compiler_barrier();
}

static void begin_anew(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    memset(r, 0, sizeof(*r) + inf->size * sizeof(r->desc[0]));
    r->desc_num = inf->size;
    for (unsigned i = 0; i < inf->size; i++) {
        r->desc[i].next = inf->next[i] = i + 1;
    }
    write_positions(r, vq->used_idx, vq->used_idx);
    r->version = 1;
    inf->free_head = 0;
    inf->free_count = inf->size;
}

/* ---- after a restart: all on a copy, then written back ---- */

/* Whether the driver has seen the batch that the region says was under way. */
static bool batch_was_shown(const struct virtqueue *vq, uint16_t old)
{
    uint16_t flags = guest_read_16(&vq->ring[vring_packed_index(old)].flags);

    return !vring_packed_marked(flags, vring_packed_avail(old));
}

/* Which free list and position hold; false: broken. */
static bool choose_state(struct virtqueue *vq, struct region *r)
{
    union position *p = &r->pos;
    uint16_t old = position(p->old_used_idx, p->old_used_wrap);
    uint16_t now = position(p->used_idx, p->used_wrap);

    if (p->used_idx >= vq->size || p->old_used_idx >= vq->size ||
        p->used_wrap > 1 || p->old_used_wrap > 1) {
        return virtqueue_break(vq, "in-flight region has a position outside "
                                   "of the ring");
    }
    if (now != old && batch_was_shown(vq, old)) {
        old = now;
        r->old_free_head = r->free_head;
    }
    r->free_head = r->old_free_head;
    vq->used_idx = vq->published_used = old;
    return true;
}

/* Marks the entries of the free list in seen[]. */
static bool walk_free(struct virtqueue *vq, struct region *r, bool *seen)
{
    struct inflight *inf = vq->inflight;
    uint16_t i = r->free_head;

    for (inf->free_count = 0; i != inf->size; i = r->desc[i].next) {
        if (i > inf->size) {
            return virtqueue_break(vq, "in-flight region has a free entry out "
                                       "of range");
        }
        if (seen[i]) {
            return virtqueue_break(vq, "in-flight region has a loop in its "
                                       "free list");
        }
        seen[i] = true;
        r->desc[i].inflight = 0;
        inf->free_count++;
    }
    inf->free_head = r->free_head;
    return true;
}

/* Marks the entries of the chain that begins here. */
static bool walk_chain(struct virtqueue *vq, const struct region *r,
                       uint16_t first, bool *seen)
{
    struct inflight *inf = vq->inflight;
    uint16_t num = r->desc[first].num, at = first, last = first;

    for (unsigned n = 0; n < num; n++, at = r->desc[at].next) {
        if (at >= inf->size || seen[at]) {
            return virtqueue_break(vq, "in-flight region has a chain of "
                                       "entries that are not its own");
        }
        seen[at] = true;
        last = at;
    }
    if (!num || last != r->desc[first].last || r->desc[last].id >= vq->size) {
        return virtqueue_break(vq, "in-flight region has an invalid chain");
    }
    inf->last[first] = last;
    return true;
}

/* The marked chains; the number of their entries, or -1: broken. */
static int collect(struct virtqueue *vq, const struct region *r, bool *seen,
                   struct inflight_entry *entries, unsigned *n)
{
    const struct inflight *inf = vq->inflight;
    int total = 0;

    for (unsigned i = 0; i < inf->size; i++) {
        const struct desc_state *d = &r->desc[i];

        if (d->inflight > 1) {
            virtqueue_break(vq, "in-flight region has an invalid mark");
            return -1;
        }
        if (d->inflight) {
            if (!walk_chain(vq, r, i, seen)) {
                return -1;
            }
            entries[(*n)++] = (struct inflight_entry){d->counter, i};
            total += d->num;
        }
    }
    if (total + inf->free_count != inf->size || total > vq->size) {
        virtqueue_break(vq, "in-flight region has entries that belong to "
                            "nothing");
        return -1;
    }
    return total;
}

/* What a batch that was not shown has left behind its first descriptor must not
 * look used once another one is. */
static void clean_ring(struct virtqueue *vq, unsigned n)
{
    uint16_t pos = vq->used_idx;

    for (; n; n--, pos = vring_packed_advance(pos, 1, vq->size)) {
        struct vring_packed_desc *d = &vq->ring[vring_packed_index(pos)];

        if (!vring_packed_marked(guest_read_16(&d->flags),
                                 vring_packed_avail(pos))) {
            d->flags = htole16(vring_packed_avail(pos));
        }
    }
}

static bool restore(struct virtqueue *vq, struct region *copy)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;
    struct inflight_entry entries[VIRTQUEUE_MAX_SIZE];
    bool seen[VIRTQUEUE_MAX_SIZE] = {false};
    unsigned n = 0;

    if (!choose_state(vq, copy) || !walk_free(vq, copy, seen)) {
        return false;
    }
    int total = collect(vq, copy, seen, entries, &n);

    if (total < 0) {
        return false;
    }
    clean_ring(vq, total);
    for (unsigned i = 0; i < inf->size; i++) {
        inf->next[i] = copy->desc[i].next;
        if (!copy->desc[i].inflight) {
            r->desc[i].inflight = 0;
        }
    }
    compiler_barrier();
    r->old_free_head = copy->free_head;
    write_positions(r, vq->used_idx, vq->used_idx);
    r->free_head = copy->free_head;
    vq->last_avail = vring_packed_advance(vq->used_idx, total, vq->size);
    return inflight_order(vq, entries, n);
}

static bool packed_recover(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    size_t bytes = inflight_bytes(&packed_inflight_format, inf->size);
    bool fresh;

    if (!inflight_check_head(vq, &fresh)) {
        return false;
    }
    inf->batched = 0;
    if (fresh) {
        begin_anew(vq);
        return inflight_order(vq, NULL, 0);
    }
    g_autofree struct region *copy = g_memdup2(inf->region, bytes);

    return restore(vq, copy);
}

static bool packed_read_again(struct virtqueue *vq, uint16_t first,
                              uint16_t *head)
{
    struct inflight *inf = vq->inflight;
    const struct region *r = inf->region;
    unsigned n = 0;

    for (uint16_t at = first;; at = inf->next[at]) {
        const struct desc_state *d = &r->desc[at];

        vq->gathered[n++] = (struct vring_packed_desc){
            .addr = inflight_read(d->addr),
            .len = inflight_read(d->len),
            .id = inflight_read(d->id),
            .flags = inflight_read(d->flags),
        };
        if (at == inf->last[first]) {
            break;
        }
        if (vq->gathered[0].flags & VRING_DESC_F_INDIRECT) {
            return virtqueue_break(vq, "in-flight region has an invalid "
                                       "chain");
        }
    }
    if (!packed_build_chain(vq, n, head)) {
        return false;
    }
    inf->entry_of[*head] = first;
    return true;
}

/* ---- while the queue runs ---- */

/* Copies the chain at *pos to free entries, and moves both on; the chain holds
 * once old_free_head has passed it. */
static void enter_chain(struct virtqueue *vq, uint16_t head, unsigned descs,
                        uint16_t *pos)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;
    uint16_t first = inf->free_head, at = first;

    r->desc[first].num = descs;
    r->desc[first].counter = inf->counter++;
    r->desc[first].inflight = 1;
    for (unsigned i = 0; i < descs; i++) {
        const struct vring_packed_desc *d = &vq->ring[vring_packed_index(*pos)];
        struct desc_state *e = &r->desc[inf->free_head];

        at = inf->free_head;
        e->addr = guest_read_64(&d->addr);
        e->len = guest_read_32(&d->len);
        e->id = head; /* only the last one's counts */
        e->flags = guest_read_16(&d->flags);
        inf->free_head = inf->next[at];
        *pos = vring_packed_advance(*pos, 1, vq->size);
    }
    r->desc[first].last = inf->last[first] = at;
    inf->entry_of[head] = first;
    inf->free_count -= descs;
    compiler_barrier();
    r->free_head = inf->free_head;
    compiler_barrier();
    r->old_free_head = inf->free_head;
    compiler_barrier();
}

static bool packed_taken(struct virtqueue *vq, const uint16_t *heads,
                         unsigned n, uint16_t pos)
{
    for (unsigned i = 0; i < n; i++) {
        const struct vq_chain *c = virtqueue_slot(vq, heads[i]);

        if (G_UNLIKELY(c->descs > vq->inflight->free_count)) {
            return virtqueue_break(vq, "descriptors made available before they "
                                       "were shown as used");
        }
        enter_chain(vq, heads[i], c->descs, &pos);
    }
    return true;
}

static void packed_showing(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    for (unsigned i = 0; i < inf->batched; i++) {
        uint16_t first = inf->batch[i];
        uint16_t last = inf->last[first];

        for (uint16_t at = first;; at = inf->next[at]) {
            inf->free_count++;
            if (at == last) {
                break;
            }
        }
        r->desc[last].next = inf->next[last] = inf->free_head;
        inf->free_head = first;
    }
    compiler_barrier();
    r->free_head = inf->free_head;
    write_positions(r, vq->published_used, vq->used_idx);
}

static void packed_shown(struct virtqueue *vq)
{
    struct inflight *inf = vq->inflight;
    struct region *r = inf->region;

    compiler_barrier();
    for (unsigned i = 0; i < inf->batched; i++) {
        r->desc[inf->batch[i]].inflight = 0;
    }
    compiler_barrier();
    r->old_free_head = inf->free_head;
    write_positions(r, vq->used_idx, vq->used_idx);
    inf->batched = 0;
}

const struct inflight_format packed_inflight_format = {
    .entry_bytes = sizeof(struct desc_state),
    .head_bytes = sizeof(struct region),
    .recover = packed_recover,
    .read_again = packed_read_again,
    .taken = packed_taken,
    .showing = packed_showing,
    .shown = packed_shown,
};
