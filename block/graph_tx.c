/*
 * Transactional changes of the graph.
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
#include <assert.h>
#include <string.h>

#include "block/graph.h"
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
    edge_link_child(edge, NULL);
    edge_link_parent(edge, NULL);
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
    if (!edge_check_frozen(edge, error)) {
        return false;
    }
    struct step step = {
        .kind = STEP_DETACH,
        .edge = edge,
        .next_in_child = LIST_NEXT(edge, in_parents),
        .next_in_parent = edge->parent ? LIST_NEXT(edge, in_children) : NULL,
    };
    touch(tx, edge->child);
    edge_unlink(edge);
    edge_undrain(edge);
    add_step(tx, &step);
    return true;
}

static void move_edge(struct edge *edge, struct node *child, struct edge *next)
{
    LIST_REMOVE(edge, in_parents);
    edge->child = child;
    edge_link_child(edge, next);
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
    if (!edge_check_frozen(edge, error)) {
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
        if (!edge_check_frozen(e, error)) {
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
        edge_unlink(edge);
        edge_undrain(edge);
        edge_free(edge);
        break;
    case STEP_DETACH:
        edge_link_child(edge, step->next_in_child);
        edge_link_parent(edge, step->next_in_parent);
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

/* Frees the log and drops the references that are left over: where a
 * transaction suspends, but for what drivers do afterwards. */
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

/* What drivers have to do that suspends. */
static void co_tell(GPtrArray *told)
{
    for (guint i = 0; i < told->len; i++) {
        struct node *node = told->pdata[i];
        node->driver->co_perm_changed(node);
        co_node_unref(node);
    }
    g_ptr_array_unref(told);
}

static void co_tx_keep(struct graph_tx *tx, GPtrArray *told)
{
    GPtrArray *spare = g_ptr_array_new();
    for (guint i = 0; i < tx->steps->len; i++) {
        add_spare(spare, keep_step(&g_array_index(tx->steps, struct step, i)));
    }
    for (guint i = 0; i < tx->touched->len; i++) {
        graph_refresh_limits(tx->touched->pdata[i]);
    }
    co_tx_free(tx, spare);
    co_tell(told);
}

bool co_graph_tx_commit(struct graph_tx *tx, GError **error)
{
    struct perm_update *update = perm_update_prepare(tx->touched, error);
    if (!update) {
        co_graph_tx_abort(tx);
        return false;
    }
    GPtrArray *told = g_ptr_array_new();
    perm_update_commit(update, told);
    co_tx_keep(tx, told);
    return true;
}

void co_graph_tx_commit_forced(struct graph_tx *tx)
{
    g_autoptr(GError) error = NULL;
    GPtrArray *told = g_ptr_array_new();
    struct perm_update *update = perm_update_prepare(tx->touched, &error);
    if (update) {
        perm_update_commit(update, told);
    } else {
        g_warning("Cannot give permissions back: %s", error->message);
    }
    co_tx_keep(tx, told);
}
