/*
 * Queues, locks, pools and counters among coroutines.
 */
#include "aio/colock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "aio/loop.h"

static struct loop *loop;
static char trace[128];

static int set_up(void **state)
{
    loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_bind(loop);
    return 0;
}

static int tear_down(void **state)
{
    loop_bind(NULL);
    loop_free(loop);
    return 0;
}

static int clear_trace(void **state)
{
    memset(trace, 0, sizeof(trace));
    return 0;
}

static void note(char c)
{
    assert_true(strlen(trace) + 1 < sizeof(trace));
    trace[strlen(trace)] = c;
}

static void settle(void)
{
    while (loop_pass(loop, false)) {
    }
}

/* ---- queue ---- */

static struct co_queue queue;

static void wait_in_queue(void *opaque)
{
    co_queue_wait(&queue);
    note(*(char *)opaque);
}

static void a_queue_wakes_in_order_of_arrival(void **state)
{
    assert_true(co_queue_empty(&queue));
    assert_false(co_queue_wake_one(&queue));
    co_start(wait_in_queue, "a");
    co_start(wait_in_queue, "b");
    co_start(wait_in_queue, "c");
    settle();
    assert_false(co_queue_empty(&queue));
    assert_string_equal(trace, "");
    assert_true(co_queue_wake_one(&queue));
    settle();
    assert_string_equal(trace, "a");
    co_start(wait_in_queue, "d");
    settle();
    assert_true(co_queue_wake_all(&queue));
    settle();
    assert_string_equal(trace, "abcd");
    assert_true(co_queue_empty(&queue));
    assert_false(co_queue_wake_all(&queue));
}

/* ---- mutex ---- */

static struct co_mutex mutex;
static int inside;

static void lock_for_a_while(void *opaque)
{
    char c = *(char *)opaque;

    co_mutex_lock(&mutex);
    assert_int_equal(inside++, 0);
    note(c);
    co_pause();
    co_pause();
    note(c);
    inside--;
    co_mutex_unlock(&mutex);
}

static void a_mutex_admits_one_at_a_time_in_order(void **state)
{
    co_start(lock_for_a_while, "x");
    co_start(lock_for_a_while, "y");
    co_start(lock_for_a_while, "z");
    settle();
    assert_string_equal(trace, "xxyyzz");
    assert_null(mutex.owner);
}

static void try_lock(void *opaque)
{
    *(bool *)opaque = co_mutex_trylock(&mutex);
    if (*(bool *)opaque) {
        co_mutex_unlock(&mutex);
    }
}

static void trylock_does_not_wait(void **state)
{
    bool got = false;

    co_enter(co_create(try_lock, &got));
    assert_true(got);
    co_start(lock_for_a_while, "x");
    loop_pass(loop, false);
    assert_non_null(mutex.owner);
    co_enter(co_create(try_lock, &got));
    assert_false(got);
    settle();
}

static void unlock_and_lock_again(void *opaque)
{
    for (int i = 0; i < 3; i++) {
        co_mutex_lock(&mutex);
        note(*(char *)opaque);
        co_pause();
        co_mutex_unlock(&mutex);
    }
}

static void nobody_overtakes_a_waiter(void **state)
{
    co_start(unlock_and_lock_again, "p");
    co_start(unlock_and_lock_again, "q");
    settle();
    assert_string_equal(trace, "pqpqpq");
}

/* ---- readers and writers ---- */

static struct co_rwlock rwlock;
static int readers, writers;

static void read_for_a_while(void *opaque)
{
    co_rwlock_rdlock(&rwlock);
    readers++;
    assert_int_equal(writers, 0);
    note(*(char *)opaque);
    co_pause();
    co_pause();
    readers--;
    co_rwlock_unlock(&rwlock);
}

static void write_for_a_while(void *opaque)
{
    co_rwlock_wrlock(&rwlock);
    writers++;
    assert_int_equal(writers, 1);
    assert_int_equal(readers, 0);
    note(*(char *)opaque);
    co_pause();
    co_pause();
    writers--;
    co_rwlock_unlock(&rwlock);
}

static void readers_share_and_writers_do_not(void **state)
{
    co_start(read_for_a_while, "r");
    co_start(read_for_a_while, "s");
    loop_pass(loop, false);
    assert_int_equal(readers, 2);
    co_start(write_for_a_while, "W");
    loop_pass(loop, false);
    assert_int_equal(writers, 0);
    /* A waiting writer goes before new readers, and they before the next. */
    co_start(read_for_a_while, "t");
    co_start(write_for_a_while, "X");
    co_start(read_for_a_while, "u");
    settle();
    assert_string_equal(trace, "rsWtuX");
    assert_int_equal(rwlock.readers, 0);
    assert_int_equal(rwlock.writers_waiting, 0);
}

static void many_readers_and_writers(void **state)
{
    for (int i = 0; i < 100; i++) {
        co_start(i % 3 ? read_for_a_while : write_for_a_while, "m");
        if (i % 7 == 0) {
            loop_pass(loop, false);
        }
    }
    settle();
    assert_int_equal(strlen(trace), 100);
    assert_int_equal(rwlock.readers, 0);
}

/* ---- pool ---- */

static int running, most, done;

static int task(void *opaque)
{
    running++;
    most = running > most ? running : most;
    co_pause();
    running--;
    done++;
    return *(int *)opaque;
}

static void use_pool(void *opaque)
{
    struct co_pool pool = {.limit = 3};
    int fine = 0, worse = -EIO, bad = -ENOSPC, positive = 5;

    assert_int_equal(co_pool_wait(&pool), 0);
    for (int i = 0; i < 10; i++) {
        co_pool_start(&pool, task, i == 4 ? &bad : i == 7 ? &worse : &fine);
    }
    assert_int_equal(co_pool_wait(&pool), -ENOSPC);
    assert_int_equal(done, 10);
    assert_int_equal(most, 3);
    co_pool_start(&pool, task, &positive);
    assert_int_equal(co_pool_wait(&pool), 0);
    note('.');
}

static void a_pool_bounds_its_tasks_and_keeps_the_first_error(void **state)
{
    co_start(use_pool, NULL);
    settle();
    assert_string_equal(trace, ".");
}

/* ---- counter ---- */

static struct co_count counter;

static void wait_for_zero(void *opaque)
{
    co_count_wait_zero(&counter);
    note('0');
}

static void a_counter_lets_go_at_zero(void **state)
{
    co_start(wait_for_zero, NULL);
    settle();
    assert_string_equal(trace, "0");
    co_count_inc(&counter);
    co_count_inc(&counter);
    co_start(wait_for_zero, NULL);
    co_start(wait_for_zero, NULL);
    settle();
    co_count_dec(&counter);
    settle();
    assert_string_equal(trace, "0");
    co_count_dec(&counter);
    settle();
    assert_string_equal(trace, "000");
}

static void a_counter_that_rises_again_holds_on(void **state)
{
    co_count_inc(&counter);
    co_start(wait_for_zero, NULL);
    settle();
    co_count_dec(&counter);
    co_count_inc(&counter); /* before the waiter runs */
    settle();
    assert_string_equal(trace, "");
    co_count_dec(&counter);
    settle();
    assert_string_equal(trace, "0");
}

#define TEST(name) cmocka_unit_test_setup(name, clear_trace)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_queue_wakes_in_order_of_arrival),
        TEST(a_mutex_admits_one_at_a_time_in_order),
        TEST(trylock_does_not_wait),
        TEST(nobody_overtakes_a_waiter),
        TEST(readers_share_and_writers_do_not),
        TEST(many_readers_and_writers),
        TEST(a_pool_bounds_its_tasks_and_keeps_the_first_error),
        TEST(a_counter_lets_go_at_zero),
        TEST(a_counter_that_rises_again_holds_on),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
