/*
 * What a virtio-blk device offers: feature bits and configuration space
 * (virtio 1.1, 5.2.3 and 5.2.4).
 *
 * A feature is one row of the table. The space is kept as the driver sees it,
 * little-endian, and only `capacity` and `writeback` change after the start.
 * Runs on the device's loop, does not suspend.
 */
#include <string.h>

#include "hw/virtio-blk/device.h"
#include "util/range.h"

#define DEFAULT_MAX_SECTORS 4194303 /* 2 GiB less one sector */
#define MAX_SEGMENTS        32

static bool if_read_only(const struct virtio_blk *dev)
{
    return dev->backend->read_only;
}

static bool if_config_wce(const struct virtio_blk *dev)
{
    return !dev->props.no_config_wce;
}

/* 5.2.5.2: without FLUSH a driver would take the cache for a writethrough one,
 * so it is missing only where that is so and stays so. */
static bool if_flush(const struct virtio_blk *dev)
{
    return !dev->props.no_write_cache || if_config_wce(dev);
}

static bool if_several_queues(const struct virtio_blk *dev)
{
    return dev->num_queues > 1;
}

static bool if_discard(const struct virtio_blk *dev)
{
    return !dev->props.no_discard && !dev->backend->read_only;
}

static bool if_write_zeroes(const struct virtio_blk *dev)
{
    return !dev->props.no_write_zeroes && !dev->backend->read_only;
}

static bool if_event_idx(const struct virtio_blk *dev)
{
    return !dev->props.no_event_idx;
}

static bool if_packed(const struct virtio_blk *dev)
{
    return dev->props.packed;
}

static bool if_ring_reset(const struct virtio_blk *dev)
{
    return !dev->props.no_ring_reset;
}

static bool if_indirect(const struct virtio_blk *dev)
{
    return !dev->props.no_indirect;
}

static const struct feature {
    unsigned bit;
    const char *name;
    bool (*offered)(const struct virtio_blk *dev); /* NULL: always */
} features[] = {
    {VIRTIO_BLK_F_SIZE_MAX, "SIZE_MAX", NULL},
    {VIRTIO_BLK_F_SEG_MAX, "SEG_MAX", NULL},
    {VIRTIO_BLK_F_RO, "RO", if_read_only},
    {VIRTIO_BLK_F_BLK_SIZE, "BLK_SIZE", NULL},
    {VIRTIO_BLK_F_FLUSH, "FLUSH", if_flush},
    {VIRTIO_BLK_F_TOPOLOGY, "TOPOLOGY", NULL},
    {VIRTIO_BLK_F_CONFIG_WCE, "CONFIG_WCE", if_config_wce},
    {VIRTIO_BLK_F_MQ, "MQ", if_several_queues},
    {VIRTIO_BLK_F_DISCARD, "DISCARD", if_discard},
    {VIRTIO_BLK_F_WRITE_ZEROES, "WRITE_ZEROES", if_write_zeroes},
    {VIRTIO_F_INDIRECT_DESC, "INDIRECT_DESC", if_indirect},
    {VIRTIO_F_EVENT_IDX, "EVENT_IDX", if_event_idx},
    {VIRTIO_F_VERSION_1, "VERSION_1", NULL},
    {VIRTIO_F_RING_PACKED, "RING_PACKED", if_packed},
    {VIRTIO_F_RING_RESET, "RING_RESET", if_ring_reset},
};

const char *virtio_blk_feature_name(unsigned bit)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        if (features[i].bit == bit) {
            return features[i].name;
        }
    }
    return NULL;
}

static uint32_t or_default(uint32_t value, uint32_t otherwise)
{
    return value ? value : otherwise;
}

static void init_discard(struct virtio_blk *dev)
{
    struct virtio_blk_config *c = &dev->config;
    const struct virtio_blk_props *p = &dev->props;
    int64_t align =
        dev->backend->node ? dev->backend->node->limits.pdiscard_align : 0;

    if (dev->offered & VIRTIO_BIT(VIRTIO_BLK_F_DISCARD)) {
        c->max_discard_sectors =
            htole32(or_default(p->max_discard_sectors, DEFAULT_MAX_SECTORS));
        c->max_discard_seg = htole32(MAX_SEGMENTS);
        align = max_i64(align, dev->logical_bytes);
        c->discard_sector_alignment = htole32(align >> VIRTIO_BLK_SECTOR_BITS);
    }
    if (dev->offered & VIRTIO_BIT(VIRTIO_BLK_F_WRITE_ZEROES)) {
        c->max_write_zeroes_sectors = htole32(
            or_default(p->max_write_zeroes_sectors, DEFAULT_MAX_SECTORS));
        c->max_write_zeroes_seg = htole32(MAX_SEGMENTS);
        c->write_zeroes_may_unmap = 1;
    }
}

void virtio_blk_config_init(struct virtio_blk *dev)
{
    struct virtio_blk_config *c = &dev->config;
    const struct virtio_blk_props *p = &dev->props;

    dev->offered = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(features); i++) {
        if (!features[i].offered || features[i].offered(dev)) {
            dev->offered |= VIRTIO_BIT(features[i].bit);
        }
    }
    memset(c, 0, sizeof(*c));
    /* One segment may be a whole request: a limit that means something would
     * only split what the device takes as it is. */
    c->size_max = htole32(or_default(
        p->size_max, align_down(BLOCK_MAX_TRANSFER, p->logical_bytes)));
    /* Header and status take one descriptor each. */
    c->seg_max = htole32(or_default(p->seg_max, p->queue_size - 2));
    c->blk_size = htole32(p->logical_bytes);
    c->topology.physical_block_exp =
        __builtin_ctz(p->physical_bytes / p->logical_bytes);
    c->topology.min_io_size = htole16(p->min_io_bytes / p->logical_bytes);
    c->topology.opt_io_size = htole32(p->opt_io_bytes / p->logical_bytes);
    c->writeback = !p->no_write_cache;
    c->num_queues = htole16(dev->num_queues);
    init_discard(dev);
    virtio_blk_config_resize(dev);
}

bool virtio_blk_config_resize(struct virtio_blk *dev)
{
    /* What does not fill a block is not the guest's to see. */
    int64_t length =
        align_down(backend_length(dev->backend), dev->logical_bytes);

    if (length == dev->length) {
        return false;
    }
    dev->length = length;
    dev->config.capacity = htole64(length >> VIRTIO_BLK_SECTOR_BITS);
    dev->config_generation++;
    return true;
}

void virtio_blk_config_driver_ok(struct virtio_blk *dev)
{
    bool flush = virtio_blk_has(dev, VIRTIO_BLK_F_FLUSH);
    bool wce = virtio_blk_has(dev, VIRTIO_BLK_F_CONFIG_WCE);

    /* A driver that can neither flush nor see the mode needs writethrough. */
    dev->backend->write_cache = dev->config.writeback && (flush || wce);
}

void virtio_blk_config_read(const struct virtio_blk *dev, unsigned offset,
                            void *buf, unsigned bytes)
{
    memset(buf, 0, bytes);
    if (offset < sizeof(dev->config)) {
        memcpy(buf, (const char *)&dev->config + offset,
               MIN(bytes, sizeof(dev->config) - offset));
    }
}

void virtio_blk_config_write(struct virtio_blk *dev, unsigned offset,
                             const void *buf, unsigned bytes)
{
    unsigned at = offsetof(struct virtio_blk_config, writeback);

    /* 5.2.4: the one field that a driver writes, if it took the feature. */
    if (!virtio_blk_has(dev, VIRTIO_BLK_F_CONFIG_WCE) || offset > at ||
        bytes <= at - offset) {
        return;
    }
    dev->config.writeback = ((const uint8_t *)buf)[at - offset] & 1;
    if (dev->status & VIRTIO_STATUS_DRIVER_OK) {
        dev->backend->write_cache = dev->config.writeback;
    }
}
