/*
 * util/range: the edges of 64-bit arithmetic.
 */
#include "util/range.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void add_refuses_negatives_and_overflow(void **state)
{
    int64_t sum = -7;

    assert_false(range_add(-1, 5, &sum));
    assert_false(range_add(5, -1, &sum));
    assert_false(range_add(INT64_MIN, INT64_MIN, &sum));
    assert_false(range_add(INT64_MAX, 1, &sum));
    assert_false(range_add(1, INT64_MAX, &sum));
    assert_int_equal(sum, -7);
    assert_true(range_add(INT64_MAX - 1, 1, &sum));
    assert_int_equal(sum, INT64_MAX);
    assert_true(range_add(0, 0, &sum));
    assert_int_equal(sum, 0);
}

static void mul_refuses_negatives_and_overflow(void **state)
{
    int64_t product = -7;

    assert_false(range_mul(-1, -1, &product));
    assert_false(range_mul(0, -1, &product));
    assert_false(range_mul(INT64_C(1) << 32, INT64_C(1) << 31, &product));
    assert_int_equal(product, -7);
    assert_true(range_mul(INT64_C(1) << 31, INT64_C(1) << 31, &product));
    assert_int_equal(product, INT64_C(1) << 62);
    assert_true(range_mul(INT64_MAX, 0, &product));
    assert_int_equal(product, 0);
}

static void within_cannot_be_fooled_by_wrapping(void **state)
{
    assert_true(range_within(0, 10, 10));
    assert_true(range_within(10, 0, 10));
    assert_true(range_within(0, 0, 0));
    assert_true(range_within(INT64_MAX, 0, INT64_MAX));
    assert_false(range_within(0, 11, 10));
    assert_false(range_within(11, 0, 10));
    assert_false(range_within(5, 6, 10));
    assert_false(range_within(5, INT64_MAX, 10));
    assert_false(range_within(INT64_MAX, INT64_MAX, INT64_MAX));
    assert_false(range_within(-1, 1, 10));
    assert_false(range_within(1, -1, 10));
    assert_false(range_within(0, 0, -1));
}

static void overlap_needs_a_shared_byte(void **state)
{
    assert_true(range_overlap(0, 10, 9, 1));
    assert_true(range_overlap(9, 1, 0, 10));
    assert_true(range_overlap(0, 100, 40, 5));
    assert_false(range_overlap(0, 10, 10, 1));
    assert_false(range_overlap(10, 1, 0, 10));
}

static void powers_of_two_are_told(void **state)
{
    assert_false(is_power_of_2(0));
    assert_true(is_power_of_2(1));
    assert_true(is_power_of_2(UINT64_C(1) << 63));
    assert_false(is_power_of_2(3));
    assert_false(is_power_of_2(UINT64_MAX));
}

static void alignment_rounds_to_the_named_side(void **state)
{
    assert_int_equal(align_down(1023, 512), 512);
    assert_int_equal(align_down(1024, 512), 1024);
    assert_int_equal(align_up(1025, 512), 1536);
    assert_int_equal(align_up(1024, 512), 1024);
    assert_int_equal(align_up(0, 512), 0);
    assert_true(is_aligned(1024, 512));
    assert_false(is_aligned(1, 512));
    assert_true(is_aligned(7, 1));
}

static void division_rounds_up_at_the_largest_value_too(void **state)
{
    assert_int_equal(div_round_up(0, 512), 0);
    assert_int_equal(div_round_up(1, 512), 1);
    assert_int_equal(div_round_up(512, 512), 1);
    assert_int_equal(div_round_up(513, 512), 2);
    assert_int_equal(div_round_up(INT64_MAX, 2), INT64_C(1) << 62);
    assert_int_equal(div_round_up(INT64_MAX, INT64_MAX), 1);
}

static void min_and_max(void **state)
{
    assert_int_equal(min_i64(-1, INT64_MAX), -1);
    assert_int_equal(max_i64(-1, INT64_MAX), INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(add_refuses_negatives_and_overflow),
        cmocka_unit_test(mul_refuses_negatives_and_overflow),
        cmocka_unit_test(within_cannot_be_fooled_by_wrapping),
        cmocka_unit_test(overlap_needs_a_shared_byte),
        cmocka_unit_test(powers_of_two_are_told),
        cmocka_unit_test(alignment_rounds_to_the_named_side),
        cmocka_unit_test(division_rounds_up_at_the_largest_value_too),
        cmocka_unit_test(min_and_max),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
