/*
 * Queue mechanics that are the same for every ring format: slots, the building
 * of chains, and the broken state.
 *
 * Invariants: a slot's in_flight is true from the pop of its head to its push,
 * and vq->in_flight counts such slots; a broken queue changes nothing in guest
 * memory. Runs on the device's loop, does not suspend.
 */
#include "hw/virtio-blk/virtqueue.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/inflight.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "util/range.h"

static size_t big_vecs_bytes(const struct virtqueue *vq)
{
    return (size_t)vq->max_size * vq->max_vecs * sizeof(struct iovec);
}

void virtqueue_init(struct virtqueue *vq, uint16_t max_size, size_t slot_bytes)
{
    g_assert(is_power_of_2(max_size) && max_size <= VIRTQUEUE_MAX_SIZE);
    g_assert(slot_bytes >= sizeof(struct vq_chain));
    memset(vq, 0, sizeof(*vq));
    vq->max_size = max_size;
    /* Whole cache lines, so that neighbours do not share one. */
    vq->slot_bytes = align_up(slot_bytes, 64);
    vq->slots = g_malloc0(vq->slot_bytes * max_size);
    /* A chain has at most as many buffers as the queue has entries; twice that
     * leaves each of them room to straddle two regions. */
    vq->max_vecs = 2 * max_size;
    vq->big_vecs = mmap(NULL, big_vecs_bytes(vq), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (vq->big_vecs == MAP_FAILED) {
        g_error("out of address space for a virtqueue");
    }
    vq->gathered = g_new(struct vring_packed_desc, max_size);
}

void virtqueue_destroy(struct virtqueue *vq)
{
    if (vq->slots) {
        munmap(vq->big_vecs, big_vecs_bytes(vq));
        g_free(vq->slots);
        g_free(vq->gathered);
    }
    memset(vq, 0, sizeof(*vq));
}

void virtqueue_note_break(struct virtqueue *vq, const char *reason)
{
    if (!vq->broken) {
        vq->broken = reason;
    }
}

bool virtqueue_start(struct virtqueue *vq, const struct ring_format *format,
                     const struct guest_memory *memory,
                     const struct virtqueue_setup *setup)
{
    g_assert(!vq->format && !vq->in_flight);
    vq->base = format;
    vq->inflight = setup->inflight;
    vq->format = vq->inflight ? &tracked_ring_format : format;
    vq->memory = memory;
    vq->setup = *setup;
    vq->broken = NULL;
    vq->event_idx = setup->event_idx;
    vq->indirect = setup->indirect;
    vq->last_avail = setup->avail_idx;
    vq->used_idx = vq->published_used = setup->used_idx;
    vq->notify_on = true;
    if (!setup->size || setup->size > vq->max_size) {
        return virtqueue_break(vq, "invalid queue size");
    }
    vq->size = setup->size;
    return format->map(vq) && (!vq->inflight || format->inflight->recover(vq));
}

void virtqueue_set_log(struct virtqueue *vq, const struct dirty_log_use *use)
{
    vq->log = *use;
    vq->format = vq->inflight || use->log ? &tracked_ring_format : vq->base;
    if (use->log) {
        dirty_log_ring(vq); /* what it has written so far is not known */
    }
}

void virtqueue_stop(struct virtqueue *vq)
{
    for (unsigned i = 0; i < vq->max_size; i++) {
        struct vq_chain *c = virtqueue_slot(vq, i);
        c->in_flight = false;
    }
    vq->format = NULL;
    vq->inflight = NULL;
    vq->resubmits = 0;
    vq->log = (struct dirty_log_use){0};
    vq->memory = NULL;
    vq->desc = NULL;
    vq->avail = NULL;
    vq->used = NULL;
    vq->broken = NULL;
    vq->in_flight = vq->descs_in_flight = 0;
}

void *virtqueue_area(const struct virtqueue *vq, uint64_t gpa, uint64_t bytes,
                     unsigned align)
{
    void *host = guest_memory_at(vq->memory, gpa, bytes);

    /* Both: the guest's alignment is the rule, ours what the CPU needs. */
    return gpa % align || (uintptr_t)host % align ? NULL : host;
}

int virtqueue_pop(struct virtqueue *vq, uint16_t *heads, unsigned max)
{
    if (!vq->format) {
        return 0;
    }
    if (vq->broken) {
        return -EBADMSG;
    }
    int n = vq->format->pop(vq, heads, max);

    if (n < 0) {
        return n;
    }
    vq->in_flight += n;
    return n;
}

int virtqueue_unpop(struct virtqueue *vq, const uint16_t *heads, unsigned n)
{
    while (n--) {
        struct vq_chain *c = virtqueue_slot(vq, heads[n]);
        c->in_flight = false;
    }
    return -EBADMSG;
}

void virtqueue_push(struct virtqueue *vq, uint16_t head, uint32_t written)
{
    struct vq_chain *c = virtqueue_slot(vq, head);

    g_assert(c->in_flight);
    c->in_flight = false;
    vq->in_flight--;
    if (virtqueue_running(vq)) {
        vq->format->push(vq, head, written);
    }
}

bool virtqueue_publish(struct virtqueue *vq)
{
    if (!virtqueue_running(vq) || vq->used_idx == vq->published_used) {
        return false;
    }
    return vq->format->publish(vq);
}

bool virtqueue_arm(struct virtqueue *vq)
{
    if (!virtqueue_running(vq)) {
        return false;
    }
    vq->format->set_notify(vq, true);
    vq->notify_on = true;
    /* 2.6.10.1: look again after asking, or a chain that was added in between
     * would wait for ever. */
    memory_barrier();
    return vq->format->has_work(vq);
}

void virtqueue_disarm(struct virtqueue *vq)
{
    if (virtqueue_running(vq) && vq->notify_on) {
        vq->format->set_notify(vq, false);
        vq->notify_on = false;
    }
}

struct vq_chain *virtqueue_chain_begin(struct virtqueue *vq, uint16_t head)
{
    if (G_UNLIKELY(head >= vq->size)) {
        virtqueue_break(vq, "head out of range");
        return NULL;
    }
    struct vq_chain *c = virtqueue_slot(vq, head);

    if (G_UNLIKELY(c->in_flight)) {
        virtqueue_break(vq, "head made available twice");
        return NULL;
    }
    c->vec = c->inline_vec;
    c->head = head;
    c->readable = c->writable = 0;
    c->readable_bytes = c->writable_bytes = 0;
    return c;
}

/* Room for one more piece; a long chain moves out of its slot. */
static bool reserve(struct virtqueue *vq, struct vq_chain *c, unsigned n)
{
    if (n < VQ_INLINE_VECS || c->vec != c->inline_vec) {
        return n < vq->max_vecs ||
               virtqueue_break(vq, "chain in too many pieces");
    }
    struct iovec *big = vq->big_vecs + (size_t)c->head * vq->max_vecs;

    memcpy(big, c->inline_vec, n * sizeof(*big));
    c->vec = big;
    return true;
}

static bool add_across_regions(struct virtqueue *vq, struct vq_chain *c,
                               uint64_t gpa, uint32_t bytes, unsigned *n)
{
    /* Room beyond the slot's own, whatever the number of pieces. */
    if (c->vec == c->inline_vec) {
        struct iovec *big = vq->big_vecs + (size_t)c->head * vq->max_vecs;
        memcpy(big, c->inline_vec, *n * sizeof(*big));
        c->vec = big;
    }
    int pieces = guest_memory_map(vq->memory, gpa, bytes, c->vec + *n,
                                  vq->max_vecs - *n);
    if (pieces < 0) {
        return virtqueue_break(vq, pieces == -EFAULT
                                       ? "buffer outside guest memory"
                                       : "chain in too many pieces");
    }
    *n += pieces;
    return true;
}

bool virtqueue_chain_add_slow(struct virtqueue *vq, struct vq_chain *c,
                              uint64_t gpa, uint32_t bytes, bool writable)
{
    unsigned n = c->readable + c->writable, before = n;

    if (G_UNLIKELY(!bytes)) {
        return virtqueue_break(vq, "buffer of zero length");
    }
    if (G_UNLIKELY(!writable && c->writable)) {
        /* 2.6.4.2 */
        return virtqueue_break(vq, "readable buffer behind a writable one");
    }
    uint32_t *total = writable ? &c->writable_bytes : &c->readable_bytes;

    /* 2.6.5.2: a chain is no longer than 2^32 bytes in total. */
    if (__builtin_add_overflow(*total, bytes, total) ||
        c->readable_bytes > UINT32_MAX - c->writable_bytes) {
        return virtqueue_break(vq, "chain longer than 4 GiB");
    }
    if (!reserve(vq, c, n)) {
        return false;
    }
    void *host = guest_memory_at(vq->memory, gpa, bytes);
    if (G_LIKELY(host)) {
        c->vec[n].iov_base = host;
        c->vec[n++].iov_len = bytes;
    } else if (!add_across_regions(vq, c, gpa, bytes, &n)) {
        return false;
    }
    if (writable) {
        c->writable += n - before;
    } else {
        c->readable += n - before;
    }
    return true;
}
