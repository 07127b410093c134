/*
 * Changing the length: bitmaps, parents, backing, requests in flight.
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

#define LENGTH (INT64_C(1) << 20)

static struct ram_node *ram;

static bool co_resize(struct ram_node *r, int64_t size, GError **error)
{
    return co_node_truncate(&r->node, size, true, PREALLOC_MODE_OFF, 0, error);
}

static void refused(struct ram_node *r, int64_t size, const char *message)
{
    g_autoptr(GError) error = NULL;

    assert_false(co_resize(r, size, &error));
    assert_string_equal(error->message, message);
}

static unsigned told;

static void on_resized(struct edge *edge)
{
    told++;
}

static void co_both_ways(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 65536, NULL);
    struct dirty_bitmap *top = dirty_bitmap_new(&filter->node, "b", 512, NULL);
    const struct root_ops ops = {.resized = on_resized};
    struct edge root = {.child = &filter->node, .ops = &ops};

    told = 0;
    LIST_INSERT_HEAD(&filter->node.parents, &root, in_parents);
    assert_true(co_resize(ram, LENGTH + 4096, NULL));
    assert_int_equal(ram->node.length, LENGTH + 4096);
    assert_int_equal(filter->node.length, LENGTH + 4096);
    /* A format has a length of its own. */
    assert_int_equal(format->node.length, LENGTH);
    assert_int_equal(told, 1);
    assert_int_equal(hbitmap_size(b->bits), LENGTH + 4096);
    assert_int_equal(hbitmap_size(top->bits), LENGTH + 4096);
    assert_int_equal(dirty_bitmap_count(b), 0);
    co_node_pwrite_zeroes(&filter->node, LENGTH, 512, 0);
    assert_int_equal(dirty_bitmap_count(b), 65536);
    /* Through the filter, and what is cut off is forgotten. */
    assert_true(co_resize(filter, LENGTH / 2, NULL));
    assert_int_equal(ram->node.length, LENGTH / 2);
    assert_int_equal(told, 2);
    assert_int_equal(dirty_bitmap_count(b) + dirty_bitmap_count(top), 0);
    assert_true(co_resize(filter, LENGTH, NULL));
    assert_int_equal(dirty_bitmap_count(b), 0);
    LIST_REMOVE(&root, in_parents);
    ram_node_free(filter);
    ram_node_free(format);
    ram_node_free(ram);
}

static void length_bitmaps_and_parents_move_together(void **state)
{
    ram_run(co_both_ways);
}

static void co_refusals(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 512, NULL);

    refused(ram, -1, "Image size cannot be negative");
    refused(ram, INT64_MAX,
            "Required too big image size, it must be not greater than "
            "9223372035781033983");
    ram->fail_at[RAM_TRUNCATE] = 1;
    refused(ram, 2 * LENGTH, "Cannot resize: Input/output error");
    assert_int_equal(ram->node.length, LENGTH);
    assert_int_equal(hbitmap_size(b->bits), LENGTH);
    refused(ram, 100 * LENGTH, "Cannot resize: No space left on device");
    assert_int_equal(hbitmap_size(b->bits), LENGTH);
    ram->node.read_only = true;
    refused(ram, LENGTH, "Image is read-only");
    ram->node.read_only = false;
    ram->driver.co_truncate = NULL;
    refused(ram, LENGTH, "Image format driver does not support resize");
    ram_node_free(ram);
}

static void a_refused_size_changes_nothing(void **state)
{
    ram_run(co_refusals);
}

static void co_frozen(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 65536, NULL);

    co_node_pwrite_zeroes(&ram->node, 0, 1, 0);
    assert_true(dirty_bitmap_freeze(b, NULL));
    assert_true(co_resize(ram, LENGTH + 100, NULL));
    co_node_pwrite_zeroes(&ram->node, LENGTH + 99, 1, 0);
    assert_int_equal(hbitmap_size(b->bits), LENGTH + 100);
    assert_int_equal(hbitmap_count(b->bits), 65536);
    dirty_bitmap_reclaim(b);
    assert_true(hbitmap_get(b->bits, 0) && hbitmap_get(b->bits, LENGTH));
    assert_int_equal(hbitmap_count(b->bits), 65536 + 100);
    ram_node_free(ram);
}

static void frozen_bitmaps_and_successors_are_resized(void **state)
{
    ram_run(co_frozen);
}

static void co_backing(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct ram_node *backing = ram_node_new("backing", 2 * LENGTH);

    ram_node_set_backing(ram, backing);
    memset(ram->data, 7, ram->capacity);
    assert_true(co_resize(ram, 2 * LENGTH, NULL));
    assert_int_equal(ram->calls[RAM_ZEROES], 1);
    assert_int_equal(ram->last_offset[RAM_ZEROES], LENGTH);
    assert_int_equal(ram->last_bytes[RAM_ZEROES], LENGTH);
    /* Not where it ends before. */
    assert_true(co_resize(ram, LENGTH, NULL));
    backing->node.length = LENGTH;
    assert_true(co_resize(ram, 2 * LENGTH, NULL));
    assert_int_equal(ram->calls[RAM_ZEROES], 1);
    /* Or else not at all. */
    assert_true(co_resize(ram, LENGTH, NULL));
    backing->node.length = 2 * LENGTH;
    ram->fail_at[RAM_ZEROES] = 1;
    refused(ram, 2 * LENGTH,
            "Failed to zero the grown part of 'ram': Input/output error");
    assert_int_equal(ram->node.length, LENGTH);
    ram_node_free(ram);
    ram_node_free(backing);
}

static void a_longer_backing_does_not_show_through(void **state)
{
    ram_run(co_backing);
}

static bool resized;

static void co_shrink(void *opaque)
{
    assert_true(co_resize(ram, LENGTH / 2, NULL));
    resized = true;
}

static void co_in_flight(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct ram_call beyond = {
        .node = &ram->node,
        .what = CALL_WRITE,
        .offset = LENGTH - 512,
        .bytes = 512,
    };
    struct ram_call within = beyond;

    within.offset = 0;
    resized = false;
    ram->hold[RAM_WRITE] = true;
    ram_start(&beyond);
    co_ram_settle();
    co_start(co_shrink, NULL);
    ram_start(&within);
    co_ram_settle();
    assert_int_equal(ram->calls[RAM_TRUNCATE], 0);
    assert_int_equal(ram->inside, 2);
    ram_release(ram);
    co_ram_settle();
    assert_true(resized);
    assert_int_equal(ram->node.length, LENGTH / 2);
    ram_node_free(ram);
}

static void what_is_cut_off_has_no_request_in_flight(void **state)
{
    ram_run(co_in_flight);
}

/* Behind a shrinking truncate in the queue, and beyond the end when its turn
 * comes. */
static void co_cut_off(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct ram_call calls[] = {
        {.what = CALL_WRITE, .offset = LENGTH - 512, .bytes = 512},
        {.what = CALL_WRITE, .offset = LENGTH - 512, .bytes = 512},
        {.what = CALL_ZEROES, .offset = LENGTH - 512, .bytes = 512},
        {.what = CALL_DISCARD, .offset = LENGTH - 512, .bytes = 512},
        {.what = CALL_READ, .offset = LENGTH - 512, .bytes = 512},
    };

    ram->driver.kind = DRIVER_FORMAT;
    resized = false;
    ram->hold[RAM_WRITE] = true;
    for (int i = 0; i < 5; i++) {
        calls[i].node = &ram->node;
        ram_start(&calls[i]);
        co_ram_settle();
        if (i == 0) {
            co_start(co_shrink, NULL);
            co_ram_settle();
        }
    }
    ram_release(ram);
    co_ram_settle();
    assert_true(resized);
    for (int i = 0; i < 5; i++) {
        assert_true(calls[i].done);
        assert_int_equal(calls[i].ret, i == 0 || i == 4 ? 0 : -EIO);
    }
    assert_int_equal(ram->calls[RAM_WRITE], 1);
    assert_int_equal(ram->calls[RAM_READ] + ram->calls[RAM_DISCARD], 0);
    ram_node_free(ram);
}

static void what_waited_for_a_cut_is_checked_again(void **state)
{
    ram_run(co_cut_off);
}

static int64_t real_length;

static int64_t co_real_length(struct node *node)
{
    return real_length;
}

static void co_refresh(void)
{
    ram = ram_node_new("ram", LENGTH);
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct dirty_bitmap *b = dirty_bitmap_new(&filter->node, "b", 512, NULL);

    ram->driver.co_getlength = co_real_length;
    real_length = LENGTH + 512;
    assert_int_equal(co_node_refresh_length(&filter->node), 0);
    assert_int_equal(filter->node.length, LENGTH + 512);
    assert_int_equal(hbitmap_size(b->bits), LENGTH + 512);
    real_length = -EIO;
    assert_int_equal(co_node_refresh_length(&filter->node), -EIO);
    assert_int_equal(filter->node.length, LENGTH + 512);
    /* The driver may have rounded. */
    real_length = LENGTH + 1024;
    assert_true(co_node_truncate(&ram->node, LENGTH + 1000, false,
                                 PREALLOC_MODE_OFF, 0, NULL));
    assert_int_equal(filter->node.length, LENGTH + 1024);
    ram_node_free(filter);
    ram_node_free(ram);
}

static void the_driver_knows_the_length_best(void **state)
{
    ram_run(co_refresh);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(length_bitmaps_and_parents_move_together),
        cmocka_unit_test(a_refused_size_changes_nothing),
        cmocka_unit_test(frozen_bitmaps_and_successors_are_resized),
        cmocka_unit_test(a_longer_backing_does_not_show_through),
        cmocka_unit_test(what_is_cut_off_has_no_request_in_flight),
        cmocka_unit_test(what_waited_for_a_cut_is_checked_again),
        cmocka_unit_test(the_driver_knows_the_length_best),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
