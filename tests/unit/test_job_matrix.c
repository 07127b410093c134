/*
 * block/jobs/job.c: which state may follow which, and which verb each state
 * accepts: every cell of both tables, and a live job in every state that a user
 * can meet.
 */
#include "block/jobs/job_internal.h"
#include "block/job_work.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "lib/fake_driver.h"
#include "lib/job_log.h"

/* The same tables once more, as a picture. Columns and rows: Undefined Created
 * Running Paused reaDy Standby Waiting pEnding Aborting concLuded Null. */
/* clang-format off */
static const char *const move_rows[JOB_STATUS__COUNT] = {
    /*                           UCRPDSWEALN */
    [JOB_STATUS_UNDEFINED]    = ".x.........",
    [JOB_STATUS_CREATED]      = "..x.....x.x",
    [JOB_STATUS_RUNNING]      = "...xx.x.x..",
    [JOB_STATUS_PAUSED]       = "..x........",
    [JOB_STATUS_READY]        = ".....xx.x..",
    [JOB_STATUS_STANDBY]      = "....x......",
    [JOB_STATUS_WAITING]      = ".......xx..",
    [JOB_STATUS_PENDING]      = "........xx.",
    [JOB_STATUS_ABORTING]     = "........xx.",
    [JOB_STATUS_CONCLUDED]    = "..........x",
    [JOB_STATUS_NULL]         = "...........",
};

static const char *const verb_rows[JOB_VERB_COUNT] = {
    /*                           UCRPDSWEALN */
    [JOB_VERB_CANCEL]         = ".xxxxxxx...",
    [JOB_VERB_PAUSE]          = ".xxxxx.....",
    [JOB_VERB_RESUME]         = ".xxxxx.....",
    [JOB_VERB_SET_SPEED]      = ".xxxxx.....",
    [JOB_VERB_COMPLETE]       = "....xx.....",
    [JOB_VERB_FINALIZE]       = ".......x...",
    [JOB_VERB_DISMISS]        = ".........x.",
};

/* clang-format on */

static const char *const verb_names[JOB_VERB_COUNT] = {
    "cancel", "pause", "resume", "set-speed", "complete", "finalize", "dismiss",
};

static void every_pair_of_states(void **state)
{
    for (int from = 0; from < JOB_STATUS__COUNT; from++) {
        for (int to = 0; to < JOB_STATUS__COUNT; to++) {
            if (job_may_move(from, to) != (move_rows[from][to] == 'x')) {
                fail_msg("%s to %s", job_status_str(from), job_status_str(to));
            }
        }
    }
}

static void every_verb_in_every_state(void **state)
{
    for (int verb = 0; verb < JOB_VERB_COUNT; verb++) {
        for (int s = 0; s < JOB_STATUS__COUNT; s++) {
            struct job job = {.id = (char *)"j", .status = s};
            GError *error = NULL;
            bool ok = job_allows(&job, verb, &error);
            if (ok != (verb_rows[verb][s] == 'x')) {
                fail_msg("%s in %s", verb_names[verb], job_status_str(s));
            }
            if (ok) {
                assert_null(error);
                continue;
            }
            g_autofree char *expected = g_strdup_printf(
                "Job 'j' in state '%s' cannot accept command verb '%s'",
                job_status_str(s), verb_names[verb]);
            assert_string_equal(error->message, expected);
            g_error_free(error);
        }
    }
}

static void ids(void **state)
{
    static const char *const good[] = {"a", "Z", "job-1", "a.b_c-9"};
    static const char *const bad[] = {"",         "1a",       "-a",  "_a",
                                      ".a",       "a b",      "a/b", "#a",
                                      "\xc3\xa4", "a\xc3\xa4"};
    for (size_t i = 0; i < G_N_ELEMENTS(good); i++) {
        assert_true(job_id_well_formed(good[i]));
    }
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        assert_false(job_id_well_formed(bad[i]));
    }
}

/* ---- a live job ---------------------------------------------------------- */

struct stub {
    struct job job;
    bool stop, ready;
};

static int co_stub_run(struct job *job)
{
    struct stub *s = (struct stub *)job;

    if (s->ready) {
        job_become_ready(job);
    }
    while (!s->stop && !job->cancelled) {
        co_job_yield(job);
    }
    return 0;
}

static bool stub_complete(struct job *job, GError **error)
{
    ((struct stub *)job)->stop = true;
    job_enter(job);
    return true;
}

static const struct job_driver stub_driver = {
    .type = JOB_TYPE_MIRROR,
    .is_block_job = true,
    .co_run = co_stub_run,
    .complete = stub_complete,
};

static struct stub *new_stub(bool manual)
{
    struct job_params p = {
        .id = "j",
        .manual_finalize = manual,
        .manual_dismiss = manual,
    };
    GError *error = NULL;
    struct stub *s = job_new(&stub_driver, sizeof(*s), &p, &error);

    assert_null(error);
    return s;
}

static struct job *co_job_in(enum job_status status)
{
    struct stub *s = new_stub(true);
    bool ready = status == JOB_STATUS_READY || status == JOB_STATUS_STANDBY;

    s->ready = ready;
    if (status == JOB_STATUS_CREATED) {
        return &s->job;
    }
    s->stop = status == JOB_STATUS_PENDING || status == JOB_STATUS_CONCLUDED;
    job_start(&s->job);
    if (status == JOB_STATUS_PAUSED || status == JOB_STATUS_STANDBY) {
        assert_true(job_user_pause(&s->job, NULL));
    }
    co_settle();
    if (status == JOB_STATUS_CONCLUDED) {
        assert_true(co_job_finalize(&s->job, NULL));
    }
    assert_int_equal(s->job.status, status);
    return &s->job;
}

static bool co_apply(struct job *job, enum job_verb verb, GError **error)
{
    switch (verb) {
    case JOB_VERB_CANCEL:
        return co_job_cancel(job, true, error);
    case JOB_VERB_PAUSE:
        return job_user_pause(job, error);
    case JOB_VERB_RESUME:
        return job_user_resume(job, error);
    case JOB_VERB_SET_SPEED:
        return job_set_speed(job, 5, error);
    case JOB_VERB_COMPLETE:
        return job_complete(job, error);
    case JOB_VERB_FINALIZE:
        return co_job_finalize(job, error);
    case JOB_VERB_DISMISS:
        return job_dismiss(job, error);
    default:
        return false;
    }
}

static void co_get_rid_of(struct job *job)
{
    if (job->status == JOB_STATUS_CREATED) {
        co_job_abort_created(job);
    }
    co_jobs_cancel_all();
    assert_true(TAILQ_EMPTY(&graph_current()->jobs));
}

/* What the verb leads to, "!" and the message if it is refused. */
static void co_verb_is(enum job_status status, enum job_verb verb,
                       const char *expected)
{
    struct job *job = job_ref(co_job_in(status));
    g_autoptr(GError) error = NULL;
    g_autofree char *got = NULL;

    if (co_apply(job, verb, &error)) {
        co_settle();
        got = g_strdup(job_status_str(job->status));
    } else {
        assert_int_equal(job->status, status);
        got = g_strdup_printf("!%s", error->message);
    }
    assert_string_equal(got, expected);
    if (job->status != JOB_STATUS_NULL) {
        co_get_rid_of(job);
    }
    job_unref(job);
}

static void co_verbs_on_live_jobs(void *opaque)
{
    co_verb_is(JOB_STATUS_RUNNING, JOB_VERB_CANCEL, "concluded");
    co_verb_is(JOB_STATUS_PAUSED, JOB_VERB_CANCEL, "concluded");
    co_verb_is(JOB_STATUS_READY, JOB_VERB_CANCEL, "concluded");
    co_verb_is(JOB_STATUS_STANDBY, JOB_VERB_CANCEL, "concluded");
    co_verb_is(JOB_STATUS_PENDING, JOB_VERB_CANCEL, "concluded");
    co_verb_is(JOB_STATUS_CONCLUDED, JOB_VERB_CANCEL,
               "!Job 'j' in state 'concluded' cannot accept command verb "
               "'cancel'");
    co_verb_is(JOB_STATUS_RUNNING, JOB_VERB_PAUSE, "paused");
    co_verb_is(JOB_STATUS_READY, JOB_VERB_PAUSE, "standby");
    co_verb_is(JOB_STATUS_PAUSED, JOB_VERB_PAUSE, "!Job is already paused");
    co_verb_is(JOB_STATUS_PENDING, JOB_VERB_PAUSE,
               "!Job 'j' in state 'pending' cannot accept command verb "
               "'pause'");
    co_verb_is(JOB_STATUS_PAUSED, JOB_VERB_RESUME, "running");
    co_verb_is(JOB_STATUS_STANDBY, JOB_VERB_RESUME, "ready");
    co_verb_is(JOB_STATUS_RUNNING, JOB_VERB_RESUME,
               "!Can't resume a job that was not paused");
    co_verb_is(JOB_STATUS_PENDING, JOB_VERB_RESUME,
               "!Can't resume a job that was not paused");
    co_verb_is(JOB_STATUS_PAUSED, JOB_VERB_SET_SPEED, "paused");
    co_verb_is(JOB_STATUS_RUNNING, JOB_VERB_SET_SPEED, "running");
    co_verb_is(JOB_STATUS_READY, JOB_VERB_COMPLETE, "pending");
    co_verb_is(JOB_STATUS_STANDBY, JOB_VERB_COMPLETE, "standby");
    co_verb_is(JOB_STATUS_PENDING, JOB_VERB_FINALIZE, "concluded");
    co_verb_is(JOB_STATUS_CONCLUDED, JOB_VERB_DISMISS, "null");
    co_verb_is(JOB_STATUS_CREATED, JOB_VERB_PAUSE, "created");
}

static void verbs_on_live_jobs(void **state)
{
    in_fake_loop(co_verbs_on_live_jobs);
}

static void co_refusals(void *opaque)
{
    struct job *job = co_job_in(JOB_STATUS_RUNNING);
    struct job_params p = {.id = "j"};
    GError *error = NULL;

    assert_null(job_new(&stub_driver, sizeof(struct stub), &p, &error));
    assert_string_equal(error->message, "Job ID 'j' already in use");
    g_clear_error(&error);
    p.id = "9";
    assert_null(job_new(&stub_driver, sizeof(struct stub), &p, &error));
    assert_string_equal(error->message, "Invalid job ID '9'");
    g_clear_error(&error);
    p = (struct job_params){.id = "k", .speed = -1};
    assert_null(job_new(&stub_driver, sizeof(struct stub), &p, &error));
    assert_string_equal(error->message,
                        "Parameter 'speed' expects a non-negative value");
    g_clear_error(&error);
    assert_false(job_set_speed(job, -1, &error));
    assert_string_equal(error->message,
                        "Parameter 'speed' expects a non-negative value");
    g_clear_error(&error);
    assert_null(job_find("k", &error));
    assert_string_equal(error->message, "Job not found");
    g_clear_error(&error);
    assert_null(job_find_block("k", &error));
    assert_string_equal(error->message, "Block job 'k' not found");
    g_clear_error(&error);
    assert_true(job_user_pause(job, NULL));
    assert_false(co_job_cancel_block(job, false, &error));
    assert_string_equal(error->message,
                        "The block job for device 'j' is currently paused");
    g_clear_error(&error);
    assert_true(co_job_cancel_block(job, true, NULL));
    co_settle();
    assert_int_equal(job->status, JOB_STATUS_CONCLUDED);
    assert_true(job_dismiss(job, NULL));
}

static void refusals_by_name(void **state)
{
    in_fake_loop(co_refusals);
}

static void co_cancel_before_start(void *opaque)
{
    struct job *job = job_ref(co_job_in(JOB_STATUS_CREATED));

    job_log_start();
    assert_true(co_job_cancel(job, true, NULL));
    assert_int_equal(job->status, JOB_STATUS_CREATED);
    job_start(job);
    co_settle();
    job_log_is("running j, aborting j, CANCELLED j, concluded j");
    assert_string_equal(job->error, "Operation canceled");
    assert_true(job_dismiss(job, NULL));
    job_log_is("null j");
    job_log_stop();
    job_unref(job);
}

static void a_job_cancelled_before_its_start_runs_nothing(void **state)
{
    in_fake_loop(co_cancel_before_start);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pair_of_states),
        cmocka_unit_test(every_verb_in_every_state),
        cmocka_unit_test(ids),
        cmocka_unit_test(verbs_on_live_jobs),
        cmocka_unit_test(refusals_by_name),
        cmocka_unit_test(a_job_cancelled_before_its_start_runs_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
