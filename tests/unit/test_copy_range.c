/*
 * Copying between nodes inside the storage.
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

static struct ram_node *from, *to;

/* Both run one driver, so `to` borrows the table of `from`. */
static void set_up(void)
{
    from = ram_node_new("from", LENGTH);
    to = ram_node_new("to", LENGTH);
    to->node.driver = &from->driver;
    for (int64_t i = 0; i < LENGTH; i++) {
        from->data[i] = i * 3 + i / 256;
    }
}

static void tear_down(void)
{
    ram_node_free(from);
    ram_node_free(to);
}

static int co_copy(struct ram_node *src, struct ram_node *dst, int64_t offset,
                   int64_t bytes)
{
    return co_node_copy_range(&src->node, offset, &dst->node, offset + 4096,
                              bytes, 0);
}

static void co_direct(void)
{
    set_up();
    struct dirty_bitmap *b = dirty_bitmap_new(&to->node, "b", 4096, NULL);
    from->node.limits.max_transfer = 65536;
    from->node.limits.request_alignment = 512;
    assert_int_equal(co_copy(from, to, 8192, 3 * 65536), 0);
    assert_memory_equal(to->data + 12288, from->data + 8192, 3 * 65536);
    assert_int_equal(from->calls[RAM_COPY], 3);
    assert_int_equal(dirty_bitmap_count(b), 3 * 65536);
    assert_int_equal(to->node.write_gen, 1);
    from->fail_at[RAM_COPY] = 2;
    assert_int_equal(co_copy(from, to, 0, 3 * 65536), -EIO);
    assert_int_equal(co_copy(from, to, 100, 512), -ENOTSUP);
    assert_int_equal(co_copy(from, to, LENGTH, 512), -EIO);
    to->node.read_only = true;
    assert_int_equal(co_copy(from, to, 0, 512), -EPERM);
    tear_down();
}

static void one_driver_copies_by_itself(void **state)
{
    ram_run(co_direct);
}

static void co_filters(void)
{
    set_up();
    struct ram_node *above_from = ram_node_above("af", DRIVER_FILTER, from);
    struct ram_node *above_to = ram_node_above("at", DRIVER_FILTER, to);
    struct dirty_bitmap *top =
        dirty_bitmap_new(&above_to->node, "b", 512, NULL);
    struct dirty_bitmap *low = dirty_bitmap_new(&to->node, "b", 512, NULL);

    assert_int_equal(co_copy(above_from, above_to, 0, 4096), 0);
    assert_memory_equal(to->data + 4096, from->data, 4096);
    assert_int_equal(dirty_bitmap_count(top), 4096);
    assert_int_equal(dirty_bitmap_count(low), 4096);
    /* A filter that looks at the data must not be stepped over. */
    above_to->driver.co_pwritev = from->driver.co_pwritev;
    assert_int_equal(co_copy(above_from, above_to, 0, 4096), -ENOTSUP);
    above_to->driver.co_pwritev = NULL;
    above_from->driver.co_preadv = from->driver.co_preadv;
    assert_int_equal(co_copy(above_from, above_to, 0, 4096), -ENOTSUP);
    assert_int_equal(dirty_bitmap_count(top), 4096);
    ram_node_free(above_from);
    ram_node_free(above_to);
    tear_down();
}

static void passing_filters_are_stepped_over(void **state)
{
    ram_run(co_filters);
}

static void co_cannot(void)
{
    set_up();
    struct ram_node *other = ram_node_new("other", LENGTH);
    assert_int_equal(co_copy(from, other, 0, 4096), -ENOTSUP);
    /* Onto itself. */
    assert_int_equal(co_copy(from, from, 0, 8192), -ENOTSUP);
    assert_int_equal(co_copy(from, from, 0, 4096), 0);
    from->driver.co_copy_range = NULL;
    assert_int_equal(co_copy(from, to, 0, 4096), -ENOTSUP);
    assert_int_equal(co_copy(from, to, 0, 0), 0);
    ram_node_free(other);
    tear_down();
}

static void what_cannot_be_copied_is_left_to_the_caller(void **state)
{
    ram_run(co_cannot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_driver_copies_by_itself),
        cmocka_unit_test(passing_filters_are_stepped_over),
        cmocka_unit_test(what_cannot_be_copied_is_left_to_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
