/*
 * Commands about exports: block-export.json.
 */
#include "block/export.h"

#include "block/backend.h"
#include "block/graph.h"
#include "block/objects.h"
#include "hw/vhost_user_blk.h"
#include "qmp/commands.h"
#include "qmp/monitor.h"
#include "qmp/visit.h"
#include "util/error.h"

static const struct export_driver *const drivers[] = {
    &vhost_user_blk_export,
};

struct add_export {
    const struct block_export_options *options;
    struct loop *iothread; /* NULL: none is wanted */
};

static bool check_visit(const void *args, void *result, GError **error)
{
    return export_check(args, error);
}

static bool add_visit(const void *args, void *result, GError **error)
{
    const struct add_export *a = args;

    for (size_t i = 0; i < G_N_ELEMENTS(drivers); i++) {
        if (drivers[i]->type == a->options->type) {
            if (co_export_add(drivers[i], a->options, a->iothread, error)) {
                return true;
            }
            co_graph_send_home();
            return false;
        }
    }
    return error_set(error, "Invalid export type");
}

bool co_monitor_add_export(const struct block_export_options *options,
                           struct loop *iothread, GError **error)
{
    const struct place place = {.node = options->node_name};
    struct add_export a = {.options = options, .iothread = iothread};

    if (!co_visit(&place, check_visit, options, NULL, error)) {
        return false;
    }
    if (options->iothread && !iothread) {
        return error_set(error, "iothread \"%s\" not found", options->iothread);
    }
    if (iothread) {
        bool fixed = options->has_fixed_iothread && options->fixed_iothread;

        if (!co_place_move(&place, iothread, fixed ? error : NULL) && fixed) {
            return false;
        }
    }
    return co_visit(&place, add_visit, &a, NULL, error);
}

bool qmp_block_export_add(const struct block_export_options *args,
                          GError **errp)
{
    /* I/O threads go with the lock only. */
    co_graph_lock(GRAPH_LOCK_CHANGE);
    bool ok = co_monitor_add_export(args, object_loop(args->iothread), errp);
    graph_unlock(GRAPH_LOCK_CHANGE);
    return ok;
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
