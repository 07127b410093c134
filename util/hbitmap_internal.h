/*
 * What the files of hbitmap share: the hierarchy and the change of one word.
 *
 * Level 0 has one bit a granule. Two summaries lie over it: a bit of any[k]
 * says that the word below is not zero, a bit of full[k] that it is all ones.
 * Both share level 0 (any[0] == full[0]), and the top is one word. Bits beyond
 * bits[k] are always zero, so a last word with such padding never counts as
 * full. The summaries change only when a word becomes or ceases to be zero or
 * full, and therefore cost the marking of single granules next to nothing.
 */
#ifndef VARVE_UTIL_HBITMAP_INTERNAL_H
#define VARVE_UTIL_HBITMAP_INTERNAL_H

#include "util/hbitmap.h"

#include <assert.h>

/* Levels of the largest bitmap that can be asked for, 2^63 granules. */
#define HBITMAP_MAX_LEVELS 11
#define HBITMAP_NONE       UINT64_MAX

struct hbitmap {
    struct hbitmap_ground ground; /* words == any[0] */
    unsigned levels;              /* at least 1; level 0 is the lowest */
    int64_t size;
    uint64_t set; /* granules */
    uint64_t *any[HBITMAP_MAX_LEVELS];
    uint64_t *full[HBITMAP_MAX_LEVELS];
    uint64_t bits[HBITMAP_MAX_LEVELS];
    size_t ground_bytes; /* mapped at any[0] */
    size_t upper_bytes;  /* mapped at any[1], all other levels; 0: one level */
};

static inline uint64_t hbitmap_words(uint64_t bits)
{
    return bits / 64 + (bits % 64 != 0);
}

/* The bits from..to (inclusive, 0..63) of a word. */
static inline uint64_t hbitmap_mask(unsigned from, unsigned to)
{
    return (UINT64_MAX << from) & (UINT64_MAX >> (63 - to));
}

/* Changes word w of level 0 from old to value, with the count and both
 * summaries. */
void hbitmap_change_word(struct hbitmap *b, uint64_t w, uint64_t old,
                         uint64_t value);

static inline void hbitmap_or_word(struct hbitmap *b, uint64_t w, uint64_t mask)
{
    uint64_t old = b->any[0][w];
    if (__builtin_expect((old & mask) != mask, 0)) {
        hbitmap_change_word(b, w, old, old | mask);
    }
}

/* b is about to be written where `like`, of as many granules, has set bits;
 * NULL: everywhere. Where that is most of a huge page, b gets one. */
void hbitmap_will_fill(struct hbitmap *b, const struct hbitmap *like);

/* Sets the granules first..last (inclusive, in range). */
void hbitmap_set_granules(struct hbitmap *b, uint64_t first, uint64_t last);

/* The first bit at or after pos of level base that is set (flip = 0, levels =
 * any) or clear (flip = ~0, levels = full), or HBITMAP_NONE. */
static inline uint64_t hbitmap_find(const struct hbitmap *b,
                                    uint64_t *const *levels, unsigned base,
                                    uint64_t flip, uint64_t pos)
{
    unsigned k = base;

    for (;;) {
        if (pos >= b->bits[k]) {
            return HBITMAP_NONE;
        }
        uint64_t word = (levels[k][pos / 64] ^ flip) >> (pos % 64);
        if (word) {
            pos += __builtin_ctzll(word);
            break;
        }
        if (++k == b->levels) {
            return HBITMAP_NONE;
        }
        pos = pos / 64 + 1;
    }
    /* Only padding of a last word can lie beyond the end, and nothing follows
     * a last word. */
    while (pos < b->bits[k]) {
        if (k == base) {
            return pos;
        }
        k--;
        pos = pos * 64 + __builtin_ctzll(levels[k][pos] ^ flip);
    }
    return HBITMAP_NONE;
}

/* The first word of level 0 at or after w that is not zero, or NONE. */
static inline uint64_t hbitmap_next_word(const struct hbitmap *b, uint64_t w)
{
    if (b->levels == 1) {
        return w == 0 && b->any[0][0] ? 0 : HBITMAP_NONE;
    }
    return hbitmap_find(b, b->any, 1, 0, w);
}

#endif
