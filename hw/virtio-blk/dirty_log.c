/*
 * Marking of guest pages in the log; see dirty_log.h.
 *
 * The device knows its buffers by address in this process, so the way back to
 * guest addresses is a search of the table: it is taken only while a guest
 * migrates. Runs on the queue's loop, does not suspend.
 */
#include "hw/virtio-blk/dirty_log.h"

#include <unistd.h>

#include "aio/atomic.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/virtqueue.h"

#define PAGE_BITS 12

bool dirty_log_mark(struct dirty_log *log, uint64_t gpa, uint64_t bytes)
{
    if (!bytes) {
        return true;
    }
    if (bytes - 1 > UINT64_MAX - gpa) {
        return false;
    }
    uint64_t last = (gpa + bytes - 1) >> PAGE_BITS;

    for (uint64_t page = gpa >> PAGE_BITS; page <= last; page++) {
        if (page / 8 >= log->bytes) {
            return false;
        }
        or_release_u8(&log->bits[page / 8], 1 << page % 8);
        log->marked = true;
    }
    return true;
}

static void mark(struct virtqueue *vq, uint64_t gpa, uint64_t bytes)
{
    if (!dirty_log_mark(vq->log.log, gpa, bytes)) {
        virtqueue_break(vq, "the log of dirty pages is too small");
    }
}

void dirty_log_chain(struct virtqueue *vq, const struct vq_chain *c)
{
    if (!vq->log.data) {
        return;
    }
    for (unsigned i = 0; i < c->writable; i++) {
        const struct iovec *v = &c->vec[c->readable + i];
        uint64_t gpa;

        if (guest_memory_gpa(vq->memory, v->iov_base, &gpa)) {
            mark(vq, gpa, v->iov_len);
        }
    }
}

void dirty_log_tell(struct dirty_log *log)
{
    const uint64_t one = 1;

    if (!log->marked || log->fd < 0) {
        return;
    }
    log->marked = false;
    /* A full counter has told already. */
    if (write(log->fd, &one, sizeof(one)) < 0) {
        return;
    }
}

/* Few pages, most of which change all the time: no need to be exact. */
void dirty_log_ring(struct virtqueue *vq)
{
    if (!vq->log.ring) {
        return;
    }
    if (vq->base == &packed_ring_format) {
        mark(vq, vq->setup.desc, vring_desc_bytes(vq->size));
        mark(vq, vq->log.used, VRING_EVENT_BYTES);
    } else {
        mark(vq, vq->log.used, vring_used_bytes(vq->size));
    }
}
