/*
 * Commands on snapshots within images: snapshots.json.
 */
#include "snapshots.h"

#include <errno.h>
#include "block/graph.h"
#include "block/job.h"
#include "block/snapshot.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

/* A node that others show belongs to them. */
static bool is_root(const struct node *node)
{
    const struct edge *e;

    LIST_FOREACH (e, &node->parents, in_parents) {
        if (e->parent) {
            return false;
        }
    }
    return true;
}

struct node *snapshot_node(const char *device, GError **error)
{
    struct node *node = node_lookup(device, device, error);

    if (node && !is_root(node)) {
        error_set(error, "Need a root block node");
        return NULL;
    }
    return node && jobs_check_node_free(node, error) ? node : NULL;
}

/* Its snapshots; NULL and *error. */
static struct snapshot_info_list *list_of(struct node *node, GError **error)
{
    struct snapshot_info_list *list = node_snapshots(node);

    if (!list) {
        error_set(error, "Failed to get a snapshot list: %s",
                  g_strerror(ENOTSUP));
    }
    return list;
}

/* ---- taking -------------------------------------------------------------- */

static bool check_name(struct node *node,
                       const struct blockdev_snapshot_internal *args,
                       GError **error)
{
    struct snapshot_info_list *list = list_of(node, error);
    bool taken = list && snapshot_find(list, NULL, args->name) >= 0;

    if (taken) {
        error_set(error,
                  "Snapshot with name '%s' already exists on device "
                  "'%s'",
                  args->name, args->device);
    }
    bool ok = list && !taken;
    snapshot_info_list_free(list);
    return ok;
}

static bool check_node(struct node *node,
                       const struct blockdev_snapshot_internal *args,
                       GError **error)
{
    if (node->read_only) {
        return error_set(error, "Device '%s' is read only", args->device);
    }
    if (!node_snapshot_place(node)) {
        return error_set(error,
                         "Block format '%s' used by device '%s' does not "
                         "support internal snapshots",
                         node->driver->name, args->device);
    }
    if (!*args->name) {
        return error_set(error, "Name is empty");
    }
    return check_name(node, args, error);
}

/* The youngest one's. */
static char *last_id(struct node *node)
{
    struct snapshot_info_list *list = node_snapshots(node);
    char *id = list && list->n ? g_strdup(list->items[list->n - 1]->id) : NULL;

    snapshot_info_list_free(list);
    return id;
}

bool co_snapshot_take(const struct blockdev_snapshot_internal *args, char **id,
                      GError **error)
{
    struct snapshot_info info = {.name = args->name};
    struct node *node = snapshot_node(args->device, error);

    if (!node || !check_node(node, args, error)) {
        return false;
    }
    int ret = co_node_snapshot_create(node, &info);
    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to create snapshot '%s' on device '%s'",
                               args->name, args->device);
    }
    *id = last_id(node);
    return true;
}

static bool take_visit(const void *args, void *result, GError **error)
{
    g_autofree char *id = NULL;

    return co_snapshot_take(args, &id, error);
}

bool qmp_blockdev_snapshot_internal_sync(
    const struct blockdev_snapshot_internal *args, GError **errp)
{
    const struct place place = {.device = args->device, .node = args->device};

    return co_visit_change(&place, take_visit, args, NULL, errp);
}

/* ---- deleting ------------------------------------------------------------ */

/* Takes the one that is meant out of the list; NULL and *error. */
static struct snapshot_info *pick(
    struct snapshot_info_list *list,
    const struct blockdev_snapshot_delete_internal_sync_args *a, GError **error)
{
    int64_t i = snapshot_find(list, a->id, a->name);

    if (i < 0) {
        error_set(error,
                  "Snapshot with id '%s' and name '%s' does not exist on "
                  "device '%s'",
                  a->id ? a->id : "null", a->name ? a->name : "null",
                  a->device);
        return NULL;
    }
    struct snapshot_info *info = list->items[i];
    list->items[i] = list->items[--list->n];
    return info;
}

static bool delete_visit(const void *args, void *result, GError **error)
{
    const struct blockdev_snapshot_delete_internal_sync_args *a = args;
    struct snapshot_info **deleted = result;
    struct node *node = snapshot_node(a->device, error);

    if (!node) {
        return false;
    }
    if (!a->id && !a->name) {
        return error_set(error, "Name or id must be provided");
    }
    struct snapshot_info_list *list = list_of(node, error);
    if (!list) {
        return false;
    }
    *deleted = pick(list, a, error);
    snapshot_info_list_free(list);
    return *deleted && co_node_snapshot_delete(node, a->id, a->name, error);
}

struct snapshot_info *qmp_blockdev_snapshot_delete_internal_sync(
    const struct blockdev_snapshot_delete_internal_sync_args *args,
    GError **errp)
{
    const struct place place = {.device = args->device, .node = args->device};
    struct snapshot_info *deleted = NULL;

    if (!co_visit_change(&place, delete_visit, args, &deleted, errp)) {
        snapshot_info_free(deleted);
        return NULL;
    }
    return deleted;
}
