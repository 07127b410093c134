/*
 * The transaction command: several actions as one.
 *
 * All happens in one visit to the graph's loop with the change lock, and in one
 * drained section over all nodes that the actions touch: no guest write falls
 * between two of them, and nobody sees half of it. Preparing stops at the first
 * action that fails; those before it are then aborted in reverse order.
 */
#include "transaction.h"

#include "block/graph.h"
#include "block/job.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

struct transaction {
    const struct transaction_action_list *list;
    struct action *actions; /* one each */
    size_t prepared;
    GPtrArray *held; /* drained nodes */
    struct job_group *group;
};

static const struct action_ops *ops_of(const struct transaction_action *data)
{
    return &action_table[data->type];
}

static void co_hold_nodes(struct transaction *t)
{
    t->held = g_ptr_array_new();
    for (size_t i = 0; i < t->list->n; i++) {
        const struct transaction_action *data = t->list->items[i];
        struct node *node =
            ops_of(data)->touches ? ops_of(data)->touches(data) : NULL;
        if (node && !g_ptr_array_find(t->held, node, NULL)) {
            g_ptr_array_add(t->held, node_ref(node));
        }
    }
    for (guint i = 0; i < t->held->len; i++) {
        co_drain_begin(t->held->pdata[i]);
    }
}

static void co_release_nodes(struct transaction *t)
{
    for (guint i = 0; i < t->held->len; i++) {
        co_drain_end(t->held->pdata[i]);
        co_node_unref(t->held->pdata[i]);
    }
    g_ptr_array_unref(t->held);
}

static bool co_prepare_next(struct transaction *t, GError **error)
{
    struct action *a = &t->actions[t->prepared];

    a->data = t->list->items[t->prepared];
    a->group = t->group;
    if (t->group && !ops_of(a->data)->jobs) {
        return error_set(
            error,
            "Action '%s' does not support Transaction property "
            "completion-mode = %s",
            transaction_action_kind_str(a->data->type),
            action_completion_mode_str(ACTION_COMPLETION_MODE_GROUPED));
    }
    if (!ops_of(a->data)->co_prepare(a, error)) {
        return false;
    }
    t->prepared++;
    return true;
}

static bool transaction_visit(const void *opaque, void *result, GError **error)
{
    const struct transaction_args *args = opaque;
    const struct transaction_properties *p = args->properties;
    struct transaction t = {
        .list = &args->actions,
        .actions = g_new0(struct action, args->actions.n),
    };
    bool ok = true;

    if (p && p->has_completion_mode &&
        p->completion_mode == ACTION_COMPLETION_MODE_GROUPED) {
        t.group = job_group_new();
    }
    co_hold_nodes(&t);
    while (ok && t.prepared < t.list->n) {
        ok = co_prepare_next(&t, error);
    }
    for (size_t i = 0; ok && i < t.prepared; i++) {
        struct action *a = &t.actions[i];
        if (ops_of(a->data)->co_commit) {
            ops_of(a->data)->co_commit(a);
        }
    }
    while (!ok && t.prepared > 0) {
        struct action *a = &t.actions[--t.prepared];
        if (ops_of(a->data)->co_abort) {
            ops_of(a->data)->co_abort(a);
        }
    }
    co_release_nodes(&t);
    if (t.group) {
        job_group_unref(t.group);
    }
    g_free(t.actions);
    return ok;
}

bool qmp_transaction(const struct transaction_args *args, GError **errp)
{
    return co_visit_change(NULL, transaction_visit, args, NULL, errp);
}
