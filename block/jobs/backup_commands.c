/*
 * From the arguments of blockdev-backup and drive-backup, as commands or as
 * transaction actions, to a prepared backup job.
 *
 * Runs on the graph's loop.
 */
#include "block/backup.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>
#include "block/block_copy.h"
#include "block/create.h"
#include "block/dirty_bitmap.h"
#include "block/jobs/backup_internal.h"
#include "util/error.h"

/* Both commands begin with the members of backup_common. */
static_assert(offsetof(struct blockdev_backup, x_perf) ==
                      offsetof(struct backup_common, x_perf) &&
                  offsetof(struct drive_backup, x_perf) ==
                      offsetof(struct backup_common, x_perf),
              "backup_common is not a prefix");

/* ---- what both have ------------------------------------------------------ */

static bool take_bitmap(struct backup_params *p, const struct backup_common *c,
                        GError **error)
{
    if ((c->sync == MIRROR_SYNC_MODE_BITMAP ||
         c->sync == MIRROR_SYNC_MODE_INCREMENTAL) &&
        !c->bitmap) {
        return error_set(error,
                         "must provide a valid bitmap name for '%s' sync mode",
                         mirror_sync_mode_str(c->sync));
    }
    bool has_mode = c->has_bitmap_mode;
    p->bitmap_mode = has_mode ? c->bitmap_mode : BITMAP_SYNC_MODE_ON_SUCCESS;
    if (c->sync == MIRROR_SYNC_MODE_INCREMENTAL) {
        if (p->bitmap_mode != BITMAP_SYNC_MODE_ON_SUCCESS) {
            return error_set(error,
                             "Bitmap sync mode must be 'on-success' when "
                             "using sync mode 'incremental'");
        }
        has_mode = true;
    }
    if (!c->bitmap) {
        return !has_mode ||
               error_set(error,
                         "Cannot specify bitmap sync mode without a bitmap");
    }
    p->bitmap = dirty_bitmap_find(p->source, c->bitmap);
    if (!p->bitmap) {
        return error_set(error, "Bitmap '%s' could not be found", c->bitmap);
    }
    return has_mode ||
           error_set(error,
                     "Bitmap sync mode must be given when providing a bitmap");
}

static void take_perf(struct backup_params *p, const struct backup_perf *perf)
{
    p->max_workers = BLOCK_COPY_WORKERS_DEFAULT;
    if (!perf) {
        return;
    }
    p->copy_range = perf->has_use_copy_range && perf->use_copy_range;
    if (perf->has_max_workers) {
        p->max_workers = perf->max_workers;
    }
    if (perf->has_max_chunk) {
        p->max_chunk = perf->max_chunk;
    }
}

/* *p->source is set already. */
static bool take_common(struct backup_params *p, const struct backup_common *c,
                        GError **error)
{
    p->job_id = c->job_id;
    p->sync = c->sync;
    p->speed = c->has_speed ? c->speed : 0;
    p->compress = c->has_compress && c->compress;
    p->on_source_error =
        c->has_on_source_error ? c->on_source_error : BLOCKDEV_ON_ERROR_REPORT;
    p->on_target_error =
        c->has_on_target_error ? c->on_target_error : BLOCKDEV_ON_ERROR_REPORT;
    p->manual_finalize = c->has_auto_finalize && !c->auto_finalize;
    p->manual_dismiss = c->has_auto_dismiss && !c->auto_dismiss;
    p->filter_node_name = c->filter_node_name;
    take_perf(p, c->x_perf);
    return take_bitmap(p, c, error);
}

struct node *backup_drain_node(const char *device, GError **error)
{
    return node_lookup(device, device, error);
}

struct job *co_blockdev_backup_prepare(const struct blockdev_backup *args,
                                       struct job_group *group, GError **error)
{
    struct backup_params p = {
        .source = node_lookup(args->device, args->device, error),
    };

    if (!p.source) {
        return NULL;
    }
    p.target = node_lookup(args->target, args->target, error);
    if (!p.target ||
        !take_common(&p, (const struct backup_common *)args, error)) {
        return NULL;
    }
    return co_backup_prepare(&p, group, error);
}

/* ---- drive-backup: a target that this command brings --------------------- */

/* What the new image reads where the backup wrote nothing: the source's own
 * backing file with sync=top, the source with sync=none. */
static struct node *backing_for(const struct drive_backup *args,
                                struct node *source)
{
    struct node *top = node_skip_filters(source);

    switch (args->sync) {
    case MIRROR_SYNC_MODE_TOP:
        return node_backing_chain_next(top);
    case MIRROR_SYNC_MODE_NONE:
        return top;
    default:
        return NULL;
    }
}

static bool co_create_target(const struct drive_backup *args,
                             const char *format, struct node *source,
                             GError **error)
{
    struct node *backing = backing_for(args, source);
    struct create_params params = {.size = source->length};

    if (backing) {
        params.backing_file = backing->filename;
        params.backing_format = backing->driver->name;
    }
    return co_image_create(args->target, format, &params, error);
}

/* With sync=none the target shows the source itself behind it, not a second
 * opening of its file. */
static struct node *co_open_over_source(const struct drive_backup *args,
                                        struct node *source,
                                        const struct open_defaults *defaults,
                                        GError **error)
{
    struct blockdev_ref file = {.kind = QAPI_KIND_OBJECT};
    struct blockdev_ref_or_null backing = {.kind = QAPI_KIND_STRING};
    struct blockdev_cache_options cache = {
        .has_direct = true,
        .direct = defaults->cache_direct,
        .has_no_flush = true,
        .no_flush = defaults->no_flush,
    };
    struct blockdev_options o = {
        .driver = BLOCKDEV_DRIVER_QCOW2,
        .cache = &cache,
    };

    file.u.definition.driver = BLOCKDEV_DRIVER_FILE;
    file.u.definition.u.file.filename = args->target;
    backing.u.reference = source->name;
    o.u.qcow2.file = &file;
    o.u.qcow2.backing = &backing;
    return co_node_open(&o, error);
}

static struct node *co_open_target(const struct drive_backup *args,
                                   const char *format, struct node *source,
                                   GError **error)
{
    struct open_defaults defaults = {
        .cache_direct = source->cache_direct,
        .no_flush = source->no_flush,
    };

    if (args->sync == MIRROR_SYNC_MODE_NONE && format &&
        !strcmp(format, "qcow2")) {
        return co_open_over_source(args, source, &defaults, error);
    }
    return co_node_open_filename(args->target, format, &defaults, error);
}

static struct job *co_drive_backup_to(const struct drive_backup *args,
                                      struct backup_params *p,
                                      struct job_group *group, GError **error)
{
    bool existing = args->has_mode && args->mode == NEW_IMAGE_MODE_EXISTING;
    const char *format = args->format;

    if (!format && !existing) {
        format = node_skip_filters(p->source)->driver->name;
    }
    const struct block_driver *driver =
        format ? block_driver_find(format) : NULL;
    if (format && !driver) {
        error_set(error, "Unknown file format '%s'", format);
        return NULL;
    }
    if (!existing && (!backup_check_compress(p, driver, error) ||
                      !co_create_target(args, format, p->source, error))) {
        return NULL;
    }
    p->target = co_open_target(args, format, p->source, error);
    if (!p->target) {
        return NULL;
    }
    struct job *job = co_backup_prepare(p, group, error);
    /* The filter holds it now. */
    co_node_unref(p->target);
    return job;
}

struct job *co_drive_backup_prepare(const struct drive_backup *args,
                                    struct job_group *group, GError **error)
{
    struct backup_params p = {
        .source = node_lookup(args->device, args->device, error),
    };

    /* What can be refused is, before a file is made. */
    if (!p.source ||
        !take_common(&p, (const struct backup_common *)args, error) ||
        !backup_check_start(&p, error)) {
        return NULL;
    }
    return co_drive_backup_to(args, &p, group, error);
}
