/*
 * x-blockdev-change: children that come and go.
 */
#include <string.h>

#include "block/graph.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

static struct edge *find_child(struct node *parent, const char *name,
                               GError **error)
{
    struct edge *e;

    LIST_FOREACH (e, &parent->children, in_children) {
        if (!strcmp(e->name, name)) {
            return e;
        }
    }
    error_set(error, "Node '%s' does not have child '%s'", parent->name, name);
    return NULL;
}

static bool co_del_child(struct node *parent, const char *name, GError **error)
{
    struct edge *edge = find_child(parent, name, error);

    if (!edge) {
        return false;
    }
    if (!parent->driver->co_del_child) {
        return error_set(error, "The node %s does not support removing a child",
                         parent->name);
    }
    struct node *child = node_ref(edge->child);
    co_drain_begin(child);
    bool ok = parent->driver->co_del_child(parent, edge, error);
    co_drain_end(child);
    co_node_unref(child);
    return ok;
}

static bool co_add_child(struct node *parent, const char *name, GError **error)
{
    struct node *child = node_find(name, NULL);

    if (!child) {
        return error_set(error, "Node '%s' not found", name);
    }
    if (!parent->driver->co_add_child) {
        return error_set(error, "The node %s does not support adding a child",
                         parent->name);
    }
    if (!LIST_EMPTY(&child->parents)) {
        return error_set(error, "The node %s already has a parent", name);
    }
    co_drain_begin(child);
    bool ok = parent->driver->co_add_child(parent, child, error);
    co_drain_end(child);
    return ok;
}

static bool change_visit(const void *opaque, void *result, GError **error)
{
    const struct x_blockdev_change_args *args = opaque;
    struct node *parent = node_lookup(args->parent, args->parent, error);

    if (!parent) {
        return false;
    }
    if (!args->child == !args->node) {
        return args->child
                   ? error_set(error, "The parameters child and node are in "
                                      "conflict")
                   : error_set(error, "Either child or node must be "
                                      "specified");
    }
    node_ref(parent);
    co_drain_begin(parent);
    bool ok = args->child ? co_del_child(parent, args->child, error)
                          : co_add_child(parent, args->node, error);
    co_drain_end(parent);
    co_node_unref(parent);
    return ok;
}

bool qmp_x_blockdev_change(const struct x_blockdev_change_args *args,
                           GError **errp)
{
    const struct place place = {.device = args->parent, .node = args->parent};
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    struct loop *loop;

    g_ptr_array_add(names, args->parent);
    if (args->node) {
        g_ptr_array_add(names, args->node);
    }
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_places_join(names, &loop, errp) &&
              co_visit(&place, change_visit, args, NULL, errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}
