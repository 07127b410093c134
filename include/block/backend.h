/*
 * A backend: what a device, an export or a monitor command holds to reach a
 * root node. It checks ranges and policy, counts requests, and holds them back
 * while its part of the graph is drained. On the graph's loop only.
 */
#ifndef VARVE_BLOCK_BACKEND_H
#define VARVE_BLOCK_BACKEND_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/graph.h"
#include "block/types.h"
#include "util/iov.h"

enum acct_op {
    ACCT_READ,
    ACCT_WRITE,
    ACCT_FLUSH,
    ACCT_UNMAP,
    ACCT_COUNT,
};

struct acct_stats {
    uint64_t ops, bytes, failed, invalid, merged;
    uint64_t total_ns;
};

/* How an attached device goes along to another loop: as root_move_ops. */
struct backend_device_move_ops {
    void (*co_quiet)(void *device);
    void (*resume)(void *device);
    bool (*may_leave)(const void *device, bool drained, GError **error);
    void (*leave)(void *device);
    void (*arrive)(void *device);
};

/* What the block layer tells an attached device. None may suspend. */
struct backend_device_ops {
    void (*drained_begin)(void *device); /* take nothing off the queues */
    void (*drained_end)(void *device);
    void (*resized)(void *device);
    const struct backend_device_move_ops *move; /* NULL: it stays */
};

struct throttle_config;
struct throttle_member;

struct backend {
    /* hot */
    struct node *node; /* root node; NULL: no medium */
    unsigned in_flight;
    unsigned quiesced; /* depth of drained sections */
    bool read_only;
    bool write_cache;                 /* false: every write is REQ_FUA */
    struct throttle_member *throttle; /* or NULL */
    struct acct_stats acct[ACCT_COUNT];
    /* cold */
    struct co_queue held; /* requests that wait for the drain to end */
    struct edge *root;
    char *name;      /* "drive0", or NULL */
    char *device_id; /* of the attached device, or NULL */
    const struct backend_device_ops *device_ops;
    void *device;
    enum blockdev_on_error on_read_error, on_write_error;
    bool io_status_enabled;
    enum block_device_io_status io_status;
    uint64_t wr_highest_offset;
    struct graph *graph;
    bool may_move;              /* to another loop, whoever wants it */
    struct loop *wants_loop;    /* of its user, or NULL; only to compare */
    struct export *exported_by; /* or NULL */
    uint64_t serial;            /* in order of making, over all loops */
    unsigned refs;
    TAILQ_ENTRY(backend) link;
};

/* name NULL: anonymous (a job's, an export's). node NULL: empty. Suspends. */
struct backend *co_backend_new(const char *name, struct node *node,
                               unsigned perm, unsigned shared, GError **error);
struct backend *backend_ref(struct backend *b);
void co_backend_unref(struct backend *b);
/* By name on the current graph; NULL and "Device 'x' not found", of class
 * DeviceNotFound. */
struct backend *backend_find(const char *name, GError **error);
/* One device at a time. */
bool backend_attach_device(struct backend *b, const char *device_id,
                           const struct backend_device_ops *ops, void *device,
                           GError **error);
void backend_detach_device(struct backend *b);
/* True if the edge is a backend's, and the backend's user wants to be on the
 * loop where it is. */
bool backend_asks_for_loop(const struct edge *root);
bool co_backend_set_perm(struct backend *b, unsigned perm, unsigned shared,
                         GError **error);
/* Limits requests together with the group of that name, which is made if it is
 * not there (NULL: the one that it is in, or one with its own name); config
 * becomes that of the group. A config without limits takes the backend out of
 * its group. While the backend is drained, or has no requests. Pure of checks:
 * throttle_config_check() comes before. */
void backend_set_throttle(struct backend *b, const char *group,
                          const struct throttle_config *config);
int64_t backend_length(const struct backend *b); /* bytes; 0 without medium */

/* As block/request.h, with range and read-only checks (-EIO, -EACCES, and
 * -ENOMEDIUM), and held back during a drained section. */
int co_backend_preadv(struct backend *b, int64_t offset, const struct iov *iov,
                      unsigned flags);
int co_backend_pwritev(struct backend *b, int64_t offset, const struct iov *iov,
                       unsigned flags);
int co_backend_pwrite_zeroes(struct backend *b, int64_t offset, int64_t bytes,
                             unsigned flags);
int co_backend_pdiscard(struct backend *b, int64_t offset, int64_t bytes);
int co_backend_flush(struct backend *b);
/* As co_node_save_vmstate() and co_node_load_vmstate(). */
int co_backend_save_vmstate(struct backend *b, int64_t offset,
                            const struct iov *iov);
int co_backend_load_vmstate(struct backend *b, int64_t offset,
                            const struct iov *iov);
/* What was written before survives the end of this process from now on. */
int co_backend_write_back(struct backend *b);

/* What werror and rerror say to do now about errnum (positive). */
enum block_error_action backend_error_action(const struct backend *b,
                                             bool is_read, int errnum);
/* Carries that out as far as the block layer goes: io_status, BLOCK_IO_ERROR,
 * and for STOP the listener's stop_request. */
void backend_report_error(struct backend *b, enum block_error_action action,
                          bool is_read, int errnum);
void backend_reset_io_status(struct backend *b);

#endif
