/*
 * The block-copy engine: moves clusters from a source to a target, each at most
 * once, and several at a time.
 *
 * The copy bitmap holds the clusters that the target still lacks. A task takes
 * its clusters out of it, copies them, and puts them back if it fails; who
 * needs a cluster that a task has under way waits for the task. The
 * copy-before-write filter and a backup job share one engine, so that no
 * cluster is copied twice. Requests to the source go to the node below the
 * filter. On the graph's loop only.
 */
#ifndef VARVE_BLOCK_BLOCK_COPY_H
#define VARVE_BLOCK_BLOCK_COPY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/node.h"
#include "util/hbitmap.h"

struct block_copy;

#define BLOCK_COPY_CLUSTER_DEFAULT (INT64_C(64) << 10)
#define BLOCK_COPY_WORKERS_DEFAULT 64

/* source and target must stay open, and keep their length, until
 * co_block_copy_free(). The cluster size follows from the target: at least 64
 * KiB, and the target's cluster where it has no backing file to read the rest
 * of a cluster from. All clusters are to be copied at first. Suspends. */
struct block_copy *co_block_copy_new(struct node *source, struct node *target,
                                     GError **error);
/* Waits for calls under way. */
void co_block_copy_free(struct block_copy *s);

int64_t block_copy_cluster_size(const struct block_copy *s);
/* What is to be copied; the caller may change it while nothing is in flight. */
struct hbitmap *block_copy_bitmap(struct block_copy *s);

void block_copy_set_compress(struct block_copy *s, bool compress);
void block_copy_set_copy_range(struct block_copy *s, bool allowed);
/* Clusters that only lie in the source's backing chain are not copied. */
void block_copy_set_skip_unallocated(struct block_copy *s, bool skip);
/* Bytes a second that co_block_copy_all() keeps to; 0 = unlimited. Copies for
 * guest writes are counted, but never held up. */
void block_copy_set_speed(struct block_copy *s, int64_t speed);
/* Called when clusters need no more copying, whoever saw to it: bytes that were
 * copied, and bytes that the target still lacks. Must not suspend. */
typedef void block_copy_progress_fn(void *opaque, int64_t done,
                                    int64_t remaining);
void block_copy_set_progress(struct block_copy *s, block_copy_progress_fn *fn,
                             void *opaque);
/* Bytes in the bitmap and under way. */
int64_t block_copy_remaining(const struct block_copy *s);
/* Waits until no call is under way. */
void co_block_copy_wait_idle(struct block_copy *s);

/* Copies what the range (any alignment) still lacks, waits for what is under
 * way in it; 0 or -errno. Never held up by the speed limit. *is_read (may be
 * NULL) says which side failed. */
int co_block_copy_range(struct block_copy *s, int64_t offset, int64_t bytes,
                        bool *is_read);

/* One call of the background copier. */
struct block_copy_call {
    unsigned max_workers; /* 1.. */
    int64_t max_chunk;    /* bytes, 0 = the engine's own limit */
    /* Asked before each task; must not suspend. May be NULL. */
    bool (*wants_pause)(void *opaque);
    /* Then called with no task of this call in flight: suspends to hold the
     * copy up; true: end the call. */
    bool (*co_pause)(void *opaque);
    /* Sleeps for the speed limit, or less; again with no task in flight. */
    void (*co_sleep)(void *opaque, int64_t ns);
    void *opaque;
    bool is_read; /* out: which side failed */
};
/* Copies all that the bitmap holds; 0 when nothing is left (or co_pause ended
 * it), or the first error, with its clusters back in the bitmap. All its tasks
 * have ended when it returns. */
int co_block_copy_all(struct block_copy *s, struct block_copy_call *call);

/* Takes the run of clusters at offset out of the bitmap if the source itself
 * does not hold them: *bytes receives the run's length; 1 = unallocated, 0 =
 * allocated, -errno. */
int co_block_copy_reset_unallocated(struct block_copy *s, int64_t offset,
                                    int64_t *bytes);

/* True if the target has all of a run at offset, false if the source still has
 * to be asked for it; *run is its length, at most bytes. */
bool block_copy_has(const struct block_copy *s, int64_t offset, int64_t bytes,
                    int64_t *run);
/* Waits until no copy of a part of the range is under way. */
void co_block_copy_wait_range(struct block_copy *s, int64_t offset,
                              int64_t bytes);

/* The engine of a copy-before-write node. */
struct block_copy *cbw_block_copy(const struct node *filter);
/* 0, or the -errno that broke its snapshot (on-cbw-error=break-snapshot). */
int cbw_snapshot_error(const struct node *filter);

/* A look at a run of the point in time that a copy-before-write node keeps.
 * While it lasts, guest writes to the run are held off where the source still
 * has it. */
struct cbw_look {
    struct node *from;     /* where the run is: the source or the target */
    int64_t offset, bytes; /* of the run: in both at the same offset */
    bool frozen;
    struct cbw_state *cbw; /* private */
    struct co_queue waiters;
    LIST_ENTRY(cbw_look) link;
};
/* 0, and a run of at least one byte; -EACCES where the snapshot does not reach,
 * or when it is lost; -ENOTSUP if the node is of another driver. Does not
 * suspend. */
int cbw_look_begin(struct node *filter, int64_t offset, int64_t bytes,
                   struct cbw_look *look);
void cbw_look_end(struct cbw_look *look);
/* What is discarded is no longer part of the snapshot, nor saved for it. */
int co_cbw_forget(struct node *filter, int64_t offset, int64_t bytes);

#endif
