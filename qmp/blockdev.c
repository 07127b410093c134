/*
 * Commands that make, remove and resize nodes: block-core.json.
 */
#include "aio/mailbox.h"
#include "block/backend.h"
#include "block/amend_job.h"
#include "block/create_job.h"
#include "block/graph.h"
#include "block/job.h"
#include "block/request.h"
#include "qmp/commands.h"
#include "qmp/monitor.h"
#include "qmp/visit.h"
#include "util/error.h"

static void add_references(const struct qapi_type *type, const void *options,
                           GPtrArray *names)
{
    qapi_alternate_strings(type, options, &qapi_type_blockdev_ref, names);
    qapi_alternate_strings(type, options, &qapi_type_blockdev_ref_or_null,
                           names);
}

/* The loop where all nodes are that the options refer to; they may have to be
 * moved there. */
static bool co_join_children(const struct qapi_type *type, const void *options,
                             struct loop **loop, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();

    add_references(type, options, names);
    return co_places_join(names, loop, error);
}

struct node_call {
    const struct blockdev_options *options;
    bool ok;
    GError **error;
};

static void co_add_here(void *opaque)
{
    struct node_call *c = opaque;
    struct node *node = co_node_open(c->options, c->error);

    if (node) {
        /* The reference is the monitor's now. */
        node->monitor_owned = true;
        c->ok = true;
    }
}

bool co_monitor_add_node(const struct blockdev_options *options, GError **error)
{
    struct node_call c = {.options = options, .error = error};
    struct loop *loop;

    if (!options->node_name) {
        return error_set(error,
                         "'node-name' must be specified for the root node");
    }
    if (co_join_children(&qapi_type_blockdev_options, options, &loop, error)) {
        co_call_on(loop, co_add_here, &c);
    }
    return c.ok;
}

bool qmp_blockdev_add(const struct blockdev_options *args, GError **errp)
{
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_monitor_add_node(args, errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}

static bool reopen_visit(const void *args, void *result, GError **error)
{
    const struct blockdev_reopen_args *a = args;

    return co_nodes_reopen(
        (const struct blockdev_options *const *)a->options.items, a->options.n,
        error);
}

bool qmp_blockdev_reopen(const struct blockdev_reopen_args *args, GError **errp)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    struct loop *loop;
    struct place place = {0};

    for (size_t i = 0; i < args->options.n; i++) {
        const struct blockdev_options *o = args->options.items[i];
        if (o->node_name) {
            place.node = o->node_name;
            g_ptr_array_add(names, o->node_name);
        }
        add_references(&qapi_type_blockdev_options, o, names);
    }
    /* Nodes that change together live on one loop. */
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_places_join(names, &loop, errp) &&
              co_visit(&place, reopen_visit, args, NULL, errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
}

static bool used_by_backend(const struct node *node)
{
    struct backend *b;

    TAILQ_FOREACH (b, &node->graph->backends, link) {
        if (b->node == node) {
            return true;
        }
    }
    return false;
}

static bool del_visit(const void *args, void *result, GError **error)
{
    const struct blockdev_del_args *a = args;
    struct node *node = node_find(a->node_name, error);

    if (!node) {
        return false;
    }
    if (used_by_backend(node)) {
        return error_set(error, "Node %s is in use", node->name);
    }
    if (!jobs_check_node_free(node, error)) {
        return false;
    }
    if (!node->monitor_owned) {
        return error_set(error, "Node %s is not owned by the monitor",
                         node->name);
    }
    if (node->refs > 1) {
        return error_set(error, "Block device %s is in use", node->name);
    }
    node->monitor_owned = false;
    co_node_unref(node);
    return true;
}

bool qmp_blockdev_del(const struct blockdev_del_args *args, GError **errp)
{
    const struct place place = {.node = args->node_name};

    return co_visit_change(&place, del_visit, args, NULL, errp);
}

void co_monitor_close_nodes(void)
{
    struct graph *graph = graph_current();
    struct node *node;

    co_graph_lock(GRAPH_LOCK_CHANGE);
    /* Closing one may close others: begin anew after each, youngest first, so
     * that parents go before their children. */
    do {
        TAILQ_FOREACH_REVERSE(node, &graph->nodes, node_list, link)
        {
            if (node->monitor_owned) {
                node->monitor_owned = false;
                co_node_unref(node);
                break;
            }
        }
    } while (node);
    graph_unlock(GRAPH_LOCK_CHANGE);
}

struct create_call {
    const struct blockdev_create_args *args;
    bool ok;
    GError **error;
};

static void create_here(void *opaque)
{
    struct create_call *c = opaque;
    struct job *job =
        create_job_new(c->args->job_id, c->args->options, c->error);

    if (job) {
        job_start(job);
    }
    c->ok = job != NULL;
}

bool qmp_blockdev_create(const struct blockdev_create_args *args, GError **errp)
{
    struct create_call c = {.args = args, .error = errp};
    struct loop *loop;

    co_graph_lock(GRAPH_LOCK_CHANGE);
    if (co_join_children(&qapi_type_blockdev_create_options, args->options,
                         &loop, errp)) {
        co_call_on(loop, create_here, &c);
    }
    graph_unlock(GRAPH_LOCK_CHANGE);
    return c.ok;
}

static bool amend_visit(const void *args, void *result, GError **error)
{
    const struct x_blockdev_amend_args *a = args;
    struct node *node = node_lookup(NULL, a->node_name, error);
    struct job *job = NULL;

    if (node && jobs_check_node_free(node, error)) {
        job = co_amend_job_new(a->job_id, node, a->options, error);
    }
    if (job) {
        job_start(job);
    }
    return job;
}

bool qmp_x_blockdev_amend(const struct x_blockdev_amend_args *args,
                          GError **errp)
{
    const struct place place = {.node = args->node_name};

    return co_visit_change(&place, amend_visit, args, NULL, errp);
}

static bool is_backing(const struct node *node)
{
    const struct edge *edge;

    LIST_FOREACH (edge, &node->parents, in_parents) {
        if (edge->roles & ROLE_COW) {
            return true;
        }
    }
    return false;
}

static bool resize_visit(const void *args, void *result, GError **error)
{
    const struct block_resize_args *a = args;
    struct node *node = node_lookup(a->device, a->node_name, error);

    if (!node) {
        return false;
    }
    if (a->size < 0) {
        return error_set(error, "Parameter 'size' expects a >0 size");
    }
    /* A job copies what was there when it began, all of it; and what is behind
     * an image that grew was hidden up to the length that it had. */
    if (!jobs_check_node_free(node, NULL) || is_backing(node)) {
        return error_set(error, "Device '%s' is in use",
                         a->device ? a->device : node->name);
    }
    /* Whoever relies on the length says so by not sharing this permission. */
    struct backend *backend =
        co_backend_new(NULL, node, PERM_RESIZE, PERM_ALL, error);
    if (!backend) {
        return false;
    }
    co_drain_begin(node);
    bool ok =
        co_node_truncate(node, a->size, false, PREALLOC_MODE_OFF, 0, error);
    co_drain_end(node);
    co_backend_unref(backend);
    return ok;
}

bool qmp_block_resize(const struct block_resize_args *args, GError **errp)
{
    const struct place place = {
        .device = args->device,
        .node = args->node_name,
    };

    return co_visit_change(&place, resize_visit, args, NULL, errp);
}

static bool threshold_visit(const void *args, void *result, GError **error)
{
    const struct block_set_write_threshold_args *a = args;
    struct node *node = node_lookup(a->node_name, a->node_name, NULL);

    if (!node) {
        return error_set(error, "Device '%s' not found", a->node_name);
    }
    if (a->write_threshold > INT64_MAX) {
        return error_set(error, "Parameter 'write-threshold' expects an offset "
                                "below 2^63");
    }
    node->write_threshold = (int64_t)a->write_threshold;
    return true;
}

bool qmp_block_set_write_threshold(
    const struct block_set_write_threshold_args *args, GError **errp)
{
    const struct place place = {
        .device = args->node_name,
        .node = args->node_name,
    };

    return co_visit(&place, threshold_visit, args, NULL, errp);
}
