/*
 * Commands about exports: block-export.json.
 */
#include "block/export.h"

#include "block/backend.h"
#include "block/graph.h"
#include "hw/vhost_user_blk.h"
#include "qmp/commands.h"
#include "qmp/monitor.h"
#include "qmp/objects.h"
#include "qmp/visit.h"
#include "util/error.h"

static const struct export_driver *const drivers[] = {
    &vhost_user_blk_export,
};

bool co_monitor_add_export(const struct block_export_options *options,
                           GError **error)
{
    bool ok = false;

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (drivers[i]->type == options->type) {
            co_graph_lock(GRAPH_LOCK_CHANGE);
            ok = co_export_add(drivers[i], options, error);
            graph_unlock(GRAPH_LOCK_CHANGE);
        }
    }
    return ok;
}

bool monitor_check_export(const struct block_export_options *options,
                          GError **error)
{
    if (!options->iothread) {
        return true;
    }
    if (!object_iothread(options->iothread, NULL)) {
        return error_set(error, "iothread \"%s\" not found", options->iothread);
    }
    /* Connected nodes share one loop, and a node does not leave it. */
    return !(options->has_fixed_iothread && options->fixed_iothread) ||
           error_set(error, "Node '%s' cannot be moved to iothread \"%s\"",
                     options->node_name, options->iothread);
}

static bool add_visit(const void *args, void *result, GError **error)
{
    return co_monitor_add_export(args, error);
}

bool qmp_block_export_add(const struct block_export_options *args,
                          GError **errp)
{
    return monitor_check_export(args, errp) &&
           co_visit(NULL, add_visit, args, NULL, errp);
}

static bool del_visit(const void *args, void *result, GError **error)
{
    const struct block_export_del_args *a = args;
    struct export *e = export_find(a->id, error);

    return e && export_remove(
                    e, a->has_mode && a->mode == BLOCK_EXPORT_REMOVE_MODE_HARD,
                    error);
}

bool qmp_block_export_del(const struct block_export_del_args *args,
                          GError **errp)
{
    const struct place place = {.export = args->id};

    return co_visit(&place, del_visit, args, NULL, errp);
}

static bool query_visit(const void *args, void *result, GError **error)
{
    struct export *e;

    TAILQ_FOREACH (e, &graph_current()->exports, link) {
        struct block_export_info *info = g_new(struct block_export_info, 1);

        *info = (struct block_export_info){
            .id = g_strdup(e->id),
            .type = e->driver->type,
            .node_name = g_strdup(e->backend->node->name),
            .shutting_down = e->shutting_down,
        };
        gather((struct gathered *)result, struct block_export_info_list, info,
               e->serial);
    }
    return true;
}

struct block_export_info_list *qmp_query_block_exports(GError **errp)
{
    struct block_export_info_list *list =
        g_new0(struct block_export_info_list, 1);

    co_visit_gather(query_visit, NULL, list, VISIT_YOUNGEST_FIRST, errp);
    return list;
}
