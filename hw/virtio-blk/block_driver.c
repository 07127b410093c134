/*
 * virtio-blk-vhost-user: a disk behind a vhost-user-blk socket.
 *
 * The node is a guest (guest_vhost.c) that copies between the caller's memory
 * and its own, which the back-end maps. Limits and length are what the device
 * says; a length that changes is passed on. A back-end that goes away takes its
 * requests with it, unless reconnect-delay lets them wait for the next one. On
 * the node's loop.
 */
#include <errno.h>

#include "block/driver.h"
#include "block/node.h"
#include "block/request.h"
#include "hw/guest.h"
#include "hw/guest_vhost.h"
#include "util/error.h"
#include "util/range.h"

#define SECTOR      BLOCK_SECTOR_SIZE
#define MAX_SEGMENT (INT64_C(1) << 40) /* a limit that is none */
#define MAX_ALIGN   (1 << 20)

struct vhost_state {
    struct guest *guest;
};

static void co_resized(void *opaque)
{
    co_node_refresh_length(opaque);
}

/* A limit in sectors, as one in bytes of whole blocks. */
static int64_t whole_blocks(uint32_t sectors, uint32_t block)
{
    return align_down(min_i64((int64_t)sectors * SECTOR, MAX_SEGMENT), block);
}

static void refresh_limits(struct node *node)
{
    const struct vhost_state *s = node->state;
    struct block_limits *l = &node->limits;
    struct guest_vhost_info info;

    guest_vhost_query(s->guest, &info);
    int64_t align = (int64_t)info.discard_alignment * SECTOR;

    *l = (struct block_limits){
        .request_alignment = info.logical_bytes,
        .max_transfer = info.max_transfer,
        .opt_transfer = info.opt_io_bytes,
        .max_pdiscard = whole_blocks(info.max_discard, info.logical_bytes),
        .max_pwrite_zeroes = whole_blocks(info.max_zeroes, info.logical_bytes),
    };
    if (is_power_of_2(align) && align <= MAX_ALIGN) {
        l->pdiscard_align = max_i64(align, info.logical_bytes);
    }
}

static bool check_writable(struct node *node, GError **error)
{
    const struct vhost_state *s = node->state;
    struct guest_vhost_info info;

    guest_vhost_query(s->guest, &info);
    if (!info.read_only || node->read_only) {
        return true;
    }
    if (!node->auto_read_only) {
        return error_set(error, "The disk is read-only");
    }
    node->read_only = true;
    return true;
}

static bool co_open(struct node *node, const struct blockdev_options *options,
                    GError **error)
{
    const struct blockdev_options_virtio_blk_vhost_user *o =
        &options->u.virtio_blk_vhost_user;
    struct vhost_state *s = node->state;
    struct guest_vhost_options opt = {
        .path = o->path,
        .co_resized = co_resized,
        .opaque = node,
    };

    if (o->has_reconnect_delay) {
        opt.reconnect_ns = o->reconnect_delay * INT64_C(1000000000);
    }
    s->guest = co_guest_connect(&opt, error);
    if (!s->guest) {
        return false;
    }
    if (!check_writable(node, error)) {
        co_guest_disconnect(s->guest);
        return false;
    }
    node->length = guest_disk_bytes(s->guest);
    refresh_limits(node);
    return true;
}

static void co_close(struct node *node)
{
    struct vhost_state *s = node->state;

    co_guest_disconnect(s->guest);
}

static int co_do(struct node *node, const struct guest_request *r)
{
    const struct vhost_state *s = node->state;
    struct guest_result result;

    co_guest_request(s->guest, r, &result);
    switch (result.status) {
    case GUEST_STATUS_OK:
        return 0;
    case GUEST_STATUS_UNSUPP:
        return -ENOTSUP;
    default:
        return -EIO;
    }
}

static int co_preadv(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags)
{
    return co_do(node, &(struct guest_request){.op = GUEST_OP_READ,
                                               .offset = offset,
                                               .bytes = bytes,
                                               .iov = iov});
}

static int co_pwritev(struct node *node, int64_t offset, int64_t bytes,
                      const struct iov *iov, unsigned flags)
{
    return co_do(node, &(struct guest_request){.op = GUEST_OP_WRITE,
                                               .offset = offset,
                                               .bytes = bytes,
                                               .iov = iov});
}

static int co_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                            unsigned flags)
{
    if (!node->limits.max_pwrite_zeroes) {
        return -ENOTSUP;
    }
    return co_do(node, &(struct guest_request){.op = GUEST_OP_WRITE_ZEROES,
                                               .offset = offset,
                                               .bytes = bytes,
                                               .unmap = flags & REQ_MAY_UNMAP});
}

static int co_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    if (!node->limits.max_pdiscard) {
        return -ENOTSUP;
    }
    return co_do(node, &(struct guest_request){.op = GUEST_OP_DISCARD,
                                               .offset = offset,
                                               .bytes = bytes});
}

static int co_flush(struct node *node)
{
    const struct vhost_state *s = node->state;

    if (!guest_has_write_cache(s->guest)) {
        return 0;
    }
    return co_do(node, &(struct guest_request){.op = GUEST_OP_FLUSH});
}

static int64_t co_getlength(struct node *node)
{
    const struct vhost_state *s = node->state;

    return guest_disk_bytes(s->guest);
}

static const char *const strong_options[] = {"path", NULL};

const struct block_driver driver_virtio_blk_vhost_user = {
    .name = "virtio-blk-vhost-user",
    .kind = DRIVER_PROTOCOL,
    .state_size = sizeof(struct vhost_state),
    .zeroes_unmap = true,
    .co_open = co_open,
    .co_close = co_close,
    .co_preadv = co_preadv,
    .co_pwritev = co_pwritev,
    .co_pwrite_zeroes = co_pwrite_zeroes,
    .co_pdiscard = co_pdiscard,
    .co_flush = co_flush,
    .co_getlength = co_getlength,
    .strong_options = strong_options,
    .refresh_limits = refresh_limits,
};
