/*
 * The job that makes an image. Its progress is one step: not done, or over.
 *
 * A format opens the node that it writes to and may open others, so the change
 * lock is held meanwhile; a protocol touches nothing but its storage. It cannot
 * be stopped half way: a cancel takes effect when it is over. Runs on the
 * graph's loop.
 */
#include "block/create_job.h"

#include <errno.h>

#include "block/driver.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/job_work.h"
#include "util/error.h"

struct create_job {
    struct job job;
    const struct block_driver *driver;
    struct blockdev_create_options *options;
};

static int co_create_run(struct job *job)
{
    struct create_job *c = (struct create_job *)job;
    bool lock = c->driver->kind != DRIVER_PROTOCOL;
    g_autoptr(GError) error = NULL;

    job_progress_set_remaining(job, 1);
    if (lock) {
        co_graph_lock(GRAPH_LOCK_CHANGE);
    }
    bool ok = c->driver->co_create(c->options, &error);
    if (lock) {
        graph_unlock(GRAPH_LOCK_CHANGE);
    }
    job_progress_add(job, 1);
    if (!ok) {
        job_set_error(job, "%s", error->message);
    }
    return ok ? 0 : -EIO;
}

static void create_free(struct job *job)
{
    blockdev_create_options_free(((struct create_job *)job)->options);
}

static const struct job_driver create_job_driver = {
    .type = JOB_TYPE_CREATE,
    .co_run = co_create_run,
    .free = create_free,
};

struct job *create_job_new(const char *id,
                           const struct blockdev_create_options *options,
                           GError **error)
{
    struct job_params params = {.id = id, .manual_dismiss = true};
    const struct block_driver *driver =
        block_driver_find(blockdev_driver_str(options->driver));

    if (!driver || !driver->co_create) {
        error_set(error, "Driver does not support blockdev-create");
        return NULL;
    }
    struct create_job *c =
        job_new(&create_job_driver, sizeof(*c), &params, error);
    if (!c) {
        return NULL;
    }
    c->driver = driver;
    c->options = blockdev_create_options_clone(options);
    return &c->job;
}
