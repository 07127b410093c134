/*
 * What a job's own work calls: pausing, progress, errors.
 *
 * For drivers of jobs, inside co_run, on the graph's loop.
 */
#ifndef VARVE_BLOCK_JOB_WORK_H
#define VARVE_BLOCK_JOB_WORK_H

#include "block/job.h"

/* Sits still while the job is paused; returns at once when it is not. */
void co_job_pause_point(struct job *job);
/* Sleeps, but not through a cancel, a pause or job_enter(). */
void co_job_sleep_ns(struct job *job, int64_t ns);
/* Waits until job_enter(), a cancel or a pause. */
void co_job_yield(struct job *job);
/* Ends a co_job_sleep_ns() or co_job_yield() early. Does not suspend. */
void job_enter(struct job *job);
static inline bool job_is_cancelled(const struct job *job)
{
    return job->cancelled;
}
void job_progress_add(struct job *job, int64_t done);
/* total = current + remaining */
void job_progress_set_remaining(struct job *job, int64_t remaining);
/* Adds to what is to be done. */
void job_progress_add_remaining(struct job *job, int64_t more);
/* The text that a failing co_run leaves; without one it is that of the errno.
 */
void job_set_error(struct job *job, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* From RUNNING to READY, with the event. */
void job_become_ready(struct job *job);
/* What to do about an error (positive errno) by the job's policy: announces it,
 * sets io_status, and for STOP pauses the job as the user would. */
enum block_error_action job_error_action(struct job *job,
                                         enum blockdev_on_error policy,
                                         bool is_read, int errnum);

#endif
