/*
 * The kinds of actions that a transaction can have, each with its undo.
 *
 * A step applies at once, so that later actions see it: the bitmap that one
 * action adds can be disabled by the next. Only a removal waits for the commit,
 * and keeps the bitmap busy until then.
 */
#include "transaction.h"

#include "backup.h"
#include "bitmaps.h"
#include "block/backup.h"
#include "block/dirty_bitmap.h"
#include "block/snapshot.h"
#include "lookup.h"
#include "snapshots.h"
#include "util/error.h"

/* ---- bitmaps ---- */

static struct node *bitmap_node(const char *name)
{
    return lookup_below_job_filters(node_lookup(name, name, NULL));
}

static struct place named(const char *name)
{
    return (struct place){.device = name, .node = name};
}

static struct place add_place(const struct transaction_action *d)
{
    return named(d->u.block_dirty_bitmap_add.data->node);
}

static struct node *add_touches(const struct transaction_action *d)
{
    return bitmap_node(d->u.block_dirty_bitmap_add.data->node);
}

static bool add_prepare(struct action *a, GError **error)
{
    a->bitmap = bitmap_add(a->data->u.block_dirty_bitmap_add.data, error);
    return a->bitmap != NULL;
}

static void add_abort(struct action *a)
{
    dirty_bitmap_free(a->bitmap);
}

static const struct block_dirty_bitmap *bitmap_args(
    const struct transaction_action *d)
{
    switch (d->type) {
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE:
        return d->u.block_dirty_bitmap_remove.data;
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR:
        return d->u.block_dirty_bitmap_clear.data;
    case TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE:
        return d->u.block_dirty_bitmap_enable.data;
    default:
        return d->u.block_dirty_bitmap_disable.data;
    }
}

static struct place change_place(const struct transaction_action *d)
{
    return named(bitmap_args(d)->node);
}

static struct node *change_touches(const struct transaction_action *d)
{
    return bitmap_node(bitmap_args(d)->node);
}

/* Out of the image at once, as that may fail; a bitmap that stays after all is
 * stored again with the others. */
static bool remove_prepare(struct action *a, GError **error)
{
    struct dirty_bitmap *b = bitmap_for_removal(bitmap_args(a->data), error);

    if (!b || !co_dirty_bitmap_unstore(b, error)) {
        return false;
    }
    dirty_bitmap_set_busy(b, true);
    b->skip_store = true;
    a->bitmap = b;
    return true;
}

static void remove_commit(struct action *a)
{
    dirty_bitmap_set_busy(a->bitmap, false);
    dirty_bitmap_free(a->bitmap);
}

static void remove_abort(struct action *a)
{
    dirty_bitmap_set_busy(a->bitmap, false);
    a->bitmap->skip_store = false;
}

static bool clear_prepare(struct action *a, GError **error)
{
    a->bitmap = bitmap_for_change(bitmap_args(a->data), error);
    if (a->bitmap) {
        dirty_bitmap_clear(a->bitmap, &a->backup);
    }
    return a->bitmap != NULL;
}

static bool co_merge_prepare(struct action *a, GError **error)
{
    a->bitmap = co_bitmap_merge(a->data->u.block_dirty_bitmap_merge.data,
                                &a->backup, error);
    return a->bitmap != NULL;
}

static struct place merge_place(const struct transaction_action *d)
{
    return named(d->u.block_dirty_bitmap_merge.data->node);
}

static struct node *merge_touches(const struct transaction_action *d)
{
    return bitmap_node(d->u.block_dirty_bitmap_merge.data->node);
}

static void drop_backup(struct action *a)
{
    if (a->backup) {
        hbitmap_free(a->backup);
    }
}

static void restore_backup(struct action *a)
{
    if (a->backup) {
        dirty_bitmap_restore(a->bitmap, a->backup);
    }
}

static bool enable_prepare(struct action *a, GError **error)
{
    a->bitmap = bitmap_for_switch(bitmap_args(a->data), error);
    if (a->bitmap) {
        a->was_disabled = a->bitmap->disabled;
        dirty_bitmap_enable(a->bitmap);
    }
    return a->bitmap != NULL;
}

static bool disable_prepare(struct action *a, GError **error)
{
    a->bitmap = bitmap_for_switch(bitmap_args(a->data), error);
    if (a->bitmap) {
        a->was_disabled = a->bitmap->disabled;
        dirty_bitmap_disable(a->bitmap);
    }
    return a->bitmap != NULL;
}

static void switch_abort(struct action *a)
{
    if (a->was_disabled) {
        dirty_bitmap_disable(a->bitmap);
    } else {
        dirty_bitmap_enable(a->bitmap);
    }
}

/* ---- jobs ---- */

static bool blockdev_backup_prepare(struct action *a, GError **error)
{
    a->job = co_blockdev_backup_prepare(a->data->u.blockdev_backup.data,
                                        a->group, error);
    return a->job != NULL;
}

static struct place blockdev_backup_place(const struct transaction_action *d)
{
    return named(d->u.blockdev_backup.data->device);
}

static bool co_blockdev_backup_join(const struct transaction_action *d,
                                    GError **error)
{
    return co_backup_join(d->u.blockdev_backup.data, error);
}

static struct node *blockdev_backup_touches(const struct transaction_action *d)
{
    return backup_drain_node(d->u.blockdev_backup.data->device, NULL);
}

static bool drive_backup_prepare(struct action *a, GError **error)
{
    a->job =
        co_drive_backup_prepare(a->data->u.drive_backup.data, a->group, error);
    return a->job != NULL;
}

static struct place drive_backup_place(const struct transaction_action *d)
{
    return named(d->u.drive_backup.data->device);
}

static struct node *drive_backup_touches(const struct transaction_action *d)
{
    return backup_drain_node(d->u.drive_backup.data->device, NULL);
}

static void backup_commit(struct action *a)
{
    job_start(a->job);
}

static void backup_abort(struct action *a)
{
    co_job_abort_created(a->job);
}

/* ---- snapshots ---- */

static struct place snapshot_place(const struct transaction_action *d)
{
    return named(d->u.blockdev_snapshot_internal_sync.data->device);
}

static struct node *snapshot_touches(const struct transaction_action *d)
{
    return snapshot_node(d->u.blockdev_snapshot_internal_sync.data->device,
                         NULL);
}

static bool co_snapshot_prepare(struct action *a, GError **error)
{
    return co_snapshot_take(a->data->u.blockdev_snapshot_internal_sync.data,
                            &a->snapshot, error);
}

static void snapshot_commit(struct action *a)
{
    g_free(a->snapshot);
}

static void co_snapshot_abort(struct action *a)
{
    g_autoptr(GError) error = NULL;

    if (!co_node_snapshot_delete(a->held, a->snapshot, NULL, &error)) {
        g_warning("the snapshot of a transaction that failed stays: %s",
                  error->message);
    }
    g_free(a->snapshot);
}

/* ---- */

static bool abort_prepare(struct action *a, GError **error)
{
    return error_set(error, "Transaction aborted using Abort action");
}

const struct action_ops action_table[] = {
    [TRANSACTION_ACTION_KIND_ABORT] =
        {
            .co_prepare = abort_prepare,
            .jobs = true,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ADD] =
        {
            .place = add_place,
            .touches = add_touches,
            .co_prepare = add_prepare,
            .co_abort = add_abort,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_REMOVE] =
        {
            .place = change_place,
            .touches = change_touches,
            .co_prepare = remove_prepare,
            .co_commit = remove_commit,
            .co_abort = remove_abort,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_CLEAR] =
        {
            .place = change_place,
            .touches = change_touches,
            .co_prepare = clear_prepare,
            .co_commit = drop_backup,
            .co_abort = restore_backup,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_ENABLE] =
        {
            .place = change_place,
            .touches = change_touches,
            .co_prepare = enable_prepare,
            .co_abort = switch_abort,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_DISABLE] =
        {
            .place = change_place,
            .touches = change_touches,
            .co_prepare = disable_prepare,
            .co_abort = switch_abort,
        },
    [TRANSACTION_ACTION_KIND_BLOCK_DIRTY_BITMAP_MERGE] =
        {
            .place = merge_place,
            .touches = merge_touches,
            .co_prepare = co_merge_prepare,
            .co_commit = drop_backup,
            .co_abort = restore_backup,
        },
    [TRANSACTION_ACTION_KIND_BLOCKDEV_BACKUP] =
        {
            .place = blockdev_backup_place,
            .co_join = co_blockdev_backup_join,
            .touches = blockdev_backup_touches,
            .co_prepare = blockdev_backup_prepare,
            .co_commit = backup_commit,
            .co_abort = backup_abort,
            .jobs = true,
        },
    [TRANSACTION_ACTION_KIND_BLOCKDEV_SNAPSHOT_INTERNAL_SYNC] =
        {
            .place = snapshot_place,
            .touches = snapshot_touches,
            .co_prepare = co_snapshot_prepare,
            .co_commit = snapshot_commit,
            .co_abort = co_snapshot_abort,
        },
    [TRANSACTION_ACTION_KIND_DRIVE_BACKUP] =
        {
            .place = drive_backup_place,
            .touches = drive_backup_touches,
            .co_prepare = drive_backup_prepare,
            .co_commit = backup_commit,
            .co_abort = backup_abort,
            .jobs = true,
        },
};
G_STATIC_ASSERT(G_N_ELEMENTS(action_table) ==
                TRANSACTION_ACTION_KIND_DRIVE_BACKUP + 1);
