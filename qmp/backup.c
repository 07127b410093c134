/*
 * drive-backup and blockdev-backup: a transaction of one action each, without
 * the table of undo steps that several need.
 */
#include "backup.h"

#include "block/backup.h"

#include "block/graph.h"
#include "qmp/commands.h"
#include "qmp/visit.h"

/* The instant of the backup lies in the drained section. */
static struct node *co_hold_source(const char *device, GError **error)
{
    struct node *source = backup_drain_node(device, error);

    if (source) {
        node_ref(source);
        co_drain_begin(source);
    }
    return source;
}

static void co_release_source(struct node *source)
{
    co_drain_end(source);
    co_node_unref(source);
}

static bool drive_backup_visit(const void *opaque, void *result, GError **error)
{
    const struct drive_backup *args = opaque;
    struct node *source = co_hold_source(args->device, error);

    if (!source) {
        return false;
    }
    struct job *job = co_drive_backup_prepare(args, NULL, error);
    if (job) {
        job_start(job);
    }
    co_release_source(source);
    return job != NULL;
}

bool qmp_drive_backup(const struct drive_backup *args, GError **errp)
{
    const struct place place = {.device = args->device, .node = args->device};

    return co_visit_change(&place, drive_backup_visit, args, NULL, errp);
}

bool co_backup_join(const struct blockdev_backup *args, GError **error)
{
    const struct place source = {.device = args->device, .node = args->device};
    const struct place target = {.device = args->target, .node = args->target};
    struct loop *loop;

    return !place_find(&source, &loop) || co_place_move(&target, loop, error);
}

static bool blockdev_backup_visit(const void *opaque, void *result,
                                  GError **error)
{
    const struct blockdev_backup *args = opaque;
    struct node *source = co_hold_source(args->device, error);

    if (!source) {
        return false;
    }
    struct job *job = co_blockdev_backup_prepare(args, NULL, error);
    if (job) {
        job_start(job);
    }
    co_release_source(source);
    return job != NULL;
}

bool qmp_blockdev_backup(const struct blockdev_backup *args, GError **errp)
{
    const struct place place = {.device = args->device, .node = args->device};

    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_backup_join(args, errp) &&
              co_visit(&place, blockdev_backup_visit, args, NULL, errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}
