/*
 * Commands on jobs: jobs.json. The verbs of a job are in block/jobs; each takes
 * the change lock itself where it needs it.
 */
#include "block/graph.h"
#include "block/job.h"
#include "qmp/commands.h"
#include "qmp/visit.h"

typedef bool co_verb_fn(struct job *job, GError **error);

struct verb_call {
    const char *id;
    struct job *(*find)(const char *id, GError **error);
    co_verb_fn *co_verb;
};

static bool verb_visit(const void *args, void *result, GError **error)
{
    const struct verb_call *call = args;
    struct job *job = call->find(call->id, error);

    if (!job) {
        return false;
    }
    job_ref(job);
    bool ok = call->co_verb(job, error);
    job_unref(job);
    return ok;
}

static bool co_job_do(const char *id, co_verb_fn *co_verb, GError **error)
{
    struct verb_call call = {.id = id, .find = job_find, .co_verb = co_verb};

    const struct place place = {.job = id};

    return co_visit(&place, verb_visit, &call, NULL, error);
}

static bool co_block_job_do(const char *id, co_verb_fn *co_verb, GError **error)
{
    struct verb_call call = {
        .id = id,
        .find = job_find_block,
        .co_verb = co_verb,
    };

    const struct place place = {.job = id};

    return co_visit(&place, verb_visit, &call, NULL, error);
}

static bool co_cancel_forced(struct job *job, GError **error)
{
    return co_job_cancel(job, true, error);
}

static bool co_cancel_block_forced(struct job *job, GError **error)
{
    return co_job_cancel_block(job, true, error);
}

static bool co_cancel_block_soft(struct job *job, GError **error)
{
    return co_job_cancel_block(job, false, error);
}

bool qmp_job_pause(const struct job_pause_args *args, GError **errp)
{
    return co_job_do(args->id, job_user_pause, errp);
}

bool qmp_job_resume(const struct job_resume_args *args, GError **errp)
{
    return co_job_do(args->id, job_user_resume, errp);
}

bool qmp_job_cancel(const struct job_cancel_args *args, GError **errp)
{
    return co_job_do(args->id, co_cancel_forced, errp);
}

bool qmp_job_complete(const struct job_complete_args *args, GError **errp)
{
    return co_job_do(args->id, job_complete, errp);
}

bool qmp_job_finalize(const struct job_finalize_args *args, GError **errp)
{
    return co_job_do(args->id, co_job_finalize, errp);
}

bool qmp_job_dismiss(const struct job_dismiss_args *args, GError **errp)
{
    return co_job_do(args->id, job_dismiss, errp);
}

bool qmp_block_job_pause(const struct block_job_pause_args *args, GError **errp)
{
    return co_block_job_do(args->device, job_user_pause, errp);
}

bool qmp_block_job_resume(const struct block_job_resume_args *args,
                          GError **errp)
{
    return co_block_job_do(args->device, job_user_resume, errp);
}

bool qmp_block_job_cancel(const struct block_job_cancel_args *args,
                          GError **errp)
{
    bool force = args->has_force && args->force;

    return co_block_job_do(
        args->device, force ? co_cancel_block_forced : co_cancel_block_soft,
        errp);
}

bool qmp_block_job_complete(const struct block_job_complete_args *args,
                            GError **errp)
{
    return co_block_job_do(args->device, job_complete, errp);
}

bool qmp_block_job_finalize(const struct block_job_finalize_args *args,
                            GError **errp)
{
    return co_block_job_do(args->id, co_job_finalize, errp);
}

bool qmp_block_job_dismiss(const struct block_job_dismiss_args *args,
                           GError **errp)
{
    return co_block_job_do(args->id, job_dismiss, errp);
}

static bool set_speed_visit(const void *opaque, void *result, GError **error)
{
    const struct block_job_set_speed_args *args = opaque;
    struct job *job = job_find_block(args->device, error);

    return job && job_set_speed(job, args->speed, error);
}

bool qmp_block_job_set_speed(const struct block_job_set_speed_args *args,
                             GError **errp)
{
    const struct place place = {.job = args->device};

    return co_visit(&place, set_speed_visit, args, NULL, errp);
}

/* ---- queries ---- */

static bool jobs_visit(const void *args, void *result, GError **error)
{
    struct job *job;

    TAILQ_FOREACH (job, &graph_current()->jobs, link) {
        if (job->id) {
            gather((struct gathered *)result, struct job_info_list,
                   job_query(job), job->serial);
        }
    }
    return true;
}

struct job_info_list *qmp_query_jobs(GError **errp)
{
    struct job_info_list *list = g_new0(struct job_info_list, 1);

    co_visit_gather(jobs_visit, NULL, list, VISIT_YOUNGEST_FIRST, errp);
    return list;
}

static bool block_jobs_visit(const void *args, void *result, GError **error)
{
    struct job *job;

    TAILQ_FOREACH (job, &graph_current()->jobs, link) {
        if (job->id && job->driver->is_block_job) {
            gather((struct gathered *)result, struct block_job_info_list,
                   block_job_query(job), job->serial);
        }
    }
    return true;
}

struct block_job_info_list *qmp_query_block_jobs(GError **errp)
{
    struct block_job_info_list *list = g_new0(struct block_job_info_list, 1);

    co_visit_gather(block_jobs_visit, NULL, list, VISIT_YOUNGEST_FIRST, errp);
    return list;
}
