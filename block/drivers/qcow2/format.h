/*
 * qcow2 as it lies on disk (qcow2 specification, "Header", "Header extensions",
 * "Host cluster management", "Cluster mapping"). All numbers are big-endian.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_FORMAT_H
#define VARVE_BLOCK_DRIVERS_QCOW2_FORMAT_H

#include <stdint.h>

#define QCOW2_MAGIC       0x514649fbu /* "QFI\xfb" */
#define QCOW2_V2_HEADER   72
#define QCOW2_V3_HEADER   104
#define QCOW2_FULL_HEADER 112 /* with the compression type */

struct qcow2_disk_header {
    uint32_t magic;
    uint32_t version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size;
    uint32_t cluster_bits;
    uint64_t size;
    uint32_t crypt_method;
    uint32_t l1_size;
    uint64_t l1_table_offset;
    uint64_t refcount_table_offset;
    uint32_t refcount_table_clusters;
    uint32_t nb_snapshots;
    uint64_t snapshots_offset;
    /* version 3 */
    uint64_t incompatible;
    uint64_t compatible;
    uint64_t autoclear;
    uint32_t refcount_order;
    uint32_t header_length;
    /* if header_length reaches so far */
    uint8_t compression_type;
    uint8_t padding[7];
};

struct qcow2_disk_extension {
    uint32_t type;
    uint32_t length; /* of the data, which is padded to 8 bytes */
};

enum qcow2_extension {
    QCOW2_EXT_END = 0,
    QCOW2_EXT_BACKING_FORMAT = 0xe2792aca,
    QCOW2_EXT_FEATURE_NAMES = 0x6803f857,
    QCOW2_EXT_BITMAPS = 0x23852875,
    QCOW2_EXT_CRYPTO = 0x0537be77,
    QCOW2_EXT_DATA_FILE = 0x44415441,
};

/* One row of the feature name table. */
struct qcow2_disk_feature {
    uint8_t type; /* 0 incompatible, 1 compatible, 2 autoclear */
    uint8_t bit;
    char name[46]; /* padded with zero bytes */
};

/* The fixed part of an entry of the snapshot table (section "Snapshots"). */
struct qcow2_disk_snapshot {
    uint64_t l1_offset;
    uint32_t l1_size;
    uint16_t id_size, name_size;
    uint32_t seconds, nanoseconds;
    uint64_t vm_clock;
    uint32_t vm_state_size;
    uint32_t extra_size;
} __attribute__((packed));

/* The data of QCOW2_EXT_BITMAPS. */
struct qcow2_disk_bitmaps {
    uint32_t count;
    uint32_t reserved;
    uint64_t directory_size; /* bytes */
    uint64_t directory_offset;
};

/* An entry of the bitmap directory; extra data and name follow, and padding to
 * 8 bytes. */
struct qcow2_disk_bitmap {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags;
    uint8_t type;
    uint8_t granularity_bits;
    uint16_t name_size;
    uint32_t extra_data_size;
};

/* vm-state-size, disk size, icount: 8 bytes each. */
#define QCOW2_KNOWN_SNAPSHOT_EXTRA    24

#define QCOW2_BITMAP_IN_USE           (UINT32_C(1) << 0)
#define QCOW2_BITMAP_AUTO             (UINT32_C(1) << 1)
#define QCOW2_BITMAP_EXTRA_COMPATIBLE (UINT32_C(1) << 2)
#define QCOW2_BITMAP_FLAGS            UINT32_C(7)
#define QCOW2_BITMAP_DIRTY_TRACKING   1 /* type */
/* Entries of a bitmap table: a cluster, or all zeroes (0), or all ones. */
#define QCOW2_BITMAP_ALL_ONES         UINT64_C(1)

#define QCOW2_INCOMPAT_DIRTY          (UINT64_C(1) << 0)
#define QCOW2_INCOMPAT_CORRUPT        (UINT64_C(1) << 1)
#define QCOW2_INCOMPAT_DATA_FILE      (UINT64_C(1) << 2)
#define QCOW2_INCOMPAT_COMPRESSION    (UINT64_C(1) << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2    (UINT64_C(1) << 4)
#define QCOW2_INCOMPAT_KNOWN                                 \
    (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT |         \
     QCOW2_INCOMPAT_DATA_FILE | QCOW2_INCOMPAT_COMPRESSION | \
     QCOW2_INCOMPAT_EXTENDED_L2)
#define QCOW2_COMPAT_LAZY_REFCOUNTS (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_BITMAPS     (UINT64_C(1) << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA    (UINT64_C(1) << 1)
#define QCOW2_AUTOCLEAR_KNOWN \
    (QCOW2_AUTOCLEAR_BITMAPS | QCOW2_AUTOCLEAR_RAW_DATA)

/* L1 and standard L2 entries. */
#define QCOW2_COPIED               (UINT64_C(1) << 63) /* refcount is exactly one */
#define QCOW2_COMPRESSED           (UINT64_C(1) << 62)
#define QCOW2_ZERO                 UINT64_C(1)
#define QCOW2_OFFSET_MASK          UINT64_C(0x00fffffffffffe00)
/* The second word of an extended L2 entry: subcluster i is allocated if bit i
 * is set, and reads as zeroes if bit 32 + i is. */
#define QCOW2_SUBCLUSTERS          32
#define QCOW2_BITMAP_ZEROES        UINT64_C(0xffffffff00000000)
#define QCOW2_BITMAP_ALLOCATED     UINT64_C(0x00000000ffffffff)
#define QCOW2_MIN_SUBCLUSTER_BITS  9
/* Refcount table entries. */
#define QCOW2_REFTABLE_MASK        UINT64_C(0xfffffffffffffe00)

#define QCOW2_MIN_CLUSTER_BITS     9
#define QCOW2_MAX_CLUSTER_BITS     21
#define QCOW2_MAX_REFCOUNT_ORDER   6

/* Limits that the format does not set, and that memory needs: those of QEMU,
 * so that each side opens what the other writes. */
#define QCOW2_MAX_L1_BYTES         (32 << 20)
#define QCOW2_MAX_REFTABLE_BYTES   (8 << 20)
#define QCOW2_MAX_SNAPSHOTS        65536
#define QCOW2_MAX_SNAPSHOT_TABLE   (QCOW2_MAX_SNAPSHOTS * INT64_C(1024))
#define QCOW2_MAX_SNAPSHOT_EXTRA   1024
#define QCOW2_MAX_BACKING_NAME     1023
#define QCOW2_MAX_BACKING_FORMAT   31
#define QCOW2_MAX_BITMAPS          65535
#define QCOW2_MAX_BITMAP_DIRECTORY (QCOW2_MAX_BITMAPS * INT64_C(1024))
#define QCOW2_MAX_BITMAP_BYTES     (INT64_C(512) << 20)
/* All bitmaps of an image together, those bits that are not zero: a few
 * entries may stand for much memory. */
#define QCOW2_MAX_ALL_BITMAP_BYTES (INT64_C(1) << 30)
#define QCOW2_MIN_GRANULARITY_BITS 9
#define QCOW2_MAX_GRANULARITY_BITS 31
/* Host offsets have 56 bits in L2 entries. */
#define QCOW2_MAX_HOST_OFFSET      (INT64_C(1) << 56)

#endif
