/*
 * What each vhost-user message does: features, memory, configuration, status.
 *
 * One handler a message; those of rings are in vhost_user_vring.c. Runs on the
 * device's loop.
 */
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hw/virtio-blk/vhost_user_internal.h"
#include "util/error.h"

#define PROTOCOL_FEATURES                                    \
    (VIRTIO_BIT(VHOST_USER_PROTOCOL_F_MQ) |                  \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_LOG_SHMFD) |           \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK) |           \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_BACKEND_REQ) |         \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_CONFIG) |              \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) |      \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_RESET_DEVICE) |        \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS) | \
     VIRTIO_BIT(VHOST_USER_PROTOCOL_F_STATUS))

static bool answer_u64(struct vhost_user_message *m, uint64_t value,
                       uint32_t *reply)
{
    m->payload.u64 = value;
    *reply = sizeof(m->payload.u64);
    return true;
}

/* ---- features ---- */

static uint64_t offered(const struct vhost_user_session *s)
{
    return virtio_blk_offered(s->dev) |
           VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES) |
           VIRTIO_BIT(VHOST_F_LOG_ALL);
}

static bool on_get_features(struct vhost_user_session *s,
                            struct vhost_user_message *m, uint32_t *reply,
                            GError **error)
{
    return answer_u64(m, offered(s), reply);
}

static bool on_set_features(struct vhost_user_session *s,
                            struct vhost_user_message *m, uint32_t *reply,
                            GError **error)
{
    uint64_t features = m->payload.u64;

    if (features & ~offered(s)) {
        return error_set(error, "%s: features 0x%" PRIx64 " were not offered",
                         m->name, features & ~offered(s));
    }
    /* Logging begins and ends while the guest runs. */
    if (s->begun && (features ^ s->features) & ~VIRTIO_BIT(VHOST_F_LOG_ALL)) {
        return error_set(error, "%s: a queue is running", m->name);
    }
    if (!s->features_set &&
        !(features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES))) {
        for (unsigned i = 0; i < s->dev->num_queues; i++) {
            s->vrings[i].enabled = true;
        }
    }
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        /* A base of the other format makes no sense. */
        if ((features ^ s->features) & VIRTIO_BIT(VIRTIO_F_RING_PACKED)) {
            s->vrings[i].has_base = false;
        }
    }
    s->features = features;
    s->features_set = true;
    vhost_user_log_update(s);
    return true;
}

static bool on_get_protocol_features(struct vhost_user_session *s,
                                     struct vhost_user_message *m,
                                     uint32_t *reply, GError **error)
{
    return answer_u64(m, PROTOCOL_FEATURES, reply);
}

static bool on_set_protocol_features(struct vhost_user_session *s,
                                     struct vhost_user_message *m,
                                     uint32_t *reply, GError **error)
{
    if (m->payload.u64 & ~PROTOCOL_FEATURES) {
        return error_set(error, "%s: features 0x%" PRIx64 " were not offered",
                         m->name, m->payload.u64 & ~PROTOCOL_FEATURES);
    }
    s->protocol_features = m->payload.u64;
    return true;
}

static bool on_get_queue_num(struct vhost_user_session *s,
                             struct vhost_user_message *m, uint32_t *reply,
                             GError **error)
{
    return answer_u64(m, s->dev->num_queues, reply);
}

static bool on_nothing(struct vhost_user_session *s,
                       struct vhost_user_message *m, uint32_t *reply,
                       GError **error)
{
    return true;
}

/* ---- memory ---- */

/* A change that failed half-way ends the connection, and what runs with it. */
static bool memory_changed(struct vhost_user_session *s,
                           struct vhost_user_message *m, bool ok,
                           GError **error)
{
    ok = ok && vhost_user_relocate_rings(s, error);
    if (!ok && s->begun) {
        virtio_blk_break(s->dev, "guest memory has gone away");
    }
    virtio_blk_memory_end(s->dev);
    if (!ok) {
        g_prefix_error(error, "%s: ", m->name);
    }
    return ok;
}

static bool co_on_set_mem_table(struct vhost_user_session *s,
                                struct vhost_user_message *m, uint32_t *reply,
                                GError **error)
{
    const struct vhost_user_mem_table *t = &m->payload.table;

    co_virtio_blk_memory_begin(s->dev);
    return memory_changed(
        s, m,
        vhost_user_memory_set(&s->memory, t->regions, m->fds, t->count, error),
        error);
}

static bool co_on_add_mem_reg(struct vhost_user_session *s,
                              struct vhost_user_message *m, uint32_t *reply,
                              GError **error)
{
    co_virtio_blk_memory_begin(s->dev);
    return memory_changed(s, m,
                          vhost_user_memory_add(&s->memory,
                                                &m->payload.region.region,
                                                m->fds[0], error),
                          error);
}

static bool co_on_rem_mem_reg(struct vhost_user_session *s,
                              struct vhost_user_message *m, uint32_t *reply,
                              GError **error)
{
    co_virtio_blk_memory_begin(s->dev);
    return memory_changed(
        s, m,
        vhost_user_memory_remove(&s->memory, &m->payload.region.region, error),
        error);
}

static bool on_get_max_mem_slots(struct vhost_user_session *s,
                                 struct vhost_user_message *m, uint32_t *reply,
                                 GError **error)
{
    return answer_u64(m, VHOST_USER_MAX_REGIONS, reply);
}

/* ---- configuration and status ---- */

static bool on_get_config(struct vhost_user_session *s,
                          struct vhost_user_message *m, uint32_t *reply,
                          GError **error)
{
    struct vhost_user_config *c = &m->payload.config;

    virtio_blk_config_read(s->dev, c->offset, c->data, c->size);
    *reply = offsetof(struct vhost_user_config, data) + c->size;
    return true;
}

static bool on_set_config(struct vhost_user_session *s,
                          struct vhost_user_message *m, uint32_t *reply,
                          GError **error)
{
    const struct vhost_user_config *c = &m->payload.config;

    virtio_blk_ack(s->dev, s->features); /* matters while no queue runs */
    virtio_blk_config_write(s->dev, c->offset, c->data, c->size);
    return true;
}

static bool on_set_backend_req_fd(struct vhost_user_session *s,
                                  struct vhost_user_message *m, uint32_t *reply,
                                  GError **error)
{
    struct stat st;

    if (fstat(m->fds[0], &st) < 0 || !S_ISSOCK(st.st_mode)) {
        return error_set(error, "%s: the descriptor is no socket", m->name);
    }
    if (s->backend_channel >= 0) {
        loop_fd_set(s->dev->loop, s->backend_channel, NULL, NULL, NULL);
        close(s->backend_channel);
    }
    s->backend_channel = vhost_user_take_fd(m, 0);
    s->config_due = false;
    return true;
}

/* The device, or only what runs of it: front-ends write a status of 0 also when
 * they stop queues that will go on. */
static void co_reset(struct vhost_user_session *s, bool all)
{
    for (unsigned i = 0; i < s->dev->num_queues; i++) {
        if (all || virtio_blk_queue_started(s->dev, i)) {
            vhost_user_inflight_forget(s, i);
        }
        vhost_user_drop_kick(&s->vrings[i]);
        s->vrings[i].has_base = false;
        s->vrings[i].enabled =
            !(s->features & VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES));
    }
    if (s->begun) {
        co_virtio_blk_halt(s->dev);
        s->begun = false;
    }
    s->status = 0;
}

static bool co_on_reset_device(struct vhost_user_session *s,
                               struct vhost_user_message *m, uint32_t *reply,
                               GError **error)
{
    co_reset(s, true);
    return true;
}

static bool co_on_set_status(struct vhost_user_session *s,
                             struct vhost_user_message *m, uint32_t *reply,
                             GError **error)
{
    if (m->payload.u64 > UINT8_MAX) {
        return error_set(error, "%s: value 0x%" PRIx64, m->name,
                         m->payload.u64);
    }
    s->status = m->payload.u64;
    if (!s->status) {
        co_reset(s, false);
    }
    return true;
}

static bool on_get_status(struct vhost_user_session *s,
                          struct vhost_user_message *m, uint32_t *reply,
                          GError **error)
{
    return answer_u64(
        m, s->status | (s->dev->broken ? VIRTIO_STATUS_NEEDS_RESET : 0), reply);
}

/* ---- the table ---- */

static vhost_user_handler_fn *const handlers[] = {
    [VHOST_USER_GET_FEATURES] = on_get_features,
    [VHOST_USER_SET_FEATURES] = on_set_features,
    [VHOST_USER_SET_OWNER] = on_nothing,
    [VHOST_USER_RESET_OWNER] = on_nothing,
    [VHOST_USER_SET_MEM_TABLE] = co_on_set_mem_table,
    [VHOST_USER_SET_LOG_BASE] = vhost_user_on_set_log_base,
    [VHOST_USER_SET_LOG_FD] = vhost_user_on_set_log_fd,
    [VHOST_USER_SET_VRING_NUM] = vhost_user_on_set_vring_num,
    [VHOST_USER_SET_VRING_ADDR] = vhost_user_on_set_vring_addr,
    [VHOST_USER_SET_VRING_BASE] = vhost_user_on_set_vring_base,
    [VHOST_USER_GET_VRING_BASE] = co_vhost_user_on_get_vring_base,
    [VHOST_USER_SET_VRING_KICK] = vhost_user_on_set_vring_kick,
    [VHOST_USER_SET_VRING_CALL] = vhost_user_on_set_vring_call,
    [VHOST_USER_SET_VRING_ERR] = vhost_user_on_set_vring_err,
    [VHOST_USER_GET_PROTOCOL_FEATURES] = on_get_protocol_features,
    [VHOST_USER_SET_PROTOCOL_FEATURES] = on_set_protocol_features,
    [VHOST_USER_GET_QUEUE_NUM] = on_get_queue_num,
    [VHOST_USER_SET_VRING_ENABLE] = vhost_user_on_set_vring_enable,
    [VHOST_USER_SET_BACKEND_REQ_FD] = on_set_backend_req_fd,
    [VHOST_USER_GET_CONFIG] = on_get_config,
    [VHOST_USER_SET_CONFIG] = on_set_config,
    [VHOST_USER_GET_INFLIGHT_FD] = vhost_user_on_get_inflight_fd,
    [VHOST_USER_SET_INFLIGHT_FD] = vhost_user_on_set_inflight_fd,
    [VHOST_USER_RESET_DEVICE] = co_on_reset_device,
    [VHOST_USER_GET_MAX_MEM_SLOTS] = on_get_max_mem_slots,
    [VHOST_USER_ADD_MEM_REG] = co_on_add_mem_reg,
    [VHOST_USER_REM_MEM_REG] = co_on_rem_mem_reg,
    [VHOST_USER_SET_STATUS] = co_on_set_status,
    [VHOST_USER_GET_STATUS] = on_get_status,
};

bool co_vhost_user_handle(struct vhost_user_session *s,
                          struct vhost_user_message *m, uint32_t *reply,
                          GError **error)
{
    return handlers[m->header.request](s, m, reply, error);
}
