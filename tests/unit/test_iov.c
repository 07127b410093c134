/*
 * util/iov: every window over a ragged array, compared with flat memory.
 */
#include "util/iov.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define N(a) (sizeof(a) / sizeof((a)[0]))

/* Pieces of 3, 0, 1, 7, 0, 5, 2 bytes, each in an allocation of its own, so
 * that a step over an edge is seen. Bytes count up from 1. */
struct ragged {
    struct iovec vec[7];
    struct iov iov;
    char flat[18];
};

static const size_t lengths[] = {3, 0, 1, 7, 0, 5, 2};

static void ragged_fill(struct ragged *r)
{
    for (size_t i = 0; i < sizeof(r->flat); i++) {
        r->flat[i] = i + 1;
    }
    const char *p = r->flat;
    for (unsigned i = 0; i < N(lengths); i++) {
        memcpy(r->vec[i].iov_base, p, lengths[i]);
        p += lengths[i];
    }
}

static int setup(void **state)
{
    struct ragged *r = calloc(1, sizeof(*r));

    for (unsigned i = 0; i < N(lengths); i++) {
        r->vec[i].iov_len = lengths[i];
        r->vec[i].iov_base = malloc(lengths[i]);
    }
    ragged_fill(r);
    r->iov = iov_of(r->vec, N(lengths));
    *state = r;
    return 0;
}

static int teardown(void **state)
{
    struct ragged *r = *state;

    for (unsigned i = 0; i < N(lengths); i++) {
        free(r->vec[i].iov_base);
    }
    free(r);
    return 0;
}

static void assert_holds(const struct iov *iov, const char *bytes, size_t n)
{
    char buf[18];

    assert_int_equal(iov->bytes, n);
    assert_int_equal(iov_to_buf(iov, 0, buf, n), n);
    assert_memory_equal(buf, bytes, n);
}

static void whole_array_is_one_window(void **state)
{
    struct ragged *r = *state;

    assert_holds(&r->iov, r->flat, 18);
    assert_true(iov_is_plain(&r->iov));
    struct iov none = iov_of(NULL, 0);
    assert_int_equal(none.bytes, 0);
    assert_true(iov_is_plain(&none));
    assert_true(iov_is_zero(&none));
    assert_int_equal(iov_export(&none, NULL, 0), 0);
}

static void flat_buffer_is_a_window(void **state)
{
    char data[] = "hello";
    struct iovec storage;
    struct iov iov = iov_buf(&storage, data, 5);
    assert_holds(&iov, "hello", 5);
    assert_true(iov_is_plain(&iov));
}

static void every_slice_of_every_slice_holds_its_bytes(void **state)
{
    struct ragged *r = *state;

    for (size_t a = 0; a <= 18; a++) {
        for (size_t n = 0; n <= 18 - a; n++) {
            struct iov s = iov_slice(&r->iov, a, n);
            assert_holds(&s, r->flat + a, n);
            for (size_t b = 0; b <= n; b++) {
                struct iov t = iov_slice(&s, b, n - b);
                assert_holds(&t, r->flat + a + b, n - b);
                t = iov_slice(&s, 0, b);
                assert_holds(&t, r->flat + a, b);
            }
        }
    }
}

static void slice_touches_no_entry_in_vain(void **state)
{
    struct ragged *r = *state;
    struct iov s = iov_slice(&r->iov, 4, 7);

    assert_ptr_equal(s.vec, &r->vec[3]);
    assert_int_equal(s.count, 1);
    assert_int_equal(s.skip, 0);
    assert_true(iov_is_plain(&s));
    s = iov_slice(&r->iov, 4, 6);
    assert_false(iov_is_plain(&s));
    s = iov_slice(&r->iov, 5, 6);
    assert_false(iov_is_plain(&s));
    s = iov_slice(&r->iov, 10, 0);
    assert_int_equal(s.count, 0);
}

static void export_gives_the_pieces_without_empty_ones(void **state)
{
    struct ragged *r = *state;
    struct iovec out[7];

    assert_int_equal(iov_export(&r->iov, out, 7), 5);
    struct iov again = iov_of(out, 5);
    assert_holds(&again, r->flat, 18);

    struct iov s = iov_slice(&r->iov, 2, 10);
    assert_int_equal(iov_export(&s, out, 7), 4);
    assert_ptr_equal(out[0].iov_base, (char *)r->vec[0].iov_base + 2);
    assert_int_equal(out[0].iov_len, 1);
    assert_int_equal(out[3].iov_len, 1);
    assert_int_equal(iov_export(&s, out, 4), 4);
    assert_int_equal(iov_export(&s, out, 3), -1);
}

static void buffers_are_copied_in_and_filled_at_any_place(void **state)
{
    struct ragged *r = *state;
    char expect[18];

    for (size_t a = 0; a <= 18; a++) {
        for (size_t n = 0; n <= 18 - a; n++) {
            ragged_fill(r);
            memcpy(expect, r->flat, 18);
            memcpy(expect + a, "ABCDEFGHIJKLMNOPQR", n);
            assert_int_equal(iov_from_buf(&r->iov, a, "ABCDEFGHIJKLMNOPQR", n),
                             n);
            assert_holds(&r->iov, expect, 18);
            memset(expect + a, 0xee, n);
            iov_set(&r->iov, a, 0xee, n);
            assert_holds(&r->iov, expect, 18);
        }
    }
}

static void copy_between_windows_of_other_shape(void **state)
{
    struct ragged *r = *state;

    for (size_t a = 0; a <= 18; a++) {
        for (size_t n = 0; n <= 18 - a; n++) {
            char *x = calloc(1, 4), *y = calloc(1, 14);
            struct iovec vec[] = {{NULL, 0}, {x, 4}, {y, 14}, {NULL, 0}};
            struct iov whole = iov_of(vec, 4);
            struct iov dst = iov_slice(&whole, 18 - n, n);
            struct iov src = iov_slice(&r->iov, a, n);
            iov_copy(&dst, &src);
            assert_holds(&dst, r->flat + a, n);
            struct iov before = iov_slice(&whole, 0, 18 - n);
            assert_true(iov_is_zero(&before));
            free(x);
            free(y);
        }
    }
}

static void zero_is_seen_and_any_other_byte_too(void **state)
{
    struct ragged *r = *state;

    assert_false(iov_is_zero(&r->iov));
    iov_set(&r->iov, 0, 0, 18);
    assert_true(iov_is_zero(&r->iov));
    for (size_t i = 0; i < 18; i++) {
        char one = 1;
        iov_from_buf(&r->iov, i, &one, 1);
        assert_false(iov_is_zero(&r->iov));
        iov_set(&r->iov, i, 0, 1);
    }
    for (size_t n = 1; n < 70; n++) {
        char *p = calloc(1, n);
        struct iovec storage;
        struct iov iov = iov_buf(&storage, p, n);
        assert_true(iov_is_zero(&iov));
        for (size_t i = 0; i < n; i++) {
            p[i] = 0x80;
            assert_false(iov_is_zero(&iov));
            p[i] = 0;
        }
        free(p);
    }
}

static void alignment_regards_addresses_and_lengths(void **state)
{
    char *p = aligned_alloc(4096, 8192);
    struct iovec vec[] = {{p, 512}, {NULL, 0}, {p + 4096, 1024}};
    struct iov iov = iov_of(vec, 3);

    assert_true(iov_is_aligned(&iov, 512));
    assert_false(iov_is_aligned(&iov, 1024));
    assert_true(iov_is_aligned(&iov, 1));
    struct iov s = iov_slice(&iov, 512, 1024);
    assert_true(iov_is_aligned(&s, 1024));
    s = iov_slice(&iov, 256, 512);
    assert_false(iov_is_aligned(&s, 512));
    assert_true(iov_is_aligned(&s, 256));
    vec[0].iov_base = p + 1;
    assert_false(iov_is_aligned(&iov, 512));
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_array_is_one_window),
        cmocka_unit_test(flat_buffer_is_a_window),
        cmocka_unit_test(every_slice_of_every_slice_holds_its_bytes),
        cmocka_unit_test(slice_touches_no_entry_in_vain),
        cmocka_unit_test(export_gives_the_pieces_without_empty_ones),
        cmocka_unit_test(buffers_are_copied_in_and_filled_at_any_place),
        cmocka_unit_test(copy_between_windows_of_other_shape),
        cmocka_unit_test(zero_is_seen_and_any_other_byte_too),
        cmocka_unit_test(alignment_regards_addresses_and_lengths),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
