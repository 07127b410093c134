/*
 * The virtio-blk device: its properties, its making, and its in-process guest.
 *
 * A device lives on the loop of its backend's graph; everything here is called
 * there.
 */
#ifndef VARVE_HW_VIRTIO_BLK_H
#define VARVE_HW_VIRTIO_BLK_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct backend;
struct guest;
struct loop;
struct virtio_blk;

/* Zero means "default" where a default is named. */
struct virtio_blk_props {
    const char *id;               /* NULL: none */
    const char *serial;           /* up to 20 bytes; NULL: empty */
    uint32_t num_queues;          /* 1..VIRTIO_BLK_MAX_QUEUES, default 1 */
    uint32_t queue_size;          /* power of 2, 4..1024, default 256 */
    uint32_t seg_max;             /* buffers of data, default queue_size - 2 */
    uint32_t size_max;            /* bytes of one, default: a whole request */
    uint32_t logical_bytes;       /* logical_block_size, default 512 */
    uint32_t physical_bytes;      /* physical_block_size, default logical */
    uint32_t min_io_bytes;        /* 0: no wish */
    uint32_t opt_io_bytes;        /* 0: no wish */
    uint32_t max_discard_sectors; /* default 4194303 */
    uint32_t max_write_zeroes_sectors; /* default 4194303 */
    bool no_write_cache; /* write-cache=off: every write is stable at its end */
    bool no_config_wce;  /* the guest may not switch the write cache */
    bool no_discard, no_write_zeroes;
    bool no_event_idx, no_indirect;
    bool no_ring_reset;
    bool packed;   /* offer packed rings */
    bool share_rw; /* others may write to the node too */
    bool exported; /* belongs to an export: not to be found by name */
};

#define VIRTIO_BLK_MAX_QUEUES 64

/* Makes a device on backend, which it holds a reference to, and whose
 * permissions it sets. Suspends. */
struct virtio_blk *co_virtio_blk_new(const struct virtio_blk_props *props,
                                     struct backend *backend, GError **error);
/* Stops the device, waits for its requests, drops its guest and the backend.
 * Suspends. */
void co_virtio_blk_free(struct virtio_blk *dev);
/* By device id or by backend name; NULL, and an error of class DeviceNotFound.
 */
struct virtio_blk *virtio_blk_find(const char *name, GError **error);
/* The device's in-process guest, made and started at first use, which suspends.
 * NULL and *error if there is no memory for it, or another driver has it. */
struct guest *co_virtio_blk_guest(struct virtio_blk *dev, GError **error);

/* ---- -device (hw/virtio-blk/properties.c) ---- */

/* Makes the device that `options` describes: an array of struct keyval, with
 * "driver" first, as keyval_split(text, "driver", ...) gives it. iothread is
 * the loop of the I/O thread that they name, NULL if there is none; the drive
 * moves there. With the change lock or before anybody else is there, on any
 * loop. Suspends. */
bool co_hw_device_add(const GPtrArray *options, struct loop *iothread,
                      GError **error);
/* The answer to -device help (driver NULL) or -device DRIVER,help; caller
 * frees. NULL and *error for an unknown driver. */
char *hw_device_help(const char *driver, GError **error);
/* Frees all devices of the current loop. Suspends. */
void co_hw_device_del_all(void);

#endif
