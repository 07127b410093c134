/*
 * block/drivers/snapshot-access.c: whoever reads through it sees the instant at
 * which the copy-before-write filter came, whatever the guest does.
 */
#include "block/block_copy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/coroutine.h"
#include "block/backend.h"
#include "block/request.h"
#include "lib/fake_driver.h"
#include "lib/noise.h"
#include "qapi/options.h"

#define CLUSTER INT64_C(65536)
#define LENGTH  (32 * CLUSTER + 1536)

static struct node *source, *target, *filter, *snapshot;
static struct backend *guest;
static uint8_t instant[LENGTH], seen[LENGTH];

static struct node *co_open(const char *text)
{
    GError *error = NULL;
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, &error);
    struct node *node = o ? co_node_open(o, &error) : NULL;

    if (!node) {
        fail_msg("%s", error->message);
    }
    return node;
}

static void co_set_up(const char *cbw_options)
{
    g_autofree char *cbw = g_strdup_printf(
        "driver=copy-before-write,node-name=cbw,file=s,target=t%s",
        cbw_options);

    source = co_fake_node("s", LENGTH);
    target = co_fake_node("t", LENGTH);
    for (int64_t i = 0; i < LENGTH; i++) {
        instant[i] = fake_of(source)->data[i] = (uint8_t)(i / 512 % 255 + 1);
    }
    filter = co_open(cbw);
    guest = co_backend_new("drive0", filter, PERM_CONSISTENT_READ | PERM_WRITE,
                           PERM_ALL, NULL);
    snapshot =
        co_open("driver=snapshot-access,node-name=snap,file=cbw,discard=unmap");
}

static void co_tear_down(void)
{
    co_node_unref(snapshot);
    co_backend_unref(guest);
    co_node_unref(filter);
    co_node_unref(source);
    co_node_unref(target);
}

static int co_guest_write(int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc((size_t)bytes);
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, (size_t)bytes);

    memset(buf, 0xaa, (size_t)bytes);
    return co_backend_pwritev(guest, offset, &iov, 0);
}

static void co_expect_instant(int64_t offset, int64_t bytes)
{
    assert_int_equal(co_node_pread(snapshot, offset, seen, bytes, 0), 0);
    assert_memory_equal(seen, instant + offset, (size_t)bytes);
}

static void co_old_data(void *opaque)
{
    co_set_up("");
    assert_int_equal(co_guest_write(CLUSTER + 512, 2 * CLUSTER), 0);
    fake_log_forget();
    co_expect_instant(0, 5 * CLUSTER);
    /* Saved clusters from there, all others from where they still are. */
    fake_log_is("s:read t:read s:read");
    co_expect_instant(LENGTH - 2000, 2000);
    assert_int_equal(co_node_pwrite(snapshot, 0, seen, 512, 0), -ENOTSUP);
    co_tear_down();
}

static void the_instant_is_read_from_both_sides(void **state)
{
    in_fake_loop(co_old_data);
}

struct call {
    int ret;
    bool done;
};

static void co_read_start(void *opaque)
{
    struct call *c = opaque;

    c->ret = co_node_pread(snapshot, 0, seen, 512, 0);
    c->done = true;
}

static void co_write_start(void *opaque)
{
    struct call *c = opaque;

    c->ret = co_guest_write(0, 4096);
    c->done = true;
}

static void co_hold_write(void *opaque)
{
    struct call look = {0}, write = {0};

    co_set_up("");
    fake_of(source)->hold[FAKE_READ] = true;
    co_enter(co_create(co_read_start, &look));
    assert_false(look.done);
    fake_of(source)->hold[FAKE_READ] = false; /* only that one stays held */
    co_enter(co_create(co_write_start, &write));
    co_settle();
    /* The old data are saved, but the look has not had them yet. */
    assert_memory_equal(fake_of(target)->data, instant, CLUSTER);
    assert_false(write.done);
    assert_int_equal(fake_of(source)->data[0], instant[0]);
    fake_release(source);
    co_settle();
    assert_true(look.done && write.done);
    assert_int_equal(look.ret, 0);
    assert_int_equal(write.ret, 0);
    assert_memory_equal(seen, instant, 512);
    assert_int_equal(fake_of(source)->data[0], 0xaa);
    co_expect_instant(0, CLUSTER);
    co_tear_down();
}

static void a_write_waits_for_a_look_at_what_it_changes(void **state)
{
    in_fake_loop(co_hold_write);
}

static void co_random(void *opaque)
{
    unsigned seed = test_seed();
    g_autoptr(GRand) rng = g_rand_new_with_seed(seed);

    for (unsigned round = 0; round < 10; round++) {
        struct noise noise = {.rest = 3};
        fake_seed(seed + round);
        co_set_up("");
        fake_of(source)->pauses = fake_of(target)->pauses = 5;
        noise_start(&noise, guest, 5, seed + round);
        for (int i = 0; i < 300; i++) {
            int64_t offset = g_rand_int_range(rng, 0, LENGTH);
            int64_t bytes = g_rand_int_range(rng, 1, 4 * CLUSTER);
            co_expect_instant(offset, MIN(bytes, LENGTH - offset));
        }
        co_noise_stop(&noise);
        co_expect_instant(0, LENGTH);
        co_tear_down();
    }
}

static void random_looks_under_a_busy_guest_see_the_instant(void **state)
{
    in_fake_loop(co_random);
}

static void co_give_up(void *opaque)
{
    co_set_up("");
    assert_int_equal(co_node_pdiscard(snapshot, CLUSTER, 2 * CLUSTER), 0);
    fake_log_forget();
    assert_int_equal(co_guest_write(CLUSTER, CLUSTER), 0);
    fake_log_is("s:write"); /* nobody wants the old data any more */
    assert_int_equal(co_node_pread(snapshot, CLUSTER, seen, 512, 0), -EACCES);
    assert_int_equal(co_node_pread(snapshot, 0, seen, 2 * CLUSTER, 0), -EACCES);
    co_expect_instant(0, CLUSTER);
    co_expect_instant(3 * CLUSTER, CLUSTER);
    co_tear_down();
}

static void what_was_discarded_is_neither_kept_nor_shown(void **state)
{
    in_fake_loop(co_give_up);
}

static void co_lost(void *opaque)
{
    co_set_up(",on-cbw-error=break-snapshot");
    fake_of(target)->fail_at[FAKE_WRITE] = 1;
    assert_int_equal(co_guest_write(0, 512), 0);
    assert_int_equal(co_node_pread(snapshot, 5 * CLUSTER, seen, 512, 0),
                     -EACCES);
    co_tear_down();
}

static void a_broken_snapshot_cannot_be_read(void **state)
{
    in_fake_loop(co_lost);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_instant_is_read_from_both_sides),
        cmocka_unit_test(a_write_waits_for_a_look_at_what_it_changes),
        cmocka_unit_test(random_looks_under_a_busy_guest_see_the_instant),
        cmocka_unit_test(what_was_discarded_is_neither_kept_nor_shown),
        cmocka_unit_test(a_broken_snapshot_cannot_be_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
