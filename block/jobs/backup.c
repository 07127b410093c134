/*
 * The backup job: a copy-before-write filter gives the instant, the block-copy
 * engine moves the clusters, a sync bitmap says which.
 *
 * Invariants about the sync bitmap: it is frozen from prepare until commit or
 * abort, its successor sees every write of that time, and the engine works on a
 * copy of its bits. Commit drops the old bits (they are in the target), abort
 * merges both halves; with bitmap-mode=always an abort keeps of the old bits
 * those that the engine has not copied. The filter is gone, and no copy under
 * way, before the bitmap is touched.
 *
 * Runs on the graph's loop.
 */
#include "block/backup.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include "block/block_copy.h"
#include "block/dirty_bitmap.h"
#include "block/jobs/backup_internal.h"
#include "block/jobs/job_internal.h"
#include "block/request.h"
#include "block/job_work.h"
#include "util/error.h"
#include "util/range.h"

/* Pauses between retries of what on-*-error=ignore ignores. */
#define RETRY_MIN_NS INT64_C(1000000)
#define RETRY_MAX_NS INT64_C(1000000000)

struct backup_job {
    struct job job;
    struct node *source; /* referenced */
    struct node *filter; /* referenced */
    struct node *target; /* held by the job's edge and the filter's */
    struct block_copy *copy;
    enum mirror_sync_mode sync;
    struct dirty_bitmap *bitmap; /* frozen, or NULL */
    enum bitmap_sync_mode bitmap_mode;
    unsigned max_workers;
    int64_t max_chunk;
};

static struct backup_job *of_job(struct job *job)
{
    return (struct backup_job *)job;
}

/* ---- the work ------------------------------------------------------------ */

static void on_progress(void *opaque, int64_t done, int64_t remaining)
{
    struct job *job = opaque;

    job_progress_add(job, done);
    job_progress_set_remaining(job, remaining);
}

static bool wants_pause(void *opaque)
{
    const struct job *job = opaque;

    return job->pause_count || job->cancelled;
}

static bool co_hold_still(void *opaque)
{
    co_job_pause_point(opaque);
    return job_is_cancelled(opaque);
}

static void co_wait_slice(void *opaque, int64_t ns)
{
    co_job_sleep_ns(opaque, ns);
}

/* Takes what lies only in the backing chain out of the copy. */
static int co_find_unallocated(struct backup_job *b)
{
    int64_t bytes;

    for (int64_t pos = 0; pos < b->source->length; pos += bytes) {
        co_job_pause_point(&b->job);
        if (b->job.cancelled) {
            return 0;
        }
        int ret = co_block_copy_reset_unallocated(b->copy, pos, &bytes);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* Reports an error by the job's policies. -errno ends the job, 0 tries again,
 * after a pause that grows as long as nothing moves. */
static int co_handle_error(struct backup_job *b, int ret, bool is_read,
                           int64_t *retry_ns)
{
    struct job *job = &b->job;
    enum block_error_action action = job_error_action(
        job, is_read ? job->on_source_error : job->on_target_error, is_read,
        -ret);

    if (action == BLOCK_ERROR_ACTION_REPORT) {
        return ret;
    }
    if (action == BLOCK_ERROR_ACTION_STOP) {
        co_job_pause_point(job);
    } else {
        co_job_sleep_ns(job, *retry_ns);
        *retry_ns = min_i64(*retry_ns * 2, RETRY_MAX_NS);
    }
    return 0;
}

static int co_copy_everything(struct backup_job *b)
{
    struct job *job = &b->job;
    struct block_copy_call call = {
        .max_workers = b->max_workers,
        .max_chunk = b->max_chunk,
        .wants_pause = wants_pause,
        .co_pause = co_hold_still,
        .co_sleep = co_wait_slice,
        .opaque = job,
    };
    int64_t retry_ns = RETRY_MIN_NS;
    int ret = 0;

    while (ret == 0 && !job->cancelled) {
        int64_t before = job->progress_current;
        ret = co_block_copy_all(b->copy, &call);
        if (ret == 0) {
            break;
        }
        if (job->progress_current != before) {
            retry_ns = RETRY_MIN_NS;
        }
        ret = co_handle_error(b, ret, call.is_read, &retry_ns);
    }
    return ret;
}

/* What was copied survives a crash before a bitmap forgets that it changed. */
static int co_flush_target(struct backup_job *b)
{
    int64_t retry_ns = RETRY_MIN_NS;
    int ret;

    while (!b->job.cancelled && (ret = co_node_flush(b->target)) < 0) {
        ret = co_handle_error(b, ret, false, &retry_ns);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

/* sync=none: only guest writes copy, until somebody cancels. */
static int co_wait_for_cancel(struct backup_job *b)
{
    while (!b->job.cancelled) {
        co_job_yield(&b->job);
    }
    return 0;
}

static int co_backup_run(struct job *job)
{
    struct backup_job *b = of_job(job);
    int64_t retry_ns = RETRY_MIN_NS;
    int ret = 0;

    if (b->sync == MIRROR_SYNC_MODE_NONE) {
        return co_wait_for_cancel(b);
    }
    if (b->sync == MIRROR_SYNC_MODE_TOP) {
        while (!job->cancelled && (ret = co_find_unallocated(b)) < 0) {
            ret = co_handle_error(b, ret, true, &retry_ns);
            if (ret < 0) {
                return ret;
            }
        }
    }
    ret = co_copy_everything(b);
    return ret < 0 ? ret : co_flush_target(b);
}

static void backup_speed_changed(struct job *job)
{
    block_copy_set_speed(of_job(job)->copy, job->speed);
}

/* ---- the end ------------------------------------------------------------- */

/* Lets guest writes go to the source directly again, and waits for the last
 * copy. */
static void co_remove_filter(struct backup_job *b)
{
    g_autoptr(GError) error = NULL;

    co_drain_begin(b->source);
    co_job_detach_nodes(&b->job);
    struct graph_tx *tx = graph_tx_begin();
    /* Parents of the filter already share what they need of what is below, so
     * neither step can fail. That may be the filter of a later backup. */
    bool ok = graph_tx_replace_node(tx, b->filter, node_chain_below(b->filter),
                                    &error);
    assert(ok);
    if (!co_graph_tx_commit(tx, &error)) {
        g_critical("backup filter '%s' stays: %s", b->filter->name,
                   error->message);
    }
    co_drain_end(b->source);
    co_block_copy_wait_idle(b->copy);
    block_copy_set_progress(b->copy, NULL, NULL);
}

static void settle_bitmap(struct backup_job *b)
{
    struct dirty_bitmap *bitmap = b->bitmap;
    bool failed = b->job.ret != 0;

    if (!bitmap) {
        return;
    }
    b->bitmap = NULL;
    /* A job that never ran leaves no trace. */
    if (b->bitmap_mode == BITMAP_SYNC_MODE_NEVER || !b->job.started ||
        (failed && b->bitmap_mode == BITMAP_SYNC_MODE_ON_SUCCESS)) {
        dirty_bitmap_reclaim(bitmap);
        return;
    }
    dirty_bitmap_abdicate(bitmap);
    if (failed) {
        hbitmap_merge(bitmap->bits, block_copy_bitmap(b->copy));
    }
}

static void co_backup_end(struct job *job)
{
    struct backup_job *b = of_job(job);

    co_remove_filter(b);
    settle_bitmap(b);
}

static void co_backup_clean(struct job *job)
{
    struct backup_job *b = of_job(job);

    co_node_unref(g_steal_pointer(&b->filter));
    co_node_unref(g_steal_pointer(&b->source));
    b->copy = NULL;
}

static const struct job_driver backup_driver = {
    .type = JOB_TYPE_BACKUP,
    .is_block_job = true,
    .co_run = co_backup_run,
    .co_commit = co_backup_end,
    .co_abort = co_backup_end,
    .co_clean = co_backup_clean,
    .speed_changed = backup_speed_changed,
};

/* ---- checks -------------------------------------------------------------- */

static bool check_bitmap(const struct backup_params *p, GError **error)
{
    bool by_bitmap = p->sync == MIRROR_SYNC_MODE_BITMAP ||
                     p->sync == MIRROR_SYNC_MODE_INCREMENTAL;

    if (!p->bitmap) {
        assert(!by_bitmap);
        return true;
    }
    /* With "never" the stored bitmap does not change. */
    if (!dirty_bitmap_check(p->bitmap,
                            p->bitmap_mode == BITMAP_SYNC_MODE_NEVER
                                ? REFUSE_ALLOW_RO
                                : REFUSE_DEFAULT,
                            error)) {
        return false;
    }
    if (p->sync == MIRROR_SYNC_MODE_NONE) {
        return error_set(error,
                         "sync mode 'none' does not produce meaningful bitmap "
                         "outputs");
    }
    if (!by_bitmap && p->bitmap_mode == BITMAP_SYNC_MODE_NEVER) {
        return error_set(error,
                         "Bitmap sync mode 'never' has no meaningful effect "
                         "when combined with sync mode '%s'",
                         mirror_sync_mode_str(p->sync));
    }
    return true;
}

static bool check_perf(const struct backup_params *p, GError **error)
{
    if (p->max_workers < 1 || p->max_workers > INT_MAX) {
        return error_set(error, "max-workers must be between 1 and %d",
                         INT_MAX);
    }
    if (p->max_chunk < 0) {
        return error_set(error, "max-chunk must be zero (which means no "
                                "limit) or positive");
    }
    return true;
}

bool backup_check_start(struct backup_params *p, GError **error)
{
    const char *backend = job_backend_name(p->source);

    if (!jobs_check_node_free(p->source, error) || !check_perf(p, error) ||
        !check_bitmap(p, error)) {
        return false;
    }
    p->job_id = p->job_id ? p->job_id : backend ? backend : "";
    return job_check_new(p->job_id, p->speed, error);
}

bool backup_check_compress(const struct backup_params *p,
                           const struct block_driver *driver, GError **error)
{
    const char *drive = p->target ? job_backend_name(p->target) : NULL;

    return !p->compress || driver->writes_compressed ||
           error_set(error, "Compression is not supported for this drive %s",
                     drive ? drive : "");
}

static bool check_target(const struct backup_params *p, GError **error)
{
    if (p->source->length != p->target->length) {
        return error_set(error, "Source and target image have different sizes");
    }
    return true;
}

/* ---- starting ------------------------------------------------------------ */

static void set_reference(struct blockdev_ref *ref, const struct node *node)
{
    ref->kind = QAPI_KIND_STRING;
    ref->u.reference = node->name;
}

static struct node *co_open_filter(const struct backup_params *p,
                                   GError **error)
{
    struct blockdev_options o = {
        .driver = BLOCKDEV_DRIVER_COPY_BEFORE_WRITE,
        .node_name = (char *)p->filter_node_name,
    };
    struct blockdev_ref file, target;
    GError *why = NULL;

    set_reference(&file, p->source);
    set_reference(&target, p->target);
    o.u.copy_before_write.file = &file;
    o.u.copy_before_write.target = &target;
    struct node *filter = co_node_open(&o, &why);
    if (!filter) {
        error_set(error, "Could not create node: %s", why->message);
        g_error_free(why);
    }
    return filter;
}

/* What the copy is about: all of the source, or what the bitmap says. */
static void set_up_copy(struct backup_job *b, const struct backup_params *p)
{
    struct hbitmap *todo = block_copy_bitmap(b->copy);

    if (p->sync == MIRROR_SYNC_MODE_BITMAP ||
        p->sync == MIRROR_SYNC_MODE_INCREMENTAL) {
        hbitmap_clear_all(todo);
        hbitmap_merge(todo, p->bitmap->bits);
    }
    block_copy_set_skip_unallocated(b->copy, p->sync == MIRROR_SYNC_MODE_TOP);
    block_copy_set_compress(b->copy, p->compress);
    block_copy_set_copy_range(b->copy, p->copy_range);
    block_copy_set_speed(b->copy, p->speed);
    block_copy_set_progress(b->copy, on_progress, &b->job);
    job_progress_set_remaining(&b->job, block_copy_remaining(b->copy));
}

static bool co_put_filter_in(struct node *source, struct node *filter,
                             GError **error)
{
    struct graph_tx *tx = graph_tx_begin();

    if (!graph_tx_replace_node(tx, source, filter, error)) {
        co_graph_tx_abort(tx);
        return false;
    }
    return co_graph_tx_commit(tx, error);
}

static struct backup_job *new_job(const struct backup_params *p,
                                  struct job_group *group, struct node *filter,
                                  GError **error)
{
    struct job_params jp = {
        .id = p->job_id,
        .manual_finalize = p->manual_finalize,
        .manual_dismiss = p->manual_dismiss,
        .speed = p->speed,
        .group = group,
    };
    struct backup_job *b = job_new(&backup_driver, sizeof(*b), &jp, error);

    if (!b) {
        return NULL;
    }
    b->source = node_ref(p->source);
    b->filter = node_ref(filter);
    b->target = p->target;
    b->copy = cbw_block_copy(filter);
    b->sync = p->sync;
    b->bitmap_mode = p->bitmap_mode;
    b->max_workers = p->max_workers;
    b->max_chunk = p->max_chunk;
    b->job.on_source_error = p->on_source_error;
    b->job.on_target_error = p->on_target_error;
    return b;
}

static bool check_chunk(const struct backup_params *p, struct node *filter,
                        GError **error)
{
    int64_t cluster = block_copy_cluster_size(cbw_block_copy(filter));

    if (p->max_chunk && p->max_chunk < cluster) {
        return error_set(error,
                         "Required max-chunk (%" PRId64
                         ") is less than backup cluster size (%" PRId64 ")",
                         p->max_chunk, cluster);
    }
    return true;
}

/* With the filter open: the steps that change something. Whatever has been done
 * when one fails, aborting the job undoes. */
static struct job *co_prepare_with(const struct backup_params *p,
                                   struct job_group *group, struct node *filter,
                                   GError **error)
{
    if (!check_chunk(p, filter, error)) {
        return NULL;
    }
    struct backup_job *b = new_job(p, group, filter, error);
    if (!b) {
        return NULL;
    }
    set_up_copy(b, p);
    if (p->bitmap && !dirty_bitmap_freeze(p->bitmap, error)) {
        goto err_after_job;
    }
    b->bitmap = p->bitmap;
    /* The job's edges come after the filter is in its place: with a parent, it
     * lets nobody else write to the source. */
    if (!co_put_filter_in(p->source, filter, error) ||
        !co_job_attach_node(&b->job, "main node", filter, 0, PERM_ALL, error) ||
        !co_job_attach_node(&b->job, "target", p->target, 0, PERM_ALL, error)) {
        goto err_after_job;
    }
    return &b->job;

err_after_job:
    co_job_abort_created(&b->job);
    return NULL;
}

struct job *co_backup_prepare(const struct backup_params *params,
                              struct job_group *group, GError **error)
{
    struct backup_params p = *params;

    /* Of several reasons the bitmap is the first, so that a second backup
     * by one bitmap is told what it waits for. */
    if (!check_bitmap(&p, error)) {
        return NULL;
    }
    if (p.source == p.target) {
        error_set(error, "Source and target cannot be the same");
        return NULL;
    }
    if (!backup_check_compress(&p, p.target->driver, error) ||
        !jobs_check_node_free(p.source, error) ||
        !jobs_check_node_free(p.target, error) ||
        !backup_check_start(&p, error) || !check_target(&p, error)) {
        return NULL;
    }
    struct node *filter = co_open_filter(&p, error);
    if (!filter) {
        return NULL;
    }
    struct job *job = co_prepare_with(&p, group, filter, error);
    co_node_unref(filter);
    return job;
}
