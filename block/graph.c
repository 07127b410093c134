/*
 * The graph of one loop: its edges, walks over it, and one-step changes.
 *
 * The lists of children and parents keep the order in which edges came, so
 * that queries are stable and a change that is undone leaves no trace. node->
 * file and node->backing follow the edges' roles here and nowhere else.
 */
#include "block/graph.h"

#include <assert.h>
#include <string.h>

#include "aio/directory.h"
#include "aio/loop.h"
#include "block/graph_int.h"
#include "util/error.h"

/* ---- the graph ---- */

static void graph_free(void *opaque)
{
    struct graph *graph = opaque;
    assert(TAILQ_EMPTY(&graph->nodes));
    assert(TAILQ_EMPTY(&graph->backends));
    assert(TAILQ_EMPTY(&graph->jobs));
    assert(TAILQ_EMPTY(&graph->exports));
    assert(!graph->drain_sections);
    directory_loop_leave(graph->loop);
    g_free(graph);
}

struct graph *graph_current(void)
{
    struct loop *loop = loop_current();
    assert(loop);
    struct graph *graph = loop_get(loop, LOOP_SLOT_GRAPH);
    if (!graph) {
        graph = g_new0(struct graph, 1);
        graph->loop = loop;
        TAILQ_INIT(&graph->nodes);
        TAILQ_INIT(&graph->backends);
        TAILQ_INIT(&graph->jobs);
        TAILQ_INIT(&graph->exports);
        loop_set(loop, LOOP_SLOT_GRAPH, graph, graph_free);
        directory_loop_enter(loop);
    }
    return graph;
}

static bool reaches(struct node *from, const struct node *to, uint64_t visit)
{
    struct edge *e;
    if (from == to) {
        return true;
    }
    from->visited = visit;
    LIST_FOREACH (e, &from->children, in_children) {
        if (e->child->visited != visit && reaches(e->child, to, visit)) {
            return true;
        }
    }
    return false;
}

bool graph_reaches(struct node *from, const struct node *to)
{
    return reaches(from, to, ++from->graph->visit);
}

static void refresh_limits(struct node *node, uint64_t visit)
{
    struct edge *e;
    node->visited = visit;
    if (node->opened) {
        if (node->driver->refresh_limits) {
            node->driver->refresh_limits(node);
        } else if (node_is_filter(node) && node->file) {
            node->limits = node->file->child->limits;
        }
    }
    LIST_FOREACH (e, &node->parents, in_parents) {
        if (e->parent && e->parent->visited != visit) {
            refresh_limits(e->parent, visit);
        }
    }
}

void graph_give_up(void)
{
    struct node *node;

    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        if (node->driver->give_up) {
            node->driver->give_up(node);
        }
    }
}

void graph_warn_lost(struct node *node, const char *format, ...)
{
    bool named = node->name[0] != '#';
    va_list args;

    va_start(args, format);
    g_autofree char *what = g_strdup_vprintf(format, args);
    va_end(args);
    g_warning("closing '%s': %s", named ? node->name : node->filename, what);
    node->graph->lost = true;
}

void graph_refresh_limits(struct node *node)
{
    refresh_limits(node, ++node->graph->visit);
}

void graph_limits_changed(struct node *node)
{
    graph_refresh_limits(node);
}

/* ---- edges ---- */

/* Puts edge before next, or at the end: so that children and parents are listed
 * in the order in which they came, and undoing restores it. */
void edge_link_child(struct edge *edge, struct edge *next)
{
    struct edge_list *list = &edge->child->parents;
    struct edge *last = LIST_FIRST(list);
    if (next) {
        LIST_INSERT_BEFORE(next, edge, in_parents);
    } else if (!last) {
        LIST_INSERT_HEAD(list, edge, in_parents);
    } else {
        while (LIST_NEXT(last, in_parents)) {
            last = LIST_NEXT(last, in_parents);
        }
        LIST_INSERT_AFTER(last, edge, in_parents);
    }
    if (!edge->parent && edge->ops->moved) {
        edge->ops->moved(edge);
    }
}

void edge_link_parent(struct edge *edge, struct edge *next)
{
    struct node *parent = edge->parent;
    if (!parent) {
        return;
    }
    struct edge *last = LIST_FIRST(&parent->children);
    if (next) {
        LIST_INSERT_BEFORE(next, edge, in_children);
    } else if (!last) {
        LIST_INSERT_HEAD(&parent->children, edge, in_children);
    } else {
        while (LIST_NEXT(last, in_children)) {
            last = LIST_NEXT(last, in_children);
        }
        LIST_INSERT_AFTER(last, edge, in_children);
    }
    if (edge->roles & (ROLE_PRIMARY | ROLE_FILTERED)) {
        assert(!parent->file);
        parent->file = edge;
    } else if (edge->roles & ROLE_COW) {
        assert(!parent->backing);
        parent->backing = edge;
    }
}

void edge_unlink(struct edge *edge)
{
    struct node *parent = edge->parent;
    LIST_REMOVE(edge, in_parents);
    if (parent) {
        LIST_REMOVE(edge, in_children);
        if (parent->file == edge) {
            parent->file = NULL;
        } else if (parent->backing == edge) {
            parent->backing = NULL;
        }
    }
}

/* A root that leaves the graph leaves its drained sections as well. */
void edge_undrain(struct edge *edge)
{
    if (!edge->parent && edge->drained) {
        edge->drained = 0;
        edge->ops->drained_end(edge);
    }
}

void edge_free(struct edge *edge)
{
    g_free(edge->name);
    g_free(edge);
}

bool edge_check_frozen(const struct edge *edge, GError **error)
{
    if (!edge->frozen) {
        return true;
    }
    g_autofree char *user =
        edge->parent ? g_strdup_printf("node '%s'", edge->parent->name)
                     : edge->ops->describe(edge);
    return error_set(error, "Cannot change frozen '%s' link from %s to '%s'",
                     edge->name, user, edge->child->name);
}

/* ---- one-step changes ---- */

struct edge *co_graph_attach_root(struct node *child, const char *name,
                                  const struct root_ops *ops, void *opaque,
                                  unsigned perm, unsigned shared,
                                  GError **error)
{
    struct graph_tx *tx = graph_tx_begin();
    struct edge *edge =
        graph_tx_attach_root(tx, child, name, ops, opaque, perm, shared, error);
    if (!edge) {
        co_graph_tx_abort(tx);
        return NULL;
    }
    return co_graph_tx_commit(tx, error) ? edge : NULL;
}

void co_graph_detach(struct edge *edge)
{
    struct graph_tx *tx = graph_tx_begin();
    edge->frozen = false;
    graph_tx_detach(tx, edge, NULL);
    co_graph_tx_commit_forced(tx);
}

bool co_graph_set_perm(struct edge *edge, unsigned perm, unsigned shared,
                       GError **error)
{
    struct graph_tx *tx = graph_tx_begin();
    graph_tx_set_perm(tx, edge, perm, shared);
    return co_graph_tx_commit(tx, error);
}
