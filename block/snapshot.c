/*
 * Snapshots within images: which node keeps them, and what holds for every
 * format.
 *
 * Whatever changes an image does so in a drained section over it, when all that
 * was written before is on its way to the disk: a snapshot is a point between
 * requests. On the node's loop.
 */
#include "block/snapshot.h"

#include <errno.h>
#include <string.h>

#include "block/dirty_bitmap.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "block/request_internal.h"
#include "util/error.h"

/* ---- where --------------------------------------------------------------- */

/* The child that has all the data; NULL if there are others. */
static struct node *only_data_child(struct node *node)
{
    unsigned data = ROLE_DATA | ROLE_METADATA | ROLE_FILTERED;
    struct edge *e;

    LIST_FOREACH (e, &node->children, in_children) {
        if (e != node->file && (e->roles & data)) {
            return NULL;
        }
    }
    return node->file ? node->file->child : NULL;
}

struct node *node_snapshot_place(struct node *node)
{
    while (node && !node->driver->snapshots) {
        node = only_data_child(node);
    }
    return node;
}

struct snapshot_info_list *node_snapshots(struct node *node)
{
    node = node_snapshot_place(node);
    return node ? node->driver->snapshots->list(node) : NULL;
}

int64_t snapshot_find(const struct snapshot_info_list *list, const char *id,
                      const char *name)
{
    for (size_t i = 0; list && i < list->n; i++) {
        const struct snapshot_info *sn = list->items[i];
        if ((!id || !strcmp(sn->id, id)) &&
            (!name || !strcmp(sn->name, name))) {
            return i;
        }
    }
    return -1;
}

/* ---- changes ------------------------------------------------------------- */

int co_node_snapshot_create(struct node *node, const struct snapshot_info *info)
{
    struct node *place = node_snapshot_place(node);
    int64_t now = g_get_real_time();
    g_autofree char *name = g_strndup(info->name, SNAPSHOT_NAME_MAX);
    struct snapshot_info wanted = *info;

    if (!place) {
        return -ENOTSUP;
    }
    wanted.name = name;
    wanted.date_sec = now / G_USEC_PER_SEC;
    wanted.date_nsec = now % G_USEC_PER_SEC * 1000;
    node_ref(place);
    co_drain_begin(place);
    int ret = place->read_only
                  ? -EACCES
                  : place->driver->snapshots->co_create(place, &wanted);
    co_drain_end(place);
    co_node_unref(place);
    return ret;
}

/* The place, if it can have snapshots and be changed; a reference, drained. */
static struct node *co_begin(struct node *node, GError **error)
{
    struct node *place = node_snapshot_place(node);

    if (!place) {
        error_set(error, "Block driver does not support snapshots");
        return NULL;
    }
    if (place->read_only) {
        error_set(error, "Node '%s' is read only", place->name);
        return NULL;
    }
    node_ref(place);
    co_drain_begin(place);
    return place;
}

static void co_end(struct node *place)
{
    co_drain_end(place);
    co_node_unref(place);
}

/* Nobody knows what of a bitmap would hold for another disk. */
static bool has_bitmaps(struct node *node, struct node *place)
{
    return !LIST_EMPTY(&node->bitmaps) || !LIST_EMPTY(&place->bitmaps);
}

static bool co_go_back(struct node *place, const char *id_or_name,
                       GError **error)
{
    struct snapshot_info_list *list = place->driver->snapshots->list(place);
    int64_t i = snapshot_find(list, id_or_name, NULL), size;

    if (i < 0) {
        i = snapshot_find(list, NULL, id_or_name);
    }
    int errnum = list ? ENOENT : ENOTSUP;
    snapshot_info_list_free(list);
    if (i < 0) {
        return error_set_errno(error, errnum, "Failed to load snapshot");
    }
    if (!place->driver->snapshots->co_apply(place, i, &size, error)) {
        g_prefix_error(error, "Failed to load snapshot: ");
        return false;
    }
    node_length_changed(place, size);
    place->write_gen++;
    return true;
}

bool co_node_snapshot_apply(struct node *node, const char *id_or_name,
                            GError **error)
{
    struct node *place = co_begin(node, error);

    if (!place) {
        return false;
    }
    bool ok = has_bitmaps(node, place)
                  ? error_set(error, "Device has active dirty bitmaps")
                  : co_go_back(place, id_or_name, error);
    if (ok && place != node) {
        int ret = co_node_refresh_length(node);
        ok = ret == 0 ||
             error_set_errno(error, ret, "Failed to get length of '%s'",
                             node->name);
    }
    co_end(place);
    return ok;
}

bool co_node_snapshot_delete(struct node *node, const char *id,
                             const char *name, GError **error)
{
    if (!node_snapshot_place(node)) {
        return error_set(error, "snapshot not found");
    }
    struct node *place = co_begin(node, error);
    if (!place) {
        return false;
    }
    struct snapshot_info_list *list = place->driver->snapshots->list(place);
    int64_t i = snapshot_find(list, id, name);
    snapshot_info_list_free(list);
    bool ok = i < 0 ? error_set(error, "snapshot not found")
                    : place->driver->snapshots->co_delete(place, i, error);
    co_end(place);
    return ok;
}

bool co_node_snapshot_load(struct node *node, const char *id, const char *name,
                           GError **error)
{
    const struct snapshot_ops *ops = node->driver->snapshots;
    int64_t size;

    if (!ops) {
        return error_set(error,
                         "Block format '%s' used by device '' does not "
                         "support temporarily loading internal snapshots",
                         node->driver->name);
    }
    if (!node->read_only) {
        return error_set(error, "Device is not readonly");
    }
    struct snapshot_info_list *list = ops->list(node);
    int64_t i = snapshot_find(list, id, name);
    snapshot_info_list_free(list);
    if (i < 0) {
        return error_set(error, "Can't find snapshot");
    }
    if (!ops->co_load(node, i, &size, error)) {
        return false;
    }
    node_length_changed(node, size);
    return true;
}
