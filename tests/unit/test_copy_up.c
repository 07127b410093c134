/*
 * block/copy_up.c: what the backing chain holds comes into the layer above, and
 * no write of a guest gets lost meanwhile.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/coroutine.h"
#include "block/dirty_bitmap.h"
#include "lib/fake_driver.h"

#define UNIT   INT64_C(4096)
#define LENGTH (64 * UNIT)

static struct node *base, *file, *top;
static uint8_t buf[LENGTH];

static void co_chain(void)
{
    base = co_fake_node("base", LENGTH);
    file = co_fake_node("file", LENGTH);
    for (int64_t i = 0; i < LENGTH / 2; i++) {
        fake_of(base)->data[i] = (uint8_t)(i / 512 % 255 + 1);
    }
    top = co_fake_above("top", DRIVER_FORMAT, file);
    co_fake_set_backing(top, base);
    fake_make_sparse(top, UNIT);
}

static void co_tear_down(void)
{
    co_node_unref(top);
    co_node_unref(file);
    co_node_unref(base);
}

static bool has(int64_t unit)
{
    return fake_of(top)->allocated[unit];
}

static void co_plain(void *opaque)
{
    co_chain();
    memset(buf, 0xaa, UNIT);
    assert_int_equal(co_node_pwrite(top, 2 * UNIT, buf, UNIT, 0), 0);
    assert_int_equal(co_node_copy_up(top, UNIT, 3 * UNIT), 0);
    assert_true(!has(0) && has(1) && has(2) && has(3) && !has(4));
    assert_int_equal(co_node_pread(top, 0, buf, LENGTH, 0), 0);
    assert_memory_equal(buf, fake_of(base)->data, 2 * UNIT);
    assert_int_equal(buf[2 * UNIT], 0xaa);
    assert_memory_equal(buf + 3 * UNIT, fake_of(base)->data + 3 * UNIT,
                        LENGTH - 3 * UNIT);
    assert_int_equal(co_node_copy_up(top, LENGTH - 5, 6), -EIO);
    co_tear_down();
}

static void what_lies_behind_is_copied_and_nothing_else(void **state)
{
    in_fake_loop(co_plain);
}

static void co_failing(void *opaque)
{
    co_chain();
    fake_of(base)->fail_at[FAKE_READ] = 1;
    assert_int_equal(co_node_copy_up(top, 0, UNIT), -EIO);
    assert_false(has(0));
    fake_of(file)->fail_at[FAKE_WRITE] = 1;
    fake_of(file)->fail_errno = ENOSPC;
    assert_int_equal(co_node_copy_up(top, 0, UNIT), -ENOSPC);
    assert_int_equal(co_node_copy_up(top, 0, UNIT), 0);
    assert_true(has(0));
    co_tear_down();
}

static void a_failure_is_told_and_can_be_repeated(void **state)
{
    in_fake_loop(co_failing);
}

struct call {
    int ret;
    bool done;
};

static void co_copy_start(void *opaque)
{
    struct call *c = opaque;

    c->ret = co_node_copy_up(top, 0, UNIT);
    c->done = true;
}

static void co_write_start(void *opaque)
{
    struct call *c = opaque;
    static char data[512];

    memset(data, 0xaa, sizeof(data));
    c->ret = co_node_pwrite(top, 1024, data, sizeof(data), 0);
    c->done = true;
}

static void co_race(void *opaque)
{
    struct call copy = {0}, write = {0};

    co_chain();
    fake_of(base)->hold[FAKE_READ] = true;
    co_enter(co_create(co_copy_start, &copy));
    fake_of(base)->hold[FAKE_READ] = false;
    co_enter(co_create(co_write_start, &write));
    co_settle();
    assert_true(!copy.done && !write.done);
    fake_release(base);
    co_settle();
    assert_true(copy.done && write.done);
    assert_int_equal(copy.ret, 0);
    assert_int_equal(write.ret, 0);
    assert_int_equal(co_node_pread(top, 0, buf, UNIT, 0), 0);
    assert_int_equal(buf[1024], 0xaa);
    assert_memory_equal(buf, fake_of(base)->data, 1024);
    co_tear_down();
}

static void a_write_meanwhile_is_not_overwritten(void **state)
{
    in_fake_loop(co_race);
}

static void co_marks(void *opaque)
{
    co_chain();
    struct dirty_bitmap *b = dirty_bitmap_new(top, "b", UNIT, NULL);
    assert_non_null(b);
    assert_int_equal(co_node_copy_up(top, 0, LENGTH), 0);
    assert_int_equal(hbitmap_count(b->bits), 0);
    /* But a flush has something to do. */
    fake_log_forget();
    assert_int_equal(co_node_flush(top), 0);
    fake_log_is("top:flush file:flush");
    co_tear_down();
}

static void nothing_is_marked_dirty(void **state)
{
    in_fake_loop(co_marks);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_lies_behind_is_copied_and_nothing_else),
        cmocka_unit_test(a_failure_is_told_and_can_be_repeated),
        cmocka_unit_test(a_write_meanwhile_is_not_overwritten),
        cmocka_unit_test(nothing_is_marked_dirty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
