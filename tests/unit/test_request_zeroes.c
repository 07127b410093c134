/*
 * Write-zeroes and discards: alignment, limits, fallbacks.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "block/dirty_bitmap.h"
#include "tests/unit/lib/ram_node.h"
#include "util/range.h"

#define LENGTH (INT64_C(4) << 20)

static struct ram_node *ram;

static void set_up(void)
{
    ram = ram_node_new("ram", LENGTH);
    memset(ram->data, 7, LENGTH);
}

/* Exactly [offset, offset + bytes) reads `byte`, the rest is untouched. */
static void check(int64_t offset, int64_t bytes, uint8_t byte)
{
    for (int64_t i = 0; i < LENGTH; i++) {
        uint8_t want = i >= offset && i < offset + bytes ? byte : 7;
        if (ram->data[i] != want) {
            fail_msg("byte %ld is %d", (long)i, ram->data[i]);
        }
    }
}

static void co_offload(void)
{
    set_up();
    ram->node.limits.request_alignment = 512;
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 512, LENGTH / 2, 0), 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 1);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
    check(512, LENGTH / 2, 0);
    ram_node_free(ram);
}

static void zeroes_are_left_to_the_driver(void **state)
{
    ram_run(co_offload);
}

static void co_ends(void)
{
    set_up();
    ram->node.limits.request_alignment = 512;
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 100, 5000, 0), 0);
    check(100, 5000, 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 1);
    assert_int_equal(ram->last_offset[RAM_ZEROES], 512);
    assert_int_equal(ram->last_bytes[RAM_ZEROES], 4096);
    assert_int_equal(ram->calls[RAM_WRITE], 2);
    /* Within one block. */
    memset(ram->data, 7, LENGTH);
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 10, 20, 0), 0);
    check(10, 20, 0);
    ram_node_free(ram);
}

static void unaligned_ends_are_written(void **state)
{
    ram_run(co_ends);
}

static int64_t cuts[16][2];
static unsigned n_cuts;

static int co_note_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    assert_true(n_cuts < 16);
    cuts[n_cuts][0] = offset;
    cuts[n_cuts++][1] = bytes;
    return 0;
}

static void co_cut(void)
{
    set_up();
    ram->driver.co_pwrite_zeroes = co_note_zeroes;
    ram->node.limits.request_alignment = 512;
    ram->node.limits.pwrite_zeroes_align = 65536;
    ram->node.limits.max_pwrite_zeroes = 2 * 65536 + 512;
    n_cuts = 0;
    assert_int_equal(
        co_node_pwrite_zeroes(&ram->node, 65536 - 1024, 5 * 65536, 0), 0);
    const int64_t want[][2] = {
        {65536 - 1024, 1024},
        {65536, 2 * 65536},
        {3 * 65536, 2 * 65536},
        {5 * 65536, 65536 - 1024},
    };
    assert_int_equal(n_cuts, 4);
    assert_memory_equal(cuts, want, sizeof(want));
    ram_node_free(ram);
}

static void pieces_respect_alignment_and_maximum(void **state)
{
    ram_run(co_cut);
}

static void co_fallback(void)
{
    set_up();
    ram->driver.co_pwrite_zeroes = NULL;
    ram->node.limits.request_alignment = 512;
    ram->node.limits.memory_alignment = 512;
    assert_int_equal(
        co_node_pwrite_zeroes(&ram->node, 300, 3 * LENGTH / 4, REQ_MAY_UNMAP),
        0);
    check(300, 3 * LENGTH / 4, 0);
    assert_true(ram->max_bytes[RAM_WRITE] <= 1 << 20);
    assert_true(ram->calls[RAM_WRITE] <= 6);
    assert_int_equal(ram->last_flags[RAM_WRITE], 0);
    /* The driver says so only when asked, and for a part. */
    memset(ram->data, 7, LENGTH);
    ram_node_free(ram);
    set_up();
    ram->fail_at[RAM_ZEROES] = 2;
    ram->fail_errno = ENOTSUP;
    ram->node.limits.max_pwrite_zeroes = 65536;
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 0, 3 * 65536, 0), 0);
    check(0, 3 * 65536, 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 3);
    assert_int_equal(ram->calls[RAM_WRITE], 1);
    ram_node_free(ram);
}

static void what_the_driver_cannot_is_written(void **state)
{
    ram_run(co_fallback);
}

static void co_no_fallback(void)
{
    set_up();
    ram->node.limits.request_alignment = 512;
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 0, 100, REQ_NO_FALLBACK),
                     -ENOTSUP);
    assert_int_equal(
        co_node_pwrite_zeroes(&ram->node, 0, 1024, REQ_NO_FALLBACK), 0);
    ram->driver.co_pwrite_zeroes = NULL;
    assert_int_equal(
        co_node_pwrite_zeroes(&ram->node, 0, 2048, REQ_NO_FALLBACK), -ENOTSUP);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
    check(0, 1024, 0);
    ram_node_free(ram);
}

static void no_fallback_writes_nothing(void **state)
{
    ram_run(co_no_fallback);
}

static void co_errors(void)
{
    set_up();
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 65536, NULL);
    ram->fail_at[RAM_ZEROES] = 1;
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 0, 65536, 0), -EIO);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
    assert_int_equal(dirty_bitmap_count(b), 65536);
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, -1, 1, 0), -EIO);
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 0, INT64_MAX, 0), -EIO);
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 65536, 0, 0), 0);
    assert_int_equal(dirty_bitmap_count(b), 65536);
    ram_node_free(ram);
}

static void an_error_ends_it_and_marks(void **state)
{
    ram_run(co_errors);
}

static void co_unmap(void)
{
    set_up();
    unsigned *flags = &ram->last_flags[RAM_ZEROES];
    co_node_pwrite_zeroes(&ram->node, 0, 512, REQ_MAY_UNMAP);
    assert_int_equal(*flags, 0);
    ram->driver.zeroes_unmap = true;
    co_node_pwrite_zeroes(&ram->node, 0, 512, REQ_MAY_UNMAP);
    assert_int_equal(*flags, REQ_MAY_UNMAP);
    ram->node.discard = false;
    co_node_pwrite_zeroes(&ram->node, 0, 512, REQ_MAY_UNMAP);
    assert_int_equal(*flags, 0);
    ram_node_free(ram);
}

static void unmapping_needs_the_option_and_the_driver(void **state)
{
    ram_run(co_unmap);
}

/* ---- discard ---- */

static void co_discard(void)
{
    set_up();
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 512, NULL);
    ram->node.limits.request_alignment = 512;
    ram->node.limits.pdiscard_align = 4096;
    assert_int_equal(co_node_pdiscard(&ram->node, 100, 20000), 0);
    check(4096, 3 * 4096, 0xdd);
    /* The bitmap has all that was asked for. */
    assert_int_equal(dirty_bitmap_count(b), 40 * 512);
    assert_int_equal(hbitmap_next_set(b->bits, 0, LENGTH), 0);
    /* Nothing left of it. */
    ram_reset_counters(ram);
    assert_int_equal(co_node_pdiscard(&ram->node, 100, 4000), 0);
    assert_int_equal(ram->calls[RAM_DISCARD], 0);
    ram_node_free(ram);
}

static void unaligned_ends_of_a_discard_are_left_alone(void **state)
{
    ram_run(co_discard);
}

static void co_discard_end(void)
{
    set_up();
    ram->node.length = LENGTH - 1000;
    ram->node.limits.request_alignment = 512;
    ram->node.limits.pdiscard_align = 4096;
    ram->node.limits.max_pdiscard = 3 * 4096;
    assert_int_equal(
        co_node_pdiscard(&ram->node, LENGTH - 8 * 4096, 8 * 4096 - 1000), 0);
    check(LENGTH - 8 * 4096, 8 * 4096 - 1000 + 488, 0xdd);
    assert_int_equal(ram->max_bytes[RAM_DISCARD], 3 * 4096);
    ram_node_free(ram);
}

static void a_discard_may_end_where_the_node_ends(void **state)
{
    ram_run(co_discard_end);
}

static void co_odd_unit(void)
{
    set_up();
    ram->node.limits.request_alignment = 512;
    ram->node.limits.pdiscard_align = 3 * 512;
    assert_int_equal(co_node_pdiscard(&ram->node, 512, 10 * 512), 0);
    check(3 * 512, 6 * 512, 0xdd);
    ram_node_free(ram);
}

static void a_discard_unit_need_not_be_a_power_of_two(void **state)
{
    ram_run(co_odd_unit);
}

static void co_discard_off(void)
{
    set_up();
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 512, NULL);

    ram->node.discard = false;
    filter->node.discard = false;
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 4096), 0);
    assert_int_equal(co_node_pdiscard(&filter->node, 0, 4096), 0);
    assert_int_equal(ram->calls[RAM_DISCARD], 0);
    assert_int_equal(dirty_bitmap_count(b), 0);
    ram->node.discard = true;
    assert_int_equal(co_node_pdiscard(&filter->node, 0, 4096), 0);
    assert_int_equal(ram->calls[RAM_DISCARD], 1);
    ram->fail_at[RAM_DISCARD] = 1;
    ram->fail_errno = ENOTSUP;
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 4096), 0);
    ram->fail_at[RAM_DISCARD] = 1;
    ram->fail_errno = EIO;
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 4096), -EIO);
    ram->driver.co_pdiscard = NULL;
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 4096), 0);
    ram->node.read_only = true;
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 4096), -EPERM);
    assert_int_equal(co_node_pdiscard(&ram->node, LENGTH, 1), -EIO);
    ram_node_free(filter);
    ram_node_free(ram);
}

static void a_discard_is_a_hint(void **state)
{
    ram_run(co_discard_off);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zeroes_are_left_to_the_driver),
        cmocka_unit_test(unaligned_ends_are_written),
        cmocka_unit_test(pieces_respect_alignment_and_maximum),
        cmocka_unit_test(what_the_driver_cannot_is_written),
        cmocka_unit_test(no_fallback_writes_nothing),
        cmocka_unit_test(an_error_ends_it_and_marks),
        cmocka_unit_test(unmapping_needs_the_option_and_the_driver),
        cmocka_unit_test(unaligned_ends_of_a_discard_are_left_alone),
        cmocka_unit_test(a_discard_may_end_where_the_node_ends),
        cmocka_unit_test(a_discard_unit_need_not_be_a_power_of_two),
        cmocka_unit_test(a_discard_is_a_hint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
