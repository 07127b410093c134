/*
 * Jobs: long-running work with the public life cycle, and completion groups.
 *
 * A job is a coroutine on the graph's loop. Its states and the verbs that each
 * state accepts are two tables in block/jobs/job.c, with one function that
 * moves a job from state to state and announces it (block/listener.h). A job
 * exists from job_new() until it is dismissed; a reference keeps the memory,
 * not the job.
 *
 * All functions run on the graph's loop. The verbs take the change lock
 * themselves where they change the graph, so their callers must not hold it;
 * whoever prepares, starts or aborts a new job holds it.
 */
#ifndef VARVE_BLOCK_JOB_H
#define VARVE_BLOCK_JOB_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "aio/timer.h"
#include "block/graph.h"
#include "qapi/types.h"

struct job;
struct job_group;

enum job_verb {
    JOB_VERB_CANCEL,
    JOB_VERB_PAUSE,
    JOB_VERB_RESUME,
    JOB_VERB_SET_SPEED,
    JOB_VERB_COMPLETE,
    JOB_VERB_FINALIZE,
    JOB_VERB_DISMISS,
    JOB_VERB_COUNT,
};

/* What a kind of job is. Members other than co_run may be NULL. */
struct job_driver {
    enum job_type type;
    bool is_block_job; /* has BLOCK_JOB_* events, is in query-block-jobs */
    /* The work: 0 or -errno. Calls co_job_pause_point() often. */
    int (*co_run)(struct job *job);
    /* When the whole group succeeded and before anything is kept: the last
     * step that may fail; 0 or -errno. */
    int (*co_prepare)(struct job *job);
    /* Exactly one of these two for a job that was started or is aborted; then
     * co_clean, which lets go of nodes. */
    void (*co_commit)(struct job *job);
    void (*co_abort)(struct job *job);
    void (*co_clean)(struct job *job);
    /* A cancel came: true if it is one, false if it makes the job complete
     * after all (a READY job, and force is false). Missing: it is one. */
    bool (*cancel)(struct job *job, bool force);
    /* READY jobs: leave the loop and complete. false and *error if it cannot.
     */
    bool (*complete)(struct job *job, GError **error);
    /* Speed (job->speed) has changed. */
    void (*speed_changed)(struct job *job);
    /* Frees what hangs on the job; the job itself is freed after it. */
    void (*free)(struct job *job);
};

struct job {
    const struct job_driver *driver;
    struct graph *graph;
    char *id;        /* NULL: internal, never announced */
    uint64_t serial; /* in order of making, over all loops */
    enum job_status status;
    bool auto_finalize, auto_dismiss;

    /* progress in the job's own unit (bytes for block jobs) */
    int64_t progress_current, progress_total;

    int64_t speed; /* bytes a second; 0 = unlimited */
    enum blockdev_on_error on_source_error, on_target_error;
    enum block_device_io_status io_status;

    int ret;     /* 0 or -errno; final once the job is WAITING or ABORTING */
    char *error; /* message of a failed job, or NULL */

    bool cancelled;   /* by a verb, or because a job of the group failed */
    bool user_paused; /* by pause or an error policy; resume ends it */
    bool paused;      /* sits at a pause point */
    bool busy;        /* its coroutine runs or waits for I/O */

    /* private from here on */
    unsigned refs;
    unsigned pause_count;
    bool started;
    bool run_ended; /* co_run has returned, or never will be called */
    bool settled;   /* commit or abort, and clean, were called */
    bool settling;  /* its group is doing that now */
    struct coroutine *co;
    struct co_sleep sleep;
    struct co_queue changed; /* somebody waits for the job to end */
    struct job_group *group;
    TAILQ_ENTRY(job) in_group;
    TAILQ_ENTRY(job) link; /* graph->jobs */
    GPtrArray *edges;      /* root edges by which it holds nodes */
};

/* ---- making one ---- */

struct job_params {
    const char *id;          /* NULL with internal, else a well-formed id */
    bool internal;           /* no id, no events */
    bool manual_finalize;    /* auto-finalize=false */
    bool manual_dismiss;     /* auto-dismiss=false */
    int64_t speed;           /* bytes a second, 0 = unlimited */
    struct job_group *group; /* NULL: one of its own */
};

/* Allocates `size` bytes that begin with a struct job, and moves it to CREATED.
 * Refuses an ill-formed or taken id, and a negative speed. Does not suspend. */
void *job_new(const struct job_driver *driver, size_t size,
              const struct job_params *params, GError **error);
/* Holds a node by a root edge that pauses the job during drained sections. The
 * edge goes away with co_job_detach_nodes(), at the latest at the job's end.
 */
bool co_job_attach_node(struct job *job, const char *name, struct node *node,
                        unsigned perm, unsigned shared, GError **error);
void co_job_detach_nodes(struct job *job);
/* false and "Node 'x' is busy" if a job holds the node itself: then it may not
 * become a backup's source or target, nor be resized or deleted. */
bool jobs_check_node_free(const struct node *node, GError **error);
/* Begins the work; cannot fail, does not suspend. In a drained section the work
 * waits at its first pause point until the section ends. */
void job_start(struct job *job);
/* Undoes a job that was never started: abort and clean, then it is gone, and
 * its only announcements are ABORTING, CONCLUDED, NULL as for a transaction
 * that failed. */
void co_job_abort_created(struct job *job);

struct job *job_ref(struct job *job);
void job_unref(struct job *job);

/* ---- completion groups ---- */

/* Jobs of one group wait for each other: all are kept, or, when one fails or is
 * cancelled, all others are cancelled and aborted. Jobs hold references. */
struct job_group *job_group_new(void);
void job_group_unref(struct job_group *group);

/* ---- finding and verbs: what commands do ---- */

/* "Job not found" (job-* commands). */
struct job *job_find(const char *id, GError **error);
/* "Block job 'x' not found", of class DeviceNotActive (block-job-* commands).
 */
struct job *job_find_block(const char *id, GError **error);
/* True if the state accepts the verb, else the message that QMP shows. */
bool job_allows(const struct job *job, enum job_verb verb, GError **error);

bool job_user_pause(struct job *job, GError **error);
bool job_user_resume(struct job *job, GError **error);
bool job_set_speed(struct job *job, int64_t speed, GError **error);
bool job_complete(struct job *job, GError **error);
/* force: also a READY job ends as cancelled. job-cancel always forces,
 * block-job-cancel as its argument says. Returns when the job is on its way
 * out; a job that had nothing more to run is settled then. */
bool co_job_cancel(struct job *job, bool force, GError **error);
/* block-job-cancel: as above, but refuses a paused job unless force. */
bool co_job_cancel_block(struct job *job, bool force, GError **error);
bool co_job_finalize(struct job *job, GError **error);
bool job_dismiss(struct job *job, GError **error);

/* Cancels every job and waits until all are gone (the program ends). */
void co_jobs_cancel_all(void);
/* Waits until the job is CONCLUDED or gone; returns its result. The caller
 * holds a reference. */
int co_job_wait(struct job *job);

/* As query-jobs and query-block-jobs tell of it; the caller frees. */
struct job_info *job_query(const struct job *job);
struct block_job_info *block_job_query(const struct job *job);

/* Well-formed: starts with a letter; letters, digits, '-', '.', '_'. */
bool job_id_well_formed(const char *id);
/* A new job may have this id (well-formed, and no job has it) and this speed.
 */
bool job_check_new(const char *id, int64_t speed, GError **error);

#endif
