/*
 * Moving what is connected from one loop to another.
 *
 * All nodes that edges connect go together, with the roots that hold them; each
 * kind of root says whether it can leave, and takes its own descriptors, timers
 * and hooks along. One root that cannot makes all of them stay.
 *
 * First devices are asked to be quiet, because a request that is half way
 * through may not wait in the drained section that comes next: its coroutine
 * belongs to the old loop for ever. Then nothing is in flight. From the moment
 * things leave until they have arrived nobody can find them; whoever looks for
 * one waits for GRAPH_LOCK_PLACES. Memory is handed over by the mail between
 * the loops. The sections end on the new loop.
 *
 * The caller holds the change lock, so that no other coroutine of the old loop
 * keeps a pointer to a node over a suspension, but for requests (which are
 * drained), jobs (which stay) and roots that say so.
 */
#include "block/place.h"

#include <assert.h>

#include "aio/directory.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "block/backend.h"
#include "block/graph_int.h"
#include "util/error.h"

struct move {
    GPtrArray *nodes;
    GPtrArray *roots; /* edges */
};

static void add(GPtrArray *array, void *item)
{
    if (!g_ptr_array_find(array, item, NULL)) {
        g_ptr_array_add(array, item);
    }
}

static void collect(struct move *m, struct node *start)
{
    m->nodes = g_ptr_array_new();
    m->roots = g_ptr_array_new();
    g_ptr_array_add(m->nodes, start);
    for (guint i = 0; i < m->nodes->len; i++) {
        struct node *node = m->nodes->pdata[i];
        struct edge *e;

        LIST_FOREACH (e, &node->children, in_children) {
            add(m->nodes, e->child);
        }
        LIST_FOREACH (e, &node->parents, in_parents) {
            add(e->parent ? m->nodes : m->roots,
                e->parent ? (void *)e->parent : (void *)e);
        }
    }
}

static void forget(struct move *m)
{
    g_ptr_array_unref(m->nodes);
    g_ptr_array_unref(m->roots);
}

static bool may_leave(const struct move *m, bool drained, GError **error)
{
    for (guint i = 0; i < m->roots->len; i++) {
        const struct edge *e = m->roots->pdata[i];

        if (!e->ops->move) {
            g_autofree char *user = e->ops->describe(e);
            return error_set(error,
                             "Node '%s' cannot move to another thread because "
                             "of %s",
                             ((struct node *)m->nodes->pdata[0])->name, user);
        }
        if (!e->ops->move->may_leave(e, drained, error)) {
            return false;
        }
    }
    return true;
}

/* ---- holding still ---- */

static bool is_leaf(const struct node *node)
{
    return LIST_EMPTY(&node->children);
}

/* Every root reaches a leaf. */
static void co_hold(const struct move *m)
{
    for (guint i = 0; i < m->roots->len; i++) {
        struct edge *e = m->roots->pdata[i];
        e->ops->move->co_quiet(e);
    }
    for (guint i = 0; i < m->nodes->len; i++) {
        if (is_leaf(m->nodes->pdata[i])) {
            co_drain_begin(m->nodes->pdata[i]);
        }
    }
}

/* Does not suspend. */
static void release(const struct move *m)
{
    for (guint i = 0; i < m->nodes->len; i++) {
        if (is_leaf(m->nodes->pdata[i])) {
            co_drain_end(m->nodes->pdata[i]);
        }
    }
    for (guint i = 0; i < m->roots->len; i++) {
        struct edge *e = m->roots->pdata[i];
        e->ops->move->resume(e);
    }
}

/* ---- the move ---- */

static void leave(const struct move *m)
{
    for (guint i = 0; i < m->roots->len; i++) {
        struct edge *e = m->roots->pdata[i];
        e->ops->move->leave(e);
    }
    for (guint i = 0; i < m->nodes->len; i++) {
        struct node *node = m->nodes->pdata[i];
        directory_leave(DIRECTORY_NODE, node->name);
        TAILQ_REMOVE(&node->graph->nodes, node, link);
        node->graph->drain_sections -= node->drain_sections;
    }
}

/* Nodes of a graph stand in order of age. */
static void enlist(struct graph *graph, struct node *node)
{
    struct node *before;

    TAILQ_FOREACH_REVERSE(before, &graph->nodes, node_list, link)
    {
        if (before->serial < node->serial) {
            TAILQ_INSERT_AFTER(&graph->nodes, before, node, link);
            return;
        }
    }
    TAILQ_INSERT_HEAD(&graph->nodes, node, link);
}

static void arrive(void *opaque)
{
    const struct move *m = opaque;
    struct graph *graph = graph_current();

    for (guint i = 0; i < m->nodes->len; i++) {
        struct node *node = m->nodes->pdata[i];
        node->graph = graph;
        node->loop = graph->loop;
        node->visited = 0; /* walks of each graph have their own numbers */
        graph->drain_sections += node->drain_sections;
        enlist(graph, node);
        directory_arrive(DIRECTORY_NODE, node->name);
    }
    for (guint i = 0; i < m->roots->len; i++) {
        struct edge *e = m->roots->pdata[i];
        e->ops->move->arrive(e);
    }
    release(m);
}

bool co_node_move(struct node *node, struct loop *to, GError **error)
{
    struct graph *from = node->graph;
    struct move m;

    assert(from == graph_current());
    if (from->loop == to) {
        return true;
    }
    collect(&m, node);
    bool ok = may_leave(&m, false, error);
    if (ok) {
        co_hold(&m);
        co_graph_lock(GRAPH_LOCK_PLACES);
        ok = may_leave(&m, true, error);
        if (ok) {
            leave(&m);
            co_call_on(to, arrive, &m);
        } else {
            release(&m);
        }
        graph_unlock(GRAPH_LOCK_PLACES);
    }
    forget(&m);
    return ok;
}

/* ---- by name ---- */

struct move_call {
    const struct place *place;
    struct loop *to;
    bool ok;
    GError **error;
};

static struct node *node_of(const struct move_call *c)
{
    return node_lookup(c->place->device, c->place->node, NULL);
}

static void co_move_from_here(void *opaque)
{
    struct move_call *c = opaque;
    struct node *node = node_of(c);

    c->ok = !node || co_node_move(node, c->to, c->error);
}

static void ask_here(void *opaque)
{
    struct move_call *c = opaque;
    struct node *node = node_of(c);
    struct move m;

    if (node) {
        collect(&m, node);
        c->ok = may_leave(&m, false, c->error);
        forget(&m);
    }
}

static bool co_call_at(const struct place *place, struct loop *to, co_fn *fn,
                       GError **error)
{
    struct move_call c = {.place = place, .to = to, .ok = true, .error = error};
    struct loop *loop;

    if (place_find(place, &loop) && loop != to) {
        co_call_on(loop, fn, &c);
    }
    return c.ok;
}

bool co_place_move(const struct place *place, struct loop *to, GError **error)
{
    return co_call_at(place, to, co_move_from_here, error);
}

bool co_place_may_move(const struct place *place, struct loop *to,
                       GError **error)
{
    return co_call_at(place, to, ask_here, error);
}

/* ---- back home ---- */

static bool somebody_asked(const struct move *m)
{
    for (guint i = 0; i < m->roots->len; i++) {
        if (backend_asks_for_loop(m->roots->pdata[i])) {
            return true;
        }
    }
    return false;
}

void co_graph_send_home(void)
{
    struct graph *graph = graph_current();
    struct loop *home = graph_home();
    g_autoptr(GPtrArray) seen = g_ptr_array_new();
    struct node *node;

    if (!home || graph->loop == home) {
        return;
    }
    /* A move suspends and changes the list: begin anew after each. */
    do {
        TAILQ_FOREACH (node, &graph->nodes, link) {
            if (!g_ptr_array_find(seen, node, NULL)) {
                break;
            }
        }
        if (node) {
            struct move m;
            collect(&m, node);
            for (guint i = 0; i < m.nodes->len; i++) {
                g_ptr_array_add(seen, m.nodes->pdata[i]);
            }
            bool asked = somebody_asked(&m);
            forget(&m);
            if (!asked) {
                co_node_move(node, home, NULL);
            }
        }
    } while (node);
}
