/*
 * The hierarchical bitmap: marking, clearing and searching.
 *
 * hbitmap_internal.h has the invariants of the levels. The number of set
 * granules is kept exactly at each change of a word, so counting is free.
 *
 * One owner, no locks; runs wherever its owner runs.
 */
#include "util/hbitmap.h"

#include <string.h>

#include "hbitmap_internal.h"
#include "util/range.h"

/* ---- one word ------------------------------------------------------------ */

static void link_any(struct hbitmap *b, uint64_t w)
{
    for (unsigned k = 1; k < b->levels; k++) {
        uint64_t *p = &b->any[k][w / 64];
        uint64_t old = *p;
        *p = old | UINT64_C(1) << w % 64;
        if (old) {
            break;
        }
        w /= 64;
    }
}

static void unlink_any(struct hbitmap *b, uint64_t w)
{
    for (unsigned k = 1; k < b->levels; k++) {
        uint64_t *p = &b->any[k][w / 64];
        *p &= ~(UINT64_C(1) << w % 64);
        if (*p) {
            break;
        }
        w /= 64;
    }
}

static void link_full(struct hbitmap *b, uint64_t w)
{
    for (unsigned k = 1; k < b->levels; k++) {
        uint64_t *p = &b->full[k][w / 64];
        *p |= UINT64_C(1) << w % 64;
        if (*p != UINT64_MAX) {
            break;
        }
        w /= 64;
    }
}

static void unlink_full(struct hbitmap *b, uint64_t w)
{
    for (unsigned k = 1; k < b->levels; k++) {
        uint64_t *p = &b->full[k][w / 64];
        uint64_t old = *p;
        *p = old & ~(UINT64_C(1) << w % 64);
        if (old != UINT64_MAX) {
            break;
        }
        w /= 64;
    }
}

/* Without a popcount instruction (baseline x86-64) the general case is a call
 * into a table; most changes are one granule or a whole word. */
static inline unsigned popcount(uint64_t x)
{
    if (!(x & (x - 1))) {
        return x != 0;
    }
    return x == UINT64_MAX ? 64 : __builtin_popcountll(x);
}

void hbitmap_change_word(struct hbitmap *b, uint64_t w, uint64_t old,
                         uint64_t value)
{
    b->any[0][w] = value;
    b->set += popcount(value & ~old);
    b->set -= popcount(old & ~value);
    if (!old != !value) {
        if (value) {
            link_any(b, w);
        } else {
            unlink_any(b, w);
        }
    }
    if (value == UINT64_MAX) {
        link_full(b, w);
    } else if (old == UINT64_MAX) {
        unlink_full(b, w);
    }
}

/* ---- ranges -------------------------------------------------------------- */

int64_t hbitmap_size(const struct hbitmap *b)
{
    return b->size;
}

int64_t hbitmap_granularity(const struct hbitmap *b)
{
    return INT64_C(1) << b->ground.shift;
}

static inline bool get_granule(const struct hbitmap *b, uint64_t i)
{
    return b->any[0][i / 64] >> i % 64 & 1;
}

int64_t hbitmap_count(const struct hbitmap *b)
{
    uint64_t bytes = b->set << b->ground.shift;

    if (b->set && get_granule(b, b->bits[0] - 1)) {
        /* Unsigned: the granule's end may lie beyond 2^63 - 1. */
        bytes -= (b->bits[0] << b->ground.shift) - (uint64_t)b->size;
    }
    return bytes;
}

bool hbitmap_empty(const struct hbitmap *b)
{
    return b->set == 0;
}

bool hbitmap_get(const struct hbitmap *b, int64_t offset)
{
    assert(offset >= 0 && offset < b->size);
    return get_granule(b, (uint64_t)offset >> b->ground.shift);
}

void hbitmap_set_granules(struct hbitmap *b, uint64_t first, uint64_t last)
{
    uint64_t w = first / 64, end = last / 64;

    if (w == end) {
        hbitmap_or_word(b, w, hbitmap_mask(first % 64, last % 64));
        return;
    }
    hbitmap_or_word(b, w, hbitmap_mask(first % 64, 63));
    while (++w < end) {
        hbitmap_or_word(b, w, UINT64_MAX);
    }
    hbitmap_or_word(b, end, hbitmap_mask(0, last % 64));
}

void hbitmap_set(struct hbitmap *b, int64_t offset, int64_t bytes)
{
    assert(range_within(offset, bytes, b->size));
    if (!bytes) {
        return;
    }
    uint64_t first = (uint64_t)offset >> b->ground.shift;
    uint64_t last = (uint64_t)(offset + bytes - 1) >> b->ground.shift;

    if (first / 64 == last / 64) {
        hbitmap_or_word(b, first / 64, hbitmap_mask(first % 64, last % 64));
    } else {
        hbitmap_set_granules(b, first, last);
    }
}

static void clear_granules(struct hbitmap *b, uint64_t first, uint64_t last)
{
    uint64_t end = last / 64;
    uint64_t w = first / 64;

    /* The word at hand first: a single cleared granule needs no search. */
    if (!b->any[0][w]) {
        w = hbitmap_next_word(b, w);
    }
    for (; w <= end; w = hbitmap_next_word(b, w + 1)) {
        uint64_t mask = hbitmap_mask(w == first / 64 ? first % 64 : 0,
                                     w == end ? last % 64 : 63);
        uint64_t old = b->any[0][w];
        if (old & mask) {
            hbitmap_change_word(b, w, old, old & ~mask);
        }
        if (w == end) {
            break;
        }
    }
}

void hbitmap_clear(struct hbitmap *b, int64_t offset, int64_t bytes)
{
    assert(range_within(offset, bytes, b->size));
    assert(is_aligned(offset, INT64_C(1) << b->ground.shift));
    assert(is_aligned(bytes, INT64_C(1) << b->ground.shift) ||
           offset + bytes == b->size);
    if (!bytes || !b->set) {
        return;
    }
    if (bytes == b->size) {
        hbitmap_clear_all(b);
        return;
    }
    clear_granules(b, (uint64_t)offset >> b->ground.shift,
                   (uint64_t)(offset + bytes - 1) >> b->ground.shift);
}

static void fill(uint64_t *words, uint64_t bits)
{
    memset(words, 0xff, bits / 64 * sizeof(*words));
    if (bits % 64) {
        words[bits / 64] |= hbitmap_mask(0, bits % 64 - 1);
    }
}

void hbitmap_set_all(struct hbitmap *b)
{
    uint64_t full = b->bits[0];

    hbitmap_will_fill(b, NULL);
    fill(b->any[0], full);
    for (unsigned k = 1; k < b->levels; k++) {
        fill(b->any[k], b->bits[k]);
        full /= 64;
        fill(b->full[k], full);
    }
    b->set = b->bits[0];
}

/* ---- searches ------------------------------------------------------------ */

static int64_t found(const struct hbitmap *b, uint64_t granule, int64_t offset,
                     int64_t bytes)
{
    if (granule == HBITMAP_NONE) {
        return -1;
    }
    int64_t at = max_i64(granule << b->ground.shift, offset);
    return at < offset + bytes ? at : -1;
}

int64_t hbitmap_next_set(const struct hbitmap *b, int64_t offset, int64_t bytes)
{
    assert(range_within(offset, bytes, b->size));
    uint64_t i =
        hbitmap_find(b, b->any, 0, 0, (uint64_t)offset >> b->ground.shift);
    return found(b, i, offset, bytes);
}

int64_t hbitmap_next_clear(const struct hbitmap *b, int64_t offset,
                           int64_t bytes)
{
    assert(range_within(offset, bytes, b->size));
    uint64_t i = hbitmap_find(b, b->full, 0, UINT64_MAX,
                              (uint64_t)offset >> b->ground.shift);
    return found(b, i, offset, bytes);
}

bool hbitmap_next_run(const struct hbitmap *b, int64_t offset, int64_t bytes,
                      int64_t max_run, int64_t *run_offset, int64_t *run_bytes)
{
    assert(max_run > 0);
    int64_t start = hbitmap_next_set(b, offset, bytes);
    if (start < 0) {
        return false;
    }
    int64_t longest = min_i64(max_run, offset + bytes - start);
    int64_t end = hbitmap_next_clear(b, start, longest);
    *run_offset = start;
    *run_bytes = end < 0 ? longest : end - start;
    return true;
}
