/*
 * What the two files of the block-copy engine share.
 *
 * block_copy.c decides what is copied when; block_copy_task.c copies one piece.
 */
#ifndef VARVE_BLOCK_BLOCK_COPY_INTERNAL_H
#define VARVE_BLOCK_BLOCK_COPY_INTERNAL_H

#include "block/block_copy.h"

#include <sys/queue.h>
#include "aio/colock.h"
#include "util/bucket.h"

/* One plain copy is at most this long (or one cluster): what files still read
 * and write at once, on the loop's thread, so that the data stay in its cache
 * and nobody is woken up. */
#define COPY_CHUNK_MAX  (INT64_C(256) << 10)
/* One offloaded copy. */
#define COPY_RANGE_MAX  (INT64_C(16) << 20)
/* What is claimed at once before its status is known: little where there was
 * data before, because most of it is given back; after zeroes ever more, since
 * a run of them is one request. */
#define COPY_CLAIM_MIN  (INT64_C(4) << 20)
#define COPY_CLAIM_MAX  (INT64_C(1) << 30)
/* Buffers of background copies, in use and kept. */
#define COPY_MEMORY_MAX (INT64_C(24) << 20)

enum copy_method {
    COPY_DATA,
    COPY_ZEROES,
    COPY_NOTHING, /* lies only in the backing chain */
};

/* A run of clusters that somebody copies now; they are clear in the bitmap. */
struct copy_task {
    struct block_copy *s;
    int64_t offset, bytes;
    enum copy_method method;
    bool for_guest; /* a guest write waits for it */
    bool is_read;   /* out: which side failed */
    struct co_queue done;
    TAILQ_ENTRY(copy_task) link;
    struct co_span *span; /* of a pooled task */
};
TAILQ_HEAD(copy_task_list, copy_task);

#define COPY_BUFFER_CLASSES 16
struct copy_buffer {
    struct copy_buffer *next;
};

struct block_copy {
    struct node *source, *target;
    struct node *base; /* what lies behind the source, or NULL */
    int64_t length, cluster_size;
    struct hbitmap *todo;
    struct copy_task_list tasks;
    int64_t in_flight_bytes;
    struct co_count calls; /* inside co_block_copy_range() or _all() */

    bool compress;
    bool copy_range; /* allowed, and has not failed yet */
    bool skip_unallocated;
    unsigned write_flags;
    int64_t chunk; /* of plain copies; grows with success */
    int64_t claim; /* see COPY_CLAIM_MIN */
    struct bucket limit;
    void (*progress)(void *opaque, int64_t done, int64_t remaining);
    void *progress_opaque;

    /* free buffers by size class, and what all buffers take */
    struct copy_buffer *free[COPY_BUFFER_CLASSES];
    int64_t memory;
    unsigned buffers_in_use;
    struct co_queue memory_waiters;
};

/* The longest data copy now. */
int64_t copy_chunk(const struct block_copy *s);
/* Finds out how the clusters at the start of [offset, offset + bytes) are to be
 * copied: fills *method and *run, whole clusters (or up to the end); 0 or
 * -errno. */
int co_copy_status(struct block_copy *s, int64_t offset, int64_t bytes,
                   enum copy_method *method, int64_t *run);
/* Carries out task->method; 0 or -errno and task->is_read. */
int co_copy_task_run(struct copy_task *task);
void copy_buffers_free(struct block_copy *s);

#endif
