/*
 * From a vhost-user connection to running queues, step by step.
 *
 * A step is one function of the table at the end; the first that fails ends the
 * connection. On a connection after the first the rings may hold requests, so
 * features, rings and the in-flight region are those of before: a back-end that
 * cannot go on with them is none that we can use. Runs on the guest's loop.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hw/virtio-blk/guest_vhost.h"
#include "util/error.h"
#include "util/range.h"

#define BIT(name)      VIRTIO_BIT(name)
#define PROTOCOL(name) VIRTIO_BIT(VHOST_USER_PROTOCOL_F_##name)

/* What this driver can do with a device. */
#define FEATURES                                                    \
    (BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) |       \
     BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) |            \
     BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_TOPOLOGY) |         \
     BIT(VIRTIO_BLK_F_MQ) | BIT(VIRTIO_BLK_F_DISCARD) |             \
     BIT(VIRTIO_BLK_F_WRITE_ZEROES) | BIT(VIRTIO_F_INDIRECT_DESC) | \
     BIT(VIRTIO_F_EVENT_IDX) | BIT(VIRTIO_F_VERSION_1) |            \
     BIT(VHOST_USER_F_PROTOCOL_FEATURES))
#define PROTOCOL_FEATURES                                         \
    (PROTOCOL(MQ) | PROTOCOL(REPLY_ACK) | PROTOCOL(BACKEND_REQ) | \
     PROTOCOL(CONFIG) | PROTOCOL(INFLIGHT_SHMFD) |                \
     PROTOCOL(CONFIGURE_MEM_SLOTS) | PROTOCOL(STATUS))

#define MAX_LOGICAL_BYTES (1 << 20)

static bool negotiated(const struct guest_vhost *v, uint64_t protocol_feature)
{
    return v->protocol_features & protocol_feature;
}

/* ---- steps ---- */

static bool co_features(struct guest_vhost *v, bool again, GError **error)
{
    uint64_t offered;

    if (!co_guest_vhost_get(v, VHOST_USER_GET_FEATURES, &offered, 0,
                            sizeof(offered), NULL, error)) {
        return false;
    }
    uint64_t known = FEATURES | (v->opt.packed ? BIT(VIRTIO_F_RING_PACKED) : 0);
    uint64_t take = offered & known & ~v->opt.without;

    if (!(take & BIT(VIRTIO_F_VERSION_1)) ||
        !(take & BIT(VHOST_USER_F_PROTOCOL_FEATURES))) {
        return error_set(error,
                         "the back-end offers features 0x%" PRIx64 ", but not "
                         "VERSION_1 and PROTOCOL_FEATURES",
                         offered);
    }
    if (again && v->g.features & ~take) {
        return error_set(error,
                         "the back-end does not offer features 0x%" PRIx64
                         " any more",
                         v->g.features & ~take);
    }
    if (!again) {
        v->g.features = take;
    }
    return true;
}

static bool co_protocol_features(struct guest_vhost *v, bool again,
                                 GError **error)
{
    uint64_t offered;

    v->protocol_features = 0; /* no acknowledgements yet */
    if (!co_guest_vhost_get(v, VHOST_USER_GET_PROTOCOL_FEATURES, &offered, 0,
                            sizeof(offered), NULL, error)) {
        return false;
    }
    uint64_t take = offered & PROTOCOL_FEATURES & ~v->opt.without_protocol;

    if (!(take & PROTOCOL(CONFIG))) {
        return error_set(error, "the back-end does not tell a configuration");
    }
    if (again && v->inflight_fd >= 0 && !(take & PROTOCOL(INFLIGHT_SHMFD))) {
        return error_set(error, "the back-end does not take over requests in "
                                "flight any more");
    }
    if (!co_guest_vhost_set_u64(v, VHOST_USER_SET_PROTOCOL_FEATURES, take, -1,
                                error)) {
        return false;
    }
    v->protocol_features = take;
    return true;
}

static bool co_own(struct guest_vhost *v, bool again, GError **error)
{
    uint64_t queues = 1;

    if (!co_guest_vhost_set(v, VHOST_USER_SET_OWNER, NULL, 0, -1, error)) {
        return false;
    }
    if (negotiated(v, PROTOCOL(MQ)) &&
        !co_guest_vhost_get(v, VHOST_USER_GET_QUEUE_NUM, &queues, 0,
                            sizeof(queues), NULL, error)) {
        return false;
    }
    if (queues < v->g.num_queues) {
        return error_set(error, "the back-end has %" PRIu64 " queues, not %u",
                         queues, v->g.num_queues);
    }
    return co_guest_vhost_set_u64(v, VHOST_USER_SET_FEATURES, v->g.features, -1,
                                  error);
}

static bool check_config(const struct guest_vhost *v,
                         const struct virtio_blk_config *c, GError **error)
{
    uint64_t f = v->g.features;
    uint32_t block = f & BIT(VIRTIO_BLK_F_BLK_SIZE) ? le32toh(c->blk_size)
                                                    : VIRTIO_BLK_SECTOR_BYTES;

    if (le64toh(c->capacity) > INT64_MAX >> VIRTIO_BLK_SECTOR_BITS) {
        return error_set(error, "GET_CONFIG: a capacity of %" PRIu64 " sectors",
                         le64toh(c->capacity));
    }
    if (!is_power_of_2(block) || block < VIRTIO_BLK_SECTOR_BYTES ||
        block > MAX_LOGICAL_BYTES) {
        return error_set(error, "GET_CONFIG: blocks of %u bytes", block);
    }
    if (f & BIT(VIRTIO_BLK_F_SEG_MAX) && !c->seg_max) {
        return error_set(error, "GET_CONFIG: requests of no segment");
    }
    if (f & BIT(VIRTIO_BLK_F_SIZE_MAX) && c->size_max &&
        le32toh(c->size_max) < block) {
        return error_set(error, "GET_CONFIG: segments of %u bytes",
                         le32toh(c->size_max));
    }
    return true;
}

bool co_guest_vhost_read_config(struct guest_vhost *v, GError **error)
{
    struct vhost_user_config p = {.size = sizeof(v->config)};
    uint32_t bytes = offsetof(struct vhost_user_config, data) + p.size;

    if (!co_guest_vhost_get(v, VHOST_USER_GET_CONFIG, &p, bytes, bytes, NULL,
                            error)) {
        return false;
    }
    struct virtio_blk_config *c = (struct virtio_blk_config *)p.data;

    if (!check_config(v, c, error)) {
        return false;
    }
    v->config = *c;
    guest_take_config(&v->g, c);
    return true;
}

static bool co_config(struct guest_vhost *v, bool again, GError **error)
{
    return co_guest_vhost_read_config(v, error);
}

static bool co_channel(struct guest_vhost *v, bool again, GError **error)
{
    int pair[2];

    if (!negotiated(v, PROTOCOL(BACKEND_REQ))) {
        return true;
    }
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
                   pair) < 0) {
        return error_set_errno(error, errno, "Could not make a socket");
    }
    bool ok = co_guest_vhost_set(v, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0,
                                 pair[1], error);

    close(pair[1]);
    v->channel = pair[0];
    return ok;
}

static bool co_get_inflight(struct guest_vhost *v, GError **error)
{
    v->inflight = (struct vhost_user_inflight_area){
        .num_queues = v->g.num_queues, .queue_size = v->opt.queue_size};
    if (!co_guest_vhost_get(v, VHOST_USER_GET_INFLIGHT_FD, &v->inflight,
                            sizeof(v->inflight), sizeof(v->inflight),
                            &v->inflight_fd, error)) {
        return false;
    }
    /* Some back-ends answer with another count of queues. */
    v->inflight.num_queues = v->g.num_queues;
    v->inflight.queue_size = v->opt.queue_size;
    return v->inflight_fd >= 0 ||
           error_set(error, "GET_INFLIGHT_FD: the answer has no descriptor");
}

static bool co_inflight(struct guest_vhost *v, bool again, GError **error)
{
    if (!negotiated(v, PROTOCOL(INFLIGHT_SHMFD))) {
        return true;
    }
    if (v->inflight_fd < 0 && !co_get_inflight(v, error)) {
        return false;
    }
    return co_guest_vhost_set(v, VHOST_USER_SET_INFLIGHT_FD, &v->inflight,
                              sizeof(v->inflight), v->inflight_fd, error);
}

static bool co_memory(struct guest_vhost *v, bool again, GError **error)
{
    struct vhost_user_region region = {
        .gpa = GUEST_RAM_BASE,
        .bytes = v->g.ram_bytes,
        .user = (uintptr_t)v->g.ram,
    };
    struct vhost_user_mem_table table = {.count = 1, .regions = {region}};
    struct vhost_user_mem_region one = {.region = region};

    if (!negotiated(v, PROTOCOL(CONFIGURE_MEM_SLOTS))) {
        return co_guest_vhost_set(
            v, VHOST_USER_SET_MEM_TABLE, &table,
            offsetof(struct vhost_user_mem_table, regions[1]), v->g.ram_fd,
            error);
    }
    return co_guest_vhost_set(v, VHOST_USER_ADD_MEM_REG, &one, sizeof(one),
                              v->g.ram_fd, error);
}

/* 2.1: the driver's steps, for a back-end that wants to see them. */
static bool co_status(struct guest_vhost *v, uint8_t more, GError **error)
{
    uint64_t status = VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                      VIRTIO_STATUS_FEATURES_OK | more;

    if (!negotiated(v, PROTOCOL(STATUS))) {
        return true;
    }
    return co_guest_vhost_set_u64(v, VHOST_USER_SET_STATUS, status, -1, error);
}

static bool co_begin_status(struct guest_vhost *v, bool again, GError **error)
{
    uint64_t status = VIRTIO_STATUS_FEATURES_OK;

    if (!co_status(v, 0, error) ||
        (negotiated(v, PROTOCOL(STATUS)) &&
         !co_guest_vhost_get(v, VHOST_USER_GET_STATUS, &status, 0,
                             sizeof(status), NULL, error))) {
        return false;
    }
    return status & VIRTIO_STATUS_FEATURES_OK ||
           error_set(error, "the back-end refused features 0x%" PRIx64,
                     v->g.features);
}

static bool co_start_queue(struct guest_vhost *v, unsigned i, GError **error)
{
    const struct guest_queue *q = &v->g.queues[i];
    uint64_t to_user = (uintptr_t)v->g.ram - GUEST_RAM_BASE;
    struct vhost_user_vring_addr addr = {
        .index = i,
        .desc = q->desc_gpa + to_user,
        .used = q->used_gpa + to_user,
        .avail = q->avail_gpa + to_user,
    };

    return co_guest_vhost_set_state(v, VHOST_USER_SET_VRING_NUM, i, q->size,
                                    error) &&
           co_guest_vhost_set_state(v, VHOST_USER_SET_VRING_BASE, i,
                                    guest_queue_base(q), error) &&
           co_guest_vhost_set(v, VHOST_USER_SET_VRING_ADDR, &addr, sizeof(addr),
                              -1, error) &&
           co_guest_vhost_set_u64(v, VHOST_USER_SET_VRING_ERR, i, v->err,
                                  error) &&
           co_guest_vhost_set_u64(v, VHOST_USER_SET_VRING_CALL, i, v->call[i],
                                  error) &&
           co_guest_vhost_set_u64(v, VHOST_USER_SET_VRING_KICK, i, v->kick[i],
                                  error) &&
           co_guest_vhost_set_state(v, VHOST_USER_SET_VRING_ENABLE, i, 1,
                                    error);
}

static bool co_queues(struct guest_vhost *v, bool again, GError **error)
{
    if (!again) {
        guest_lay_out(&v->g, v->opt.queue_size);
    }
    for (unsigned i = 0; i < v->g.num_queues; i++) {
        if (again && v->inflight_fd < 0) {
            guest_queue_renew(&v->g.queues[i]);
        }
        if (!co_start_queue(v, i, error)) {
            return false;
        }
    }
    return true;
}

static bool co_driver_ok(struct guest_vhost *v, bool again, GError **error)
{
    return co_status(v, VIRTIO_STATUS_DRIVER_OK, error);
}

typedef bool co_step_fn(struct guest_vhost *v, bool again, GError **error);

static co_step_fn *const steps[] = {
    co_features, co_protocol_features, co_own,    co_config,
    co_channel,  co_inflight,          co_memory, co_begin_status,
    co_queues,   co_driver_ok,
};

bool co_guest_vhost_set_up(struct guest_vhost *v, bool again, GError **error)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        if (!steps[i](v, again, error)) {
            return false;
        }
    }
    return true;
}

bool co_guest_vhost_stop(struct guest_vhost *v, GError **error)
{
    for (unsigned i = 0; i < v->g.num_queues; i++) {
        const struct guest_queue *q = &v->g.queues[i];
        struct vhost_user_vring_state state = {.index = i};

        if (!co_guest_vhost_get(v, VHOST_USER_GET_VRING_BASE, &state,
                                sizeof(state), sizeof(state), NULL, error)) {
            return false;
        }
        if (state.index != i ||
            (!q->in_flight && (uint16_t)state.num != q->avail_idx)) {
            return error_set(error,
                             "GET_VRING_BASE: queue %u stopped at %u, though "
                             "it was at %u with %u requests in flight",
                             state.index, state.num, q->avail_idx,
                             q->in_flight);
        }
    }
    return true;
}
