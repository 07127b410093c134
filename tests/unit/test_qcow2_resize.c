/*
 * qcow2: the disk grows and shrinks while requests go on below.
 */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"
#include "util/range.h"

#define LOW (1 << 20) /* bytes that the requests are in */

struct resizing {
    struct stress t;
    struct node *file;
    bool failures;
    unsigned failed;
    uint8_t *high; /* buffer for what is behind */
};

static int co_requests(void *opaque)
{
    struct resizing *r = opaque;

    co_stress(&r->t, 600, 8);
    return 0;
}

/* What has come is zero; then data are there, for the next one to free. */
static void co_use_new_part(struct resizing *r, int64_t old, int64_t size)
{
    struct node *node = r->t.node;
    int64_t bytes = size - old;

    assert_int_equal(co_node_pread(node, old, r->high, bytes, 0), 0);
    for (int64_t i = 0; i < bytes; i++) {
        assert_int_equal(r->high[i], 0);
    }
    memset(r->high, 0x77, bytes);
    int ret = co_node_pwrite(node, old, r->high, bytes, 0);
    assert_true(ret == 0 || r->failures);
}

static int co_resizes(void *opaque)
{
    struct resizing *r = opaque;
    struct node *node = r->t.node;

    for (unsigned i = 0; i < 12; i++) {
        int64_t old = node->length;
        int64_t size = LOW + (i & 1 ? 512 * i : (i + 1) * 200 * 1024);
        enum prealloc_mode mode = size > old ? i / 2 % 3 : PREALLOC_MODE_OFF;
        if (co_node_truncate(node, size, true, mode, 0, NULL)) {
            assert_int_equal(node->length, size);
        } else {
            assert_true(r->failures);
            assert_int_equal(node->length, old);
            r->failed++;
        }
        if (node->length > old) {
            co_use_new_part(r, old, node->length);
        }
    }
    return 0;
}

/* How many resizes have failed. */
static unsigned co_resize_run(const char *create, unsigned seed, bool failures)
{
    struct resizing r = {.file = co_mem_disk("disk"), .failures = failures};
    struct mem_disk *d = mem_disk_of(r.file);
    struct co_pool pool = {.limit = 2};

    d->pauses = 3;
    d->rng = seed;
    co_make("disk", LOW, create);
    stress_init(&r.t, co_open("driver=qcow2,file=disk,discard=unmap"), seed);
    r.t.failures = failures;
    r.high = g_malloc(4 << 20);
    d->fail_one_in = failures ? 60 : 0;
    co_pool_start(&pool, co_requests, &r);
    co_pool_start(&pool, co_resizes, &r);
    co_pool_wait(&pool);
    d->fail_one_in = 0;
    assert_true(
        co_node_truncate(r.t.node, LOW, true, PREALLOC_MODE_OFF, 0, NULL));
    co_verify(&r.t, 0, LOW);
    co_node_unref(r.t.node);
    co_check(r.file, false);
    r.t.node = co_open("driver=qcow2,file=disk");
    co_verify(&r.t, 0, LOW);
    co_node_unref(r.t.node);
    stress_free(&r.t);
    g_free(r.high);
    co_node_unref(r.file);
    return r.failed;
}

static const char *const shapes[] = {
    "'cluster-size': 512, 'refcount-bits': 64",
    "'cluster-size': 4096",
    "'cluster-size': 65536, 'version': 'v2'",
    "'cluster-size': 16384, 'extended-l2': true",
};

static void co_both_ways(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_resize_run(shapes[i], i + 1, false);
    }
}

static void co_with_failures(void *opaque)
{
    unsigned failed = 0;

    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        for (unsigned seed = 0; seed < 3; seed++) {
            failed += co_resize_run(shapes[i], 10 * i + seed, true);
        }
    }
    assert_true(failed > 0);
}

static void requests_go_on_while_the_disk_grows_and_shrinks(void **state)
{
    in_fake_loop(co_both_ways);
}

static void a_failed_resize_leaves_the_disk_and_leaks_nothing(void **state)
{
    in_fake_loop(co_with_failures);
}

/* An image that was emptied is as small as a new one. */
static void co_emptied(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    g_autofree uint8_t *data = g_malloc0(4 << 20);

    co_make("disk", 4 << 20, "'cluster-size': 4096");
    int64_t empty = file->length;
    struct node *node = co_open("driver=qcow2,file=disk");
    assert_int_equal(co_node_pwrite(node, 0, data, 4 << 20, 0), 0);
    assert_true(file->length > 4 << 20);
    assert_int_equal(co_node_make_empty(node), 0);
    co_node_unref(node);
    assert_true(file->length <= align_up(empty, 4096));
    co_check(file, false);
    co_node_unref(file);
}

static void an_emptied_image_gives_its_file_back(void **state)
{
    in_fake_loop(co_emptied);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_go_on_while_the_disk_grows_and_shrinks),
        cmocka_unit_test(a_failed_resize_leaves_the_disk_and_leaks_nothing),
        cmocka_unit_test(an_emptied_image_gives_its_file_back),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
