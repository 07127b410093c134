/*
 * What users ask of jobs: find, pause, resume, cancel, complete, finalize,
 * dismiss, set-speed, query.
 *
 * Each verb first asks the table of job.c whether the job's state accepts it.
 * Runs on the graph's loop.
 */
#include "block/job.h"
#include "block/job_work.h"

#include <assert.h>
#include <string.h>
#include "block/jobs/job_internal.h"
#include "block/place.h"
#include "util/error.h"

struct job *job_find(const char *id, GError **error)
{
    struct job *job;

    TAILQ_FOREACH (job, &graph_current()->jobs, link) {
        if (job->id && !strcmp(job->id, id)) {
            return job;
        }
    }
    error_set(error, "Job not found");
    return NULL;
}

struct job *job_find_block(const char *id, GError **error)
{
    struct job *job = job_find(id, NULL);

    if (!job || !job->driver->is_block_job) {
        error_set_class(error, ERROR_DEVICE_NOT_ACTIVE,
                        "Block job '%s' not found", id);
        return NULL;
    }
    return job;
}

bool job_user_pause(struct job *job, GError **error)
{
    if (!job_allows(job, JOB_VERB_PAUSE, error)) {
        return false;
    }
    if (job->user_paused) {
        return error_set(error, "Job is already paused");
    }
    job->user_paused = true;
    job_pause(job);
    return true;
}

bool job_user_resume(struct job *job, GError **error)
{
    if (!job->user_paused || !job->pause_count) {
        return error_set(error, "Can't resume a job that was not paused");
    }
    if (!job_allows(job, JOB_VERB_RESUME, error)) {
        return false;
    }
    job->io_status = BLOCK_DEVICE_IO_STATUS_OK;
    job->user_paused = false;
    job_resume(job);
    return true;
}

bool job_set_speed(struct job *job, int64_t speed, GError **error)
{
    if (!job_allows(job, JOB_VERB_SET_SPEED, error)) {
        return false;
    }
    if (!job_check_speed(speed, error)) {
        return false;
    }
    job->speed = speed;
    if (job->driver->speed_changed) {
        job->driver->speed_changed(job);
    }
    /* It may sleep for the old speed. */
    job_enter(job);
    return true;
}

bool job_complete(struct job *job, GError **error)
{
    if (!job_allows(job, JOB_VERB_COMPLETE, error)) {
        return false;
    }
    if (job->cancelled || !job->driver->complete) {
        return error_set(error, "The active block job '%s' cannot be completed",
                         job->id);
    }
    return job->driver->complete(job, error);
}

bool co_job_cancel(struct job *job, bool force, GError **error)
{
    if (!job_allows(job, JOB_VERB_CANCEL, error)) {
        return false;
    }
    if (!job->run_ended) {
        job_cancel_running(job, force);
        return true;
    }
    job_ref(job);
    co_graph_lock(GRAPH_LOCK_CHANGE);
    if (!job->settled) {
        job->cancelled = true;
        co_group_abort(job);
    }
    co_graph_send_home();
    graph_unlock(GRAPH_LOCK_CHANGE);
    job_unref(job);
    return true;
}

bool co_job_cancel_block(struct job *job, bool force, GError **error)
{
    if (job->user_paused && !force) {
        return error_set(error,
                         "The block job for device '%s' is currently paused",
                         job->id);
    }
    return co_job_cancel(job, force, error);
}

bool co_job_finalize(struct job *job, GError **error)
{
    bool ok = job_allows(job, JOB_VERB_FINALIZE, error);

    if (!ok) {
        return false;
    }
    job_ref(job);
    co_graph_lock(GRAPH_LOCK_CHANGE);
    /* Another one may have come first. */
    ok = job_allows(job, JOB_VERB_FINALIZE, error);
    if (ok) {
        co_group_finalize(job->group);
    }
    co_graph_send_home();
    graph_unlock(GRAPH_LOCK_CHANGE);
    job_unref(job);
    return ok;
}

bool job_dismiss(struct job *job, GError **error)
{
    if (!job_allows(job, JOB_VERB_DISMISS, error)) {
        return false;
    }
    job_drop(job);
    return true;
}

int co_job_wait(struct job *job)
{
    while (job->status != JOB_STATUS_CONCLUDED &&
           job->status != JOB_STATUS_NULL) {
        co_queue_wait(&job->changed);
    }
    return job->ret;
}

void co_jobs_cancel_all(void)
{
    struct graph *graph = graph_current();
    struct job *job;

    while ((job = TAILQ_FIRST(&graph->jobs))) {
        job_ref(job);
        co_job_cancel(job, true, NULL);
        co_job_wait(job);
        if (job->status == JOB_STATUS_CONCLUDED) {
            job_drop(job);
        }
        job_unref(job);
    }
}

/* ---- queries ------------------------------------------------------------- */

struct job_info *job_query(const struct job *job)
{
    struct job_info *info = g_new0(struct job_info, 1);

    info->id = g_strdup(job->id);
    info->type = job->driver->type;
    info->status = job->status;
    info->current_progress = job->progress_current;
    info->total_progress = job->progress_total;
    info->error = g_strdup(job->error);
    return info;
}

struct block_job_info *block_job_query(const struct job *job)
{
    struct block_job_info *info = g_new0(struct block_job_info, 1);

    info->type = g_strdup(job_type_str(job->driver->type));
    info->device = g_strdup(job->id);
    info->len = job->progress_total;
    info->offset = job->progress_current;
    info->busy = job->busy;
    info->paused = job->pause_count > 0;
    info->speed = job->speed;
    info->io_status = job->io_status;
    info->ready =
        job->status == JOB_STATUS_READY || job->status == JOB_STATUS_STANDBY;
    info->status = job->status;
    info->auto_finalize = job->auto_finalize;
    info->auto_dismiss = job->auto_dismiss;
    info->error = g_strdup(job->error);
    return info;
}
