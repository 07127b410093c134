/*
 * The hierarchical bitmap: its memory.
 *
 * Level 0 and the upper levels are two private mappings without reservation: a
 * page exists once a bit in it was set, hbitmap_clear_all() gives large ones
 * back, and growing moves page tables, not bits.
 *
 * One owner, no locks; runs wherever its owner runs.
 */
#include "hbitmap_internal.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "util/range.h"

/* From here on handing pages back is cheaper than zeroing them. */
#define GIVE_BACK_BYTES (128 * 1024)

static size_t page_round(uint64_t bytes)
{
    return align_up(max_i64(bytes, 1), sysconf(_SC_PAGESIZE));
}

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    return p;
}

static void wipe(void *p, size_t bytes)
{
    /* Fails on locked memory, for one. */
    if (bytes < GIVE_BACK_BYTES || madvise(p, bytes, MADV_DONTNEED) < 0) {
        memset(p, 0, bytes);
    }
}

static void set_geometry(struct hbitmap *b, int64_t size)
{
    uint64_t bits = ((uint64_t)size >> b->ground.shift) +
                    !is_aligned(size, INT64_C(1) << b->ground.shift);

    b->size = size;
    b->bits[0] = bits;
    b->levels = 1;
    while (bits > 64) {
        bits = hbitmap_words(bits);
        b->bits[b->levels++] = bits;
    }
}

static size_t ground_bytes(const struct hbitmap *b)
{
    return page_round(hbitmap_words(b->bits[0]) * sizeof(uint64_t));
}

static bool map_upper(struct hbitmap *b)
{
    uint64_t words = 0;

    for (unsigned k = 1; k < b->levels; k++) {
        words += 2 * hbitmap_words(b->bits[k]);
    }
    b->upper_bytes = words ? page_round(words * sizeof(uint64_t)) : 0;
    if (!words) {
        return true;
    }
    uint64_t *p = reserve(b->upper_bytes);
    if (!p) {
        return false;
    }
    /* The summary that marking uses lies together. */
    for (unsigned k = 1; k < b->levels; k++) {
        b->any[k] = p;
        p += hbitmap_words(b->bits[k]);
    }
    for (unsigned k = 1; k < b->levels; k++) {
        b->full[k] = p;
        p += hbitmap_words(b->bits[k]);
    }
    return true;
}

static void unmap_upper(struct hbitmap *b)
{
    if (b->upper_bytes) {
        munmap(b->any[1], b->upper_bytes);
    }
}

struct hbitmap *hbitmap_new(int64_t size, int64_t granularity)
{
    assert(size >= 0 && granularity > 0 && is_power_of_2(granularity));

    struct hbitmap *b = calloc(1, sizeof(*b));
    if (!b) {
        return NULL;
    }
    b->ground.shift = __builtin_ctzll(granularity);
    set_geometry(b, size);
    b->ground_bytes = ground_bytes(b);
    b->any[0] = b->full[0] = reserve(b->ground_bytes);
    b->ground.words = b->any[0];
    if (!b->any[0]) {
        free(b);
        return NULL;
    }
    if (!map_upper(b)) {
        munmap(b->any[0], b->ground_bytes);
        free(b);
        return NULL;
    }
    return b;
}

void hbitmap_free(struct hbitmap *b)
{
    if (b) {
        unmap_upper(b);
        munmap(b->any[0], b->ground_bytes);
        free(b);
    }
}

void hbitmap_clear_all(struct hbitmap *b)
{
    if (!b->set) {
        return;
    }
    wipe(b->any[0], b->ground_bytes);
    if (b->upper_bytes) {
        wipe(b->any[1], b->upper_bytes);
    }
    b->set = 0;
}

/* Level 0 in place or moved by its page tables, never copied; the summaries
 * anew, from the old ones, so that the cost follows the set words. */
bool hbitmap_resize(struct hbitmap *b, int64_t size)
{
    assert(size >= 0);

    struct hbitmap to = {.ground.shift = b->ground.shift};
    set_geometry(&to, size);
    to.ground_bytes = ground_bytes(&to);
    if (!map_upper(&to)) {
        return false;
    }
    if (to.bits[0] < b->bits[0]) {
        int64_t cut = to.bits[0] << b->ground.shift;
        hbitmap_clear(b, cut, b->size - cut);
    }
    void *ground = b->any[0];
    if (to.ground_bytes != b->ground_bytes) {
        ground =
            mremap(b->any[0], b->ground_bytes, to.ground_bytes, MREMAP_MAYMOVE);
    }
    if (ground == MAP_FAILED && to.ground_bytes > b->ground_bytes) {
        unmap_upper(&to);
        return false;
    }
    if (ground == MAP_FAILED) {
        /* Cutting can fail for want of a mapping; the rest is zero. */
        ground = b->any[0];
        to.ground_bytes = b->ground_bytes;
    }
    b->any[0] = b->full[0] = to.any[0] = to.full[0] = ground;
    to.ground.words = ground;
    for (uint64_t w = hbitmap_next_word(b, 0); w != HBITMAP_NONE;
         w = hbitmap_next_word(b, w + 1)) {
        hbitmap_change_word(&to, w, 0, to.any[0][w]);
    }
    unmap_upper(b);
    *b = to;
    return true;
}
