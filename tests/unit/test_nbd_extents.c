/* What a server's block status leaves of itself when it is checked. */
#include "nbd/extents.h"

#include <glib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#define BLOCK 512
#define LIMIT (64 * BLOCK)

static bool fill(struct nbd_extents *e, int64_t offset, const uint32_t *pairs,
                 size_t n)
{
    return nbd_extents_fill(e, offset, LIMIT, BLOCK, pairs, n);
}

static void assert_extent(struct nbd_extents *e, int64_t offset, int64_t end,
                          uint32_t flags)
{
    const struct nbd_extent *x = nbd_extents_find(e, offset);

    assert_non_null(x);
    assert_int_equal(x->end, end);
    assert_int_equal(x->flags, flags);
}

static void test_alike_neighbours_are_one(void **state)
{
    const uint32_t pairs[] = {BLOCK, 3, 2 * BLOCK, 3, BLOCK, 0};
    struct nbd_extents e = {0};

    assert_true(fill(&e, BLOCK, pairs, 6));
    assert_null(nbd_extents_find(&e, 0));
    assert_extent(&e, BLOCK, 4 * BLOCK, 3);
    assert_extent(&e, 4 * BLOCK - 1, 4 * BLOCK, 3);
    assert_extent(&e, 4 * BLOCK, 5 * BLOCK, 0);
    assert_null(nbd_extents_find(&e, 5 * BLOCK));
    nbd_extents_clear(&e);
}

static void test_nothing_reaches_past_the_limit(void **state)
{
    const uint32_t pairs[] = {UINT32_MAX, 3, UINT32_MAX, 0};
    struct nbd_extents e = {0};

    assert_true(fill(&e, 0, pairs, 4));
    assert_int_equal(e.n, 1);
    assert_extent(&e, 0, LIMIT, 3);
    nbd_extents_clear(&e);
}

static void test_the_first_of_no_length_is_nothing(void **state)
{
    const uint32_t pairs[] = {0, 3, BLOCK, 3};
    struct nbd_extents e = {0};

    assert_false(fill(&e, 0, pairs, 4));
    assert_false(fill(&e, 0, pairs, 0));
    assert_false(fill(&e, 0, pairs, 1));
    assert_null(nbd_extents_find(&e, 0));
    nbd_extents_clear(&e);
}

static void test_one_of_no_length_ends_the_list(void **state)
{
    const uint32_t pairs[] = {BLOCK, 3, 0, 3, BLOCK, 0};
    struct nbd_extents e = {0};

    assert_true(fill(&e, 0, pairs, 6));
    assert_extent(&e, 0, BLOCK, 3);
    assert_null(nbd_extents_find(&e, BLOCK));
    nbd_extents_clear(&e);
}

static void test_a_block_of_several_extents_is_data(void **state)
{
    const uint32_t first[] = {BLOCK / 2, 3, BLOCK / 2, 3, BLOCK, 3};
    const uint32_t second[] = {BLOCK + 1, 3, BLOCK - 1, 3};
    struct nbd_extents e = {0};

    assert_true(fill(&e, 0, first, 6));
    assert_extent(&e, 0, BLOCK, 0);
    assert_null(nbd_extents_find(&e, BLOCK));
    assert_true(fill(&e, 0, second, 4));
    assert_extent(&e, 0, BLOCK, 3);
    assert_null(nbd_extents_find(&e, BLOCK));
    nbd_extents_clear(&e);
}

static void test_an_answer_takes_bounded_memory(void **state)
{
    const size_t pairs = 1 << 20;
    g_autofree uint32_t *entries = g_new(uint32_t, 2 * pairs);
    struct nbd_extents e = {0};

    for (size_t i = 0; i < pairs; i++) {
        entries[2 * i] = BLOCK;
        entries[2 * i + 1] = i & 1;
    }
    assert_true(nbd_extents_fill(&e, 0, INT64_MAX, BLOCK, entries, 2 * pairs));
    assert_true(e.n <= 65536);
    assert_extent(&e, BLOCK, 2 * BLOCK, 1);
    nbd_extents_clear(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alike_neighbours_are_one),
        cmocka_unit_test(test_nothing_reaches_past_the_limit),
        cmocka_unit_test(test_the_first_of_no_length_is_nothing),
        cmocka_unit_test(test_one_of_no_length_ends_the_list),
        cmocka_unit_test(test_a_block_of_several_extents_is_data),
        cmocka_unit_test(test_an_answer_takes_bounded_memory),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
