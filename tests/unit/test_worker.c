/*
 * The worker pool: blocking calls that a coroutine waits for.
 */
#include "aio/file_io.h"

#include <errno.h>
#include <glib.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/colock.h"
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/worker.h"

static int whoami(void *opaque)
{
    *(int *)opaque = (int)gettid();
    return -EXDEV;
}

static void co_whoami(void *opaque)
{
    assert_int_equal(co_worker(whoami, opaque), -EXDEV);
}

static void a_job_runs_on_another_thread_and_returns_its_result(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);
    int tid = 0;

    loop_run_co(loop, co_whoami, &tid);
    assert_int_not_equal(tid, 0);
    assert_int_not_equal(tid, gettid());
    loop_free(loop);
}

/* ---- jobs that need each other ---- */

enum { TOGETHER = 40 };

static struct {
    GMutex lock;
    GCond changed;
    int there;
} meeting;

static int meet(void *opaque)
{
    g_mutex_lock(&meeting.lock);
    if (++meeting.there == TOGETHER) {
        g_cond_broadcast(&meeting.changed);
    }
    while (meeting.there < TOGETHER) {
        g_cond_wait(&meeting.changed, &meeting.lock);
    }
    g_mutex_unlock(&meeting.lock);
    return 0;
}

static int co_meet(void *opaque)
{
    return co_worker(meet, NULL);
}

static void co_all_meet(void *opaque)
{
    struct co_pool pool = {.limit = TOGETHER};

    for (int round = 0; round < 20; round++) {
        meeting.there = 0;
        for (int i = 0; i < TOGETHER; i++) {
            co_pool_start(&pool, co_meet, NULL);
        }
        assert_int_equal(co_pool_wait(&pool), 0);
    }
}

static void jobs_that_block_get_a_thread_each(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);

    loop_run_co(loop, co_all_meet, NULL);
    loop_free(loop);
}

/* ---- many short ones ---- */

enum { TASKS = 200, ROUNDS = 50 };

static int add_one(void *opaque)
{
    return ++*(int *)opaque;
}

static int co_count_up(void *opaque)
{
    int n = 0;

    for (int i = 1; i <= ROUNDS; i++) {
        assert_int_equal(co_worker(add_one, &n), i);
        if (i % 7 == 0) {
            co_pause();
        }
    }
    return 0;
}

static void co_many_short(void *opaque)
{
    struct co_pool pool = {.limit = TASKS / 3};

    for (int i = 0; i < TASKS; i++) {
        co_pool_start(&pool, co_count_up, NULL);
    }
    assert_int_equal(co_pool_wait(&pool), 0);
    for (int i = 0; i < 500; i++) {
        int n = i;
        assert_int_equal(co_worker(add_one, &n), i + 1);
    }
}

static void no_job_is_left_lying(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);
    struct iothread *t = iothread_new("other");

    loop_run_co(loop, co_many_short, NULL);
    loop_call_blocking(iothread_loop(t), co_many_short, NULL);
    iothread_free(t);
    loop_free(loop);
}

/* ---- one behind the other ------------------------------------------------ */

struct in_lane {
    struct worker_lane lane;
    int started; /* by the loop */
    int running, done, together, out_of_order;
};

struct lane_job {
    struct in_lane *l;
    int number;
};

static int step(void *opaque)
{
    const struct lane_job *job = opaque;
    struct in_lane *l = job->l;
    l->together += l->running++ > 0;
    l->out_of_order += job->number != l->done;
    l->done++;
    l->running--;
    return job->number;
}

static int co_step(void *opaque)
{
    struct in_lane *l = opaque;

    for (int i = 0; i < 5; i++) {
        struct lane_job job = {l, l->started++};
        assert_int_equal(co_worker_in(&l->lane, step, &job), job.number);
        if (i % 2) {
            co_pause();
        }
    }
    return 0;
}

static void co_lane(void *opaque)
{
    for (int i = 0; i < 200; i++) {
        struct in_lane l = {0};
        struct co_pool pool = {.limit = 1 + i % 8};
        for (int n = 0; n < 16; n++) {
            co_pool_start(&pool, co_step, &l);
        }
        assert_int_equal(co_pool_wait(&pool), 0);
        assert_int_equal(l.done, 16 * 5);
        assert_int_equal(l.together, 0);
        assert_int_equal(l.out_of_order, 0);
    }
}

static void jobs_of_a_lane_run_one_at_a_time_and_in_order(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);

    loop_run_co(loop, co_lane, NULL);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_job_runs_on_another_thread_and_returns_its_result),
        cmocka_unit_test(jobs_that_block_get_a_thread_each),
        cmocka_unit_test(no_job_is_left_lying),
        cmocka_unit_test(jobs_of_a_lane_run_one_at_a_time_and_in_order),
    };

    /* A call that gets lost is made up for only when an idle thread ends: here
     * never. */
    worker_idle_seconds = 1000000;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
