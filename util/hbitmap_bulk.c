/*
 * Whole bitmaps at a time: merging and the serial form.
 *
 * Both work in words of level 0. A merge walks the source's hierarchy, so its
 * cost follows the source's non-zero words, whatever the disk's size. The
 * serial form of a word is its little-endian bytes.
 *
 * One owner, no locks; runs wherever its owner runs.
 */
#include "hbitmap_internal.h"

#include <endian.h>
#include <string.h>

#include "util/range.h"

/* ---- merge --------------------------------------------------------------- */

/* Bits of dst are 2^d granules of src, d > 0. */
static void merge_coarser(struct hbitmap *dst, uint64_t w, uint64_t word,
                          unsigned d)
{
    if (d >= 6) {
        uint64_t i = w >> (d - 6);
        hbitmap_or_word(dst, i / 64, UINT64_C(1) << i % 64);
        return;
    }
    uint64_t mask = 0;
    while (word) {
        unsigned group = __builtin_ctzll(word) >> d;
        mask |= UINT64_C(1) << group;
        word &= ~hbitmap_mask(group << d, ((group + 1) << d) - 1);
    }
    uint64_t first = w * 64 >> d;
    hbitmap_or_word(dst, first / 64, mask << first % 64);
}

/* Granules of src are 2^d bits of dst, d > 0; the last may be cut short. */
static void merge_finer(struct hbitmap *dst, uint64_t w, uint64_t word,
                        unsigned d)
{
    while (word) {
        unsigned start = __builtin_ctzll(word);
        uint64_t gap = ~(word >> start);
        unsigned end = gap ? start + __builtin_ctzll(gap) : 64;
        uint64_t first = (w * 64 + start) << d;
        uint64_t last = ((w * 64 + end) << d) - 1;
        if (last >= dst->bits[0]) {
            last = dst->bits[0] - 1;
        }
        hbitmap_set_granules(dst, first, last);
        word &= ~hbitmap_mask(start, end - 1);
    }
}

static void merge_word(struct hbitmap *dst, const struct hbitmap *src,
                       uint64_t w)
{
    uint64_t word = src->any[0][w];

    if (dst->ground.shift == src->ground.shift) {
        hbitmap_or_word(dst, w, word);
    } else if (dst->ground.shift > src->ground.shift) {
        merge_coarser(dst, w, word, dst->ground.shift - src->ground.shift);
    } else {
        merge_finer(dst, w, word, src->ground.shift - dst->ground.shift);
    }
}

void hbitmap_merge(struct hbitmap *dst, const struct hbitmap *src)
{
    assert(dst->size == src->size);
    if (dst == src || !src->set || dst->set == dst->bits[0]) {
        return;
    }
    if (src->set == src->bits[0]) {
        hbitmap_set_all(dst);
        return;
    }
    if (src->levels == 1) {
        merge_word(dst, src, 0);
        return;
    }
    if (dst->ground.shift == src->ground.shift) {
        hbitmap_will_fill(dst, src);
    }
    uint64_t i = hbitmap_find(src, src->any, 1, 0, 0);
    while (i != HBITMAP_NONE) {
        uint64_t base = i & ~UINT64_C(63);
        uint64_t next = hbitmap_find(src, src->any, 1, 0, base + 64);
        if (next != HBITMAP_NONE) {
            /* Sparse words are a cache miss each. */
            __builtin_prefetch(&src->any[0][next]);
        }
        for (uint64_t up = src->any[1][i / 64]; up; up &= up - 1) {
            merge_word(dst, src, base + __builtin_ctzll(up));
        }
        i = next;
    }
}

/* ---- serial form --------------------------------------------------------- */

/* A walk over the words that a part of the bitmap touches. */
struct serial_walk {
    uint64_t w;
    unsigned first; /* bit of word w */
    uint64_t left;  /* granules */
};

static struct serial_walk serial_start(const struct hbitmap *b, int64_t offset,
                                       int64_t bytes)
{
    assert(range_within(offset, bytes, b->size));
    uint64_t first = (uint64_t)offset >> b->ground.shift;
    assert(first << b->ground.shift == (uint64_t)offset && first % 8 == 0);

    struct serial_walk s = {first / 64, first % 64, 0};
    if (bytes) {
        s.left =
            ((uint64_t)(offset + bytes - 1) >> b->ground.shift) + 1 - first;
    }
    return s;
}

/* The bits of the word that the walk is at, and where they lie in it: *skip
 * bytes from its start, *n bytes long. */
static uint64_t serial_mask(const struct serial_walk *s, size_t *skip,
                            size_t *n)
{
    uint64_t bits = min_i64(s->left, 64 - s->first);
    *skip = s->first / 8;
    *n = (bits + 7) / 8;
    return hbitmap_mask(s->first, s->first + bits - 1);
}

static void serial_next(struct serial_walk *s)
{
    s->left -= min_i64(s->left, 64 - s->first);
    s->first = 0;
    s->w++;
}

size_t hbitmap_serial_size(const struct hbitmap *b, int64_t offset,
                           int64_t bytes)
{
    return (serial_start(b, offset, bytes).left + 7) / 8;
}

void hbitmap_serialize(const struct hbitmap *b, int64_t offset, int64_t bytes,
                       void *buf)
{
    struct serial_walk s = serial_start(b, offset, bytes);

    for (char *p = buf; s.left; serial_next(&s)) {
        size_t skip, n;
        uint64_t mask = serial_mask(&s, &skip, &n);
        uint64_t word = htole64(b->any[0][s.w] & mask);
        memcpy(p, (char *)&word + skip, n);
        p += n;
    }
}

void hbitmap_deserialize(struct hbitmap *b, int64_t offset, int64_t bytes,
                         const void *buf)
{
    struct serial_walk s = serial_start(b, offset, bytes);

    for (const char *p = buf; s.left; serial_next(&s)) {
        size_t skip, n;
        uint64_t mask = serial_mask(&s, &skip, &n);
        uint64_t word = 0;
        memcpy((char *)&word + skip, p, n);
        p += n;

        uint64_t old = b->any[0][s.w];
        word = (old & ~mask) | (le64toh(word) & mask);
        if (word != old) {
            hbitmap_change_word(b, s.w, old, word);
        }
    }
}
