/*
 * The caches of qcow2: when their memory is given back.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stddef.h>

#include "aio/loop.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define SECOND INT64_C(1000000000)

static unsigned entries(struct node *node)
{
    const struct qcow2 *s = node->state;

    return s->l2.entries->len + s->rb.entries->len;
}

/* Lets time pass and timers fire. */
static void co_wait(int64_t seconds)
{
    for (int64_t i = 0; i < seconds; i++) {
        loop_clock_advance(loop_current(), SECOND);
        co_pause();
        co_pause();
    }
}

/* Reads a byte through each of the eight slices of L2 entries. */
static void co_fill(struct node *node)
{
    char byte;

    for (int64_t at = 0; at < node->length; at += 512 << 10) {
        assert_int_equal(co_node_pread(node, at, &byte, 1, 0), 0);
    }
}

static struct node *co_image(struct node **file, const char *more)
{
    *file = co_mem_disk("disk");
    co_make("disk", 4 << 20,
            "'cluster-size': 4096, 'preallocation': 'metadata'");
    return co_open("driver=qcow2,file=disk,l2-cache-entry-size=1024%s", more);
}

static void co_unused(void *opaque)
{
    struct node *file, *node = co_image(&file, ",cache-clean-interval=10");
    char byte;

    co_wait(25); /* what was needed to open it */
    assert_int_equal(entries(node), 0);
    co_fill(node);
    assert_int_equal(entries(node), 8);
    co_wait(11);
    assert_int_equal(entries(node), 8);
    assert_int_equal(co_node_pread(node, 0, &byte, 1, 0), 0);
    co_wait(10);
    assert_int_equal(entries(node), 1);
    co_wait(10);
    assert_int_equal(entries(node), 0);
    co_node_unref(node);
    co_node_unref(file);
}

static void entries_go_when_nobody_uses_them(void **state)
{
    in_fake_loop(co_unused);
}

static void co_dirty(void *opaque)
{
    struct node *file, *node = co_image(&file, ",cache-clean-interval=10");
    char byte = 7;

    assert_int_equal(co_node_pwrite_zeroes(node, 0, 4096, 0), 0);
    co_wait(100);
    assert_int_equal(entries(node), 1);
    assert_int_equal(co_node_flush(node), 0);
    co_wait(25);
    assert_int_equal(entries(node), 0);
    assert_int_equal(co_node_pread(node, 0, &byte, 1, 0), 0);
    assert_int_equal(byte, 0);
    co_node_unref(node);
    co_check(file, false);
    co_node_unref(file);
}

static void what_is_not_on_disk_stays(void **state)
{
    in_fake_loop(co_dirty);
}

static void co_default(void *opaque)
{
    struct node *file, *node = co_image(&file, "");

    co_fill(node);
    co_wait(599);
    assert_true(entries(node) >= 8);
    co_wait(602);
    assert_int_equal(entries(node), 0);
    co_node_unref(node);
    node = co_open("driver=qcow2,file=disk,l2-cache-entry-size=1024,"
                   "cache-clean-interval=0");
    co_fill(node);
    co_wait(10000);
    assert_true(entries(node) >= 8);
    co_node_unref(node);
    co_node_unref(file);
}

static void the_default_is_ten_minutes_and_nought_is_never(void **state)
{
    in_fake_loop(co_default);
}

static void co_drained(void *opaque)
{
    struct node *file, *node = co_image(&file, ",cache-clean-interval=10");

    co_fill(node);
    co_drain_begin(node);
    unsigned before = entries(node);
    co_wait(100);
    assert_int_equal(entries(node), before);
    co_drain_end(node);
    co_wait(25);
    assert_int_equal(entries(node), 0);
    co_node_unref(node);
    co_node_unref(file);
}

static void a_drained_node_keeps_them(void **state)
{
    in_fake_loop(co_drained);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_go_when_nobody_uses_them),
        cmocka_unit_test(what_is_not_on_disk_stays),
        cmocka_unit_test(the_default_is_ten_minutes_and_nought_is_never),
        cmocka_unit_test(a_drained_node_keeps_them),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
