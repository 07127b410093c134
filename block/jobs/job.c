/*
 * The life of a job: its states, its coroutine, and how it stands still.
 *
 * The states are those of the public life cycle (QMP's JobStatus). Two tables
 * say which state may follow which, and which verb each state accepts;
 * job_move() is the only place that writes job->status.
 *
 * A job's coroutine is in one of three situations: busy (it runs or waits for
 * I/O), asleep (busy is false, co_sleep holds it) or at a pause point (asleep,
 * and paused). A drained section raises pause_count and waits until the job is
 * not busy; so nothing that a job does while it is not busy may touch a node.
 *
 * Runs on the graph's loop.
 */
#include "block/job.h"
#include "block/job_work.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "aio/directory.h"
#include "block/backend.h"
#include "block/jobs/job_internal.h"
#include "block/listener.h"
#include "util/error.h"

#define S(state) (1u << JOB_STATUS_##state)

/* From the index to any of the set. */
static const unsigned moves[JOB_STATUS__COUNT] = {
    [JOB_STATUS_UNDEFINED] = S(CREATED),
    [JOB_STATUS_CREATED] = S(RUNNING) | S(ABORTING) | S(NULL),
    [JOB_STATUS_RUNNING] = S(PAUSED) | S(READY) | S(WAITING) | S(ABORTING),
    [JOB_STATUS_PAUSED] = S(RUNNING),
    [JOB_STATUS_READY] = S(STANDBY) | S(WAITING) | S(ABORTING),
    [JOB_STATUS_STANDBY] = S(READY),
    [JOB_STATUS_WAITING] = S(PENDING) | S(ABORTING),
    [JOB_STATUS_PENDING] = S(ABORTING) | S(CONCLUDED),
    [JOB_STATUS_ABORTING] = S(ABORTING) | S(CONCLUDED),
    [JOB_STATUS_CONCLUDED] = S(NULL),
    [JOB_STATUS_NULL] = 0,
};

#define LIVE (S(CREATED) | S(RUNNING) | S(PAUSED) | S(READY) | S(STANDBY))

static const struct {
    const char *name;
    unsigned states; /* that accept the verb */
} verbs[JOB_VERB_COUNT] = {
    [JOB_VERB_CANCEL] = {"cancel", LIVE | S(WAITING) | S(PENDING)},
    [JOB_VERB_PAUSE] = {"pause", LIVE},
    [JOB_VERB_RESUME] = {"resume", LIVE},
    [JOB_VERB_SET_SPEED] = {"set-speed", LIVE},
    [JOB_VERB_COMPLETE] = {"complete", S(READY) | S(STANDBY)},
    [JOB_VERB_FINALIZE] = {"finalize", S(PENDING)},
    [JOB_VERB_DISMISS] = {"dismiss", S(CONCLUDED)},
};

bool job_may_move(enum job_status from, enum job_status to)
{
    return moves[from] >> to & 1;
}

bool job_accepts(enum job_status status, enum job_verb verb)
{
    return verbs[verb].states >> status & 1;
}

bool job_allows(const struct job *job, enum job_verb verb, GError **error)
{
    if (job_accepts(job->status, verb)) {
        return true;
    }
    return error_set(error,
                     "Job '%s' in state '%s' cannot accept command verb '%s'",
                     job->id, job_status_str(job->status), verbs[verb].name);
}

void job_move(struct job *job, enum job_status to)
{
    enum job_status from = job->status;

    assert(job_may_move(from, to));
    job->status = to;
    if (job->id && from != to) {
        BLOCK_ANNOUNCE(job_status, job);
    }
    co_queue_wake_all(&job->changed);
}

/* ---- making and freeing -------------------------------------------------- */

bool job_id_well_formed(const char *id)
{
    if (!g_ascii_isalpha(*id)) {
        return false;
    }
    return id[strspn(id, "abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._")] == '\0';
}

bool job_check_speed(int64_t speed, GError **error)
{
    return speed >= 0 ||
           error_set(error, "Parameter 'speed' expects a non-negative value");
}

bool job_check_new(const char *id, int64_t speed, GError **error)
{
    if (!job_id_well_formed(id)) {
        return error_set(error, "Invalid job ID '%s'", id);
    }
    if (directory_find(DIRECTORY_JOB, id, NULL)) {
        return error_set(error, "Job ID '%s' already in use", id);
    }
    return job_check_speed(speed, error);
}

void *job_new(const struct job_driver *driver, size_t size,
              const struct job_params *params, GError **error)
{
    struct graph *graph = graph_current();

    if (!params->internal && !job_check_new(params->id, params->speed, error)) {
        return NULL;
    }
    assert(size >= sizeof(struct job));
    struct job *job = g_malloc0(size);
    job->driver = driver;
    job->graph = graph;
    job->serial = directory_number();
    job->id = params->internal ? NULL : g_strdup(params->id);
    job->auto_finalize = !params->manual_finalize;
    job->auto_dismiss = !params->manual_dismiss;
    job->speed = params->speed;
    job->refs = 1;
    job->edges = g_ptr_array_new();
    TAILQ_INSERT_HEAD(&graph->jobs, job, link);
    if (job->id) {
        directory_add(DIRECTORY_JOB, job->id);
    }
    if (params->group) {
        job_group_add(params->group, job);
    } else {
        struct job_group *own = job_group_new();
        job_group_add(own, job);
        job_group_unref(own);
    }
    job_move(job, JOB_STATUS_CREATED);
    return job;
}

struct job *job_ref(struct job *job)
{
    job->refs++;
    return job;
}

void job_unref(struct job *job)
{
    assert(job->refs > 0);
    if (--job->refs) {
        return;
    }
    assert(!job->edges->len && !job->busy);
    if (job->driver->free) {
        job->driver->free(job);
    }
    g_ptr_array_free(job->edges, true);
    g_free(job->error);
    g_free(job->id);
    g_free(job);
}

void job_drop(struct job *job)
{
    job_group_remove(job);
    job_move(job, JOB_STATUS_NULL);
    TAILQ_REMOVE(&job->graph->jobs, job, link);
    if (job->id) {
        directory_remove(DIRECTORY_JOB, job->id);
    }
    job_unref(job);
}

/* ---- nodes --------------------------------------------------------------- */

static char *edge_describe(const struct edge *edge)
{
    const struct job *job = edge->opaque;

    return g_strdup_printf("%s job '%s'", job_type_str(job->driver->type),
                           job->id ? job->id : "");
}

static void edge_drained_begin(struct edge *edge)
{
    job_pause(edge->opaque);
}

static bool edge_drained_poll(struct edge *edge)
{
    const struct job *job = edge->opaque;

    return job->busy && !job->run_ended;
}

static void edge_drained_end(struct edge *edge)
{
    job_resume(edge->opaque);
}

static const struct root_ops edge_ops = {
    .describe = edge_describe,
    .drained_begin = edge_drained_begin,
    .drained_poll = edge_drained_poll,
    .drained_end = edge_drained_end,
};

bool co_job_attach_node(struct job *job, const char *name, struct node *node,
                        unsigned perm, unsigned shared, GError **error)
{
    struct edge *edge =
        co_graph_attach_root(node, name, &edge_ops, job, perm, shared, error);

    if (!edge) {
        return false;
    }
    g_ptr_array_add(job->edges, edge);
    return true;
}

void co_job_detach_nodes(struct job *job)
{
    while (job->edges->len) {
        struct edge *edge = job->edges->pdata[job->edges->len - 1];
        g_ptr_array_set_size(job->edges, job->edges->len - 1);
        co_graph_detach(edge);
    }
}

const char *job_backend_name(const struct node *node)
{
    const struct backend *b;

    TAILQ_FOREACH (b, &node->graph->backends, link) {
        if (b->node == node && b->name) {
            return b->name;
        }
    }
    return NULL;
}

bool jobs_check_node_free(const struct node *node, GError **error)
{
    struct job *job;

    TAILQ_FOREACH (job, &graph_current()->jobs, link) {
        for (guint i = 0; i < job->edges->len; i++) {
            const struct edge *edge = job->edges->pdata[i];
            if (edge->child == node) {
                const char *backend = job_backend_name(node);
                return error_set(error,
                                 "Node '%s' is busy: block device is in use "
                                 "by block job: %s",
                                 backend ? backend : node->name,
                                 job_type_str(job->driver->type));
            }
        }
    }
    return true;
}

/* ---- the coroutine ------------------------------------------------------- */

static void co_job_main(void *opaque)
{
    struct job *job = opaque;

    co_job_pause_point(job);
    if (!job->cancelled) {
        job->ret = job->driver->co_run(job);
    }
    job->run_ended = true;
    job->busy = false;
    graph_drain_kick(job->graph);
    co_queue_wake_all(&job->changed);
    co_job_ended(job);
    job_unref(job);
}

void job_start(struct job *job)
{
    assert(job->status == JOB_STATUS_CREATED && !job->started);
    job_ref(job);
    job->started = true;
    job->busy = true;
    job_move(job, JOB_STATUS_RUNNING);
    job->co = co_create(co_job_main, job);
    co_enter(job->co);
}

/* Not busy until ns are over or job_enter(). */
static void co_job_rest(struct job *job, int64_t ns)
{
    assert(job->busy && co_self() == job->co);
    job->busy = false;
    graph_drain_kick(job->graph);
    co_sleep_wait(&job->sleep, ns);
    job->busy = true;
}

void co_job_pause_point(struct job *job)
{
    bool ready = job->status == JOB_STATUS_READY;

    if (!job->pause_count || job->cancelled) {
        return;
    }
    job->paused = true;
    job_move(job, ready ? JOB_STATUS_STANDBY : JOB_STATUS_PAUSED);
    while (job->pause_count && !job->cancelled) {
        co_job_rest(job, -1);
    }
    job->paused = false;
    job_move(job, ready ? JOB_STATUS_READY : JOB_STATUS_RUNNING);
}

void co_job_sleep_ns(struct job *job, int64_t ns)
{
    if (!job->cancelled && !job->pause_count) {
        co_job_rest(job, ns);
    }
    co_job_pause_point(job);
}

void co_job_yield(struct job *job)
{
    co_job_sleep_ns(job, -1);
}

void job_enter(struct job *job)
{
    if (job->started && !job->run_ended && !job->busy) {
        co_sleep_wake(&job->sleep);
    }
}

void job_pause(struct job *job)
{
    job->pause_count++;
    if (!job->paused) {
        job_enter(job);
    }
}

void job_resume(struct job *job)
{
    assert(job->pause_count > 0);
    if (--job->pause_count == 0) {
        job_enter(job);
    }
}

void job_cancel_running(struct job *job, bool force)
{
    if (job->driver->cancel && !job->driver->cancel(job, force)) {
        job_enter(job);
        return;
    }
    job->cancelled = true;
    if (job->user_paused) {
        job->user_paused = false;
        job_resume(job);
    }
    job_enter(job);
}

/* ---- for drivers --------------------------------------------------------- */

void job_progress_add(struct job *job, int64_t done)
{
    job->progress_current += done;
}

void job_progress_set_remaining(struct job *job, int64_t remaining)
{
    job->progress_total = job->progress_current + remaining;
}

void job_progress_add_remaining(struct job *job, int64_t more)
{
    job->progress_total += more;
}

void job_set_error(struct job *job, const char *fmt, ...)
{
    va_list ap;

    g_free(job->error);
    va_start(ap, fmt);
    job->error = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

void job_become_ready(struct job *job)
{
    job_move(job, JOB_STATUS_READY);
    if (job->id && job->driver->is_block_job) {
        BLOCK_ANNOUNCE(job_ready, job);
    }
}

static enum block_error_action action_for(enum blockdev_on_error policy,
                                          int errnum)
{
    switch (policy) {
    case BLOCKDEV_ON_ERROR_IGNORE:
        return BLOCK_ERROR_ACTION_IGNORE;
    case BLOCKDEV_ON_ERROR_STOP:
        return BLOCK_ERROR_ACTION_STOP;
    case BLOCKDEV_ON_ERROR_ENOSPC:
    case BLOCKDEV_ON_ERROR_AUTO:
        return errnum == ENOSPC ? BLOCK_ERROR_ACTION_STOP
                                : BLOCK_ERROR_ACTION_REPORT;
    case BLOCKDEV_ON_ERROR_REPORT:
        break;
    }
    return BLOCK_ERROR_ACTION_REPORT;
}

enum block_error_action job_error_action(struct job *job,
                                         enum blockdev_on_error policy,
                                         bool is_read, int errnum)
{
    enum block_error_action action = action_for(policy, errnum);

    if (job->id) {
        BLOCK_ANNOUNCE(job_error, job, is_read, action);
    }
    if (action == BLOCK_ERROR_ACTION_STOP) {
        if (!job->user_paused) {
            job->user_paused = true;
            job_pause(job);
        }
        if (job->io_status == BLOCK_DEVICE_IO_STATUS_OK) {
            job->io_status = errnum == ENOSPC ? BLOCK_DEVICE_IO_STATUS_NOSPACE
                                              : BLOCK_DEVICE_IO_STATUS_FAILED;
        }
    }
    return action;
}
