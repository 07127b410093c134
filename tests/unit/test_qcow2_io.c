/* qcow2: data, against a model of bytes, and against qemu-img. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

static const struct shape shapes[] = {
    {"'cluster-size': 512", "", 1 << 20, 0},
    {"'cluster-size': 512, 'refcount-bits': 64", "", 4 << 20, 0},
    {"'cluster-size': 4096, 'refcount-bits': 1", "", 4 << 20, 0},
    {"'cluster-size': 4096, 'refcount-bits': 4", ",l2-cache-size=0", 4 << 20,
     0},
    {"'cluster-size': 65536", "", 16 << 20, 0},
    {"'cluster-size': 65536, 'version': 'v2'", "", 16 << 20, 0},
    {"'cluster-size': 65536, 'preallocation': 'metadata'", "", 8 << 20, 0},
    {"'cluster-size': 2097152", "", 32 << 20, 0},
    {"'cluster-size': 16384, 'extended-l2': true", "", 4 << 20, 0},
    {"'cluster-size': 65536, 'extended-l2': true",
     ",l2-cache-entry-size=512,cache-size=4096", (4 << 20) + 1536, 0},
    {"'cluster-size': 65536, 'extended-l2': true, 'preallocation': 'metadata'",
     "", 4 << 20, 0},
    {"'cluster-size': 1024, 'refcount-bits': 8",
     ",l2-cache-entry-size=512,cache-size=4096", (1 << 20) + 512, 0},
    {"'cluster-size': 4096", ",discard-no-unref=on", (1 << 20) + 512, 0},
    {"'cluster-size': 16384, 'extended-l2': true",
     ",discard-no-unref=on,pass-discard-request=on", 4 << 20, 0},
};

static void co_every_shape(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_stress_shape(&shapes[i], i + 1, 300);
    }
}

static void random_requests_match_the_model(void **state)
{
    in_fake_loop(co_every_shape);
}

/* ---- discards ------------------------------------------------------------ */

static void co_keep_places(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    uint8_t data[4096], zeroes[4096] = {0}, seen[4096];
    GError *error = NULL;

    memset(data, 7, sizeof(data));
    co_make("disk", 1 << 20, "'cluster-size': 4096");
    struct node *node =
        co_open("driver=qcow2,file=disk,discard=unmap,discard-no-unref=on");
    for (int64_t at = 0; at < 1 << 20; at += 4096) {
        assert_int_equal(co_node_pwrite(node, at, data, 4096, 0), 0);
    }
    assert_int_equal(co_node_flush(node), 0);
    int64_t l2 = get_be(file, get_be(file, 40, 8), 8) & INT64_MAX & ~511;
    uint64_t first = get_be(file, l2, 8), second = get_be(file, l2 + 8, 8);
    int64_t place = first & INT64_MAX & ~511, length = file->length;

    assert_int_equal(co_node_pdiscard(node, 0, 4096), 0);
    assert_int_equal(co_node_pwrite_zeroes(node, 4096, 4096, REQ_MAY_UNMAP), 0);
    assert_int_equal(co_node_flush(node), 0);
    assert_int_equal(get_be(file, l2, 8), first | 1);
    assert_int_equal(get_be(file, l2 + 8, 8), second | 1);
    assert_int_equal(co_node_pread(node, 0, seen, 4096, 0), 0);
    assert_memory_equal(seen, zeroes, 4096);

    assert_int_equal(co_node_pwrite(node, 0, data, 4096, 0), 0);
    assert_int_equal(co_node_flush(node), 0);
    assert_int_equal(get_be(file, l2, 8), first);
    assert_int_equal(file->length, length);
    assert_memory_equal(mem_disk_of(file)->data + place, data, 4096);
    co_node_unref(node);
    co_check(file, false);

    co_make("disk", 1 << 20, "'version': 'v2'");
    assert_null(
        co_try_open(&error, "driver=qcow2,file=disk,discard-no-unref=on"));
    assert_string_equal(error->message, "discard-no-unref is only supported "
                                        "since qcow2 version 3");
    g_error_free(error);
    co_node_unref(file);
}

static void discarded_clusters_keep_their_place_if_that_is_asked_for(
    void **state)
{
    in_fake_loop(co_keep_places);
}

/* ---- failures ------------------------------------------------------------ */

static void co_random_failures(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_stress_failures(&shapes[i], i, 200);
    }
}

static void failures_leave_the_node_usable_and_nothing_leaked(void **state)
{
    in_fake_loop(co_random_failures);
}

/* ---- backing ------------------------------------------------------------- */

/* An overlay that is larger, then one that is smaller than its backing image;
 * cluster sizes differ. */
static void co_random_overlay(int64_t base_size, int64_t size,
                              const char *create)
{
    struct node *base_file = co_mem_disk("base-disk");
    struct node *file = co_mem_disk("disk");
    struct stress t;

    co_make("base-disk", base_size, "'cluster-size': 4096");
    co_make("disk", size, create);
    struct node *base = co_open("driver=qcow2,node-name=base,file=base-disk");
    g_autofree uint8_t *data = g_malloc(base_size);
    for (int64_t i = 0; i < base_size; i++) {
        data[i] = i / 4096 % 3 ? i * 13 + i / 512 : 0;
    }
    assert_int_equal(co_node_pwrite(base, 0, data, base_size, 0), 0);
    mem_disk_of(file)->pauses = 2;
    struct node *node = co_open("driver=qcow2,file=disk,backing=base,"
                                "discard=unmap");
    stress_init(&t, node, base_size);
    memcpy(t.model, data, MIN(base_size, size));
    co_verify(&t, 0, size);
    for (unsigned round = 0; round < 4; round++) {
        t.small = !(round & 1);
        co_stress(&t, 150, 8);
        co_verify(&t, 0, size);
    }
    /* The base is as it was. */
    g_autofree uint8_t *now = g_malloc(base_size);
    assert_int_equal(co_node_pread(base, 0, now, base_size, 0), 0);
    assert_memory_equal(now, data, base_size);
    co_node_unref(node);
    co_check(file, false);
    stress_free(&t);
    co_node_unref(base);
    co_node_unref(base_file);
    co_node_unref(file);
}

static void co_overlays(void *opaque)
{
    co_random_overlay(1 << 20, 2 << 20, "'cluster-size': 65536");
    co_random_overlay((2 << 20) + 512, 1 << 20, "'cluster-size': 512");
    co_random_overlay(1 << 20, (3 << 20) + 1024, "'cluster-size': 2097152");
    co_random_overlay(1 << 20, 1 << 20, "'version': 'v2'");
    co_random_overlay(1 << 20, 2 << 20,
                      "'cluster-size': 16384, 'extended-l2': true");
    co_random_overlay((2 << 20) + 512, 1 << 20,
                      "'cluster-size': 65536, 'extended-l2': true");
}

static void overlays_show_the_base_where_they_have_nothing(void **state)
{
    in_fake_loop(co_overlays);
}

/* ---- overlapping requests ------------------------------------------------ */

/* A guest that reads, writes and discards the same blocks at once may find any
 * of them old or new, but never those of another place. */
struct race {
    struct node *node;
    GRand *rand;
    unsigned left;
    int64_t units;
};

/* Each block holds its own number all over, or zeroes. */
static void check_blocks(const uint64_t *buf, int64_t unit, int64_t n)
{
    for (int64_t i = 0; i < n * 64; i++) {
        if (buf[i] != 0 && buf[i] != (uint64_t)(unit + i / 64 + 1)) {
            fail_msg("block %" G_GINT64_FORMAT " holds %" G_GINT64_MODIFIER "x",
                     unit + i / 64, buf[i]);
        }
    }
}

static int co_racer(void *opaque)
{
    struct race *r = opaque;
    uint64_t buf[40 * 64];

    while (r->left) {
        r->left--;
        int64_t unit = g_rand_int_range(r->rand, 0, r->units - 40);
        int64_t n = g_rand_int_range(r->rand, 1, 40);
        int64_t offset = unit * 512, bytes = n * 512;
        int ret = 0;
        switch (g_rand_int_range(r->rand, 0, 8)) {
        case 0:
            ret = co_node_pdiscard(r->node, offset, bytes);
            break;
        case 1:
            ret = co_node_pwrite_zeroes(r->node, offset, bytes,
                                        n & 1 ? REQ_MAY_UNMAP : 0);
            break;
        case 2:
            ret = co_node_flush(r->node);
            break;
        case 3:
        case 4:
            ret = co_node_pread(r->node, offset, buf, bytes, 0);
            check_blocks(buf, unit, n);
            break;
        default:
            for (int64_t i = 0; i < n * 64; i++) {
                buf[i] = unit + i / 64 + 1;
            }
            ret = co_node_pwrite(r->node, offset, buf, bytes, 0);
        }
        assert_int_equal(ret, 0);
    }
    return 0;
}

static void co_race(const char *create, const char *open)
{
    struct node *file = co_mem_disk("disk");
    struct co_pool pool = {.limit = 16};
    struct race r = {.left = 2500, .units = 400};

    mem_disk_of(file)->pauses = 2;
    mem_disk_of(file)->slow_one_in = 40;
    co_make("disk", r.units * 512, create);
    r.node = co_open("driver=qcow2,file=disk,discard=unmap,"
                     "pass-discard-other=on%s",
                     open);
    r.rand = g_rand_new_with_seed(7);
    for (unsigned i = 0; i < pool.limit; i++) {
        co_pool_start(&pool, co_racer, &r);
    }
    co_pool_wait(&pool);
    co_node_unref(r.node);
    co_check(file, false);
    g_rand_free(r.rand);
    co_node_unref(file);
}

static void co_races(void *opaque)
{
    co_race("'cluster-size': 512", ",l2-cache-size=0");
    co_race("'cluster-size': 1024", "");
    co_race("'cluster-size': 4096", "");
}

static void overlapping_requests_never_show_data_of_another_place(void **state)
{
    in_fake_loop(co_races);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests_match_the_model),
        cmocka_unit_test(
            discarded_clusters_keep_their_place_if_that_is_asked_for),
        cmocka_unit_test(failures_leave_the_node_usable_and_nothing_leaked),
        cmocka_unit_test(overlays_show_the_base_where_they_have_nothing),
        cmocka_unit_test(overlapping_requests_never_show_data_of_another_place),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
