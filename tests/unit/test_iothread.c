/*
 * Threads that run a loop.
 */
#include "aio/iothread.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/timer.h"

static void who_am_i(void *opaque)
{
    *(int *)opaque = (int)gettid();
}

static void it_runs_on_a_thread_of_its_own(void **state)
{
    struct iothread *t = iothread_new("iothread-with-a-long-name");
    int tid = 0;

    loop_call_blocking(iothread_loop(t), who_am_i, &tid);
    assert_int_equal(tid, iothread_tid(t));
    assert_int_not_equal(tid, gettid());
    assert_string_equal(loop_name(iothread_loop(t)),
                        "iothread-with-a-long-name");
    iothread_free(t);
}

static void sleep_a_little(void *opaque)
{
    int64_t start = loop_now_ns(loop_current());

    co_sleep_ns(2000000);
    *(int64_t *)opaque = loop_now_ns(loop_current()) - start;
}

static void timers_end_its_sleep(void **state)
{
    struct iothread *t = iothread_new("io");
    int64_t slept = 0;

    loop_call_blocking(iothread_loop(t), sleep_a_little, &slept);
    assert_true(slept >= 2000000);
    iothread_free(t);
}

static void many_come_and_go(void **state)
{
    struct iothread *t[8];
    int tids[8];

    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 8; i++) {
            t[i] = iothread_new("io");
            loop_call_blocking(iothread_loop(t[i]), who_am_i, &tids[i]);
        }
        for (int i = 0; i < 8; i++) {
            assert_int_equal(tids[i], iothread_tid(t[i]));
            iothread_free(t[i]);
        }
    }
}

static void see_no_loop(void *opaque)
{
    assert_ptr_equal(loop_current(), opaque);
}

static void the_makers_thread_stays_unbound(void **state)
{
    struct iothread *t = iothread_new("io");

    assert_null(loop_current());
    loop_call_blocking(iothread_loop(t), see_no_loop, iothread_loop(t));
    assert_null(loop_current());
    iothread_free(t);
    assert_null(loop_current());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_runs_on_a_thread_of_its_own),
        cmocka_unit_test(timers_end_its_sleep),
        cmocka_unit_test(many_come_and_go),
        cmocka_unit_test(the_makers_thread_stays_unbound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
