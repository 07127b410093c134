/*
 * Permission arithmetic of the graph.
 *
 * An edge says what its parent needs of the child (perm) and lets others do to
 * it (shared). A node's cumulative permissions are all that some parent needs,
 * and what every parent shares; two parents conflict if one needs what the
 * other does not share. What a node asks of its children follows from its own
 * cumulative permissions and the child's roles, so an update walks the affected
 * nodes from the top down, parents before children.
 *
 * An update is prepared, checked as a whole, and committed or aborted; drivers
 * follow through perm_prepare, perm_commit and perm_abort (the file driver
 * takes its locks there). Nothing here suspends.
 */
#include <assert.h>

#include "aio/loop.h"
#include "block/graph_int.h"
#include "util/error.h"

struct edge_change {
    struct edge *edge;
    unsigned old_perm, old_shared;
};

struct node_change {
    struct node *node;
    unsigned perm, shared;
};

struct perm_update {
    GArray *edges; /* struct edge_change: what to put back on abort */
    GArray *nodes; /* struct node_change: those whose driver is prepared */
};

/* ---- messages ---- */

char *perm_names(unsigned perm)
{
    static const struct {
        unsigned perm;
        const char *name;
    } names[] = {
        {PERM_CONSISTENT_READ, "consistent read"},
        {PERM_WRITE, "write"},
        {PERM_WRITE_UNCHANGED, "write unchanged"},
        {PERM_RESIZE, "resize"},
    };
    GString *s = g_string_new(NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        if (perm & names[i].perm) {
            g_string_append_printf(s, "%s%s", s->len ? ", " : "",
                                   names[i].name);
        }
    }
    return g_string_free(s, false);
}

char *edge_describe_use(const struct edge *edge)
{
    g_autofree char *user =
        edge->parent ? g_strdup_printf("node '%s'", edge->parent->name)
                     : edge->ops->describe(edge);
    return g_strdup_printf("%s (uses node '%s' as '%s' child)", user,
                           edge->child->name, edge->name);
}

static bool report_conflict(const struct edge *needs, const struct edge *denies,
                            GError **error)
{
    g_autofree char *perms = perm_names(needs->perm & ~denies->shared);
    g_autofree char *a = edge_describe_use(needs);
    g_autofree char *b = edge_describe_use(denies);
    return error_set(error,
                     "Permission conflict on node '%s': permissions '%s' are "
                     "both required by %s and unshared by %s.",
                     needs->child->name, perms, a, b);
}

/* ---- arithmetic ---- */

static void perm_of_storage(const struct node *node, unsigned roles,
                            unsigned *perm, unsigned *shared)
{
    if (roles & ROLE_METADATA) {
        /* The format reads its metadata whoever uses the node, and may update
         * it whenever it can write at all; nobody else may. */
        *perm |= PERM_CONSISTENT_READ;
        if (!node->read_only) {
            *perm |= PERM_WRITE | PERM_RESIZE;
        }
        *shared &= ~(unsigned)PERM_WRITE;
    }
    /* The parent relies on the length. */
    *shared &= ~(unsigned)PERM_RESIZE;
    /* A write that changes nothing for the guest may well allocate here. */
    if (*perm & PERM_WRITE_UNCHANGED) {
        *perm |= PERM_WRITE;
    }
    if (*perm & PERM_WRITE) {
        *perm |= PERM_RESIZE;
    }
}

static void perm_by_roles(const struct node *node, unsigned roles,
                          unsigned parent_perm, unsigned parent_shared,
                          unsigned *perm, unsigned *shared)
{
    *perm = parent_perm;
    *shared = parent_shared | PERM_WRITE_UNCHANGED;
    if (roles & ROLE_FILTERED) {
        return;
    }
    if (roles & ROLE_COW) {
        /* It is only read. Whoever accepts that this node's data changes
         * accepts it for what shines through as well. */
        *perm &= PERM_CONSISTENT_READ;
        *shared = PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED;
        if (parent_shared & PERM_WRITE) {
            *shared |= PERM_WRITE | PERM_RESIZE;
        }
        return;
    }
    perm_of_storage(node, roles, perm, shared);
}

static void child_perm(const struct edge *e, unsigned parent_perm,
                       unsigned parent_shared, unsigned *perm, unsigned *shared)
{
    struct node *parent = e->parent;
    if (parent->driver->child_perm) {
        parent->driver->child_perm(parent, e, e->roles, parent_perm,
                                   parent_shared, perm, shared);
    } else {
        perm_by_roles(parent, e->roles, parent_perm, parent_shared, perm,
                      shared);
    }
}

/* Sums up the parents; false and *error if two of them conflict. */
static bool cumulate(const struct node *node, unsigned *perm, unsigned *shared,
                     GError **error)
{
    const struct edge *a, *b;
    *perm = 0;
    *shared = PERM_ALL;
    LIST_FOREACH (a, &node->parents, in_parents) {
        *perm |= a->perm;
        *shared &= a->shared;
    }
    if (!(*perm & ~*shared)) {
        return true;
    }
    LIST_FOREACH (a, &node->parents, in_parents) {
        LIST_FOREACH (b, &node->parents, in_parents) {
            if (a != b && (a->perm & ~b->shared)) {
                return report_conflict(a, b, error);
            }
        }
    }
    return true;
}

/* ---- the update ---- */

/* Depth first, children before parents: the reverse is the order to update. */
static void collect(struct node *node, uint64_t visit, GPtrArray *order)
{
    struct edge *e;
    node->visited = visit;
    LIST_FOREACH (e, &node->children, in_children) {
        if (e->child->visited != visit) {
            collect(e->child, visit, order);
        }
    }
    g_ptr_array_add(order, node);
}

static bool prepare_node(struct perm_update *u, struct node *node,
                         GError **error)
{
    struct edge *e;
    struct node_change c = {.node = node};
    if (!cumulate(node, &c.perm, &c.shared, error)) {
        return false;
    }
    if (node->read_only && (c.perm & (PERM_WRITE | PERM_WRITE_UNCHANGED))) {
        return node->turning_read_only
                   ? error_set(error,
                               "Read-only block node '%s' cannot support "
                               "read-write users",
                               node->name)
                   : error_set(error, "Block node is read-only");
    }
    if (c.perm != node->perm || c.shared != node->shared) {
        if (node->driver->perm_prepare &&
            !node->driver->perm_prepare(node, c.perm, c.shared, error)) {
            return false;
        }
        g_array_append_val(u->nodes, c);
    }
    LIST_FOREACH (e, &node->children, in_children) {
        struct edge_change old = {e, e->perm, e->shared};
        child_perm(e, c.perm, c.shared, &e->perm, &e->shared);
        g_array_append_val(u->edges, old);
    }
    return true;
}

struct perm_update *perm_update_prepare(GPtrArray *nodes, GError **error)
{
    g_autoptr(GPtrArray) order = g_ptr_array_new();
    struct perm_update *u = g_new0(struct perm_update, 1);
    u->edges = g_array_new(false, false, sizeof(struct edge_change));
    u->nodes = g_array_new(false, false, sizeof(struct node_change));
    uint64_t visit = ++graph_current()->visit;
    for (guint i = 0; i < nodes->len; i++) {
        struct node *node = nodes->pdata[i];
        if (node->visited != visit) {
            collect(node, visit, order);
        }
    }
    for (guint i = order->len; i > 0; i--) {
        if (!prepare_node(u, order->pdata[i - 1], error)) {
            perm_update_abort(u);
            return NULL;
        }
    }
    return u;
}

static void update_free(struct perm_update *u)
{
    g_array_unref(u->edges);
    g_array_unref(u->nodes);
    g_free(u);
}

void perm_update_commit(struct perm_update *u, GPtrArray *told)
{
    for (guint i = 0; i < u->nodes->len; i++) {
        struct node_change *c = &g_array_index(u->nodes, struct node_change, i);
        c->node->perm = c->perm;
        c->node->shared = c->shared;
        if (c->node->driver->perm_commit) {
            c->node->driver->perm_commit(c->node);
        }
        if (c->node->driver->co_perm_changed && c->node->opened) {
            g_ptr_array_add(told, node_ref(c->node));
        }
    }
    update_free(u);
}

void perm_update_abort(struct perm_update *u)
{
    for (guint i = u->nodes->len; i > 0; i--) {
        struct node *node =
            g_array_index(u->nodes, struct node_change, i - 1).node;
        if (node->driver->perm_abort) {
            node->driver->perm_abort(node);
        }
    }
    for (guint i = u->edges->len; i > 0; i--) {
        struct edge_change *c =
            &g_array_index(u->edges, struct edge_change, i - 1);
        c->edge->perm = c->old_perm;
        c->edge->shared = c->old_shared;
    }
    update_free(u);
}
