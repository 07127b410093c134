/*
 * The hierarchical bitmap: its memory.
 *
 * Level 0 and the upper levels are two private mappings without reservation: a
 * page exists once a bit in it was set, hbitmap_clear_all() gives large ones
 * back, and growing moves page tables, not bits. One bit must not cost a huge
 * page, so those are only allowed where nearly all of one is about to be
 * written, for then they save 512 page faults.
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
/* Pages of the common kind, and the huge ones that they make up. */
#define PAGE_BYTES      4096
#define HUGE_BYTES      ((size_t)2 << 20)
/* Pages in use from which on a huge one is worth it: it takes a third more
 * memory at worst. */
#define HUGE_WORTH      (HUGE_BYTES / PAGE_BYTES * 3 / 4)

static size_t page_round(uint64_t bytes)
{
    return align_up(max_i64(bytes, 1), sysconf(_SC_PAGESIZE));
}

/* Advice that a kernel may refuse, with no harm. */
static void small_pages(void *p, size_t bytes)
{
    if (bytes >= HUGE_BYTES) {
        madvise(p, bytes, MADV_NOHUGEPAGE);
    }
}

static void *reserve(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        return NULL;
    }
    small_pages(p, bytes);
    return p;
}

static void huge_page(char *p)
{
    if (madvise(p, HUGE_BYTES, MADV_HUGEPAGE) == 0) {
        *(volatile char *)p |= 0; /* the page comes with the first write */
        madvise(p, HUGE_BYTES, MADV_NOHUGEPAGE);
    }
}

/* Pages of level 0 that hold set bits in HUGE_BYTES from page on. A bit of the
 * second summary stands for 512 bytes, eight of them for a page. */
static unsigned pages_in_use(const struct hbitmap *b, uint64_t page)
{
    unsigned n = 0;

    for (uint64_t end = page + HUGE_BYTES / PAGE_BYTES; page < end; page++) {
        n += (b->any[2][page / 8] >> page % 8 * 8 & 0xff) != 0;
    }
    return n;
}

void hbitmap_will_fill(struct hbitmap *b, const struct hbitmap *like)
{
    char *ground = (char *)b->any[0], *p = ground;
    size_t bytes = hbitmap_words(b->bits[0]) * sizeof(uint64_t);

    assert(!like || like->bits[0] == b->bits[0]);
    if (bytes < HUGE_BYTES) {
        return;
    }
    p += -(uintptr_t)p & (HUGE_BYTES - 1);
    for (; p + HUGE_BYTES <= ground + bytes; p += HUGE_BYTES) {
        uint64_t page = (p - ground) / PAGE_BYTES;
        if (!like || pages_in_use(like, page) >= HUGE_WORTH) {
            huge_page(p);
        }
    }
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
    small_pages(ground, to.ground_bytes);
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
