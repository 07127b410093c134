/*
 * Backends: the way of devices, exports and commands to a root node.
 *
 * A request checks its range and rights, is counted, and goes down the graph.
 * While the backend is drained, new requests wait in order of arrival in
 * b->held, not yet counted as in flight; each checks again when it goes on,
 * since the node may be another one by then.
 *
 * b->node follows the root edge (see root_moved), so that the request path
 * need not look at the edge. On the graph's loop only.
 */
#include "block/backend.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "aio/directory.h"
#include "aio/loop.h"
#include "aio/throttle.h"
#include "block/backend_int.h"
#include "block/graph_int.h"
#include "block/node_int.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

/* ---- the root edge ---- */

static char *root_describe(const struct edge *edge)
{
    const struct backend *b = edge->opaque;
    if (b->name) {
        return g_strdup_printf("block device '%s'", b->name);
    }
    return b->device_id ? g_strdup_printf("block device '%s'", b->device_id)
                        : g_strdup("an unnamed block device");
}

static void root_drained_begin(struct edge *edge)
{
    struct backend *b = edge->opaque;
    if (b->quiesced++) {
        return;
    }
    if (b->throttle) {
        throttle_bypass_begin(b->throttle);
    }
    if (b->device_ops && b->device_ops->drained_begin) {
        b->device_ops->drained_begin(b->device);
    }
}

static bool root_drained_poll(struct edge *edge)
{
    const struct backend *b = edge->opaque;
    return b->in_flight > 0;
}

static void root_drained_end(struct edge *edge)
{
    struct backend *b = edge->opaque;
    assert(b->quiesced > 0);
    if (--b->quiesced == 0) {
        if (b->throttle) {
            throttle_bypass_end(b->throttle);
        }
        co_queue_wake_all(&b->held);
        if (b->device_ops && b->device_ops->drained_end) {
            b->device_ops->drained_end(b->device);
        }
    }
}

static void root_resized(struct edge *edge)
{
    struct backend *b = edge->opaque;
    if (b->device_ops && b->device_ops->resized) {
        b->device_ops->resized(b->device);
    }
}

static void root_moved(struct edge *edge)
{
    struct backend *b = edge->opaque;
    b->node = edge->child;
}

const struct root_ops backend_root_ops = {
    .describe = root_describe,
    .drained_begin = root_drained_begin,
    .drained_poll = root_drained_poll,
    .drained_end = root_drained_end,
    .resized = root_resized,
    .moved = root_moved,
    .move = &backend_move_ops,
};

/* ---- life ---- */

static struct backend *find(const char *name)
{
    struct backend *b;
    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (b->name && !strcmp(b->name, name)) {
            return b;
        }
    }
    return NULL;
}

static bool check_name(const char *name, GError **error)
{
    if (!block_id_wellformed(name)) {
        return error_set(error, "Invalid device name");
    }
    if (directory_find(DIRECTORY_BACKEND, name, NULL)) {
        return error_set(error, "Device with id '%s' already exists", name);
    }
    if (directory_find(DIRECTORY_NODE, name, NULL)) {
        return error_set(error,
                         "Device name '%s' conflicts with an existing node "
                         "name",
                         name);
    }
    return true;
}

static void set_rights(struct backend *b, unsigned perm)
{
    b->read_only = !(perm & (PERM_WRITE | PERM_WRITE_UNCHANGED));
}

struct backend *co_backend_new(const char *name, struct node *node,
                               unsigned perm, unsigned shared, GError **error)
{
    struct graph *graph = graph_current();
    if (name && !check_name(name, error)) {
        return NULL;
    }
    struct backend *b = g_new0(struct backend, 1);
    b->name = g_strdup(name);
    b->graph = graph;
    b->serial = directory_number();
    b->refs = 1;
    b->write_cache = true;
    b->on_write_error = BLOCKDEV_ON_ERROR_AUTO;
    b->on_read_error = BLOCKDEV_ON_ERROR_AUTO;
    set_rights(b, perm);
    TAILQ_INSERT_TAIL(&graph->backends, b, link);
    if (name) {
        directory_add(DIRECTORY_BACKEND, name);
    }
    if (node) {
        b->root = co_graph_attach_root(node, "root", &backend_root_ops, b, perm,
                                       shared, error);
        if (!b->root) {
            co_backend_unref(b);
            return NULL;
        }
    }
    return b;
}

struct backend *backend_ref(struct backend *b)
{
    assert(b->refs > 0 && b->refs < UINT_MAX);
    b->refs++;
    return b;
}

void co_backend_unref(struct backend *b)
{
    assert(b->graph == graph_current());
    assert(b->refs > 0);
    if (--b->refs) {
        return;
    }
    assert(!b->device);
    TAILQ_REMOVE(&b->graph->backends, b, link);
    if (b->name) {
        directory_remove(DIRECTORY_BACKEND, b->name);
    }
    if (b->root) {
        /* Only for its own requests: a job that gives its backend up must not
         * wait for itself. */
        if (b->quiesced++ == 0 && b->throttle) {
            throttle_bypass_begin(b->throttle);
        }
        while (b->in_flight) {
            co_queue_wait(&b->graph->drain_waiters);
        }
        co_graph_detach(b->root);
    }
    assert(co_queue_empty(&b->held));
    g_clear_pointer(&b->throttle, throttle_leave);
    g_free(b->name);
    g_free(b->device_id);
    g_free(b);
}

struct backend *backend_find(const char *name, GError **error)
{
    struct backend *b = find(name);
    if (!b) {
        error_set_class(error, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                        name);
    }
    return b;
}

bool backend_attach_device(struct backend *b, const char *device_id,
                           const struct backend_device_ops *ops, void *device,
                           GError **error)
{
    if (b->device) {
        return error_set(error,
                         "Drive '%s' is already in use by another device",
                         b->name   ? b->name
                         : b->node ? b->node->name
                                   : "");
    }
    if (device_id && !directory_add(DIRECTORY_DEVICE, device_id)) {
        return error_set(error, "Duplicate device ID '%s'", device_id);
    }
    b->device = device;
    b->device_ops = ops;
    b->device_id = g_strdup(device_id);
    b->io_status_enabled = true;
    b->io_status = BLOCK_DEVICE_IO_STATUS_OK;
    if (b->quiesced && ops && ops->drained_begin) {
        ops->drained_begin(device);
    }
    return true;
}

void backend_detach_device(struct backend *b)
{
    assert(b->device);
    b->device = NULL;
    b->device_ops = NULL;
    if (b->device_id) {
        directory_remove(DIRECTORY_DEVICE, b->device_id);
    }
    g_clear_pointer(&b->device_id, g_free);
    b->io_status_enabled = false;
}

bool co_backend_set_perm(struct backend *b, unsigned perm, unsigned shared,
                         GError **error)
{
    if (b->root && !co_graph_set_perm(b->root, perm, shared, error)) {
        return false;
    }
    set_rights(b, perm);
    return true;
}

int64_t backend_length(const struct backend *b)
{
    return b->node ? b->node->length : 0;
}

/* ---- requests ---- */

static int check(const struct backend *b, int64_t offset, int64_t bytes,
                 bool is_write)
{
    if (G_UNLIKELY(!b->node)) {
        return -ENOMEDIUM;
    }
    if (G_UNLIKELY(is_write && b->read_only)) {
        return -EACCES;
    }
    if (G_UNLIKELY(!range_within(offset, bytes, b->node->length))) {
        return -EIO;
    }
    return 0;
}

/* Reading the clock costs more than all else here, so requests of one round of
 * the loop share a reading: one starts when the round began or when the one
 * before it ended. */
static inline int64_t start_ns(const struct backend *b)
{
    return max_i64(loop_stamp_ns(b->graph->loop), b->graph->last_ns);
}

/* Only a request that ends in the round in which it started needs a reading of
 * its own. */
static inline int64_t end_ns(struct backend *b, int64_t start)
{
    int64_t stamp = loop_stamp_ns(b->graph->loop);
    if (stamp > start) {
        return stamp;
    }
    return b->graph->last_ns = loop_now_ns(b->graph->loop);
}

/* 0, and the request is in flight; or why it cannot start. */
static inline int co_enter_request(struct backend *b, enum acct_op op,
                                   int64_t offset, int64_t bytes, bool is_write)
{
    while (G_UNLIKELY(b->quiesced)) {
        co_queue_wait(&b->held);
    }
    int ret = check(b, offset, bytes, is_write);
    if (G_UNLIKELY(ret < 0)) {
        b->acct[op].invalid++;
        return ret;
    }
    b->in_flight++;
    return 0;
}

static inline void co_limit(struct backend *b, int64_t bytes,
                            enum throttle_direction direction)
{
    if (G_UNLIKELY(b->throttle)) {
        co_throttle(b->throttle, bytes, direction);
    }
}

static inline int leave_request(struct backend *b, enum acct_op op,
                                int64_t bytes, int64_t start, int ret)
{
    struct acct_stats *a = &b->acct[op];
    a->total_ns += (uint64_t)(end_ns(b, start) - start);
    if (G_LIKELY(ret == 0)) {
        a->ops++;
        a->bytes += (uint64_t)bytes;
    } else {
        a->failed++;
    }
    b->in_flight--;
    if (G_UNLIKELY(b->quiesced) && !b->in_flight) {
        graph_drain_kick(b->graph);
    }
    return ret;
}

static inline void note_written(struct backend *b, int64_t end, int ret)
{
    if (ret == 0 && (uint64_t)end > b->wr_highest_offset) {
        b->wr_highest_offset = (uint64_t)end;
    }
}

static inline unsigned write_flags(const struct backend *b, unsigned flags)
{
    return G_LIKELY(b->write_cache) ? flags : flags | REQ_FUA;
}

int co_backend_preadv(struct backend *b, int64_t offset, const struct iov *iov,
                      unsigned flags)
{
    int64_t bytes = (int64_t)iov->bytes;
    int ret = co_enter_request(b, ACCT_READ, offset, bytes, false);
    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    int64_t start = start_ns(b);
    co_limit(b, bytes, THROTTLE_READ);
    ret = co_node_preadv(b->node, offset, iov, flags);
    return leave_request(b, ACCT_READ, bytes, start, ret);
}

int co_backend_pwritev(struct backend *b, int64_t offset, const struct iov *iov,
                       unsigned flags)
{
    int64_t bytes = (int64_t)iov->bytes;
    int ret = co_enter_request(b, ACCT_WRITE, offset, bytes, true);
    if (G_UNLIKELY(ret < 0)) {
        return ret;
    }
    int64_t start = start_ns(b);
    co_limit(b, bytes, THROTTLE_WRITE);
    ret = co_node_pwritev(b->node, offset, iov, write_flags(b, flags));
    note_written(b, offset + bytes, ret);
    return leave_request(b, ACCT_WRITE, bytes, start, ret);
}

int co_backend_pwrite_zeroes(struct backend *b, int64_t offset, int64_t bytes,
                             unsigned flags)
{
    int ret = co_enter_request(b, ACCT_WRITE, offset, bytes, true);
    if (ret < 0) {
        return ret;
    }
    int64_t start = start_ns(b);
    co_limit(b, bytes, THROTTLE_WRITE);
    ret = co_node_pwrite_zeroes_at_root(b->node, offset, bytes,
                                        write_flags(b, flags));
    note_written(b, offset + bytes, ret);
    return leave_request(b, ACCT_WRITE, bytes, start, ret);
}

int co_backend_pdiscard(struct backend *b, int64_t offset, int64_t bytes)
{
    int ret = co_enter_request(b, ACCT_UNMAP, offset, bytes, true);
    if (ret < 0) {
        return ret;
    }
    int64_t start = start_ns(b);
    ret = co_node_pdiscard(b->node, offset, bytes);
    return leave_request(b, ACCT_UNMAP, bytes, start, ret);
}

/* Requests beside the disk: not counted, but held back like all others. */
static int co_enter_uncounted(struct backend *b)
{
    while (G_UNLIKELY(b->quiesced)) {
        co_queue_wait(&b->held);
    }
    if (!b->node) {
        return -ENOMEDIUM;
    }
    b->in_flight++;
    return 0;
}

static int leave_uncounted(struct backend *b, int ret)
{
    b->in_flight--;
    if (G_UNLIKELY(b->quiesced) && !b->in_flight) {
        graph_drain_kick(b->graph);
    }
    return ret;
}

int co_backend_write_back(struct backend *b)
{
    int ret = co_enter_uncounted(b);

    return ret < 0 ? ret : leave_uncounted(b, co_node_write_back(b->node));
}

int co_backend_load_vmstate(struct backend *b, int64_t offset,
                            const struct iov *iov)
{
    int ret = co_enter_uncounted(b);

    return ret < 0
               ? ret
               : leave_uncounted(b, co_node_load_vmstate(b->node, offset, iov));
}

int co_backend_save_vmstate(struct backend *b, int64_t offset,
                            const struct iov *iov)
{
    int ret = b->read_only ? -EACCES : co_enter_uncounted(b);

    if (ret < 0) {
        return ret;
    }
    ret = co_node_save_vmstate(b->node, offset, iov);
    if (ret == 0 && !b->write_cache) {
        ret = co_node_flush(b->node);
    }
    return leave_uncounted(b, ret);
}

int co_backend_flush(struct backend *b)
{
    int ret = co_enter_request(b, ACCT_FLUSH, 0, 0, false);
    if (ret < 0) {
        return ret;
    }
    int64_t start = start_ns(b);
    ret = co_node_flush(b->node);
    return leave_request(b, ACCT_FLUSH, 0, start, ret);
}
