/*
 * The disk of backup_disk.h.
 */
#include "backup_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/loop.h"

uint8_t *data_of(struct node *node)
{
    return fake_of(node)->data;
}

void co_disk_open(struct disk *d, const char *backend, const char *source,
                  const char *target)
{
    GError *error = NULL;

    d->source = co_fake_node(source, LENGTH);
    d->target = co_fake_node(target, LENGTH);
    for (int64_t i = 0; i < LENGTH; i++) {
        /* Every third cluster is zeroes. */
        data_of(d->source)[i] =
            i / CLUSTER % 3 == 2 ? 0 : (uint8_t)(i / 512 + 1);
    }
    memset(data_of(d->target), 0xee, LENGTH);
    fake_of(d->source)->tells_zeroes = true;
    d->backend =
        co_backend_new(backend, d->source, PERM_CONSISTENT_READ | PERM_WRITE,
                       PERM_ALL & ~(unsigned)PERM_RESIZE, &error);
    assert_null(error);
    d->instant = g_malloc(LENGTH);
}

void co_disk_close(struct disk *d)
{
    co_backend_unref(d->backend);
    co_node_unref(d->source);
    co_node_unref(d->target);
    g_free(d->instant);
}

struct backup_params params_of(const struct disk *d)
{
    return (struct backup_params){
        .source = d->source,
        .target = d->target,
        .sync = MIRROR_SYNC_MODE_FULL,
        .max_workers = 4,
    };
}

struct job *co_start_backup(struct disk *d, const struct backup_params *p,
                            GError **error)
{
    co_graph_lock(GRAPH_LOCK_CHANGE);
    co_drain_begin(d->source);
    struct job *job = co_backup_prepare(p, NULL, error);
    if (job) {
        job_ref(job);
        if (data_of(d->source)) {
            memcpy(d->instant, data_of(d->source), LENGTH);
        }
        job_start(job);
    }
    co_drain_end(d->source);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return job;
}

int co_until_ended(struct job *job)
{
    for (int i = 0; job->status != JOB_STATUS_NULL; i++) {
        if (i > 100000) {
            fail_msg("job '%s' hangs in '%s'", job->id,
                     job_status_str(job->status));
        }
        co_pause();
        if (i % 10 == 9) {
            loop_clock_advance(loop_current(), 1000000);
        }
    }
    int ret = job->ret;
    job_unref(job);
    return ret;
}

void assert_copied(const struct disk *d)
{
    for (int64_t i = 0; i < LENGTH; i += 512) {
        if (memcmp(data_of(d->target) + i, d->instant + i, 512)) {
            fail_msg("target differs at %" G_GINT64_FORMAT, i);
        }
    }
}

void assert_no_trace(const struct disk *d)
{
    assert_true(TAILQ_EMPTY(&graph_current()->jobs));
    assert_ptr_equal(d->backend->node, d->source);
    assert_int_equal(d->target->refs, 1);
}
