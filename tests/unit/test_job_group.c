/*
 * block/jobs/group.c: how jobs end together, and in which order they say so.
 *
 * The expected sequences are those of qemu-storage-daemon 7.2 for backups of
 * the same shape.
 */
#include "block/job.h"
#include "block/job_work.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/loop.h"
#include "lib/fake_driver.h"
#include "lib/job_log.h"

struct stub {
    struct job job;
    bool stop;
    int result;         /* of co_run */
    int prepare_result; /* of co_prepare */
    int64_t slow_ns;    /* what a cancel still takes */
};

static GString *ends; /* "commit j1, abort j2, ..." */

static void note(const struct job *job, const char *what)
{
    g_string_append_printf(ends, "%s%s %s", ends->len ? ", " : "", what,
                           job->id);
}

static int co_stub_run(struct job *job)
{
    struct stub *s = (struct stub *)job;

    while (!s->stop && !job->cancelled) {
        co_job_yield(job);
    }
    if (s->slow_ns) {
        co_sleep_ns(s->slow_ns);
    }
    return s->result;
}

static int co_stub_prepare(struct job *job)
{
    note(job, "prepare");
    return ((struct stub *)job)->prepare_result;
}

static void co_stub_commit(struct job *job)
{
    note(job, "commit");
    /* What keeps a result may suspend. */
    co_pause();
}

static void co_stub_abort(struct job *job)
{
    note(job, "abort");
    co_pause();
}

static void co_stub_clean(struct job *job)
{
    note(job, "clean");
}

static const struct job_driver stub_driver = {
    .type = JOB_TYPE_BACKUP,
    .is_block_job = true,
    .co_run = co_stub_run,
    .co_prepare = co_stub_prepare,
    .co_commit = co_stub_commit,
    .co_abort = co_stub_abort,
    .co_clean = co_stub_clean,
};

#define MAX_JOBS 3

static struct node *node;
static struct stub *jobs[MAX_JOBS]; /* j1, j2, ...; referenced */
static unsigned n_jobs;

/* Makes and starts n jobs as a transaction does: in a drained section. manual
 * names those with auto-finalize=false. */
static void co_begin(unsigned n, bool grouped, const char *manual)
{
    struct job_group *group = grouped ? job_group_new() : NULL;

    ends = g_string_new(NULL);
    job_log_start();
    node = co_fake_node("n", 4096);
    co_drain_begin(node);
    n_jobs = n;
    for (unsigned i = 0; i < n; i++) {
        char id[] = {'j', (char)('1' + i), '\0'};
        struct job_params p = {
            .id = id,
            .manual_finalize = strstr(manual, id) != NULL,
            .group = group,
        };
        jobs[i] = job_new(&stub_driver, sizeof(struct stub), &p, NULL);
        assert_non_null(jobs[i]);
        job_ref(&jobs[i]->job);
        assert_true(co_job_attach_node(&jobs[i]->job, "main node", node, 0,
                                       PERM_ALL, NULL));
    }
    if (group) {
        job_group_unref(group);
    }
}

static void co_start_all(void)
{
    for (unsigned i = 0; i < n_jobs; i++) {
        job_start(&jobs[i]->job);
    }
    co_drain_end(node);
    co_settle();
}

static void co_end(void)
{
    assert_true(TAILQ_EMPTY(&graph_current()->jobs));
    job_log_is("");
    job_log_stop();
    for (unsigned i = 0; i < n_jobs; i++) {
        assert_int_equal(jobs[i]->job.status, JOB_STATUS_NULL);
        job_unref(&jobs[i]->job);
    }
    co_node_unref(node);
    g_string_free(ends, true);
}

static void co_finish(unsigned i, int result)
{
    jobs[i]->stop = true;
    jobs[i]->result = result;
    job_enter(&jobs[i]->job);
    co_settle();
}

static void ends_are(const char *expected)
{
    assert_string_equal(ends->str, expected);
}

#define STARTED_1 "created j1, running j1, paused j1, running j1"
#define STARTED_2                                                 \
    "created j1, created j2, running j1, paused j1, running j2, " \
    "paused j2, running j1, running j2"
#define STARTED_3                                                 \
    "created j1, created j2, created j3, running j1, paused j1, " \
    "running j2, paused j2, running j3, paused j3, running j1, "  \
    "running j2, running j3"

/* ---- alone --------------------------------------------------------------- */

static void co_success(void *opaque)
{
    co_begin(1, false, "");
    co_start_all();
    job_log_is(STARTED_1);
    co_finish(0, 0);
    job_log_is("waiting j1, pending j1, COMPLETED j1 0/0, concluded j1, "
               "null j1");
    ends_are("prepare j1, commit j1, clean j1");
    co_end();
}

static void co_failure(void *opaque)
{
    co_begin(1, false, "");
    co_start_all();
    job_log_forget();
    co_finish(0, -EIO);
    job_log_is("aborting j1, COMPLETED j1 0/0 Input/output error, "
               "concluded j1, null j1");
    ends_are("abort j1, clean j1");
    co_end();
}

static void co_manual_finalize(void *opaque)
{
    co_begin(1, false, "j1");
    co_start_all();
    job_log_forget();
    co_finish(0, 0);
    job_log_is("waiting j1, pending j1, PENDING j1");
    assert_true(co_job_finalize(&jobs[0]->job, NULL));
    /* At once: a client sees the result before the answer. */
    job_log_is("COMPLETED j1 0/0, concluded j1, null j1");
    co_end();
}

static void co_cancel_pending(void *opaque)
{
    co_begin(1, false, "j1");
    co_start_all();
    co_finish(0, 0);
    job_log_forget();
    assert_true(co_job_cancel(&jobs[0]->job, true, NULL));
    job_log_is("aborting j1, CANCELLED j1, concluded j1, null j1");
    ends_are("abort j1, clean j1");
    co_end();
}

static void co_prepare_fails(void *opaque)
{
    co_begin(1, false, "");
    jobs[0]->prepare_result = -ENOSPC;
    co_start_all();
    job_log_forget();
    co_finish(0, 0);
    job_log_is("waiting j1, pending j1, aborting j1, "
               "COMPLETED j1 0/0 No space left on device, concluded j1, "
               "null j1");
    ends_are("prepare j1, abort j1, clean j1");
    co_end();
}

static void co_cancel_paused(void *opaque)
{
    co_begin(1, false, "");
    co_start_all();
    assert_true(job_user_pause(&jobs[0]->job, NULL));
    co_settle();
    job_log_is(STARTED_1 ", paused j1");
    assert_true(co_job_cancel(&jobs[0]->job, true, NULL));
    co_settle();
    job_log_is("running j1, aborting j1, CANCELLED j1, concluded j1, null j1");
    co_end();
}

static void co_drained_and_paused(void *opaque)
{
    co_begin(1, false, "");
    co_start_all();
    assert_true(job_user_pause(&jobs[0]->job, NULL));
    co_settle();
    job_log_forget();
    co_drain_begin(node);
    assert_true(job_user_resume(&jobs[0]->job, NULL));
    co_settle();
    /* Still held by the section. */
    job_log_is("");
    co_drain_end(node);
    co_settle();
    job_log_is("running j1");
    co_finish(0, 0);
    job_log_forget();
    co_end();
}

/* ---- several ------------------------------------------------------------- */

static void co_individual(void *opaque)
{
    co_begin(2, false, "");
    co_start_all();
    job_log_is(STARTED_2);
    co_finish(1, 0);
    job_log_is("waiting j2, pending j2, COMPLETED j2 0/0, concluded j2, "
               "null j2");
    co_finish(0, -EIO);
    job_log_is("aborting j1, COMPLETED j1 0/0 Input/output error, "
               "concluded j1, null j1");
    co_end();
}

static void co_grouped_success(void *opaque)
{
    co_begin(2, true, "");
    co_start_all();
    job_log_is(STARTED_2);
    co_finish(1, 0);
    job_log_is("waiting j2");
    co_finish(0, 0);
    job_log_is("waiting j1, pending j2, pending j1, COMPLETED j2 0/0, "
               "concluded j2, null j2, COMPLETED j1 0/0, concluded j1, "
               "null j1");
    ends_are("prepare j2, prepare j1, commit j2, clean j2, commit j1, "
             "clean j1");
    co_end();
}

static void co_grouped_cancel_one(void *opaque)
{
    co_begin(2, true, "");
    co_start_all();
    co_finish(1, 0);
    job_log_forget();
    assert_true(co_job_cancel(&jobs[0]->job, true, NULL));
    co_settle();
    job_log_is("aborting j1, aborting j2, CANCELLED j2, concluded j2, "
               "null j2, CANCELLED j1, concluded j1, null j1");
    ends_are("abort j2, clean j2, abort j1, clean j1");
    co_end();
}

static void co_grouped_cancel_waiting(void *opaque)
{
    co_begin(2, true, "");
    co_start_all();
    co_finish(1, 0);
    job_log_forget();
    assert_true(co_job_cancel(&jobs[1]->job, true, NULL));
    co_settle();
    job_log_is("aborting j2, CANCELLED j2, concluded j2, null j2, "
               "aborting j1, CANCELLED j1, concluded j1, null j1");
    co_end();
}

static void co_grouped_failure_of_the_middle(void *opaque)
{
    co_begin(3, true, "");
    co_start_all();
    job_log_is(STARTED_3);
    co_finish(1, -ENOSPC);
    job_log_is("aborting j2, aborting j3, CANCELLED j3, concluded j3, "
               "null j3, COMPLETED j2 0/0 No space left on device, "
               "concluded j2, null j2, aborting j1, CANCELLED j1, "
               "concluded j1, null j1");
    co_end();
}

static void co_grouped_cancel_with_a_paused_one(void *opaque)
{
    co_begin(2, true, "");
    co_start_all();
    assert_true(job_user_pause(&jobs[1]->job, NULL));
    co_settle();
    job_log_forget();
    assert_true(co_job_cancel(&jobs[0]->job, true, NULL));
    co_settle();
    job_log_is("aborting j1, running j2, aborting j2, CANCELLED j2, "
               "concluded j2, null j2, CANCELLED j1, concluded j1, null j1");
    co_end();
}

static void co_grouped_one_manual(void *opaque)
{
    co_begin(2, true, "j1");
    co_start_all();
    co_finish(1, 0);
    job_log_forget();
    co_finish(0, 0);
    job_log_is("waiting j1, pending j2, pending j1, PENDING j1");
    assert_true(co_job_finalize(&jobs[0]->job, NULL));
    job_log_is("COMPLETED j2 0/0, concluded j2, null j2, COMPLETED j1 0/0, "
               "concluded j1, null j1");
    co_end();
}

static void co_grouped_both_manual_finalize(void *opaque)
{
    co_begin(2, true, "j1 j2");
    co_start_all();
    co_finish(1, 0);
    co_finish(0, 0);
    job_log_is(STARTED_2 ", waiting j2, waiting j1, pending j2, PENDING j2, "
                         "pending j1, PENDING j1");
    assert_true(co_job_finalize(&jobs[1]->job, NULL));
    job_log_is("COMPLETED j2 0/0, concluded j2, null j2, COMPLETED j1 0/0, "
               "concluded j1, null j1");
    co_end();
}

static void co_grouped_both_manual_cancel(void *opaque)
{
    co_begin(2, true, "j1 j2");
    co_start_all();
    co_finish(1, 0);
    co_finish(0, 0);
    job_log_forget();
    assert_true(co_job_cancel(&jobs[1]->job, true, NULL));
    job_log_is("aborting j2, CANCELLED j2, concluded j2, null j2, "
               "aborting j1, CANCELLED j1, concluded j1, null j1");
    co_end();
}

static void co_grouped_prepare_fails(void *opaque)
{
    co_begin(2, true, "");
    jobs[0]->prepare_result = -EIO;
    co_start_all();
    co_finish(0, 0);
    co_finish(1, 0);
    job_log_forget();
    ends_are("prepare j2, prepare j1, abort j2, clean j2, abort j1, clean j1");
    co_end();
}

static void co_transaction_aborts(void *opaque)
{
    co_begin(2, true, "");
    co_job_abort_created(&jobs[1]->job);
    co_job_abort_created(&jobs[0]->job);
    job_log_is("created j1, created j2, aborting j2, concluded j2, null j2, "
               "aborting j1, concluded j1, null j1");
    ends_are("abort j2, clean j2, abort j1, clean j1");
    co_drain_end(node);
    co_end();
}

/* A group that aborts waits for the slowest of its jobs. */
static void co_slow_jobs_are_waited_for(void *opaque)
{
    struct loop *loop = loop_current();

    co_begin(2, true, "");
    jobs[0]->slow_ns = 1000000;
    co_start_all();
    job_log_forget();
    co_finish(1, -EIO);
    job_log_is("aborting j2, COMPLETED j2 0/0 Input/output error, "
               "concluded j2, null j2");
    loop_clock_advance(loop, 1000000);
    co_settle();
    job_log_is("aborting j1, CANCELLED j1, concluded j1, null j1");
    co_end();
}

/* ---- the end of the program ---------------------------------------------- */

static void co_cancel_all(void *opaque)
{
    co_begin(3, false, "j1 j2");
    co_start_all();
    co_finish(0, 0);
    assert_true(job_user_pause(&jobs[2]->job, NULL));
    co_settle();
    co_jobs_cancel_all();
    assert_true(TAILQ_EMPTY(&graph_current()->jobs));
    job_log_forget();
    co_end();
}

#define GROUP_TEST(name)           \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
GROUP_TEST(success)
GROUP_TEST(failure)
GROUP_TEST(manual_finalize)
GROUP_TEST(cancel_pending)
GROUP_TEST(prepare_fails)
GROUP_TEST(cancel_paused)
GROUP_TEST(drained_and_paused)
GROUP_TEST(individual)
GROUP_TEST(grouped_success)
GROUP_TEST(grouped_cancel_one)
GROUP_TEST(grouped_cancel_waiting)
GROUP_TEST(grouped_failure_of_the_middle)
GROUP_TEST(grouped_cancel_with_a_paused_one)
GROUP_TEST(grouped_one_manual)
GROUP_TEST(grouped_both_manual_finalize)
GROUP_TEST(grouped_both_manual_cancel)
GROUP_TEST(grouped_prepare_fails)
GROUP_TEST(transaction_aborts)
GROUP_TEST(slow_jobs_are_waited_for)
GROUP_TEST(cancel_all)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(success),
        cmocka_unit_test(failure),
        cmocka_unit_test(manual_finalize),
        cmocka_unit_test(cancel_pending),
        cmocka_unit_test(prepare_fails),
        cmocka_unit_test(cancel_paused),
        cmocka_unit_test(drained_and_paused),
        cmocka_unit_test(individual),
        cmocka_unit_test(grouped_success),
        cmocka_unit_test(grouped_cancel_one),
        cmocka_unit_test(grouped_cancel_waiting),
        cmocka_unit_test(grouped_failure_of_the_middle),
        cmocka_unit_test(grouped_cancel_with_a_paused_one),
        cmocka_unit_test(grouped_one_manual),
        cmocka_unit_test(grouped_both_manual_finalize),
        cmocka_unit_test(grouped_both_manual_cancel),
        cmocka_unit_test(grouped_prepare_fails),
        cmocka_unit_test(transaction_aborts),
        cmocka_unit_test(slow_jobs_are_waited_for),
        cmocka_unit_test(cancel_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
