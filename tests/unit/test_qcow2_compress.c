/*
 * qcow2: compressed writes among all others, against a model of bytes, and
 * against qemu-img.
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

static const struct shape shapes[] = {
    {"'cluster-size': 512", "", 1 << 20, 512},
    {"'cluster-size': 4096, 'refcount-bits': 1", "", 2 << 20, 4096},
    {"'cluster-size': 4096, 'refcount-bits': 2",
     ",pass-discard-request=on,pass-discard-other=on", 2 << 20, 4096},
    {"'cluster-size': 4096, 'compression-type': 'zstd'", ",l2-cache-size=0",
     2 << 20, 4096},
    {"'cluster-size': 65536, 'version': 'v2'",
     ",pass-discard-request=on,pass-discard-other=on", 4 << 20, 65536},
    {"'cluster-size': 65536, 'compression-type': 'zstd'", "", 4 << 20, 65536},
    {"'cluster-size': 65536, 'preallocation': 'metadata'", "", 4 << 20, 65536},
    {"'cluster-size': 2097152", "", 16 << 20, 2 << 20},
    {"'cluster-size': 16384, 'extended-l2': true", "", 2 << 20, 16384},
    {"'cluster-size': 65536", ",compress-effort=dense", 4 << 20, 65536},
    {"'cluster-size': 1024, 'refcount-bits': 8",
     ",l2-cache-entry-size=512,cache-size=4096", (1 << 20) + 512, 1024},
};

static void co_every_shape(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_stress_shape(&shapes[i], i + 1, 150);
    }
}

static void mixed_writes_match_the_model(void **state)
{
    in_fake_loop(co_every_shape);
}

static void co_random_failures(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_stress_failures(&shapes[i], i, 120);
    }
}

static void failures_leave_the_node_usable_and_nothing_leaked(void **state)
{
    in_fake_loop(co_random_failures);
}

/* ---- single requests ----------------------------------------------------- */

#define CLUSTER 65536
#define SIZE    (16 * CLUSTER + 1024)

static void co_ranges(void *opaque)
{
    static const struct {
        int64_t offset, bytes;
        int ret;
    } ranges[] = {
        {512, CLUSTER, -EINVAL},       {0, 512, -EINVAL},
        {0, CLUSTER + 512, -EINVAL},   {CLUSTER, CLUSTER, 0},
        {0, 4 * CLUSTER, 0},           {16 * CLUSTER, 1024, 0},
        {16 * CLUSTER, 512, -EINVAL},  {15 * CLUSTER, CLUSTER + 1024, 0},
        {16 * CLUSTER, CLUSTER, -EIO},
    };
    struct node *file = co_mem_disk("disk");
    g_autofree uint8_t *buf = g_malloc0(4 * CLUSTER);

    co_make("disk", SIZE, "'cluster-size': 65536");
    struct node *node = co_open("driver=qcow2,file=disk");
    for (unsigned i = 0; i < G_N_ELEMENTS(ranges); i++) {
        int ret = co_node_pwrite(node, ranges[i].offset, buf, ranges[i].bytes,
                                 REQ_COMPRESSED);
        assert_int_equal(ret, ranges[i].ret);
    }
    co_node_unref(node);
    co_check(file, false);
    co_node_unref(file);
}

static void only_whole_clusters_are_taken(void **state)
{
    in_fake_loop(co_ranges);
}

static int64_t co_map_of(struct node *node, int64_t offset, unsigned *flags)
{
    struct block_status st;

    assert_int_equal(co_node_block_status(node, true, offset, CLUSTER, &st), 0);
    *flags = st.flags;
    return st.bytes;
}

/* 64 clusters that shrink to almost nothing fit a few of the file, noise takes
 * normal clusters. */
static void co_tight(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    g_autofree uint8_t *buf = g_malloc(64 * CLUSTER);
    g_autoptr(GRand) rand = g_rand_new_with_seed(1);
    unsigned flags;

    co_make("disk", 65 * CLUSTER, "'cluster-size': 65536");
    int64_t before = file->length;
    struct node *node = co_open("driver=qcow2,file=disk");
    for (int64_t i = 0; i < 64 * CLUSTER; i++) {
        buf[i] = i / CLUSTER;
    }
    assert_int_equal(co_node_pwrite(node, 0, buf, 64 * CLUSTER, REQ_COMPRESSED),
                     0);
    assert_int_equal(co_map_of(node, 5 * CLUSTER, &flags), CLUSTER);
    assert_true(flags & BLOCK_COMPRESSED);
    for (int64_t i = 0; i < CLUSTER; i++) {
        buf[i] = g_rand_int(rand);
    }
    assert_int_equal(
        co_node_pwrite(node, 64 * CLUSTER, buf, CLUSTER, REQ_COMPRESSED), 0);
    co_map_of(node, 64 * CLUSTER, &flags);
    assert_false(flags & BLOCK_COMPRESSED);
    co_node_unref(node);
    assert_true(file->length <= before + 4 * CLUSTER);
    co_check(file, false);
    co_node_unref(file);
}

static void compressed_data_are_packed_and_noise_is_not(void **state)
{
    in_fake_loop(co_tight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_writes_match_the_model),
        cmocka_unit_test(failures_leave_the_node_usable_and_nothing_leaked),
        cmocka_unit_test(only_whole_clusters_are_taken),
        cmocka_unit_test(compressed_data_are_packed_and_noise_is_not),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
