/*
 * block/block_copy.c: each cluster is copied once, in pieces of the right kind
 * and size, several at a time; what fails goes back into the bitmap.
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
#include "lib/fake_driver.h"
#include "lib/noise.h"

#define CLUSTER INT64_C(65536)
#define LENGTH  (64 * CLUSTER + 4096)

static struct node *source, *target;
static struct block_copy *copy;

static void co_set_up(void)
{
    source = co_fake_node("s", LENGTH);
    target = co_fake_node("t", LENGTH);
    for (int64_t i = 0; i < LENGTH; i++) {
        fake_of(source)->data[i] = (uint8_t)(i / 512 % 255 + 1);
    }
    copy = co_block_copy_new(source, target, NULL);
    assert_non_null(copy);
    assert_int_equal(block_copy_cluster_size(copy), CLUSTER);
    assert_int_equal(block_copy_remaining(copy), LENGTH);
}

static void co_tear_down(void)
{
    co_block_copy_free(copy);
    co_node_unref(source);
    co_node_unref(target);
}

static void assert_equal_from(int64_t offset, int64_t bytes)
{
    assert_memory_equal(fake_of(source)->data + offset,
                        fake_of(target)->data + offset, (size_t)bytes);
}

struct async {
    bool all; /* else the range */
    int64_t offset, bytes;
    unsigned workers;
    int ret;
    bool is_read, done;
};

static void co_async(void *opaque)
{
    struct async *a = opaque;

    if (a->all) {
        struct block_copy_call call = {.max_workers = a->workers};
        a->ret = co_block_copy_all(copy, &call);
        a->is_read = call.is_read;
    } else {
        a->ret = co_block_copy_range(copy, a->offset, a->bytes, &a->is_read);
    }
    a->done = true;
}

static void co_all(void *opaque)
{
    struct async a = {.all = true, .workers = 8};

    co_set_up();
    co_async(&a);
    assert_int_equal(a.ret, 0);
    assert_equal_from(0, LENGTH);
    assert_int_equal(block_copy_remaining(copy), 0);
    /* The pieces grow: far fewer than clusters. */
    assert_true(fake_of(target)->calls[FAKE_WRITE] < LENGTH / CLUSTER / 3);
    co_tear_down();
}

static void co_workers(void *opaque)
{
    struct async a = {.all = true, .workers = 3};

    co_set_up();
    fake_of(source)->hold[FAKE_READ] = true;
    co_start(co_async, &a);
    co_settle();
    assert_int_equal(fake_of(source)->inside, 3);
    fake_release(source);
    co_settle();
    assert_true(a.done);
    assert_equal_from(0, LENGTH);
    co_tear_down();
}

/* A range is widened to clusters, and copied once. */
static void co_range_once(void *opaque)
{
    struct async a = {.offset = 3 * CLUSTER + 100, .bytes = CLUSTER};

    co_set_up();
    co_async(&a);
    assert_int_equal(a.ret, 0);
    assert_equal_from(3 * CLUSTER, 2 * CLUSTER);
    assert_int_equal(fake_of(target)->data[5 * CLUSTER], 0);
    unsigned writes = fake_of(target)->calls[FAKE_WRITE];
    co_async(&a);
    assert_int_equal(fake_of(target)->calls[FAKE_WRITE], writes);
    /* The end, and what lies behind it. */
    a.offset = LENGTH - 1;
    a.bytes = CLUSTER;
    co_async(&a);
    assert_int_equal(a.ret, 0);
    assert_equal_from(64 * CLUSTER, 4096);
    a.offset = LENGTH;
    co_async(&a);
    assert_int_equal(a.ret, 0);
    assert_int_equal(block_copy_remaining(copy), LENGTH - 2 * CLUSTER - 4096);
    co_tear_down();
}

static void co_waits_for_the_one_under_way(void *opaque)
{
    struct async first = {.offset = 0, .bytes = 1};
    struct async second = {.offset = 0, .bytes = 1};

    co_set_up();
    fake_of(target)->hold[FAKE_WRITE] = true;
    co_start(co_async, &first);
    co_settle();
    co_start(co_async, &second);
    co_settle();
    assert_false(first.done || second.done);
    assert_int_equal(fake_of(target)->calls[FAKE_WRITE], 1);
    fake_release(target);
    co_settle();
    assert_true(first.done && second.done);
    assert_int_equal(fake_of(target)->calls[FAKE_WRITE], 1);
    co_tear_down();
}

/* Who waited for a copy that failed tries it himself. */
static void co_failure_goes_back(void *opaque)
{
    struct async first = {.offset = 0, .bytes = 1};
    struct async second = {.offset = 0, .bytes = 1};

    co_set_up();
    fake_of(target)->fail_at[FAKE_WRITE] = 1;
    fake_of(target)->hold[FAKE_WRITE] = true;
    co_start(co_async, &first);
    co_settle();
    co_start(co_async, &second);
    co_settle();
    fake_release(target);
    co_settle();
    assert_int_equal(first.ret, -EIO);
    assert_false(first.is_read);
    assert_int_equal(second.ret, 0);
    assert_equal_from(0, CLUSTER);
    co_tear_down();
}

static void co_all_survives_a_failed_range(void *opaque)
{
    struct async range = {.offset = 0, .bytes = 1};
    struct async all = {.all = true, .workers = 2};

    co_set_up();
    fake_of(source)->fail_at[FAKE_READ] = 1;
    fake_of(source)->hold[FAKE_READ] = true;
    co_start(co_async, &range);
    co_settle();
    co_start(co_async, &all);
    co_settle();
    fake_release(source);
    co_settle();
    assert_int_equal(range.ret, -EIO);
    assert_true(range.is_read);
    assert_int_equal(all.ret, 0);
    assert_equal_from(0, LENGTH);
    co_tear_down();
}

/* Fails each request in turn, then goes on where it was. */
static void co_every_request_fails_once(void *opaque)
{
    for (int n = 1; n < 12; n++) {
        for (int side = 0; side < 2; side++) {
            struct async a = {.all = true, .workers = 2};
            co_set_up();
            fake_of(side ? target : source)
                ->fail_at[side ? FAKE_WRITE : FAKE_READ] = n;
            co_async(&a);
            if (a.ret) {
                assert_int_equal(a.is_read, !side);
                assert_true(block_copy_remaining(copy) > 0);
                co_async(&a);
            }
            assert_int_equal(a.ret, 0);
            assert_equal_from(0, LENGTH);
            co_tear_down();
        }
    }
}

static void co_zeroes(void *opaque)
{
    struct async a = {.all = true, .workers = 2};

    co_set_up();
    memset(fake_of(source)->data + 8 * CLUSTER, 0, 40 * CLUSTER);
    memset(fake_of(target)->data, 1, LENGTH);
    fake_of(source)->tells_zeroes = true;
    co_async(&a);
    assert_equal_from(0, LENGTH);
    assert_int_equal(fake_of(target)->calls[FAKE_ZEROES], 1);
    co_tear_down();
}

/* A target that reads as zeroes already is left alone. */
static void co_zeroes_onto_zeroes(void *opaque)
{
    struct async a = {.all = true, .workers = 2};

    co_set_up();
    memset(fake_of(source)->data, 0, LENGTH);
    fake_of(source)->tells_zeroes = fake_of(target)->tells_zeroes = true;
    co_async(&a);
    assert_int_equal(fake_of(target)->calls[FAKE_ZEROES], 0);
    assert_int_equal(fake_of(target)->calls[FAKE_WRITE], 0);
    assert_int_equal(block_copy_remaining(copy), 0);
    co_tear_down();
}

static void co_small_target(void *opaque)
{
    GError *error = NULL;

    source = co_fake_node("s", LENGTH);
    target = co_fake_node("t", LENGTH - 512);
    assert_null(co_block_copy_new(source, target, &error));
    assert_string_equal(error->message,
                        "Source and target image have different sizes");
    g_error_free(error);
    co_node_unref(source);
    co_node_unref(target);
}

static void co_random_ranges(void *opaque)
{
    unsigned seed = test_seed();
    GRand *r = g_rand_new_with_seed(seed);

    fake_seed(seed);
    for (int round = 0; round < 30; round++) {
        struct async a[12];
        co_set_up();
        fake_of(source)->pauses = fake_of(target)->pauses = 5;
        fake_of(source)->fail_at[FAKE_READ] = g_rand_int_range(r, 0, 20);
        for (size_t i = 0; i < G_N_ELEMENTS(a); i++) {
            a[i] = (struct async){
                .all = i == 5,
                .workers = 4,
                .offset = g_rand_int_range(r, 0, LENGTH),
                .bytes = g_rand_int_range(r, 1, 10 * CLUSTER),
            };
            co_start(co_async, &a[i]);
            co_pause();
        }
        co_settle();
        for (size_t i = 0; i < G_N_ELEMENTS(a); i++) {
            assert_true(a[i].done);
            if (!a[i].ret && !a[i].all && a[i].offset < LENGTH) {
                assert_equal_from(a[i].offset,
                                  MIN(a[i].bytes, LENGTH - a[i].offset));
            }
        }
        struct async last = {.all = true, .workers = 4};
        co_async(&last);
        assert_int_equal(last.ret, 0);
        assert_equal_from(0, LENGTH);
        co_tear_down();
    }
    g_rand_free(r);
}

#define COPY_TEST(name)            \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
COPY_TEST(all)
COPY_TEST(workers)
COPY_TEST(range_once)
COPY_TEST(waits_for_the_one_under_way)
COPY_TEST(failure_goes_back)
COPY_TEST(all_survives_a_failed_range)
COPY_TEST(every_request_fails_once)
COPY_TEST(zeroes)
COPY_TEST(zeroes_onto_zeroes)
COPY_TEST(small_target)
COPY_TEST(random_ranges)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all),
        cmocka_unit_test(workers),
        cmocka_unit_test(range_once),
        cmocka_unit_test(waits_for_the_one_under_way),
        cmocka_unit_test(failure_goes_back),
        cmocka_unit_test(all_survives_a_failed_range),
        cmocka_unit_test(every_request_fails_once),
        cmocka_unit_test(zeroes),
        cmocka_unit_test(zeroes_onto_zeroes),
        cmocka_unit_test(small_target),
        cmocka_unit_test(random_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
