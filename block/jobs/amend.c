/*
 * The job that changes the options of an image. Its progress is one step and
 * the bytes that the driver has to write besides.
 *
 * A cancel or a pause takes effect between two pieces of those: what has been
 * done by then is an image as good as before. A change of the size is a change
 * of the graph, whose lock is held then, and there is no pause. Runs on the
 * graph's loop.
 */
#include "block/amend_job.h"

#include <errno.h>
#include <string.h>

#include "block/driver.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/job_work.h"
#include "util/error.h"

struct amend_job {
    struct job job;
    struct node *node; /* held by the job's edge */
    struct blockdev_amend_options *options;
    bool locked;
};

static bool co_progress(struct amend_request *request, int64_t done,
                        int64_t more)
{
    struct amend_job *a = request->opaque;

    if (more) {
        job_progress_add_remaining(&a->job, more);
    }
    job_progress_add(&a->job, done);
    if (!a->locked) {
        co_job_pause_point(&a->job);
    }
    return !job_is_cancelled(&a->job);
}

static bool changes_size(const struct blockdev_amend_options *o)
{
    return o->driver == BLOCKDEV_DRIVER_QCOW2 && o->u.qcow2.has_size;
}

static int co_amend_run(struct job *job)
{
    struct amend_job *a = (struct amend_job *)job;
    struct amend_request request = {
        .options = a->options, .co_progress = co_progress, .opaque = a};
    g_autoptr(GError) error = NULL;

    job_progress_set_remaining(job, 1);
    a->locked = changes_size(a->options);
    if (a->locked) {
        co_graph_lock(GRAPH_LOCK_CHANGE);
    }
    bool ok = a->node->driver->co_amend(a->node, &request, &error);
    if (a->locked) {
        graph_unlock(GRAPH_LOCK_CHANGE);
    }
    job_progress_add(job, 1);
    if (ok) {
        return 0;
    }
    if (job_is_cancelled(job)) {
        return -ECANCELED;
    }
    job_set_error(job, "%s", error->message);
    return -EIO;
}

static void co_amend_clean(struct job *job)
{
    co_job_detach_nodes(job);
}

static void amend_free(struct job *job)
{
    blockdev_amend_options_free(((struct amend_job *)job)->options);
}

static const struct job_driver amend_job_driver = {
    .type = JOB_TYPE_AMEND,
    .co_run = co_amend_run,
    .co_clean = co_amend_clean,
    .free = amend_free,
};

struct job *co_amend_job_new(const char *id, struct node *node,
                             const struct blockdev_amend_options *options,
                             GError **error)
{
    struct job_params params = {.id = id, .manual_dismiss = true};
    unsigned writing = PERM_WRITE | PERM_RESIZE;

    if (strcmp(blockdev_driver_str(options->driver), node->driver->name) != 0) {
        error_set(error, "x-blockdev-amend doesn't support changing the block "
                         "driver");
        return NULL;
    }
    if (!node->driver->co_amend) {
        error_set(error, "Driver does not support x-blockdev-amend");
        return NULL;
    }
    struct amend_job *a =
        job_new(&amend_job_driver, sizeof(*a), &params, error);
    if (!a) {
        return NULL;
    }
    a->node = node;
    a->options = blockdev_amend_options_clone(options);
    if (!co_job_attach_node(&a->job, "main node", node, writing,
                            PERM_ALL & ~writing, error)) {
        co_job_abort_created(&a->job);
        return NULL;
    }
    return &a->job;
}
