/*
 * hw/virtio-blk/guest_record: every way to get a block wrong shows.
 */
#include "hw/virtio-blk/guest_record.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

enum { BLOCK = 4096, BLOCKS = 16 };

static struct guest_record *new_record(uint64_t seed)
{
    return guest_record_new(65536, BLOCK * BLOCKS, BLOCK, seed, NULL);
}

static void written_block_is_recognised(void **state)
{
    struct guest_record *r = new_record(1);
    uint8_t data[BLOCK], before[BLOCK];

    assert_int_equal(guest_record_check(r, 3, data), -2);
    uint32_t v = guest_record_fill(r, 3, data);
    assert_int_equal(guest_record_check(r, 3, data), -2); /* not yet */
    guest_record_set(r, 3, v);
    assert_int_equal(guest_record_check(r, 3, data), -1);

    memcpy(before, data, BLOCK);
    v = guest_record_fill(r, 3, data);
    guest_record_set(r, 3, v);
    assert_int_equal(guest_record_check(r, 3, data), -1);
    assert_true(guest_record_check(r, 3, before) >= 0); /* a lost write */
    memcpy(data + 512, before + 512, 512);
    assert_in_range(guest_record_check(r, 3, data), 512, 519); /* a torn one */
    guest_record_free(r);
}

static void block_in_the_wrong_place_shows(void **state)
{
    struct guest_record *r = new_record(1), *other = new_record(2);
    uint8_t data[BLOCKS][BLOCK], foreign[BLOCK];

    for (unsigned i = 0; i < BLOCKS; i++) {
        guest_record_set(r, i, guest_record_fill(r, i, data[i]));
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        for (unsigned j = 0; j < BLOCKS; j++) {
            assert_int_equal(guest_record_check(r, i, data[j]) == -1, i == j);
        }
    }
    guest_record_fill(other, 0, foreign);
    assert_true(guest_record_check(r, 0, foreign) >= 0);
    guest_record_free(r);
    guest_record_free(other);
}

static void every_byte_counts(void **state)
{
    struct guest_record *r = new_record(9);
    uint8_t data[BLOCK];

    guest_record_set(r, 0, guest_record_fill(r, 0, data));
    for (unsigned i = 0; i < BLOCK; i++) {
        data[i] ^= 1;
        assert_int_equal(guest_record_check(r, 0, data), i);
        data[i] ^= 1;
    }
    guest_record_set(r, 0, GUEST_RECORD_ZERO);
    memset(data, 0, BLOCK);
    assert_int_equal(guest_record_check(r, 0, data), -1);
    data[4095] = 1;
    assert_int_equal(guest_record_check(r, 0, data), 4095);
    guest_record_set(r, 0, GUEST_RECORD_UNKNOWN);
    assert_int_equal(guest_record_check(r, 0, data), -2);
    guest_record_free(r);
}

static void block_is_claimed_once_and_keeps_its_version(void **state)
{
    struct guest_record *r = new_record(1);
    uint8_t data[BLOCK];

    guest_record_set(r, 5, guest_record_fill(r, 5, data));
    assert_true(guest_record_claim(r, 5));
    assert_false(guest_record_claim(r, 5));
    assert_int_equal(guest_record_check(r, 5, data), -1);
    uint32_t v = guest_record_fill(r, 5, data);
    guest_record_set(r, 5, v);
    assert_false(guest_record_claim(r, 5));
    guest_record_release(r, 5);
    assert_int_equal(guest_record_check(r, 5, data), -1);
    assert_true(guest_record_claim(r, 5));
    guest_record_free(r);
}

static void region_decides_if_a_record_is_of_use(void **state)
{
    struct guest_record *r = new_record(1);
    GError *error = NULL;

    assert_true(guest_record_covers(r, 65536, BLOCK * BLOCKS, BLOCK));
    assert_false(guest_record_covers(r, 0, BLOCK * BLOCKS, BLOCK));
    assert_false(guest_record_covers(r, 65536, BLOCK * BLOCKS, 512));
    guest_record_free(r);
    assert_null(guest_record_new(0, INT64_C(1) << 62, 512, 1, &error));
    assert_non_null(error);
    g_error_free(error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_block_is_recognised),
        cmocka_unit_test(block_in_the_wrong_place_shows),
        cmocka_unit_test(every_byte_counts),
        cmocka_unit_test(block_is_claimed_once_and_keeps_its_version),
        cmocka_unit_test(region_decides_if_a_record_is_of_use),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
