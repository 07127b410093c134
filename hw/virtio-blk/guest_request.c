/*
 * Single requests of the in-process guest, each on its caller's coroutine.
 *
 * A request that is longer than one transfer goes in pieces, one after the
 * other. Invariant: a struct guest_pending is in the list from the time its
 * request is added to a queue until its coroutine goes on, and owns its slot
 * unless it was abandoned. Runs on the guest's loop.
 */
#include <string.h>

#include "hw/virtio-blk/guest_internal.h"
#include "util/iov.h"
#include "util/range.h"

static void on_pending_done(struct guest_slot *slot, void *opaque)
{
    struct guest_pending *p = opaque;

    p->finished = true;
    p->status = guest_slot_status(slot);
    co_wake(p->co);
}

static void on_abandoned_done(struct guest_slot *slot, void *opaque)
{
    guest_put_slot(opaque, slot);
}

void guest_abandon_pending(struct guest *g, enum guest_status status)
{
    struct guest_pending *p;

    LIST_FOREACH (p, &g->pending, link) {
        if (p->finished) {
            continue;
        }
        p->finished = true;
        p->status = status;
        p->slot->done = on_abandoned_done;
        p->slot->opaque = g;
        p->slot = NULL;
        co_wake(p->co);
    }
}

/* Adds the request that slot was prepared for, and waits. The slot is the
 * caller's again if *slot is not NULL afterwards. */
static enum guest_status co_submit(struct guest *g, struct guest_slot **slot,
                                   uint32_t type, uint64_t sector,
                                   uint32_t data_bytes)
{
    struct guest_pending p = {.slot = *slot, .co = co_self()};

    p.slot->done = on_pending_done;
    p.slot->opaque = &p;
    LIST_INSERT_HEAD(&g->pending, &p, link);
    guest_queue_add(p.slot, type, sector, data_bytes,
                    guest_segments(g, data_bytes));
    if (!g->hook.flush) {
        guest_ring(g); /* else once for all that this pass adds */
    }
    co_yield ();
    g_assert(p.finished);
    LIST_REMOVE(&p, link);
    *slot = p.slot;
    return p.status;
}

static int64_t first_difference(const uint8_t *data, int64_t bytes,
                                uint8_t pattern)
{
    for (int64_t i = 0; i < bytes; i++) {
        if (data[i] != pattern) {
            return i;
        }
    }
    return -1;
}

static void fill(struct guest_slot *slot, const struct guest_request *r,
                 int64_t done, int64_t n)
{
    if (r->op == GUEST_OP_WRITE && r->iov) {
        iov_to_buf(r->iov, done, slot->data, n);
    } else if (r->op == GUEST_OP_WRITE && r->buffer) {
        memcpy(slot->data, (char *)r->buffer + done, n);
    } else if (r->op == GUEST_OP_WRITE) {
        memset(slot->data, r->pattern, n);
    } else if (r->op == GUEST_OP_DISCARD || r->op == GUEST_OP_WRITE_ZEROES) {
        guest_put_segment(slot, r->offset + done, n, r->unmap);
    }
}

static void take(const struct guest_slot *slot, const struct guest_request *r,
                 int64_t done, int64_t n, struct guest_result *result)
{
    if (r->op == GUEST_OP_GET_ID) {
        memcpy(result->id, slot->data, VIRTIO_BLK_ID_BYTES);
    } else if (r->op == GUEST_OP_READ) {
        if (r->iov) {
            iov_from_buf(r->iov, done, slot->data, n);
        } else if (r->buffer) {
            memcpy((char *)r->buffer + done, slot->data, n);
        }
        int64_t bad =
            r->verify ? first_difference(slot->data, n, r->pattern) : -1;
        if (bad >= 0 && result->mismatch < 0) {
            result->mismatch = r->offset + done + bad;
        }
    }
}

static const struct op {
    uint32_t type;
    bool carries;  /* disk data goes through guest memory */
    uint32_t data; /* else bytes that the request itself takes */
} ops[] = {
    [GUEST_OP_READ] = {VIRTIO_BLK_T_IN, true, 0},
    [GUEST_OP_WRITE] = {VIRTIO_BLK_T_OUT, true, 0},
    [GUEST_OP_FLUSH] = {VIRTIO_BLK_T_FLUSH, false, 0},
    [GUEST_OP_DISCARD] = {VIRTIO_BLK_T_DISCARD, false,
                          sizeof(struct virtio_blk_segment)},
    [GUEST_OP_WRITE_ZEROES] = {VIRTIO_BLK_T_WRITE_ZEROES, false,
                               sizeof(struct virtio_blk_segment)},
    [GUEST_OP_GET_ID] = {VIRTIO_BLK_T_GET_ID, false, VIRTIO_BLK_ID_BYTES},
};

/* The most bytes of disk that one request may be about. */
static int64_t piece_limit(const struct guest *g, enum guest_op op)
{
    int64_t sectors =
        op == GUEST_OP_DISCARD ? g->max_discard_sectors : g->max_zeroes_sectors;

    if (op != GUEST_OP_DISCARD && op != GUEST_OP_WRITE_ZEROES) {
        return g->max_transfer;
    }
    sectors = align_down(sectors, g->logical_bytes >> VIRTIO_BLK_SECTOR_BITS);
    /* A device without the feature says 0, and refuses whatever comes. */
    return sectors ? sectors << VIRTIO_BLK_SECTOR_BITS : GUEST_MAX_TRANSFER;
}

static void co_request(struct guest *g, const struct guest_request *r,
                       struct guest_result *result)
{
    const struct op *op = &ops[r->op];
    int64_t limit = piece_limit(g, r->op), done = 0;

    *result = (struct guest_result){.mismatch = -1};
    do {
        struct guest_slot *slot;
        int64_t n = min_i64(r->bytes - done, limit);

        while (!g->broken && g->running && !(slot = guest_get_slot(g))) {
            co_queue_wait(&g->slot_free);
        }
        if (g->broken || !g->running) {
            result->status =
                g->broken ? GUEST_STATUS_NEEDS_RESET : GUEST_STATUS_HELD;
            return;
        }
        fill(slot, r, done, n);
        /* The sector of a discard or write-zeroes is in its segment. */
        uint64_t sector =
            op->carries ? (r->offset + done) >> VIRTIO_BLK_SECTOR_BITS : 0;
        result->status =
            co_submit(g, &slot, op->type, sector, op->carries ? n : op->data);
        if (slot) {
            if (result->status == GUEST_STATUS_OK) {
                take(slot, r, done, n, result);
            }
            guest_put_slot(g, slot);
        }
        done += n;
    } while (result->status == GUEST_STATUS_OK && done < r->bytes);
}

void co_guest_request(struct guest *g, const struct guest_request *r,
                      struct guest_result *result)
{
    g->users++;
    co_request(g, r, result);
    g->users--;
}
