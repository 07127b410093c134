/*
 * A hierarchy of words: which granules of a range are set.
 *
 * A bit of an upper level says that some bit of the word below is set, so that
 * finding the next set or clear range costs the depth and not the size. The
 * lowest level is reserved address space (MAP_NORESERVE): untouched pages cost
 * nothing, and 16 TiB at 64 KiB granularity are 32 MiB of it.
 *
 * Offsets and lengths are bytes of the range that the bitmap covers; they need
 * not be aligned to the granularity: setting rounds outwards, and clearing
 * demands alignment (or the end of the range), because rounding a clear
 * outwards would lose a dirty byte. A range must lie within [0, size); callers
 * check what comes from outside. Not locked: one owner. Never suspends.
 */
#ifndef VARVE_UTIL_HBITMAP_H
#define VARVE_UTIL_HBITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hbitmap;
/* The start of a struct hbitmap: what marking looks at. */
struct hbitmap_ground {
    const uint64_t *words; /* one bit a granule */
    unsigned shift;        /* log2 of the granularity */
};

/* size in bytes >= 0; granularity a power of two in bytes, at least 1.
 * NULL if the address space cannot be reserved. */
struct hbitmap *hbitmap_new(int64_t size, int64_t granularity);
void hbitmap_free(struct hbitmap *b);

int64_t hbitmap_size(const struct hbitmap *b);
int64_t hbitmap_granularity(const struct hbitmap *b);
/* Bytes in set granules; the last granule counts up to size only. */
int64_t hbitmap_count(const struct hbitmap *b);
bool hbitmap_empty(const struct hbitmap *b);

bool hbitmap_get(const struct hbitmap *b, int64_t offset);
void hbitmap_set(struct hbitmap *b, int64_t offset, int64_t bytes);
/* True if [offset, offset + bytes), not empty and within the bitmap, is part of
 * one granule and that is set: the request path asks first, because most writes
 * go where others went before. Looks at one word. */
static inline bool hbitmap_is_marked(const struct hbitmap *b, int64_t offset,
                                     int64_t bytes)
{
    const struct hbitmap_ground *g = (const struct hbitmap_ground *)b;
    uint64_t granule = (uint64_t)offset >> g->shift;

    return (uint64_t)(offset + bytes - 1) >> g->shift == granule &&
           g->words[granule / 64] >> (granule % 64) & 1;
}
/* offset and bytes aligned to the granularity, or reaching the end. */
void hbitmap_clear(struct hbitmap *b, int64_t offset, int64_t bytes);
void hbitmap_clear_all(struct hbitmap *b);
void hbitmap_set_all(struct hbitmap *b);

/* The first set (clear) byte in [offset, offset + bytes), or -1. */
int64_t hbitmap_next_set(const struct hbitmap *b, int64_t offset,
                         int64_t bytes);
int64_t hbitmap_next_clear(const struct hbitmap *b, int64_t offset,
                           int64_t bytes);
/* The first run of set bytes in [offset, offset + bytes), at most max_run
 * long; false if there is none. */
bool hbitmap_next_run(const struct hbitmap *b, int64_t offset, int64_t bytes,
                      int64_t max_run, int64_t *run_offset, int64_t *run_bytes);

/* dst |= src. Sizes must be equal; granularities may differ (a coarser
 * destination takes the union, a finer one whole granules of the source).
 * The cost follows the set words of src. */
void hbitmap_merge(struct hbitmap *dst, const struct hbitmap *src);

/* Changes the covered size; new bytes are clear (but for those of a set granule
 * that the old size cut short), dropped ones are forgotten. false if address
 * space is lacking (then unchanged). */
bool hbitmap_resize(struct hbitmap *b, int64_t size);

/* The bits of [offset, offset + bytes) as the qcow2 bitmap format stores them:
 * little-endian, bit 0 of byte 0 first (qcow2 specification, "Bitmap data").
 * offset is a multiple of 8 granules; the range may end at size. Bits of the
 * last byte beyond the range are written as 0, and not read. */
size_t hbitmap_serial_size(const struct hbitmap *b, int64_t offset,
                           int64_t bytes);
void hbitmap_serialize(const struct hbitmap *b, int64_t offset, int64_t bytes,
                       void *buf);
void hbitmap_deserialize(struct hbitmap *b, int64_t offset, int64_t bytes,
                         const void *buf);

#endif
