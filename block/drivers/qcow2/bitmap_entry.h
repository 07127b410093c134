/*
 * Entries of the bitmap directory, in memory; see bitmaps.h.
 */
#ifndef VARVE_BLOCK_DRIVERS_QCOW2_BITMAP_ENTRY_H
#define VARVE_BLOCK_DRIVERS_QCOW2_BITMAP_ENTRY_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stored_bitmap {
    uint8_t *entry; /* as on disk, without padding */
    size_t entry_bytes;
    char *name; /* UTF-8; for people only if the entry is damaged */
    int64_t table_offset;
    uint32_t table_entries;
    uint32_t flags;
    unsigned granularity_bits;
    uint64_t *table; /* host's byte order; NULL: not read, or not to be used */
    char *damage;    /* why it cannot be used, or NULL */
};

/* An empty list that owns its members. */
GPtrArray *stored_bitmaps_new(void);
struct stored_bitmap *stored_bitmaps_find(GPtrArray *list, const char *name);
/* Bytes of the list's directory; and its content. */
int64_t stored_bitmaps_bytes(const GPtrArray *list);
void stored_bitmaps_build(const GPtrArray *list, uint8_t *directory);

/* The caller owns what these return. */
struct stored_bitmap *stored_bitmap_new(const char *name, uint32_t flags,
                                        unsigned granularity_bits);
struct stored_bitmap *stored_bitmap_copy(const struct stored_bitmap *b);
/* The entry at the begin of `left` bytes of a directory; NULL if it does not
 * end there. */
struct stored_bitmap *stored_bitmap_parse(const uint8_t *at, size_t left);
void stored_bitmap_free(struct stored_bitmap *b);

/* The first reason is kept. */
void stored_bitmap_damage(struct stored_bitmap *b, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
void stored_bitmap_set_flags(struct stored_bitmap *b, uint32_t flags);
void stored_bitmap_set_table(struct stored_bitmap *b, int64_t offset,
                             uint32_t entries);

#endif
