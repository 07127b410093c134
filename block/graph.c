/*
 * The graph of one loop: its edges, and transactional changes of them.
 *
 * A transaction keeps a log of steps. Each step is applied at once, so that the
 * next one sees it, and can be undone exactly: undoing runs backwards, so every
 * step finds the lists as it left them and puts its edge back into its old
 * place. Permissions are checked once, at commit, over the whole result.
 *
 * Invariants: an edge in the graph holds one reference to its child; between
 * two steps every root's drained state follows from where it stands
 * (graph_drain_update); no node is closed before the verdict, because the log
 * holds the references that steps gave up.
 */
#include "block/graph.h"

#include <assert.h>

#include "aio/loop.h"
#include "block/graph_int.h"
#include "util/error.h"

enum step_kind {
    STEP_ATTACH,
    STEP_DETACH,
    STEP_REPLACE,
    STEP_SET_PERM,
};

struct step {
    enum step_kind kind;
    struct edge *edge;
    struct node *old_child;      /* replace; its reference is the log's */
    struct edge *next_in_parent; /* detach: where it stood, NULL = last */
    struct edge *next_in_child;  /* detach, replace */
    unsigned old_perm, old_shared;
};

struct graph_tx {
    struct graph *graph;
    GArray *steps;
    GPtrArray *touched; /* nodes whose permissions change; referenced */
};

/* ---- the graph ---- */

static void graph_free(void *opaque)
{
    struct graph *graph = opaque;
    assert(TAILQ_EMPTY(&graph->nodes));
    assert(TAILQ_EMPTY(&graph->backends));
    assert(TAILQ_EMPTY(&graph->jobs));
    assert(!graph->drain_sections);
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
        loop_set(loop, LOOP_SLOT_GRAPH, graph, graph_free);
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

void graph_refresh_limits(struct node *node)
{
    refresh_limits(node, ++node->graph->visit);
}

/* ---- edges ---- */

/* Puts edge before next, or at the end: so that children and parents are listed
 * in the order in which they came, and undoing restores it. */
static void link_to_child(struct edge *edge, struct edge *next)
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

static void link_to_parent(struct edge *edge, struct edge *next)
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

static void unlink_edge(struct edge *edge)
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
static void undrain_detached(struct edge *edge)
{
    if (!edge->parent && edge->drained) {
        edge->drained = 0;
        edge->ops->drained_end(edge);
    }
}

static void edge_free(struct edge *edge)
{
    g_free(edge->name);
    g_free(edge);
}

static bool check_frozen(const struct edge *edge, GError **error)
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

/* ---- transactions ---- */

struct graph_tx *graph_tx_begin(void)
{
    struct graph_tx *tx = g_new0(struct graph_tx, 1);
    tx->graph = graph_current();
    tx->steps = g_array_new(false, false, sizeof(struct step));
    tx->touched = g_ptr_array_new();
    return tx;
}

static void touch(struct graph_tx *tx, struct node *node)
{
    if (!g_ptr_array_find(tx->touched, node, NULL)) {
        g_ptr_array_add(tx->touched, node_ref(node));
    }
}

static void add_step(struct graph_tx *tx, const struct step *step)
{
    g_array_append_val(tx->steps, *step);
    graph_drain_update(tx->graph);
}

static struct edge *attach(struct graph_tx *tx, struct edge *edge)
{
    node_ref(edge->child);
    link_to_child(edge, NULL);
    link_to_parent(edge, NULL);
    touch(tx, edge->parent ? edge->parent : edge->child);
    add_step(tx, &(struct step){.kind = STEP_ATTACH, .edge = edge});
    return edge;
}

struct edge *graph_tx_attach(struct graph_tx *tx, struct node *parent,
                             struct node *child, const char *name,
                             unsigned roles, GError **error)
{
    struct edge *e;
    assert(parent->graph == tx->graph);
    if (child->graph != tx->graph) {
        error_set(error, "Node '%s' and node '%s' run in different threads",
                  parent->name, child->name);
        return NULL;
    }
    if (graph_reaches(child, parent)) {
        error_set(error, "Making '%s' a %s child of '%s' would create a cycle",
                  child->name, name, parent->name);
        return NULL;
    }
    LIST_FOREACH (e, &parent->children, in_children) {
        if (!strcmp(e->name, name)) {
            error_set(error, "Node '%s' already has a child '%s'", parent->name,
                      name);
            return NULL;
        }
    }
    struct edge *edge = g_new0(struct edge, 1);
    edge->parent = parent;
    edge->child = child;
    edge->name = g_strdup(name);
    edge->roles = roles;
    edge->shared = PERM_ALL;
    return attach(tx, edge);
}

struct edge *graph_tx_attach_root(struct graph_tx *tx, struct node *child,
                                  const char *name, const struct root_ops *ops,
                                  void *opaque, unsigned perm, unsigned shared,
                                  GError **error)
{
    if (child->graph != tx->graph) {
        error_set(error, "Node '%s' runs in another thread", child->name);
        return NULL;
    }
    struct edge *edge = g_new0(struct edge, 1);
    edge->child = child;
    edge->ops = ops;
    edge->opaque = opaque;
    edge->name = g_strdup(name);
    edge->perm = perm;
    edge->shared = shared;
    return attach(tx, edge);
}

bool graph_tx_detach(struct graph_tx *tx, struct edge *edge, GError **error)
{
    if (!check_frozen(edge, error)) {
        return false;
    }
    struct step step = {
        .kind = STEP_DETACH,
        .edge = edge,
        .next_in_child = LIST_NEXT(edge, in_parents),
        .next_in_parent = edge->parent ? LIST_NEXT(edge, in_children) : NULL,
    };
    touch(tx, edge->child);
    unlink_edge(edge);
    undrain_detached(edge);
    add_step(tx, &step);
    return true;
}

static void move_edge(struct edge *edge, struct node *child, struct edge *next)
{
    LIST_REMOVE(edge, in_parents);
    edge->child = child;
    link_to_child(edge, next);
}

static void replace_child(struct graph_tx *tx, struct edge *edge,
                          struct node *child)
{
    struct step step = {
        .kind = STEP_REPLACE,
        .edge = edge,
        .old_child = edge->child,
        .next_in_child = LIST_NEXT(edge, in_parents),
    };
    touch(tx, edge->child);
    touch(tx, edge->parent ? edge->parent : child);
    move_edge(edge, node_ref(child), NULL);
    add_step(tx, &step);
}

bool graph_tx_replace_child(struct graph_tx *tx, struct edge *edge,
                            struct node *child, GError **error)
{
    if (edge->child == child) {
        return true;
    }
    if (!check_frozen(edge, error)) {
        return false;
    }
    if (child->graph != tx->graph) {
        return error_set(error, "Node '%s' runs in another thread",
                         child->name);
    }
    if (edge->parent && graph_reaches(child, edge->parent)) {
        return error_set(error,
                         "Making '%s' a %s child of '%s' would create a cycle",
                         child->name, edge->name, edge->parent->name);
    }
    replace_child(tx, edge, child);
    return true;
}

bool graph_tx_replace_node(struct graph_tx *tx, struct node *from,
                           struct node *to, GError **error)
{
    g_autoptr(GPtrArray) edges = g_ptr_array_new();
    struct edge *e;
    if (from == to) {
        return true;
    }
    if (to->graph != tx->graph) {
        return error_set(error, "Node '%s' runs in another thread", to->name);
    }
    LIST_FOREACH (e, &from->parents, in_parents) {
        if (e->parent && graph_reaches(to, e->parent)) {
            continue;
        }
        if (!check_frozen(e, error)) {
            return false;
        }
        g_ptr_array_add(edges, e);
    }
    for (guint i = 0; i < edges->len; i++) {
        replace_child(tx, edges->pdata[i], to);
    }
    return true;
}

void graph_tx_set_perm(struct graph_tx *tx, struct edge *edge, unsigned perm,
                       unsigned shared)
{
    assert(!edge->parent);
    touch(tx, edge->child);
    add_step(tx, &(struct step){.kind = STEP_SET_PERM,
                                .edge = edge,
                                .old_perm = edge->perm,
                                .old_shared = edge->shared});
    edge->perm = perm;
    edge->shared = shared;
}

void graph_tx_refresh_perm(struct graph_tx *tx, struct node *node)
{
    touch(tx, node);
}

/* Returns the node whose reference the step has left over, or NULL. */
static struct node *undo_step(const struct step *step)
{
    struct edge *edge = step->edge;
    struct node *spare = NULL;
    switch (step->kind) {
    case STEP_ATTACH:
        spare = edge->child;
        unlink_edge(edge);
        undrain_detached(edge);
        edge_free(edge);
        break;
    case STEP_DETACH:
        link_to_child(edge, step->next_in_child);
        link_to_parent(edge, step->next_in_parent);
        break;
    case STEP_REPLACE:
        spare = edge->child;
        move_edge(edge, step->old_child, step->next_in_child);
        break;
    case STEP_SET_PERM:
        edge->perm = step->old_perm;
        edge->shared = step->old_shared;
        break;
    }
    return spare;
}

static struct node *keep_step(const struct step *step)
{
    struct node *spare = NULL;
    if (step->kind == STEP_DETACH) {
        spare = step->edge->child;
        edge_free(step->edge);
    } else if (step->kind == STEP_REPLACE) {
        spare = step->old_child;
    }
    return spare;
}

/* Frees the log and drops the references that are left over: the one place of a
 * transaction that suspends. */
static void co_tx_free(struct graph_tx *tx, GPtrArray *spare)
{
    GPtrArray *touched = tx->touched;
    g_array_unref(tx->steps);
    g_free(tx);
    for (guint i = 0; i < spare->len; i++) {
        co_node_unref(spare->pdata[i]);
    }
    for (guint i = 0; i < touched->len; i++) {
        co_node_unref(touched->pdata[i]);
    }
    g_ptr_array_unref(spare);
    g_ptr_array_unref(touched);
}

static void add_spare(GPtrArray *spare, struct node *node)
{
    if (node) {
        g_ptr_array_add(spare, node);
    }
}

void co_graph_tx_abort(struct graph_tx *tx)
{
    GPtrArray *spare = g_ptr_array_new();
    for (guint i = tx->steps->len; i > 0; i--) {
        add_spare(spare,
                  undo_step(&g_array_index(tx->steps, struct step, i - 1)));
        graph_drain_update(tx->graph);
    }
    co_tx_free(tx, spare);
}

static void co_tx_keep(struct graph_tx *tx)
{
    GPtrArray *spare = g_ptr_array_new();
    for (guint i = 0; i < tx->steps->len; i++) {
        add_spare(spare, keep_step(&g_array_index(tx->steps, struct step, i)));
    }
    for (guint i = 0; i < tx->touched->len; i++) {
        graph_refresh_limits(tx->touched->pdata[i]);
    }
    co_tx_free(tx, spare);
}

bool co_graph_tx_commit(struct graph_tx *tx, GError **error)
{
    struct perm_update *update = perm_update_prepare(tx->touched, error);
    if (!update) {
        co_graph_tx_abort(tx);
        return false;
    }
    perm_update_commit(update);
    co_tx_keep(tx);
    return true;
}

void co_graph_tx_commit_forced(struct graph_tx *tx)
{
    g_autoptr(GError) error = NULL;
    struct perm_update *update = perm_update_prepare(tx->touched, &error);
    if (update) {
        perm_update_commit(update);
    } else {
        g_warning("Cannot give permissions back: %s", error->message);
    }
    co_tx_keep(tx);
}

/* ---- one-step forms ---- */

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
