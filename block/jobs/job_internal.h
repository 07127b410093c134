/*
 * What the files of the job life cycle share.
 *
 * job.c moves jobs between states and runs their coroutines; job_verbs.c has
 * what users ask of them; group.c brings groups of jobs to their end.
 */
#ifndef VARVE_BLOCK_JOBS_JOB_INTERNAL_H
#define VARVE_BLOCK_JOBS_JOB_INTERNAL_H

#include "block/job.h"

struct job_group {
    struct job_list jobs; /* newest first; each holds a reference to us */
    unsigned refs;
};

/* The tables, for the code and for the test that walks every cell. */
bool job_may_move(enum job_status from, enum job_status to);
bool job_accepts(enum job_status status, enum job_verb verb);

/* The one way to change job->status; asserts that the table allows it, and
 * announces it. */
void job_move(struct job *job, enum job_status to);

bool job_check_speed(int64_t speed, GError **error);

/* The name of the backend whose root node this is, or NULL. */
const char *job_backend_name(const struct node *node);

void job_pause(struct job *job);
void job_resume(struct job *job);
/* Marks it cancelled and wakes it; nothing is settled here. */
void job_cancel_running(struct job *job, bool force);
/* Takes a job that is CONCLUDED, or was never more than CREATED, to NULL and
 * out of all lists. */
void job_drop(struct job *job);

void job_group_add(struct job_group *group, struct job *job);
void job_group_remove(struct job *job);

/* co_run has returned: brings the job, and with it perhaps the group, on. */
void co_job_ended(struct job *job);
/* A job whose co_run has ended is cancelled: settles the whole group. The
 * caller holds the change lock. */
void co_group_abort(struct job *trigger);
/* Keeps what the jobs of the group have done. The caller holds the change lock.
 */
void co_group_finalize(struct job_group *group);
/* Aborting (if the result is a failure) or committing, and cleaning, of one
 * job; then it is CONCLUDED or gone. */
void co_job_settle(struct job *job);

#endif
