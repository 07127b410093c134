/*
 * Compression of single clusters, against the library that the format's other
 * readers use.
 */
#include "block/drivers/qcow2/codec.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>
#include <zlib.h>

#define CLUSTER 65536

static uint8_t cluster[CLUSTER], packed[CLUSTER], back[CLUSTER];

static const struct maker {
    enum qcow2_compression_type type;
    enum qcow2_compress_effort effort;
} makers[] = {
    {QCOW2_COMPRESSION_TYPE_ZLIB, QCOW2_COMPRESS_EFFORT_FAST},
    {QCOW2_COMPRESSION_TYPE_ZLIB, QCOW2_COMPRESS_EFFORT_DENSE},
    {QCOW2_COMPRESSION_TYPE_ZSTD, QCOW2_COMPRESS_EFFORT_FAST},
    {QCOW2_COMPRESSION_TYPE_ZSTD, QCOW2_COMPRESS_EFFORT_DENSE},
};

/* Matches at every distance, many beyond 4 KiB. */
static void fill_text(GRand *rng)
{
    for (unsigned at = 0; at < CLUSTER;) {
        if (at > 300 && g_rand_int_range(rng, 0, 4)) {
            unsigned n = g_rand_int_range(rng, 4, 260);
            n = MIN(n, CLUSTER - at);
            unsigned from = g_rand_int_range(rng, 0, at - 260);
            memmove(cluster + at, cluster + from, n);
            at += n;
        } else {
            cluster[at++] = g_rand_int(rng);
        }
    }
}

static void fill_noise(GRand *rng)
{
    for (unsigned at = 0; at < CLUSTER; at++) {
        cluster[at] = (uint8_t)g_rand_int(rng);
    }
}

static int pack_with(const struct maker *m, size_t bytes, size_t room)
{
    struct cluster_packer *p = cluster_packer_new(m->type, m->effort);

    assert_non_null(p);
    int n = cluster_pack(p, cluster, bytes, packed, room);
    /* It serves again. */
    assert_int_equal(cluster_pack(p, cluster, bytes, packed, room), n);
    cluster_packer_free(p);
    return n;
}

static void what_is_packed_comes_back(void **state)
{
    g_autoptr(GRand) rng = g_rand_new_with_seed(1);

    for (unsigned i = 0; i < 4 * G_N_ELEMENTS(makers); i++) {
        const struct maker *m = &makers[i % G_N_ELEMENTS(makers)];
        fill_text(rng);
        int n = pack_with(m, CLUSTER, CLUSTER - 1);
        assert_true(n > 0 && n < CLUSTER * 3 / 4);
        memset(packed + n, 0xa5, CLUSTER - n); /* the rest of a sector */
        assert_int_equal(
            cluster_unpack(m->type, packed, CLUSTER, back, CLUSTER), 0);
        assert_memory_equal(back, cluster, CLUSTER);
    }
}

/* Inflates in small pieces of output, so that nothing but the window that the
 * format grants is remembered. */
static void inflate_within_window(size_t n)
{
    uint8_t piece[512] = {0};
    size_t done = 0;
    z_stream z = {.next_in = packed, .avail_in = n};

    assert_int_equal(inflateInit2(&z, -12), Z_OK);
    for (int ret = Z_OK; ret != Z_STREAM_END;) {
        z.next_out = piece;
        z.avail_out = sizeof(piece);
        ret = inflate(&z, Z_NO_FLUSH);
        assert_true(ret == Z_OK || ret == Z_STREAM_END);
        memcpy(back + done, piece, sizeof(piece) - z.avail_out);
        done += sizeof(piece) - z.avail_out;
    }
    assert_int_equal(z.avail_in, 0);
    assert_int_equal(done, CLUSTER);
    inflateEnd(&z);
}

static void deflate_stays_within_a_window_of_4_kib(void **state)
{
    g_autoptr(GRand) rng = g_rand_new_with_seed(2);

    for (unsigned i = 0; i < 2; i++) {
        fill_text(rng);
        inflate_within_window(pack_with(&makers[i], CLUSTER, CLUSTER - 1));
        assert_memory_equal(back, cluster, CLUSTER);
    }
}

static void what_does_not_get_shorter_is_given_up(void **state)
{
    g_autoptr(GRand) rng = g_rand_new_with_seed(3);

    fill_noise(rng);
    for (unsigned i = 0; i < G_N_ELEMENTS(makers); i++) {
        assert_int_equal(pack_with(&makers[i], CLUSTER, CLUSTER - 1), 0);
        assert_int_equal(pack_with(&makers[i], 512, 511), 0);
    }
    fill_text(rng);
    for (unsigned i = 0; i < G_N_ELEMENTS(makers); i++) {
        int n = pack_with(&makers[i], CLUSTER, CLUSTER - 1);
        assert_int_equal(pack_with(&makers[i], CLUSTER, n / 2), 0);
    }
}

static void short_and_damaged_data_are_an_error(void **state)
{
    g_autoptr(GRand) rng = g_rand_new_with_seed(4);

    for (unsigned i = 0; i < G_N_ELEMENTS(makers); i++) {
        enum qcow2_compression_type type = makers[i].type;
        fill_text(rng);
        int n = pack_with(&makers[i], CLUSTER, CLUSTER - 1);
        assert_int_equal(cluster_unpack(type, packed, n / 2, back, CLUSTER),
                         -EIO);
        assert_int_equal(cluster_unpack(type, packed, 0, back, CLUSTER), -EIO);
        for (unsigned round = 0; round < 500; round++) {
            unsigned at = g_rand_int_range(rng, 0, n);
            uint8_t was = packed[at];
            packed[at] = g_rand_int(rng);
            /* Any verdict, but nothing beyond the two buffers. */
            int ret = cluster_unpack(type, packed, n, back, CLUSTER);
            assert_true(ret == 0 || ret == -EIO);
            packed[at] = was;
        }
        fill_noise(rng);
        for (unsigned round = 0; round < 500; round++) {
            int ret = cluster_unpack(type, cluster + round, CLUSTER - round,
                                     back, CLUSTER);
            assert_true(ret == 0 || ret == -EIO);
        }
    }
}

/* A stream of others may lack its end. */
static void deflate_without_an_end_is_read(void **state)
{
    z_stream z = {.next_in = cluster,
                  .avail_in = CLUSTER,
                  .next_out = packed,
                  .avail_out = CLUSTER};

    memset(cluster, 7, CLUSTER);
    assert_int_equal(
        deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_SYNC_FLUSH), Z_OK);
    assert_int_equal(cluster_unpack(QCOW2_COMPRESSION_TYPE_ZLIB, packed,
                                    CLUSTER - z.avail_out, back, CLUSTER),
                     0);
    assert_memory_equal(back, cluster, CLUSTER);
    deflateEnd(&z);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_packed_comes_back),
        cmocka_unit_test(deflate_stays_within_a_window_of_4_kib),
        cmocka_unit_test(what_does_not_get_shorter_is_given_up),
        cmocka_unit_test(short_and_damaged_data_are_an_error),
        cmocka_unit_test(deflate_without_an_end_is_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
