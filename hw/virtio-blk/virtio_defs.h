/*
 * What the virtio 1.1 specification fixes: layouts and numbers of split rings
 * (2.6) and packed ones (2.7), device status (2.1), feature bits (6) and block
 * requests (5.2).
 *
 * Everything in guest memory is little-endian and may change under our feet at
 * any time, so each field is read exactly once, through guest_read_*().
 */
#ifndef VARVE_HW_VIRTIO_DEFS_H
#define VARVE_HW_VIRTIO_DEFS_H

#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- 2.1 device status ---- */
#define VIRTIO_STATUS_ACKNOWLEDGE  1
#define VIRTIO_STATUS_DRIVER       2
#define VIRTIO_STATUS_DRIVER_OK    4
#define VIRTIO_STATUS_FEATURES_OK  8
#define VIRTIO_STATUS_NEEDS_RESET  64
#define VIRTIO_STATUS_FAILED       128

/* ---- 6 and 5.2.3 feature bits ---- */
#define VIRTIO_BLK_F_SIZE_MAX      1
#define VIRTIO_BLK_F_SEG_MAX       2
#define VIRTIO_BLK_F_GEOMETRY      4
#define VIRTIO_BLK_F_RO            5
#define VIRTIO_BLK_F_BLK_SIZE      6
#define VIRTIO_BLK_F_FLUSH         9
#define VIRTIO_BLK_F_TOPOLOGY      10
#define VIRTIO_BLK_F_CONFIG_WCE    11
#define VIRTIO_BLK_F_MQ            12
#define VIRTIO_BLK_F_DISCARD       13
#define VIRTIO_BLK_F_WRITE_ZEROES  14
#define VIRTIO_F_INDIRECT_DESC     28
#define VIRTIO_F_EVENT_IDX         29
#define VIRTIO_F_VERSION_1         32
#define VIRTIO_F_RING_PACKED       34
#define VIRTIO_F_RING_RESET        40 /* 1.2 */

#define VIRTIO_BIT(n)              (UINT64_C(1) << (n))

/* ---- 2.6 split rings ---- */
#define VRING_DESC_F_NEXT          1
#define VRING_DESC_F_WRITE         2
#define VRING_DESC_F_INDIRECT      4

#define VRING_AVAIL_F_NO_INTERRUPT 1
#define VRING_USED_F_NO_NOTIFY     1

struct vring_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct vring_avail {
    uint16_t flags;
    uint16_t idx;
    uint16_t ring[]; /* size entries, then used_event */
};

struct vring_used_elem {
    uint32_t id;
    uint32_t len;
};

struct vring_used {
    uint16_t flags;
    uint16_t idx;
    struct vring_used_elem ring[]; /* size entries, then avail_event */
};

#define VRING_DESC_ALIGN  16
#define VRING_AVAIL_ALIGN 2
#define VRING_USED_ALIGN  4

static inline uint64_t vring_desc_bytes(unsigned size)
{
    return (uint64_t)size * sizeof(struct vring_desc);
}

static inline uint64_t vring_avail_bytes(unsigned size)
{
    return 4 + 2 * (uint64_t)size + 2;
}

static inline uint64_t vring_used_bytes(unsigned size)
{
    return 4 + sizeof(struct vring_used_elem) * (uint64_t)size + 2;
}

/* 2.6.7.2: a notification is due if event lies in what moving the index from
 * old to now has passed. */
static inline int vring_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* ---- 2.7 packed rings ---- */
#define VRING_PACKED_F_AVAIL (1 << 7)
#define VRING_PACKED_F_USED  (1 << 15)

/* The ring's, and those of an indirect table, where only WRITE counts. */
struct vring_packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* 2.7.14: an event suppression structure is one word, written and read at once:
 * a position in the low half, what to do with it in the high one. */
#define VRING_EVENT_ENABLE      0
#define VRING_EVENT_DISABLE     1
#define VRING_EVENT_DESC        2 /* at the position; EVENT_IDX only */
#define VRING_EVENT(flags, pos) ((uint32_t)(flags) << 16 | (pos))

#define VRING_EVENT_BYTES       4
#define VRING_EVENT_ALIGN       4

/* A position in a packed ring: the descriptor in bits 0-14, and the wrap
 * counter (2.7.1) in bit 15, as event structures and vhost-user have it. */
#define VRING_PACKED_WRAP       0x8000
#define VRING_PACKED_FIRST      VRING_PACKED_WRAP
#define VRING_PACKED_MAX_SIZE   32768

static inline uint16_t vring_packed_index(uint16_t pos)
{
    return pos & ~VRING_PACKED_WRAP;
}

/* n <= size */
static inline uint16_t vring_packed_advance(uint16_t pos, unsigned n,
                                            unsigned size)
{
    unsigned index = vring_packed_index(pos) + n;

    return index < size ? pos + n
                        : (index - size) |
                              ((pos & VRING_PACKED_WRAP) ^ VRING_PACKED_WRAP);
}

/* 2.7.1: what marks a descriptor as available in this lap, or as used. */
static inline uint16_t vring_packed_avail(uint16_t pos)
{
    return pos & VRING_PACKED_WRAP ? VRING_PACKED_F_AVAIL : VRING_PACKED_F_USED;
}

static inline uint16_t vring_packed_used(uint16_t pos)
{
    return pos & VRING_PACKED_WRAP ? VRING_PACKED_F_AVAIL | VRING_PACKED_F_USED
                                   : 0;
}

static inline bool vring_packed_marked(uint16_t flags, uint16_t mark)
{
    return (flags & (VRING_PACKED_F_AVAIL | VRING_PACKED_F_USED)) == mark;
}

/* What an event structure says about a move from old to now; 2.7.14. */
static inline bool vring_packed_need_event(uint32_t event, uint16_t now,
                                           uint16_t old, unsigned size)
{
    unsigned flags = event >> 16 & 3;
    unsigned from = vring_packed_index(old), to = vring_packed_index(now);
    unsigned at = vring_packed_index(event);

    if (flags != VRING_EVENT_DESC) {
        return flags != VRING_EVENT_DISABLE;
    }
    /* Both counted from the lap of old: a lap further is size more. */
    to += (now ^ old) & VRING_PACKED_WRAP ? size : 0;
    at += (event ^ old) & VRING_PACKED_WRAP ? size : 0;
    return at >= from && at < to;
}

/* Single fetches: the compiler may not read the place a second time. */
static inline uint16_t guest_read_16(const uint16_t *p)
{
    return le16toh(*(const volatile uint16_t *)p);
}

static inline uint32_t guest_read_32(const uint32_t *p)
{
    return le32toh(*(const volatile uint32_t *)p);
}

static inline uint64_t guest_read_64(const uint64_t *p)
{
    return le64toh(*(const volatile uint64_t *)p);
}

/* ---- 5.2.6 requests ---- */
enum virtio_blk_type {
    VIRTIO_BLK_T_IN = 0,
    VIRTIO_BLK_T_OUT = 1,
    VIRTIO_BLK_T_FLUSH = 4,
    VIRTIO_BLK_T_GET_ID = 8,
    VIRTIO_BLK_T_DISCARD = 11,
    VIRTIO_BLK_T_WRITE_ZEROES = 13,
};

#define VIRTIO_BLK_S_OK         0
#define VIRTIO_BLK_S_IOERR      1
#define VIRTIO_BLK_S_UNSUPP     2

#define VIRTIO_BLK_ID_BYTES     20
#define VIRTIO_BLK_SECTOR_BITS  9
#define VIRTIO_BLK_SECTOR_BYTES 512

struct virtio_blk_header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

struct virtio_blk_segment {
    uint64_t sector;
    uint32_t num_sectors;
    uint32_t flags;
};
#define VIRTIO_BLK_SEGMENT_UNMAP 1

/* ---- 5.2.4 configuration space ---- */

/* Linux takes less than a page for a page, so it would be a lie. */
#define VIRTIO_BLK_MIN_SIZE_MAX  4096

struct virtio_blk_config {
    uint64_t capacity; /* sectors */
    uint32_t size_max;
    uint32_t seg_max;
    struct {
        uint16_t cylinders;
        uint8_t heads;
        uint8_t sectors;
    } geometry;
    uint32_t blk_size;
    struct {
        uint8_t physical_block_exp;
        uint8_t alignment_offset;
        uint16_t min_io_size;
        uint32_t opt_io_size;
    } topology;
    uint8_t writeback;
    uint8_t unused0;
    uint16_t num_queues;
    uint32_t max_discard_sectors;
    uint32_t max_discard_seg;
    uint32_t discard_sector_alignment;
    uint32_t max_write_zeroes_sectors;
    uint32_t max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap;
    uint8_t unused1[3];
} __attribute__((packed));

#endif
