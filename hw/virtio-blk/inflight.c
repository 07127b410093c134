/*
 * What the books of requests in flight have in common, whatever the ring.
 *
 * Runs on the queue's loop, does not suspend.
 */
#include "hw/virtio-blk/inflight.h"

#include <stdlib.h>
#include <string.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/virtqueue.h"
#include "util/range.h"

#define VERSION 1

size_t inflight_bytes(const struct inflight_format *format, uint16_t size)
{
    return align_up(format->head_bytes + format->entry_bytes * (size_t)size,
                    INFLIGHT_ALIGN);
}

void inflight_init(struct inflight *inflight, void *region, uint16_t size)
{
    *inflight = (struct inflight){
        .region = region,
        .size = size,
        .entry_of = g_new(uint16_t, size),
        .batch = g_new(uint16_t, size),
        .again = g_new(uint16_t, size),
        .next = g_new(uint16_t, size),
        .last = g_new(uint16_t, size),
    };
    for (unsigned i = 0; i < size; i++) {
        inflight->entry_of[i] = i;
    }
}

void inflight_destroy(struct inflight *inflight)
{
    g_free(inflight->entry_of);
    g_free(inflight->batch);
    g_free(inflight->again);
    g_free(inflight->next);
    g_free(inflight->last);
    memset(inflight, 0, sizeof(*inflight));
}

bool inflight_give_back(struct virtqueue *vq, uint16_t head)
{
    struct inflight *inf = vq->inflight;

    if (G_UNLIKELY(inf->batched == inf->size)) {
        return virtqueue_break(vq, "head made available before it was shown "
                                   "as used");
    }
    inf->batch[inf->batched++] = inf->entry_of[head];
    return true;
}

void inflight_forget(void *region)
{
    struct inflight_head *head = region;

    head->version = 0;
}

bool inflight_check_head(struct virtqueue *vq, bool *fresh)
{
    struct inflight *inf = vq->inflight;
    struct inflight_head *head = inf->region;
    uint16_t version = inflight_read(head->version);

    *fresh = !version;
    if (vq->size > inf->size) {
        return virtqueue_break(vq, "ring larger than its in-flight region");
    }
    if (version > VERSION || (version && inflight_read(head->features))) {
        return virtqueue_break(vq, "in-flight region of an unknown version");
    }
    if (version && inflight_read(head->desc_num) != inf->size) {
        return virtqueue_break(vq, "in-flight region of another size");
    }
    return true;
}

static int by_counter(const void *a, const void *b)
{
    const struct inflight_entry *x = a, *y = b;

    return (x->counter > y->counter) - (x->counter < y->counter);
}

bool inflight_order(struct virtqueue *vq, struct inflight_entry *entries,
                    unsigned n)
{
    struct inflight *inf = vq->inflight;

    g_assert(n <= inf->size);
    if (n) {
        qsort(entries, n, sizeof(*entries), by_counter);
    }
    for (unsigned i = 0; i < n; i++) {
        if (i && entries[i].counter == entries[i - 1].counter) {
            return virtqueue_break(vq, "in-flight region has two requests "
                                       "with one number");
        }
        inf->again[i] = entries[i].entry;
    }
    inf->again_count = n;
    inf->counter = n ? entries[n - 1].counter + 1 : 0;
    vq->resubmits = n;
    return true;
}
