/*
 * util/hbitmap against a naive model: one byte a granule, every answer found
 * by scanning.
 */
#include "util/hbitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "util/range.h"

#define TiB (INT64_C(1) << 40)

/* ---- random numbers: the same in each run ---------------------------------
 */

static uint64_t rng_state;

static uint64_t rnd(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

/* 0..n-1; 0 if n is 0. */
static int64_t below(int64_t n)
{
    return n ? (int64_t)(rnd() % (uint64_t)n) : 0;
}

static int seeded(void **state)
{
    rng_state = UINT64_C(0x9e3779b97f4a7c15);
    return 0;
}

/* ---- the model ------------------------------------------------------------
 */

struct model {
    int64_t size;
    int64_t g;
    int64_t n;
    uint8_t *bits;
};

static int64_t granules(int64_t size, int64_t g)
{
    return div_round_up(size, g);
}

static struct model model_new(int64_t size, int64_t g)
{
    struct model m = {size, g, granules(size, g), NULL};
    m.bits = calloc(1, m.n + 1);
    return m;
}

static void model_put(struct model *m, int64_t offset, int64_t bytes, int v)
{
    if (bytes) {
        int64_t first = offset / m->g;
        memset(m->bits + first, v, (offset + bytes - 1) / m->g - first + 1);
    }
}

static int64_t model_next(const struct model *m, int64_t offset, int64_t bytes,
                          int v)
{
    for (int64_t at = offset; at < offset + bytes;
         at = align_down(at, m->g) + m->g) {
        if (m->bits[at / m->g] == v) {
            return at;
        }
    }
    return -1;
}

static int64_t model_count(const struct model *m)
{
    int64_t sum = 0;
    for (int64_t i = 0; i < m->n; i++) {
        if (m->bits[i]) {
            sum += min_i64(m->g, m->size - i * m->g);
        }
    }
    return sum;
}

static void model_resize(struct model *m, int64_t size)
{
    struct model to = model_new(size, m->g);
    memcpy(to.bits, m->bits, min_i64(m->n, to.n));
    free(m->bits);
    *m = to;
}

static void model_merge(struct model *dst, const struct model *src)
{
    for (int64_t i = 0; i < src->n; i++) {
        if (src->bits[i]) {
            int64_t at = i * src->g;
            model_put(dst, at, min_i64(src->g, src->size - at), 1);
        }
    }
}

/* ---- comparing ------------------------------------------------------------
 */

static void random_range(const struct model *m, int64_t *offset, int64_t *bytes)
{
    *offset = below(m->size + 1);
    *bytes = below(m->size - *offset + 1);
    if (rnd() % 2) {
        *bytes = min_i64(*bytes, 1 + below(3 * m->g));
    }
}

/* The whole range as runs: next_set, next_clear and next_run in turn. */
static void compare_walk(const struct hbitmap *b, const struct model *m)
{
    int64_t at = 0;
    while (at < m->size) {
        int64_t left = m->size - at;
        int64_t set = model_next(m, at, left, 1);
        assert_int_equal(hbitmap_next_set(b, at, left), set);
        int64_t off = -7, len = -7;
        assert_int_equal(hbitmap_next_run(b, at, left, INT64_MAX, &off, &len),
                         set >= 0);
        if (set < 0) {
            assert_int_equal(off, -7);
            break;
        }
        int64_t end = model_next(m, set, m->size - set, 0);
        assert_int_equal(hbitmap_next_clear(b, set, m->size - set), end);
        end = end < 0 ? m->size : end;
        assert_int_equal(off, set);
        assert_int_equal(len, end - set);
        at = end;
    }
}

static void compare_ranges(const struct hbitmap *b, const struct model *m)
{
    for (int i = 0; i < 20; i++) {
        int64_t offset, bytes, off, len;
        random_range(m, &offset, &bytes);
        int64_t set = model_next(m, offset, bytes, 1);
        assert_int_equal(hbitmap_next_set(b, offset, bytes), set);
        assert_int_equal(hbitmap_next_clear(b, offset, bytes),
                         model_next(m, offset, bytes, 0));

        int64_t max_run = 1 + below(4 * m->g);
        bool found = hbitmap_next_run(b, offset, bytes, max_run, &off, &len);
        assert_int_equal(found, set >= 0);
        if (found) {
            int64_t room = min_i64(max_run, offset + bytes - set);
            int64_t end = model_next(m, set, room, 0);
            assert_int_equal(off, set);
            assert_int_equal(len, end < 0 ? room : end - set);
        }
        if (offset < m->size) {
            assert_int_equal(hbitmap_get(b, offset), m->bits[offset / m->g]);
        }
    }
}

static void compare(const struct hbitmap *b, const struct model *m)
{
    assert_int_equal(hbitmap_size(b), m->size);
    assert_int_equal(hbitmap_granularity(b), m->g);
    assert_int_equal(hbitmap_count(b), model_count(m));
    assert_int_equal(hbitmap_empty(b), model_count(m) == 0);
    compare_walk(b, m);
    compare_ranges(b, m);
}

/* ---- random operations -----------------------------------------------------
 */

/* Mostly short pieces, and runs that fill words and their summaries. */
static void op_set(struct hbitmap *b, struct model *m)
{
    int64_t offset, bytes;
    random_range(m, &offset, &bytes);
    if (rnd() % 4) {
        bytes = min_i64(bytes, m->g * below(200));
    }
    hbitmap_set(b, offset, bytes);
    model_put(m, offset, bytes, 1);
}

static void op_clear(struct hbitmap *b, struct model *m)
{
    int64_t first = below(m->n + 1), last = first + below(m->n - first + 1);
    if (rnd() % 4) {
        last = min_i64(last, first + below(200));
    }
    int64_t offset = min_i64(first * m->g, m->size);
    int64_t bytes = min_i64(last * m->g, m->size) - offset;
    if (!is_aligned(offset, m->g)) {
        return;
    }
    hbitmap_clear(b, offset, bytes);
    model_put(m, offset, bytes, 0);
}

static void op_all(struct hbitmap *b, struct model *m)
{
    bool v = rnd() % 2;
    if (v) {
        hbitmap_set_all(b);
    } else {
        hbitmap_clear_all(b);
    }
    memset(m->bits, v, m->n);
}

static void op_resize(struct hbitmap *b, struct model *m, int64_t max_size)
{
    static const int64_t around[] = {63, 64, 65, 4095, 4096, 4097, 262145};
    int64_t size = below(max_size + 1);

    if (rnd() % 2) {
        size = around[rnd() % 7] * m->g + below(m->g);
    }
    size = min_i64(size, max_size);
    assert_true(hbitmap_resize(b, size));
    model_resize(m, size);
}

/* Bits from a random place on, through the serial form, of another content. */
static void op_serial(struct hbitmap *b, struct model *m)
{
    int64_t first = align_down(below(m->n + 1), 8);
    int64_t count = below(m->n - first + 1);
    int64_t offset = first * m->g;
    if (offset > m->size) {
        return;
    }
    int64_t bytes = min_i64(count * m->g, m->size - offset);
    size_t n = hbitmap_serial_size(b, offset, bytes);
    assert_int_equal(n, (count + 7) / 8);

    uint8_t *buf = malloc(n + 1);
    buf[n] = 0xa5;
    hbitmap_serialize(b, offset, bytes, buf);
    assert_int_equal(buf[n], 0xa5);
    for (int64_t i = 0; i < (int64_t)n * 8; i++) {
        int expect = i < count ? m->bits[first + i] : 0;
        assert_int_equal(buf[i / 8] >> i % 8 & 1, expect);
    }
    /* All bits of the last byte: those beyond the range must be ignored. */
    for (size_t i = 0; i < n; i++) {
        buf[i] = rnd() % 3 ? (uint8_t)rnd() : rnd() % 2 ? 0xff : 0;
    }
    hbitmap_deserialize(b, offset, bytes, buf);
    for (int64_t i = 0; i < count; i++) {
        m->bits[first + i] = buf[i / 8] >> i % 8 & 1;
    }
    free(buf);
}

static void op_merge(struct hbitmap *b, struct model *m)
{
    int64_t g = rnd() % 2 ? m->g : INT64_C(1) << below(16);
    if (granules(m->size, g) > 400000) {
        return;
    }
    struct hbitmap *src = hbitmap_new(m->size, g);
    struct model sm = model_new(m->size, g);

    if (rnd() % 8 == 0) {
        hbitmap_set_all(src);
        memset(sm.bits, 1, sm.n);
    }
    for (int i = below(12); i > 0; i--) {
        op_set(src, &sm);
    }
    hbitmap_merge(b, src);
    model_merge(m, &sm);
    compare(src, &sm);
    hbitmap_free(src);
    free(sm.bits);
}

static void run_ops(int64_t size, int64_t g, int64_t max_size, int ops)
{
    struct hbitmap *b = hbitmap_new(size, g);
    struct model m = model_new(size, g);

    assert_non_null(b);
    compare(b, &m);
    for (int i = 0; i < ops; i++) {
        switch (rnd() % 16) {
        case 0:
            op_all(b, &m);
            break;
        case 1:
            op_resize(b, &m, max_size);
            break;
        case 2:
            op_serial(b, &m);
            break;
        case 3:
        case 4:
            op_merge(b, &m);
            break;
        case 5:
        case 6:
        case 7:
        case 8:
            op_clear(b, &m);
            break;
        default:
            op_set(b, &m);
        }
        compare(b, &m);
    }
    hbitmap_free(b);
    free(m.bits);
}

static void one_level_agrees_with_the_model(void **state)
{
    run_ops(0, 512, 64 * 512, 300);
    run_ops(512, 512, 512, 100);
    run_ops(64 * 8, 8, 64 * 8, 2000);
    run_ops(63 * 8 - 3, 8, 64 * 8, 2000);
}

static void two_levels_agree_with_the_model(void **state)
{
    run_ops(65 * 512 + 17, 512, 4096 * 512, 1000);
    run_ops(4096 * 16, 16, 4096 * 16, 500);
    run_ops(1000, 1, 4096, 1000);
}

static void three_levels_agree_with_the_model(void **state)
{
    run_ops(4097 * 64 - 1, 64, 9000 * 64, 300);
    run_ops(30000 * 4, 4, 40000 * 4, 150);
}

static void four_levels_agree_with_the_model(void **state)
{
    run_ops(262145 * 2, 2, 300000 * 2, 40);
}

/* ---- single behaviours ------------------------------------------------------
 */

static void setting_rounds_outwards(void **state)
{
    struct hbitmap *b = hbitmap_new(10000, 1024);
    hbitmap_set(b, 1023, 2);
    assert_int_equal(hbitmap_count(b), 2048);
    assert_true(hbitmap_get(b, 0));
    assert_true(hbitmap_get(b, 2047));
    assert_false(hbitmap_get(b, 2048));
    hbitmap_set(b, 5000, 0);
    assert_int_equal(hbitmap_count(b), 2048);
    hbitmap_free(b);
}

static void last_granule_counts_up_to_size(void **state)
{
    struct hbitmap *b = hbitmap_new(10000, 1024);
    int64_t off, len;

    hbitmap_set(b, 9999, 1);
    assert_int_equal(hbitmap_count(b), 10000 - 9 * 1024);
    assert_true(hbitmap_next_run(b, 0, 10000, INT64_MAX, &off, &len));
    assert_int_equal(off, 9 * 1024);
    assert_int_equal(len, 10000 - 9 * 1024);
    hbitmap_set_all(b);
    assert_int_equal(hbitmap_count(b), 10000);
    assert_int_equal(hbitmap_next_clear(b, 0, 10000), -1);
    hbitmap_clear(b, 9 * 1024, 10000 - 9 * 1024);
    assert_int_equal(hbitmap_next_clear(b, 0, 10000), 9 * 1024);
    hbitmap_free(b);
}

static void growing_into_a_set_granule_covers_it_whole(void **state)
{
    struct hbitmap *b = hbitmap_new(1000, 1024);
    hbitmap_set(b, 0, 1);
    assert_int_equal(hbitmap_count(b), 1000);
    assert_true(hbitmap_resize(b, 3000));
    assert_int_equal(hbitmap_count(b), 1024);
    assert_int_equal(hbitmap_next_clear(b, 0, 3000), 1024);
    hbitmap_free(b);
}

static void bits_cut_off_do_not_come_back(void **state)
{
    struct hbitmap *b = hbitmap_new(1 << 20, 16);
    hbitmap_set_all(b);
    assert_true(hbitmap_resize(b, 1600));
    assert_true(hbitmap_resize(b, 1 << 20));
    assert_int_equal(hbitmap_count(b), 1600);
    assert_int_equal(hbitmap_next_set(b, 1600, (1 << 20) - 1600), -1);
    assert_true(hbitmap_resize(b, 0));
    assert_true(hbitmap_empty(b));
    assert_int_equal(hbitmap_next_set(b, 0, 0), -1);
    assert_true(hbitmap_resize(b, 1600));
    assert_true(hbitmap_empty(b));
    hbitmap_free(b);
}

static void sizes_up_to_the_largest_file_work(void **state)
{
    int64_t g = INT64_C(1) << 40;
    struct hbitmap *b = hbitmap_new(INT64_MAX, g);

    assert_non_null(b);
    hbitmap_set(b, INT64_MAX - 1, 1);
    assert_int_equal(hbitmap_count(b), g - 1);
    assert_int_equal(hbitmap_next_set(b, 0, INT64_MAX),
                     align_down(INT64_MAX, g));
    hbitmap_set_all(b);
    assert_int_equal(hbitmap_count(b), INT64_MAX);
    assert_int_equal(hbitmap_next_clear(b, 0, INT64_MAX), -1);

    struct hbitmap *coarse = hbitmap_new(INT64_MAX, INT64_C(1) << 62);
    hbitmap_merge(coarse, b);
    assert_int_equal(hbitmap_count(coarse), INT64_MAX);
    hbitmap_clear_all(b);
    hbitmap_merge(b, coarse);
    assert_int_equal(hbitmap_count(b), INT64_MAX);
    hbitmap_free(coarse);
    hbitmap_free(b);
}

static void lack_of_address_space_is_an_answer(void **state)
{
    assert_null(hbitmap_new(INT64_MAX, 1));

    struct hbitmap *b = hbitmap_new(4096, 1);
    hbitmap_set(b, 77, 3);
    assert_false(hbitmap_resize(b, INT64_MAX));
    /* Here the summaries fit and the bits do not. */
    assert_false(hbitmap_resize(b, INT64_C(1) << 52));
    assert_int_equal(hbitmap_size(b), 4096);
    assert_int_equal(hbitmap_count(b), 3);
    assert_int_equal(hbitmap_next_set(b, 0, 4096), 77);
    hbitmap_free(b);
}

static void merge_into_itself_changes_nothing(void **state)
{
    struct hbitmap *b = hbitmap_new(1 << 20, 512);
    hbitmap_set(b, 5000, 100000);
    int64_t count = hbitmap_count(b);
    hbitmap_merge(b, b);
    assert_int_equal(hbitmap_count(b), count);
    hbitmap_free(b);
}

static void serial_form_is_little_endian_bit_0_first(void **state)
{
    struct hbitmap *b = hbitmap_new(100 * 512, 512);
    uint8_t buf[13];

    hbitmap_set(b, 0, 512);
    hbitmap_set(b, 9 * 512, 512);
    hbitmap_set(b, 71 * 512, 512);
    hbitmap_set(b, 99 * 512, 512);
    assert_int_equal(hbitmap_serial_size(b, 0, 100 * 512), 13);
    hbitmap_serialize(b, 0, 100 * 512, buf);
    assert_int_equal(buf[0], 0x01);
    assert_int_equal(buf[1], 0x02);
    assert_int_equal(buf[8], 0x80);
    assert_int_equal(buf[12], 0x08);
    assert_int_equal(hbitmap_serial_size(b, 8 * 512, 0), 0);
    hbitmap_free(b);
}

/* ---- memory
 * ------------------------------------------------------------------ */

/* Pages of address space and of memory, in bytes. */
static void memory(int64_t *reserved, int64_t *resident_bytes)
{
    long total, pages;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%ld %ld", &total, &pages), 2);
    fclose(f);
    *reserved = (int64_t)total * sysconf(_SC_PAGESIZE);
    *resident_bytes = (int64_t)pages * sysconf(_SC_PAGESIZE);
}

static int64_t resident(void)
{
    int64_t reserved, bytes;
    memory(&reserved, &bytes);
    return bytes;
}

static void a_huge_sparse_disk_costs_its_touched_pages(void **state)
{
    int64_t before = resident();
    struct hbitmap *b = hbitmap_new(16 * TiB, 65536);

    for (int64_t at = 0; at < 16 * TiB; at += TiB) {
        hbitmap_set(b, at + 12345, 1);
    }
    assert_int_equal(hbitmap_count(b), 16 * 65536);
    assert_true(resident() - before < 1 << 20);
    hbitmap_free(b);
}

static void clearing_all_gives_memory_back(void **state)
{
    struct hbitmap *b = hbitmap_new(16 * TiB, 65536);
    int64_t before = resident();

    hbitmap_set_all(b);
    int64_t full = resident();
    assert_true(full - before >= 32 << 20);
    hbitmap_clear_all(b);
    assert_true(full - resident() >= 32 << 20);
    assert_int_equal(hbitmap_next_set(b, 0, 16 * TiB), -1);
    assert_int_equal(hbitmap_next_clear(b, 1, 16 * TiB - 1), 1);
    hbitmap_free(b);
}

/* One granule in each of 3000 pages of level 0, then one in every 50th. */
static void merging_takes_no_more_memory_than_the_source(void **state)
{
    struct hbitmap *src = hbitmap_new(16 * TiB, 65536);
    struct hbitmap *dst = hbitmap_new(16 * TiB, 65536);
    int64_t page = INT64_C(4096) * 8 * 65536, reserved, before, after;

    for (int64_t i = 0; i < 3000; i++) {
        hbitmap_set(src, i * page + i * 65536, 1);
    }
    for (int64_t i = 3000; i < 8192; i += 50) {
        hbitmap_set(src, i * page, 1);
    }
    memory(&reserved, &before);
    hbitmap_merge(dst, src);
    memory(&reserved, &after);
    assert_true(after - before < 3200 * 4096 * 4 / 3);
    assert_int_equal(hbitmap_count(dst), hbitmap_count(src));

    int64_t at = 0, n, other = 0, other_n;
    while (hbitmap_next_run(src, at, 16 * TiB - at, 65536, &at, &n)) {
        assert_true(hbitmap_next_run(dst, other, 16 * TiB - other, 65536,
                                     &other, &other_n));
        assert_int_equal(other, at);
        assert_int_equal(other_n, n);
        at += n;
        other += other_n;
    }
    hbitmap_free(src);
    hbitmap_free(dst);
}

static void address_space_is_returned(void **state)
{
    int64_t before, after, bytes;

    memory(&before, &bytes);
    for (int i = 0; i < 50; i++) {
        struct hbitmap *b = hbitmap_new(TiB, 65536);
        assert_true(hbitmap_resize(b, 16 * TiB));
        assert_true(hbitmap_resize(b, 2 * TiB));
        hbitmap_free(b);
    }
    memory(&after, &bytes);
    assert_true(after - before < 4 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_level_agrees_with_the_model, seeded),
        cmocka_unit_test_setup(two_levels_agree_with_the_model, seeded),
        cmocka_unit_test_setup(three_levels_agree_with_the_model, seeded),
        cmocka_unit_test_setup(four_levels_agree_with_the_model, seeded),
        cmocka_unit_test(setting_rounds_outwards),
        cmocka_unit_test(last_granule_counts_up_to_size),
        cmocka_unit_test(growing_into_a_set_granule_covers_it_whole),
        cmocka_unit_test(bits_cut_off_do_not_come_back),
        cmocka_unit_test(sizes_up_to_the_largest_file_work),
        cmocka_unit_test(lack_of_address_space_is_an_answer),
        cmocka_unit_test(merge_into_itself_changes_nothing),
        cmocka_unit_test(serial_form_is_little_endian_bit_0_first),
        cmocka_unit_test(a_huge_sparse_disk_costs_its_touched_pages),
        cmocka_unit_test(clearing_all_gives_memory_back),
        cmocka_unit_test(merging_takes_no_more_memory_than_the_source),
        cmocka_unit_test(address_space_is_returned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
