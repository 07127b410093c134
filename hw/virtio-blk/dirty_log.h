/*
 * The log of guest pages that the device has written, for a front-end that
 * migrates its guest (vhost-user, "Migration").
 *
 * One bit a page of 4 KiB, from guest address 0 on, in memory that the
 * front-end reads and clears at any time. A page is marked after it was written
 * and before the driver is told. On the queue's loop.
 */
#ifndef VARVE_HW_DIRTY_LOG_H
#define VARVE_HW_DIRTY_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct virtqueue;
struct vq_chain;

struct dirty_log {
    uint8_t *bits; /* shared */
    uint64_t bytes;
    int fd;      /* an eventfd that tells of new marks, or -1 */
    bool marked; /* since the last of these */
};

/* What a queue logs. */
struct dirty_log_use {
    struct dirty_log *log; /* NULL: nothing */
    bool data;             /* the buffers of requests */
    bool ring;             /* what the device writes of the ring itself */
    uint64_t used;         /* address that stands for setup.used in the log */
};

/* Marks the pages of [gpa, gpa + bytes); false, and some of them are not
 * marked, if the log does not reach as far. */
bool dirty_log_mark(struct dirty_log *log, uint64_t gpa, uint64_t bytes);

/* What the device may have written of a chain, and of the ring. A log that is
 * too small breaks the queue. */
void dirty_log_chain(struct virtqueue *vq, const struct vq_chain *chain);
void dirty_log_ring(struct virtqueue *vq);
/* Tells of new marks. */
void dirty_log_tell(struct dirty_log *log);

#endif
