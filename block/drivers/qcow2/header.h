/*
 * The header area of an image: fields, extensions, and the name of the backing
 * file, which share the first cluster (qcow2 specification, "Header", "Header
 * extensions").
 *
 * Whatever is not known here, fields behind the known ones and extensions of
 * any type, comes through every rewrite as it was.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_HEADER_H
#define VARVE_BLOCK_DRIVERS_QCOW2_HEADER_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "block/drivers/qcow2/format.h"

struct qcow2;

struct header_extension {
    uint32_t type;
    uint32_t bytes;
    uint8_t data[];
};

/* What is in the area, or is to be. Zeroed is a valid start. */
struct header_area {
    struct qcow2_disk_header fields; /* in the host's byte order */
    GPtrArray *extensions;           /* of struct header_extension; or NULL */
    uint8_t *further;                /* fields behind those of the struct */
    size_t further_bytes;
    char *backing_file; /* or NULL */
};

void header_area_clear(struct header_area *h);
/* Puts an extension in, in the place of one of the same type if there is one;
 * data NULL takes it out. data is copied. */
void header_area_set(struct header_area *h, uint32_t type, const void *data,
                     uint32_t bytes);
const struct header_extension *header_area_find(const struct header_area *h,
                                                uint32_t type);
/* The name of each feature bit, for readers that do not know it. */
void header_area_set_feature_names(struct header_area *h);
/* Fills `size` bytes, a cluster, from h, with the backing name at name_at or,
 * for 0, behind the extensions; sets the fields that say where it is. Feature
 * names are left out if there is no room for them; false if there is none for
 * the rest. */
bool header_area_build(struct header_area *h, size_t name_at, uint8_t *area,
                       size_t size);

/* ---- of an open image; on the node's loop -------------------------------- */

/* As it is in the file, or NULL; good until the caller suspends. */
const struct header_extension *qcow2_extension(const struct qcow2 *s,
                                               uint32_t type);
/* Changes *h, a copy of what the area holds; does not suspend. */
typedef void header_edit_fn(struct header_area *h, void *opaque);
/* Rewrites the area as `edit` wants it. After a crash it is the old or the new
 * one. What the new one refers to must be stable before; the new one is, on
 * return. On failure the image goes on as before, on disk it may be either.
 * Takes header_lock, and no other; suspends. */
bool co_qcow2_edit_header(struct qcow2 *s, header_edit_fn *edit, void *opaque,
                          GError **error);
/* Writes a field of the header, as it is on disk, that ends up in one sector,
 * and takes it over into s->header. Not flushed. Takes header_lock; suspends.
 */
int co_qcow2_write_field(struct qcow2 *s, int64_t offset, const void *field,
                         size_t bytes);
/* Sets and clears incompatible feature bits on disk. Not flushed. */
int co_qcow2_update_incompat(struct qcow2 *s, uint64_t set, uint64_t clear);

/* ---- for reading the header (header.c) ---- */
void qcow2_header_to_host(struct qcow2_disk_header *h);
/* Where the header says the snapshot table is; how many entries that has is the
 * reader's to check. */
bool qcow2_header_check_snapshots(const struct qcow2_disk_header *h,
                                  GError **error);

#endif
