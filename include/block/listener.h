/*
 * What the block layer announces to whoever wants to hear: a monitor, a test.
 *
 * The block layer never names a monitor. Listeners are called on the graph's
 * loop, inside or outside of coroutines, and must not suspend; the arguments
 * are theirs to read until they return. Every member may be NULL.
 */
#ifndef VARVE_BLOCK_LISTENER_H
#define VARVE_BLOCK_LISTENER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "qapi/types.h"

struct job;
struct backend;
struct node;

struct block_listener {
    void (*job_status)(void *opaque, const struct job *job);
    void (*job_completed)(void *opaque, const struct job *job); /* or failed */
    void (*job_cancelled)(void *opaque, const struct job *job);
    void (*job_ready)(void *opaque, const struct job *job);
    void (*job_pending)(void *opaque, const struct job *job);
    void (*job_error)(void *opaque, const struct job *job, bool is_read,
                      enum block_error_action action);
    void (*io_error)(void *opaque, const struct backend *backend, bool is_read,
                     enum block_error_action action, int errnum);
    /* werror=stop or rerror=stop: whoever runs the guest must stop it. */
    void (*stop_request)(void *opaque, const struct backend *backend);
    /* offset < 0: none. */
    void (*image_corrupted)(void *opaque, const struct node *node,
                            const char *message, int64_t offset, int64_t bytes,
                            bool fatal);
    void (*write_threshold)(void *opaque, const struct node *node,
                            int64_t exceeded_by, int64_t threshold);
    /* A child of a quorum failed (errnum), or was outvoted (0). */
    void (*quorum_report_bad)(void *opaque, const struct node *child,
                              enum quorum_op_type type, int errnum,
                              int64_t offset, int64_t bytes);
    void (*quorum_failure)(void *opaque, const struct node *quorum,
                           int64_t offset, int64_t bytes);
    void (*export_deleted)(void *opaque, const char *id);
    void *opaque;
    LIST_ENTRY(block_listener) link; /* private */
};

/* Before the graph's loop runs, or on that loop. */
void block_listener_add(struct block_listener *l);
void block_listener_remove(struct block_listener *l);

/* For block/: calls every listener that has the member. */
struct block_listener *block_listeners_first(void);
#define BLOCK_ANNOUNCE(member, ...)                          \
    do {                                                     \
        struct block_listener *l_, *next_;                   \
        for (l_ = block_listeners_first(); l_; l_ = next_) { \
            next_ = LIST_NEXT(l_, link);                     \
            if (l_->member) {                                \
                l_->member(l_->opaque, __VA_ARGS__);         \
            }                                                \
        }                                                    \
    } while (0)

#endif
