/*
 * block/drivers/copy-before-write.c: the target keeps the instant at which the
 * filter came, whatever the guest writes; and what happens when it cannot.
 */
#include "block/block_copy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/loop.h"
#include "block/backend.h"
#include "block/dirty_bitmap.h"
#include "block/request.h"
#include "lib/fake_driver.h"
#include "lib/noise.h"

#define CLUSTER INT64_C(65536)
#define LENGTH  (32 * CLUSTER + 1536)

static struct node *source, *target, *filter;
static struct backend *guest;
static uint8_t instant[LENGTH];

static struct node *co_filter_open(struct blockdev_options_cbw o,
                                   GError **error)
{
    struct blockdev_options options = {
        .driver = BLOCKDEV_DRIVER_COPY_BEFORE_WRITE,
        .node_name = (char *)"cbw",
    };
    struct blockdev_ref file = {.kind = QAPI_KIND_STRING};
    struct blockdev_ref to = {.kind = QAPI_KIND_STRING};

    file.u.reference = (char *)"s";
    to.u.reference = (char *)"t";
    o.file = &file;
    o.target = &to;
    options.u.copy_before_write = o;
    return co_node_open(&options, error);
}

static void co_nodes(void)
{
    source = co_fake_node("s", LENGTH);
    target = co_fake_node("t", LENGTH);
    for (int64_t i = 0; i < LENGTH; i++) {
        fake_of(source)->data[i] = (uint8_t)(i / 512 % 255 + 1);
    }
    memcpy(instant, fake_of(source)->data, LENGTH);
}

static void co_set_up(struct blockdev_options_cbw o)
{
    GError *error = NULL;

    co_nodes();
    filter = co_filter_open(o, &error);
    if (!filter) {
        fail_msg("%s", error->message);
    }
    guest = co_backend_new("drive0", filter, PERM_CONSISTENT_READ | PERM_WRITE,
                           PERM_ALL, &error);
    assert_null(error);
}

static void co_tear_down(void)
{
    co_backend_unref(guest);
    co_node_unref(filter);
    co_node_unref(source);
    co_node_unref(target);
}

static int co_write(int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc((size_t)bytes);
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, (size_t)bytes);

    memset(buf, 0xaa, (size_t)bytes);
    return co_backend_pwritev(guest, offset, &iov, 0);
}

static void assert_kept(int64_t offset, int64_t bytes)
{
    assert_memory_equal(fake_of(target)->data + offset, instant + offset,
                        (size_t)bytes);
}

static void co_copies_first(void *opaque)
{
    co_set_up((struct blockdev_options_cbw){0});
    fake_log_forget();
    assert_int_equal(co_write(CLUSTER + 512, 512), 0);
    fake_log_is("s:read t:write s:write");
    assert_kept(CLUSTER, CLUSTER);
    assert_int_equal(fake_of(source)->data[CLUSTER + 512], 0xaa);
    /* Once is enough. */
    assert_int_equal(co_write(CLUSTER, 4096), 0);
    fake_log_is("s:write");
    co_tear_down();
}

static void co_every_kind_of_write(void *opaque)
{
    co_set_up((struct blockdev_options_cbw){0});
    assert_int_equal(co_backend_pwrite_zeroes(guest, 0, CLUSTER, 0), 0);
    assert_int_equal(co_backend_pdiscard(guest, 2 * CLUSTER, 2 * CLUSTER), 0);
    assert_int_equal(co_write(LENGTH - 1, 1), 0);
    assert_kept(0, CLUSTER);
    assert_kept(2 * CLUSTER, 2 * CLUSTER);
    assert_kept(32 * CLUSTER, 1536);
    assert_int_equal(fake_of(source)->data[0], 0);
    assert_int_equal(fake_of(source)->data[2 * CLUSTER], 0);
    co_tear_down();
}

static void co_random_guest(void *opaque)
{
    unsigned seed = test_seed();

    for (unsigned round = 0; round < 20; round++) {
        struct noise noise = {.rest = 3};
        struct block_copy_call call = {.max_workers = 2};
        fake_seed(seed + round);
        co_set_up((struct blockdev_options_cbw){0});
        fake_of(source)->pauses = fake_of(target)->pauses = 5;
        noise_start(&noise, guest, 5, seed + round);
        for (int i = 0; i < 500; i++) {
            co_pause();
        }
        /* What the guest spared is still what it was. */
        assert_int_equal(co_block_copy_all(cbw_block_copy(filter), &call), 0);
        co_noise_stop(&noise);
        assert_int_equal(noise.failed, 0);
        assert_kept(0, LENGTH);
        co_tear_down();
    }
}

static void co_break_guest_write(void *opaque)
{
    co_set_up((struct blockdev_options_cbw){0});
    fake_of(target)->fail_at[FAKE_WRITE] = 1;
    fake_of(target)->fail_errno = ENOSPC;
    assert_int_equal(co_write(0, 512), -ENOSPC);
    assert_int_equal(fake_of(source)->data[0], instant[0]);
    assert_int_equal(cbw_snapshot_error(filter), 0);
    assert_int_equal(co_write(0, 512), 0);
    assert_kept(0, CLUSTER);
    co_tear_down();
}

static void co_break_snapshot(void *opaque)
{
    co_set_up((struct blockdev_options_cbw){
        .has_on_cbw_error = true,
        .on_cbw_error = ON_CBW_ERROR_BREAK_SNAPSHOT,
    });
    fake_of(target)->fail_at[FAKE_WRITE] = 1;
    assert_int_equal(co_write(0, 512), 0);
    assert_int_equal(fake_of(source)->data[0], 0xaa);
    assert_int_equal(cbw_snapshot_error(filter), -EIO);
    /* Nothing is copied any more. */
    fake_log_forget();
    assert_int_equal(co_write(CLUSTER, 512), 0);
    fake_log_is("s:write");
    co_tear_down();
}

struct timed_write {
    int ret;
    bool done;
};

static void co_timed_write(void *opaque)
{
    struct timed_write *w = opaque;

    w->ret = co_write(0, 512);
    w->done = true;
}

static void co_timeout(void *opaque)
{
    struct timed_write w = {0};

    co_set_up((struct blockdev_options_cbw){
        .has_cbw_timeout = true,
        .cbw_timeout = 2,
    });
    fake_of(target)->hold[FAKE_WRITE] = true;
    co_start(co_timed_write, &w);
    co_settle();
    loop_clock_advance(loop_current(), 1999999999);
    co_settle();
    assert_false(w.done);
    loop_clock_advance(loop_current(), 1);
    co_settle();
    assert_true(w.done);
    assert_int_equal(w.ret, -ETIMEDOUT);
    assert_int_equal(fake_of(source)->data[0], instant[0]);
    /* The copy is still under way, and will be complete. */
    fake_release(target);
    co_settle();
    assert_kept(0, CLUSTER);
    assert_int_equal(co_write(0, 512), 0);
    co_tear_down();
}

/* Closing while a copy that nobody waits for goes on. */
static void co_close_after_timeout(void *opaque)
{
    struct timed_write w = {0};

    co_set_up((struct blockdev_options_cbw){
        .has_cbw_timeout = true,
        .cbw_timeout = 1,
        .has_on_cbw_error = true,
        .on_cbw_error = ON_CBW_ERROR_BREAK_SNAPSHOT,
    });
    fake_of(target)->pauses = 50;
    fake_of(target)->hold[FAKE_WRITE] = true;
    co_start(co_timed_write, &w);
    co_settle();
    loop_clock_advance(loop_current(), 1000000000);
    co_settle();
    assert_true(w.done);
    assert_int_equal(w.ret, 0);
    assert_int_equal(cbw_snapshot_error(filter), -ETIMEDOUT);
    fake_release(target);
    co_tear_down();
}

static void co_bitmap(void *opaque)
{
    struct block_dirty_bitmap name = {.node = (char *)"s", .name = (char *)"b"};
    GError *error = NULL;

    co_nodes();
    struct dirty_bitmap *b = dirty_bitmap_new(source, "b", 512, NULL);
    hbitmap_set(b->bits, CLUSTER + 512, 512);
    filter =
        co_filter_open((struct blockdev_options_cbw){.bitmap = &name}, &error);
    assert_null(error);
    guest = co_backend_new("drive0", filter, PERM_WRITE, PERM_ALL, NULL);
    assert_int_equal(block_copy_remaining(cbw_block_copy(filter)), CLUSTER);
    fake_log_forget();
    assert_int_equal(co_write(0, 512), 0);
    fake_log_is("s:write");
    assert_int_equal(co_write(CLUSTER, 512), 0);
    fake_log_is("s:read t:write s:write");
    dirty_bitmap_free(b);
    co_tear_down();
}

static void co_unknown_bitmap(void *opaque)
{
    struct block_dirty_bitmap name = {.node = (char *)"s", .name = (char *)"b"};
    GError *error = NULL;

    co_nodes();
    assert_null(
        co_filter_open((struct blockdev_options_cbw){.bitmap = &name}, &error));
    assert_string_equal(error->message, "Dirty bitmap 'b' not found");
    g_error_free(error);
    co_node_unref(source);
    co_node_unref(target);
}

/* While the filter has users, nobody else writes to its file. */
static void co_permissions(void *opaque)
{
    GError *error = NULL;

    co_set_up((struct blockdev_options_cbw){0});
    assert_null(co_backend_new("x", source, PERM_WRITE, PERM_ALL, &error));
    assert_string_equal(error->message,
                        "Permission conflict on node 's': permissions 'write' "
                        "are both required by block device 'x' (uses node 's' "
                        "as 'root' child) and unshared by node 'cbw' (uses "
                        "node 's' as 'file' child).");
    g_error_free(error);
    co_tear_down();
}

#define CBW_TEST(name)             \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
CBW_TEST(copies_first)
CBW_TEST(every_kind_of_write)
CBW_TEST(random_guest)
CBW_TEST(break_guest_write)
CBW_TEST(break_snapshot)
CBW_TEST(timeout)
CBW_TEST(close_after_timeout)
CBW_TEST(bitmap)
CBW_TEST(unknown_bitmap)
CBW_TEST(permissions)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_first),
        cmocka_unit_test(every_kind_of_write),
        cmocka_unit_test(random_guest),
        cmocka_unit_test(break_guest_write),
        cmocka_unit_test(break_snapshot),
        cmocka_unit_test(timeout),
        cmocka_unit_test(close_after_timeout),
        cmocka_unit_test(bitmap),
        cmocka_unit_test(unknown_bitmap),
        cmocka_unit_test(permissions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
