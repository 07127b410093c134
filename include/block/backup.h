/*
 * Backup: copies a node's content at one instant to a target while it is
 * written to.
 *
 * Starting is split in two so that several jobs and bitmap actions share one
 * instant: the caller holds the change lock and a drained section over the
 * sources from before the first prepare until after the last job_start() or
 * co_job_abort_created(). Prepare does all that may fail (opening and creating
 * the target, checks, freezing the bitmap, the filter); job_start() cannot
 * fail; co_job_abort_created() leaves no trace.
 */
#ifndef VARVE_BLOCK_BACKUP_H
#define VARVE_BLOCK_BACKUP_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "block/job.h"
#include "qapi/types.h"

struct backup_params {
    const char *job_id; /* NULL: the name of the source's backend */
    struct node *source;
    struct node *target;
    enum mirror_sync_mode sync;
    struct dirty_bitmap *bitmap; /* or NULL */
    enum bitmap_sync_mode bitmap_mode;
    int64_t speed; /* bytes a second, 0 = unlimited */
    bool compress;
    enum blockdev_on_error on_source_error, on_target_error;
    bool manual_finalize, manual_dismiss;
    const char *filter_node_name; /* NULL: generated */
    bool copy_range;              /* try to copy inside the storage */
    int64_t max_workers;          /* 1..INT_MAX */
    int64_t max_chunk;            /* bytes; 0 = no limit but the engine's own */
};

/* group NULL: a group of its own. The job is CREATED. Suspends. */
struct job *co_backup_prepare(const struct backup_params *params,
                              struct job_group *group, GError **error);

/* The same from the arguments of the commands and transaction actions; group
 * overrides nothing of them. drive-backup creates (mode absolute-paths) and
 * opens its target. Suspend. */
struct job *co_blockdev_backup_prepare(const struct blockdev_backup *args,
                                       struct job_group *group, GError **error);
struct job *co_drive_backup_prepare(const struct drive_backup *args,
                                    struct job_group *group, GError **error);

/* The node whose requests must be held while a backup of `device` (a backend's
 * or node's name) is prepared and started; NULL and *error. */
struct node *backup_drain_node(const char *device, GError **error);

#endif
