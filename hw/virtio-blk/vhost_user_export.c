/*
 * The vhost-user-blk export: from its options to a server.
 *
 * Runs on the graph's loop.
 */
#include <limits.h>

#include "block/backend.h"
#include "block/export.h"
#include "hw/vhost_user_blk.h"
#include "util/error.h"
#include "util/range.h"

#define MIN_BLOCK      512
#define MAX_BLOCK      (2 << 20)
/* As large as the specification of the ring allows here; front-ends choose. */
#define MAX_QUEUE_SIZE 1024

static bool check_block_size(const char *id, uint64_t size, GError **error)
{
    if (size < MIN_BLOCK || size > MAX_BLOCK) {
        return error_set(error,
                         "Property %s.logical-block-size doesn't take value "
                         "%" G_GUINT64_FORMAT " (minimum: %d, maximum: %d)",
                         id, size, MIN_BLOCK, MAX_BLOCK);
    }
    return is_power_of_2(size) ||
           error_set(error,
                     "Property %s.logical-block-size doesn't take value "
                     "'%" G_GUINT64_FORMAT "', it's not a power of 2",
                     id, size);
}

static bool fill_props(struct virtio_blk_props *p, const struct export *e,
                       const struct block_export_options *options,
                       GError **error)
{
    const struct block_export_options_vhost_user_blk *o =
        &options->u.vhost_user_blk;

    if (o->has_num_queues && !o->num_queues) {
        return error_set(error, "num-queues must be greater than 0");
    }
    /* 0 is the default, as for a device. */
    if (o->has_logical_block_size && o->logical_block_size &&
        !check_block_size(e->id, o->logical_block_size, error)) {
        return false;
    }
    if (o->has_queue_size && o->queue_size < 4) {
        return error_set(error, "queue-size must be at least 4");
    }
    *p = (struct virtio_blk_props){
        .serial = o->serial,
        .num_queues = o->has_num_queues ? o->num_queues : 1,
        .queue_size = o->has_queue_size ? o->queue_size : MAX_QUEUE_SIZE,
        .logical_bytes = o->has_logical_block_size ? o->logical_block_size : 0,
        .no_write_cache = options->has_writethrough && options->writethrough,
        .packed = true,
        .share_rw = true,
        .exported = true,
    };
    p->seg_max = MIN(VHOST_USER_SEG_MAX, p->queue_size - 2);
    return true;
}

static enum blockdev_on_error policy(bool given, enum blockdev_on_error value)
{
    return given && value != BLOCKDEV_ON_ERROR_AUTO ? value
                                                    : BLOCKDEV_ON_ERROR_REPORT;
}

static bool parse_address(const struct socket_address *a,
                          struct vhost_user_address *out, GError **error)
{
    int64_t number;

    *out = (struct vhost_user_address){.fd = -1};
    switch (a->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        out->path = a->u.unix_.path;
        out->abstract = a->u.unix_.has_abstract && a->u.unix_.abstract;
        return true;
    case SOCKET_ADDRESS_TYPE_FD:
        if (!g_ascii_string_to_signed(a->u.fd.str, 10, 0, INT_MAX, &number,
                                      NULL)) {
            return error_set(error, "'%s' is no number of a file descriptor",
                             a->u.fd.str);
        }
        out->fd = number;
        return true;
    default:
        return error_set(error, "Only socket address types 'unix' and 'fd' "
                                "are supported");
    }
}

static void *co_open(struct export *e,
                     const struct block_export_options *options, GError **error)
{
    const struct block_export_options_vhost_user_blk *o =
        &options->u.vhost_user_blk;
    struct virtio_blk_props props;
    struct vhost_user_address address;

    if (!fill_props(&props, e, options, error) ||
        !parse_address(o->addr, &address, error)) {
        return NULL;
    }
    e->backend->on_write_error = policy(o->has_werror, o->werror);
    e->backend->on_read_error = policy(o->has_rerror, o->rerror);
    return co_vhost_user_server_new(e->id, &props, e->backend, &address, error);
}

static bool busy(const void *state)
{
    return vhost_user_server_connected(state);
}

static void co_close(void *state)
{
    co_vhost_user_server_free(state);
}

const struct export_driver vhost_user_blk_export = {
    .type = BLOCK_EXPORT_TYPE_VHOST_USER_BLK,
    .co_open = co_open,
    .busy = busy,
    .co_close = co_close,
};
