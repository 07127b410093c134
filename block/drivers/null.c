/*
 * null-co and null-aio: a disk of any size without storage.
 *
 * Writes vanish. Reads leave the buffer as it is, or give zeroes with
 * read-zeroes; latency-ns delays every request. null-co answers at once,
 * null-aio in a later pass of the loop, as a device that interrupts would. For
 * measuring and testing what lies above.
 */
#include <errno.h>
#include <inttypes.h>

#include "aio/timer.h"
#include "block/driver.h"
#include "block/node.h"
#include "util/error.h"

#define DEFAULT_SIZE (INT64_C(1) << 30)

struct null_state {
    int64_t latency_ns;
    bool read_zeroes;
    bool later; /* null-aio */
};

static bool null_open(struct node *node, const struct blockdev_options_null *o,
                      GError **error)
{
    struct null_state *s = node->state;
    node->length = o->has_size ? o->size : DEFAULT_SIZE;
    if (node->length < 0 || node->length > BLOCK_MAX_LENGTH) {
        return error_set(error, "Invalid size %" PRId64 " of a %s node",
                         node->length, node->driver->name);
    }
    if (o->has_latency_ns && o->latency_ns > INT64_MAX) {
        return error_set(error, "latency-ns is invalid");
    }
    s->latency_ns = o->has_latency_ns ? (int64_t)o->latency_ns : 0;
    s->read_zeroes = o->has_read_zeroes && o->read_zeroes;
    return true;
}

static bool co_null_open(struct node *node,
                         const struct blockdev_options *options, GError **error)
{
    return null_open(node, &options->u.null_co, error);
}

static bool co_null_aio_open(struct node *node,
                             const struct blockdev_options *options,
                             GError **error)
{
    struct null_state *s = node->state;

    s->later = true;
    return null_open(node, &options->u.null_aio, error);
}

static inline int co_null_delay(const struct node *node)
{
    const struct null_state *s = node->state;
    if (G_UNLIKELY(s->latency_ns)) {
        co_sleep_ns(s->latency_ns);
    } else if (s->later) {
        co_pause();
    }
    return 0;
}

static int co_null_preadv(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    const struct null_state *s = node->state;
    if (s->read_zeroes) {
        iov_set(iov, 0, 0, bytes);
    }
    return co_null_delay(node);
}

static int co_null_pwritev(struct node *node, int64_t offset, int64_t bytes,
                           const struct iov *iov, unsigned flags)
{
    return co_null_delay(node);
}

static int co_null_pwrite_zeroes(struct node *node, int64_t offset,
                                 int64_t bytes, unsigned flags)
{
    return co_null_delay(node);
}

static int co_null_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    return co_null_delay(node);
}

static int co_null_flush(struct node *node)
{
    return co_null_delay(node);
}

static int co_null_block_status(struct node *node, bool want_zero,
                                int64_t offset, int64_t bytes,
                                struct block_status *status)
{
    const struct null_state *s = node->state;
    *status = (struct block_status){
        .flags = BLOCK_ALLOCATED | BLOCK_OFFSET_VALID |
                 (s->read_zeroes ? BLOCK_ZERO : 0),
        .bytes = bytes,
        .map = offset,
        .file = node,
    };
    return 0;
}

static int64_t co_null_allocated_size(struct node *node)
{
    return 0;
}

static const char *const null_strong_options[] = {"size", "read-zeroes", NULL};

static void null_name(struct node *node, const struct blockdev_options_null *o)
{
    g_free(node->filename);
    node->filename = o->has_size || o->has_read_zeroes
                         ? node_json_filename(node)
                         : g_strdup_printf("%s://", node->driver->name);
}

static void null_refresh_filename(struct node *node)
{
    null_name(node, &node->options->u.null_co);
}

static void null_aio_refresh_filename(struct node *node)
{
    null_name(node, &node->options->u.null_aio);
}

static const struct reopen_ops null_reopen_ops = {0};

/* clang-format off */
#define NULL_DRIVER \
    .kind = DRIVER_PROTOCOL, \
    .state_size = sizeof(struct null_state), \
    .writes_fua = true, \
    .zeroes_unmap = true, \
    .reopen = &null_reopen_ops, \
    .co_preadv = co_null_preadv, \
    .co_pwritev = co_null_pwritev, \
    .co_pwrite_zeroes = co_null_pwrite_zeroes, \
    .co_pdiscard = co_null_pdiscard, \
    .co_flush = co_null_flush, \
    .co_block_status = co_null_block_status, \
    .co_allocated_size = co_null_allocated_size, \
    .strong_options = null_strong_options
/* clang-format on */

const struct block_driver driver_null_co = {
    .name = "null-co",
    .co_open = co_null_open,
    .refresh_filename = null_refresh_filename,
    NULL_DRIVER,
};

const struct block_driver driver_null_aio = {
    .name = "null-aio",
    .co_open = co_null_aio_open,
    .refresh_filename = null_aio_refresh_filename,
    NULL_DRIVER,
};
