/*
 * Flushes: skipped where nothing was written, and shared.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "tests/unit/lib/ram_node.h"

static struct ram_node *ram;
static char data[512];

static void set_up(void)
{
    ram = ram_node_new("ram", 1 << 20);
}

static void co_write(void)
{
    assert_int_equal(co_node_pwrite(&ram->node, 0, data, sizeof(data), 0), 0);
}

static void co_skip(void)
{
    set_up();
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 0);
    co_write();
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 1);
    assert_int_equal(co_node_pwrite_zeroes(&ram->node, 0, 512, 0), 0);
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(co_node_pdiscard(&ram->node, 0, 512), 0);
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 3);
    ram_node_free(ram);
}

static void nothing_written_is_nothing_to_flush(void **state)
{
    ram_run(co_skip);
}

static void co_retry(void)
{
    set_up();
    co_write();
    ram->fail_at[RAM_FLUSH] = 1;
    assert_int_equal(co_node_flush(&ram->node), -EIO);
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 2);
    /* A write that failed may have put something down. */
    ram->fail_at[RAM_WRITE] = 1;
    assert_int_equal(co_node_pwrite(&ram->node, 0, data, 512, 0), -EIO);
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 3);
    ram_node_free(ram);
}

static void a_failed_flush_is_tried_again(void **state)
{
    ram_run(co_retry);
}

static void co_group(void)
{
    struct ram_call c[9];

    set_up();
    for (int i = 0; i < 9; i++) {
        c[i] = (struct ram_call){.node = &ram->node, .what = CALL_FLUSH};
    }
    co_write();
    ram->hold[RAM_FLUSH] = true;
    ram_start(&c[0]);
    co_ram_settle();
    assert_int_equal(ram->inside, 1);
    /* These wrote after the flush in the air began, so it is not theirs; but
     * one more serves them all. */
    for (int i = 1; i < 9; i++) {
        co_write();
        ram_start(&c[i]);
    }
    co_ram_settle();
    assert_int_equal(ram->inside, 1);
    ram_release(ram);
    co_ram_settle();
    for (int i = 0; i < 9; i++) {
        assert_true(c[i].done);
        assert_int_equal(c[i].ret, 0);
    }
    assert_int_equal(ram->calls[RAM_FLUSH], 2);
    ram_node_free(ram);
}

static void waiting_flushes_share_one(void **state)
{
    ram_run(co_group);
}

static void co_during(void)
{
    struct ram_call c;

    set_up();
    c = (struct ram_call){.node = &ram->node, .what = CALL_FLUSH};
    co_write();
    ram->hold[RAM_FLUSH] = true;
    ram_start(&c);
    co_ram_settle();
    co_write();
    ram_release(ram);
    co_ram_settle();
    assert_true(c.done);
    /* It was written while the flush ran, so it still has to be flushed. */
    assert_int_equal(co_node_flush(&ram->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 2);
    ram_node_free(ram);
}

static void a_write_during_a_flush_is_not_covered(void **state)
{
    ram_run(co_during);
}

static void co_below(void)
{
    set_up();
    co_write();
    /* Put above a node with unflushed writes, like a filter of a job. */
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct ram_node *other = ram_node_new("other", 1 << 20);
    ram_node_set_backing(filter, other);
    other->node.write_gen++;
    assert_int_equal(co_node_flush(&filter->node), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 1);
    /* Its backing is not written through it. */
    assert_int_equal(other->calls[RAM_FLUSH], 0);
    co_write();
    ram->fail_at[RAM_FLUSH] = 1;
    assert_int_equal(co_node_flush(&filter->node), -EIO);
    ram_node_free(filter);
    ram_node_free(ram);
    ram_node_free(other);
}

static void children_are_flushed_whoever_wrote_them(void **state)
{
    ram_run(co_below);
}

static void co_no_flush(void)
{
    set_up();
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);
    format->driver.co_flush = ram->driver.co_flush;
    format->node.no_flush = ram->node.no_flush = true;
    format->node.write_gen++;
    co_write();
    assert_int_equal(co_node_flush(&format->node), 0);
    assert_int_equal(format->calls[RAM_FLUSH], 1);
    assert_int_equal(ram->calls[RAM_FLUSH], 0);
    ram_node_free(format);
    ram_node_free(ram);
}

static void no_flush_still_empties_the_formats_caches(void **state)
{
    ram_run(co_no_flush);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_written_is_nothing_to_flush),
        cmocka_unit_test(a_failed_flush_is_tried_again),
        cmocka_unit_test(waiting_flushes_share_one),
        cmocka_unit_test(a_write_during_a_flush_is_not_covered),
        cmocka_unit_test(children_are_flushed_whoever_wrote_them),
        cmocka_unit_test(no_flush_still_empties_the_formats_caches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
