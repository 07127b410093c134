/*
 * Rates, measured on a clock that the test moves.
 */
#include "util/bucket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define SECOND INT64_C(1000000000)

/* What a user with pieces of so many units gets through until the time is over,
 * if he never waits longer than he is told. */
static double use(struct bucket *b, int64_t *now, int64_t until, double piece)
{
    double done = 0;

    for (;;) {
        int64_t ns = bucket_delay(b, *now);
        if (*now + ns >= until) {
            *now = until;
            return done;
        }
        *now += ns;
        if (!ns) {
            bucket_add(b, piece, *now);
            done += piece;
        }
    }
}

/* done within `slack` units of what was promised */
#define assert_about(done, promised, slack)                                  \
    assert_in_range((int64_t)(done), (int64_t)(promised) - (int64_t)(slack), \
                    (int64_t)(promised) + (int64_t)(slack))

static void a_rate_holds_on_average_for_pieces_of_any_size(void **state)
{
    static const double pieces[] = {1, 512, 4096, 65536, 250000, 5000000};

    for (int i = 0; i < 6; i++) {
        struct bucket b = {0};
        int64_t now = 5;
        bucket_set_rate(&b, 1000000);
        double done = use(&b, &now, 5 + 20 * SECOND, pieces[i]);
        /* What may be used at once comes on top. */
        assert_about(done, 20 * 1000000 + 100000, pieces[i] + 1);
    }
}

static void no_rate_is_no_limit(void **state)
{
    struct bucket b = {0};

    bucket_add(&b, 1e15, 0);
    assert_int_equal(bucket_delay(&b, 0), 0);
    bucket_set_rate(&b, 1);
    bucket_add(&b, 1e15, 0);
    assert_true(bucket_delay(&b, 0) > 0);
    bucket_set_rate(&b, 0);
    assert_int_equal(bucket_delay(&b, 0), 0);
    bucket_set_rate(&b, 1);
    assert_int_equal(bucket_delay(&b, 0), 0);
}

static void the_told_wait_is_long_enough_and_not_longer(void **state)
{
    struct bucket b = {0};

    bucket_set_rate(&b, 1000);
    bucket_add(&b, 1100, 0);
    assert_about(bucket_delay(&b, 0), SECOND, 1);
    int64_t ns = bucket_delay(&b, 0);
    assert_true(bucket_delay(&b, ns - 2) > 0);
    assert_int_equal(bucket_delay(&b, ns), 0);
}

static void extremes_do_not_overflow(void **state)
{
    struct bucket b = {0};

    bucket_set_rate(&b, 1);
    bucket_add(&b, (double)INT64_MAX, 7);
    bucket_add(&b, (double)INT64_MAX, 7);
    assert_int_equal(bucket_delay(&b, 7), INT64_MAX);
    bucket_set_rate(&b, INT64_MAX);
    assert_true(bucket_delay(&b, INT64_MAX / 2) >= 0);
    /* A clock that goes back makes nothing leak. */
    bucket_set_rate(&b, 10);
    bucket_add(&b, 100, INT64_MAX / 2);
    assert_true(bucket_delay(&b, 0) > SECOND);
}

static void a_burst_of_a_second_comes_at_once(void **state)
{
    struct bucket b = {.rate = 100, .burst = 500, .seconds = 1};
    int64_t now = SECOND;

    assert_about(use(&b, &now, now + 1, 1), 500, 1);
    /* Then the rate, for as long as there is no rest. */
    assert_about(use(&b, &now, now + 10 * SECOND, 1), 1000, 2);
    /* After a rest the next burst is ready. */
    now += 100 * SECOND;
    assert_about(use(&b, &now, now + 1, 1), 500, 1);
}

static void a_longer_burst_keeps_to_its_own_rate(void **state)
{
    struct bucket b = {.rate = 100, .burst = 500, .seconds = 10};
    int64_t now = SECOND, start = now;

    for (int second = 1; second <= 10; second++) {
        double done = use(&b, &now, start + second * SECOND, 1);
        assert_about(done, second == 1 ? 550 : 500, 2);
    }
    /* 5000 units are in it when it is full, less what leaked meanwhile. */
    double more = use(&b, &now, start + 60 * SECOND, 1);
    assert_about(5050 + more, 5000 + 60 * 100, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_rate_holds_on_average_for_pieces_of_any_size),
        cmocka_unit_test(no_rate_is_no_limit),
        cmocka_unit_test(the_told_wait_is_long_enough_and_not_longer),
        cmocka_unit_test(extremes_do_not_overflow),
        cmocka_unit_test(a_burst_of_a_second_comes_at_once),
        cmocka_unit_test(a_longer_burst_keeps_to_its_own_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
