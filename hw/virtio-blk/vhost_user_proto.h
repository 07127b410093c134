/*
 * What the vhost-user specification fixes: messages and their numbers.
 *
 * Messages are in the byte order of the machine; both sides are on one.
 */
#ifndef VARVE_HW_VHOST_USER_PROTO_H
#define VARVE_HW_VHOST_USER_PROTO_H

#include <stdint.h>

enum vhost_user_request {
    VHOST_USER_GET_FEATURES = 1,
    VHOST_USER_SET_FEATURES = 2,
    VHOST_USER_SET_OWNER = 3,
    VHOST_USER_RESET_OWNER = 4,
    VHOST_USER_SET_MEM_TABLE = 5,
    VHOST_USER_SET_LOG_BASE = 6,
    VHOST_USER_SET_LOG_FD = 7,
    VHOST_USER_SET_VRING_NUM = 8,
    VHOST_USER_SET_VRING_ADDR = 9,
    VHOST_USER_SET_VRING_BASE = 10,
    VHOST_USER_GET_VRING_BASE = 11,
    VHOST_USER_SET_VRING_KICK = 12,
    VHOST_USER_SET_VRING_CALL = 13,
    VHOST_USER_SET_VRING_ERR = 14,
    VHOST_USER_GET_PROTOCOL_FEATURES = 15,
    VHOST_USER_SET_PROTOCOL_FEATURES = 16,
    VHOST_USER_GET_QUEUE_NUM = 17,
    VHOST_USER_SET_VRING_ENABLE = 18,
    VHOST_USER_SET_BACKEND_REQ_FD = 21,
    VHOST_USER_GET_CONFIG = 24,
    VHOST_USER_SET_CONFIG = 25,
    VHOST_USER_GET_INFLIGHT_FD = 31,
    VHOST_USER_SET_INFLIGHT_FD = 32,
    VHOST_USER_RESET_DEVICE = 34,
    VHOST_USER_GET_MAX_MEM_SLOTS = 36,
    VHOST_USER_ADD_MEM_REG = 37,
    VHOST_USER_REM_MEM_REG = 38,
    VHOST_USER_SET_STATUS = 39,
    VHOST_USER_GET_STATUS = 40,
};

/* Requests of the back-end, on the channel of SET_BACKEND_REQ_FD. */
#define VHOST_USER_BACKEND_CONFIG_CHANGE_MSG 2

/* header.flags */
#define VHOST_USER_VERSION                   1
#define VHOST_USER_VERSION_MASK              3
#define VHOST_USER_FLAG_REPLY                4
#define VHOST_USER_FLAG_NEED_REPLY           8

/* Virtio feature bits that belong to the protocol. */
#define VHOST_F_LOG_ALL                      26
#define VHOST_USER_F_PROTOCOL_FEATURES       30

enum vhost_user_protocol_feature {
    VHOST_USER_PROTOCOL_F_MQ = 0,
    VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
    VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
    VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
    VHOST_USER_PROTOCOL_F_CONFIG = 9,
    VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
    VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
    VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
    VHOST_USER_PROTOCOL_F_STATUS = 16,
};

/* Payloads that name a descriptor: index in the low bits. */
#define VHOST_USER_VRING_INDEX_MASK 0xff
#define VHOST_USER_VRING_NO_FD      0x100

#define VHOST_USER_MAX_FDS          8
#define VHOST_USER_MAX_CONFIG       256
/* Regions of SET_MEM_TABLE, and of a table that grows by ADD_MEM_REG. */
#define VHOST_USER_BASE_REGIONS     8
#define VHOST_USER_MAX_REGIONS      509

struct vhost_user_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* of the payload */
};

struct vhost_user_vring_state {
    uint32_t index;
    uint32_t num;
};

struct vhost_user_vring_addr {
    uint32_t index;
    uint32_t flags;
    uint64_t desc, used, avail; /* in the front-end's address space */
    uint64_t log;
};
#define VHOST_VRING_F_LOG 1

struct vhost_user_region {
    uint64_t gpa;
    uint64_t bytes;
    uint64_t user; /* in the front-end's address space */
    uint64_t mmap_offset;
};

struct vhost_user_mem_table {
    uint32_t count;
    uint32_t padding;
    struct vhost_user_region regions[VHOST_USER_BASE_REGIONS];
};

struct vhost_user_mem_region {
    uint64_t padding;
    struct vhost_user_region region;
};

struct vhost_user_config {
    uint32_t offset;
    uint32_t size;
    uint32_t flags;
    uint8_t data[VHOST_USER_MAX_CONFIG];
};

struct vhost_user_log_area {
    uint64_t mmap_size;
    uint64_t mmap_offset;
};

/* Some front-ends send it with the padding at its end, some without. */
struct vhost_user_inflight_area {
    uint64_t mmap_size;
    uint64_t mmap_offset;
    uint16_t num_queues;
    uint16_t queue_size; /* entries of each */
};
#define VHOST_USER_INFLIGHT_AREA_BYTES 20

union vhost_user_payload {
    uint64_t u64;
    struct vhost_user_vring_state state;
    struct vhost_user_vring_addr addr;
    struct vhost_user_mem_table table;
    struct vhost_user_mem_region region;
    struct vhost_user_config config;
    struct vhost_user_inflight_area inflight;
    struct vhost_user_log_area log;
};

#endif
