/*
 * The transaction command: several actions as one.
 *
 * Each action is carried out on the loop where its thing lives, all with the
 * change lock, and in drained sections over all nodes that the actions touch:
 * the sections are open on every loop before the first action begins, and until
 * the last has ended, so no guest write falls between two of them, and nobody
 * sees half of it. Preparing stops at the first action that fails; those before
 * it are then aborted in reverse order.
 */
#include "transaction.h"

#include "aio/mailbox.h"
#include "block/graph.h"
#include "block/job.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

struct transaction {
    struct action *actions;
    size_t n, prepared;
    struct job_group *group;
};

static const struct action_ops *ops_of(const struct action *a)
{
    return &action_table[a->data->type];
}

/* ---- where ---- */

static struct loop *loop_of(const struct action *a)
{
    struct loop *loop = graph_home();

    if (ops_of(a)->place) {
        const struct place place = ops_of(a)->place(a->data);
        place_find(&place, &loop);
    }
    return loop;
}

/* What an action connects comes together first, because nothing moves between
 * the actions; whose does not is told so when its turn comes. */
static void co_find_loops(struct transaction *t)
{
    for (size_t i = 0; i < t->n; i++) {
        struct action *a = &t->actions[i];
        if (ops_of(a)->co_join) {
            ops_of(a)->co_join(a->data, &a->refused);
        }
    }
    for (size_t i = 0; i < t->n; i++) {
        t->actions[i].loop = loop_of(&t->actions[i]);
    }
}

/* ---- steps, on the action's loop ---- */

static void co_hold_node(void *opaque)
{
    struct action *a = opaque;
    struct node *node = ops_of(a)->touches ? ops_of(a)->touches(a->data) : NULL;

    if (node) {
        a->held = node_ref(node);
        co_drain_begin(node);
    }
}

static void co_release_node(void *opaque)
{
    struct action *a = opaque;

    if (a->held) {
        co_drain_end(a->held);
        co_node_unref(a->held);
    }
}

static void co_prepare_here(void *opaque)
{
    struct action *a = opaque;

    a->ok = ops_of(a)->co_prepare(a, a->error);
}

static void co_commit_here(void *opaque)
{
    struct action *a = opaque;

    if (ops_of(a)->co_commit) {
        ops_of(a)->co_commit(a);
    }
}

static void co_abort_here(void *opaque)
{
    struct action *a = opaque;

    if (ops_of(a)->co_abort) {
        ops_of(a)->co_abort(a);
    }
}

static void co_each_action(struct transaction *t, co_fn *fn)
{
    for (size_t i = 0; i < t->n; i++) {
        co_call_on(t->actions[i].loop, fn, &t->actions[i]);
    }
}

/* ---- the whole ---- */

static bool co_prepare_next(struct transaction *t, GError **error)
{
    struct action *a = &t->actions[t->prepared];

    a->group = t->group;
    a->error = error;
    if (t->group && !ops_of(a)->jobs) {
        return error_set(
            error,
            "Action '%s' does not support Transaction property "
            "completion-mode = %s",
            transaction_action_kind_str(a->data->type),
            action_completion_mode_str(ACTION_COMPLETION_MODE_GROUPED));
    }
    if (a->refused) {
        g_propagate_error(error, g_steal_pointer(&a->refused));
        return false;
    }
    co_call_on(a->loop, co_prepare_here, a);
    t->prepared += a->ok;
    return a->ok;
}

static bool co_do_all(struct transaction *t, GError **error)
{
    bool ok = true;

    co_each_action(t, co_hold_node);
    while (ok && t->prepared < t->n) {
        ok = co_prepare_next(t, error);
    }
    if (ok) {
        co_each_action(t, co_commit_here);
    }
    while (!ok && t->prepared > 0) {
        struct action *a = &t->actions[--t->prepared];
        co_call_on(a->loop, co_abort_here, a);
    }
    co_each_action(t, co_release_node);
    return ok;
}

struct transaction_call {
    struct transaction *t;
    GError **error;
    bool ok;
};

static void co_do_all_here(void *opaque)
{
    struct transaction_call *c = opaque;

    c->ok = co_do_all(c->t, c->error);
}

bool qmp_transaction(const struct transaction_args *args, GError **errp)
{
    const struct transaction_properties *p = args->properties;
    struct transaction t = {
        .actions = g_new0(struct action, args->actions.n),
        .n = args->actions.n,
    };
    struct transaction_call c = {.t = &t, .error = errp};

    for (size_t i = 0; i < t.n; i++) {
        t.actions[i].data = args->actions.items[i];
    }
    co_graph_lock(GRAPH_LOCK_CHANGE);
    if (p && p->has_completion_mode &&
        p->completion_mode == ACTION_COMPLETION_MODE_GROUPED) {
        t.group = job_group_new();
    }
    co_find_loops(&t);
    /* With one loop this is the only crossing. */
    co_call_on(t.n ? t.actions[0].loop : graph_home(), co_do_all_here, &c);
    if (t.group) {
        job_group_unref(t.group);
    }
    graph_unlock(GRAPH_LOCK_CHANGE);
    for (size_t i = 0; i < t.n; i++) {
        g_clear_error(&t.actions[i].refused);
    }
    g_free(t.actions);
    return c.ok;
}
