/*
 * Timers on a clock that the test moves by hand.
 */
#include "aio/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "aio/loop.h"

static int set_up(void **state)
{
    *state = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_bind(*state);
    return 0;
}

static int tear_down(void **state)
{
    loop_bind(NULL);
    loop_free(*state);
    return 0;
}

static void step(struct loop *loop, int64_t ns)
{
    loop_clock_advance(loop, ns);
    while (loop_pass(loop, false)) {
    }
}

static void count(void *opaque)
{
    assert_false(co_inside());
    (*(int *)opaque)++;
}

static void a_timer_fires_once_at_its_time(void **state)
{
    struct timer t;
    int n = 0;

    timer_init(&t, *state, count, &n);
    assert_false(timer_armed(&t));
    timer_arm(&t, 100);
    assert_true(timer_armed(&t));
    step(*state, 99);
    assert_int_equal(n, 0);
    step(*state, 1);
    assert_int_equal(n, 1);
    assert_false(timer_armed(&t));
    step(*state, 1000);
    assert_int_equal(n, 1);
}

static void cancelling_and_moving(void **state)
{
    struct timer t;
    int n = 0;

    timer_init(&t, *state, count, &n);
    timer_cancel(&t);
    timer_arm(&t, 100);
    timer_cancel(&t);
    step(*state, 200);
    assert_int_equal(n, 0);
    timer_arm(&t, 100);
    timer_arm(&t, 300);
    step(*state, 299);
    assert_int_equal(n, 0);
    timer_arm(&t, 50);
    step(*state, 50);
    assert_int_equal(n, 1);
    timer_arm(&t, INT64_MAX);
    step(*state, 1);
    assert_int_equal(n, 1);
    timer_cancel(&t);
}

struct again {
    struct timer timer;
    int n;
};

static void arm_again(void *opaque)
{
    struct again *a = opaque;

    if (++a->n < 5) {
        timer_arm(&a->timer, 0);
    }
}

static void a_timer_that_rearms_itself_does_not_hold_up_the_pass(void **state)
{
    struct again a = {0};

    timer_init(&a.timer, *state, arm_again, &a);
    timer_arm(&a.timer, 0);
    for (int i = 1; i <= 5; i++) {
        assert_true(loop_pass(*state, false));
        assert_int_equal(a.n, i);
    }
    assert_false(loop_pass(*state, false));
}

/* ---- against a naive model ---- */

enum { TIMERS = 200 };

struct model {
    struct timer timer;
    int64_t due; /* -1: not armed */
    struct loop *loop;
};
static struct model models[TIMERS];
static int64_t last_fired;

static void model_fired(void *opaque)
{
    struct model *m = opaque;

    assert_true(m->due >= 0);
    assert_true(m->due <= loop_now_ns(m->loop));
    assert_true(m->due >= last_fired);
    last_fired = m->due;
    m->due = -1;
}

static void timers_fire_in_order_of_deadline(void **state)
{
    srand(7);
    for (int i = 0; i < TIMERS; i++) {
        models[i] = (struct model){.due = -1, .loop = *state};
        timer_init(&models[i].timer, *state, model_fired, &models[i]);
    }
    for (int round = 0; round < 2000; round++) {
        for (int k = 0; k < 20; k++) {
            struct model *m = &models[rand() % TIMERS];
            if (rand() % 4 == 0) {
                timer_cancel(&m->timer);
                m->due = -1;
            } else {
                int64_t ns = rand() % 1000;
                timer_arm(&m->timer, ns);
                m->due = loop_now_ns(*state) + ns;
            }
        }
        last_fired = 0;
        step(*state, rand() % 100);
        for (int i = 0; i < TIMERS; i++) {
            assert_true(models[i].due < 0 ||
                        models[i].due > loop_now_ns(*state));
            assert_int_equal(timer_armed(&models[i].timer), models[i].due >= 0);
        }
    }
    for (int i = 0; i < TIMERS; i++) {
        timer_cancel(&models[i].timer);
    }
}

/* ---- sleeping coroutines ---- */

static int64_t woke_at;

static void sleep_twice(void *opaque)
{
    co_sleep_ns(100);
    woke_at = loop_now_ns(opaque);
    co_sleep_ns(50);
    woke_at = loop_now_ns(opaque);
}

static void a_coroutine_sleeps_for_its_time(void **state)
{
    int64_t start = loop_now_ns(*state);

    woke_at = 0;
    co_start(sleep_twice, *state);
    step(*state, 0);
    step(*state, 99);
    assert_int_equal(woke_at, 0);
    step(*state, 1);
    assert_int_equal(woke_at, start + 100);
    step(*state, 50);
    assert_int_equal(woke_at, start + 150);
}

static struct co_sleep nap;

static void take_a_nap(void *opaque)
{
    co_sleep_wait(&nap, *(int64_t *)opaque);
    woke_at = 1;
}

static void a_sleep_can_be_ended_early(void **state)
{
    int64_t lengths[] = {1000, -1};

    co_sleep_wake(&nap);
    for (int i = 0; i < 2; i++) {
        woke_at = 0;
        co_start(take_a_nap, &lengths[i]);
        step(*state, 10);
        assert_int_equal(woke_at, 0);
        co_sleep_wake(&nap);
        co_sleep_wake(&nap);
        step(*state, 0);
        assert_int_equal(woke_at, 1);
    }
    step(*state, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_timer_fires_once_at_its_time),
        cmocka_unit_test(cancelling_and_moving),
        cmocka_unit_test(a_timer_that_rearms_itself_does_not_hold_up_the_pass),
        cmocka_unit_test(timers_fire_in_order_of_deadline),
        cmocka_unit_test(a_coroutine_sleeps_for_its_time),
        cmocka_unit_test(a_sleep_can_be_ended_early),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
