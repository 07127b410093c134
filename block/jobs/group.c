/*
 * Completion groups: how jobs end together.
 *
 * Every job is in a group, if only in one of its own. A job that has done its
 * work WAITs until all others have, then all are PENDING; when none of them
 * waits for job-finalize (or it came), each prepares, and then all are kept.
 * One failure or cancel before that aborts them all.
 *
 * Whoever brings a group on holds the change lock from the first look at its
 * jobs to the last, because keeping and aborting change the graph and suspend.
 * Jobs of a group may live on different loops; each is looked at and changed on
 * its own. Membership changes with the lock only.
 * Groups are walked from the newest job to the oldest, and this shows in the
 * order of events.
 */
#include "block/job.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "aio/mailbox.h"
#include "block/jobs/job_internal.h"
#include "block/listener.h"
#include "block/place.h"
#include "util/error.h"

struct job_group *job_group_new(void)
{
    struct job_group *group = g_new0(struct job_group, 1);

    TAILQ_INIT(&group->jobs);
    group->refs = 1;
    return group;
}

void job_group_unref(struct job_group *group)
{
    if (--group->refs == 0) {
        assert(TAILQ_EMPTY(&group->jobs));
        g_free(group);
    }
}

void job_group_add(struct job_group *group, struct job *job)
{
    group->refs++;
    job->group = group;
    TAILQ_INSERT_HEAD(&group->jobs, job, in_group);
}

void job_group_remove(struct job *job)
{
    struct job_group *group = job->group;

    if (group) {
        TAILQ_REMOVE(&group->jobs, job, in_group);
        job->group = NULL;
        job_group_unref(group);
    }
}

/* The result stands: a failure shows as ABORTING from here on. */
static void fix_result(struct job *job)
{
    if (!job->ret && job->cancelled) {
        job->ret = -ECANCELED;
    }
    if (job->ret) {
        if (!job->error) {
            job->error = g_strdup(g_strerror(-job->ret));
        }
        if (job->status != JOB_STATUS_ABORTING) {
            job_move(job, JOB_STATUS_ABORTING);
        }
    }
}

static void call(struct job *job, void (*fn)(struct job *job))
{
    if (fn) {
        fn(job);
    }
}

void co_job_settle(struct job *job)
{
    fix_result(job);
    job->settled = true;
    call(job, job->ret ? job->driver->co_abort : job->driver->co_commit);
    call(job, job->driver->co_clean);
    co_job_detach_nodes(job);
    if (job->id && job->driver->is_block_job && job->started) {
        if (job->cancelled) {
            BLOCK_ANNOUNCE(job_cancelled, job);
        } else {
            BLOCK_ANNOUNCE(job_completed, job);
        }
    }
    job_group_remove(job);
    job_move(job, JOB_STATUS_CONCLUDED);
    if (job->auto_dismiss || !job->started) {
        job_drop(job);
    }
}

void co_job_abort_created(struct job *job)
{
    assert(!job->started && job->status == JOB_STATUS_CREATED);
    job->ret = -ECANCELED;
    co_job_settle(job);
}

/* ---- steps, on the job's loop ---- */

static void co_on_its_loop(struct job *job, co_fn *fn)
{
    co_call_on(job->graph->loop, fn, job);
}

static void fix_result_here(void *opaque)
{
    fix_result(opaque);
}

static void cancel_here(void *opaque)
{
    struct job *job = opaque;

    if (job->run_ended) {
        job->cancelled = true;
    } else {
        job_cancel_running(job, true);
    }
}

static void co_settle_here(void *opaque)
{
    struct job *job = opaque;

    while (!job->run_ended) {
        co_queue_wait(&job->changed);
    }
    co_job_settle(job);
}

static void co_prepare_here(void *opaque)
{
    struct job *job = opaque;

    if (job->driver->co_prepare) {
        job->ret = job->driver->co_prepare(job);
    }
}

static void become_pending_here(void *opaque)
{
    struct job *job = opaque;

    job_move(job, JOB_STATUS_PENDING);
}

static void announce_pending_here(void *opaque)
{
    struct job *job = opaque;

    if (job->id && job->driver->is_block_job) {
        BLOCK_ANNOUNCE(job_pending, job);
    }
}

/* ---- groups ---- */

void co_group_abort(struct job *trigger)
{
    /* The trigger's leaving must not free the group under us. */
    struct job_group *group = trigger->group;
    struct job *job;

    group->refs++;
    co_on_its_loop(trigger, fix_result_here);
    TAILQ_FOREACH (job, &group->jobs, in_group) {
        if (job != trigger) {
            co_on_its_loop(job, cancel_here);
        }
    }
    while ((job = TAILQ_FIRST(&group->jobs))) {
        co_on_its_loop(job, co_settle_here);
    }
    job_group_unref(group);
}

void co_group_finalize(struct job_group *group)
{
    struct job *job;

    group->refs++;
    TAILQ_FOREACH (job, &group->jobs, in_group) {
        co_on_its_loop(job, co_prepare_here);
        if (job->ret) {
            co_group_abort(job);
            job_group_unref(group);
            return;
        }
    }
    while ((job = TAILQ_FIRST(&group->jobs))) {
        co_on_its_loop(job, co_settle_here);
    }
    job_group_unref(group);
}

struct waiting {
    struct job *job;
    bool yes;
};

static void is_waiting(void *opaque)
{
    struct waiting *w = opaque;

    w->yes = w->job->status == JOB_STATUS_WAITING;
}

static bool co_all_wait(const struct job_group *group)
{
    struct waiting w;

    TAILQ_FOREACH (w.job, &group->jobs, in_group) {
        co_call_on(w.job->graph->loop, is_waiting, &w);
        if (!w.yes) {
            return false;
        }
    }
    return true;
}

static void co_job_succeeded(struct job *job)
{
    bool manual = false;
    struct job *other;

    job_move(job, JOB_STATUS_WAITING);
    if (!co_all_wait(job->group)) {
        return;
    }
    TAILQ_FOREACH (other, &job->group->jobs, in_group) {
        co_on_its_loop(other, become_pending_here);
        if (!other->auto_finalize) {
            manual = true;
            co_on_its_loop(other, announce_pending_here);
        }
    }
    if (!manual) {
        co_group_finalize(job->group);
    }
}

void co_job_ended(struct job *job)
{
    co_graph_lock(GRAPH_LOCK_CHANGE);
    /* The failure of another job of the group may have settled this one. */
    if (!job->settled) {
        if (job->ret || job->cancelled) {
            co_group_abort(job);
        } else {
            co_job_succeeded(job);
        }
    }
    co_graph_send_home();
    graph_unlock(GRAPH_LOCK_CHANGE);
}
