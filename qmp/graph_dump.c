/*
 * x-debug-query-block-graph: vertices, edges and permissions.
 */
#include "block/backend.h"
#include "block/graph.h"
#include "block/job.h"
#include "qmp/commands.h"
#include "qmp/visit.h"

struct dump {
    struct x_dbg_block_graph *out;
    GHashTable *ids; /* vertex -> number */
};

static uint64_t dump_id(struct dump *d, const void *vertex)
{
    gpointer id = g_hash_table_lookup(d->ids, vertex);

    if (!id) {
        id = GUINT_TO_POINTER(g_hash_table_size(d->ids) + 1);
        g_hash_table_insert(d->ids, (gpointer)vertex, id);
    }
    return GPOINTER_TO_UINT(id);
}

static void dump_vertex(struct dump *d, const void *vertex,
                        enum x_dbg_block_graph_node_type type, const char *name)
{
    struct x_dbg_block_graph_node *n = g_new(struct x_dbg_block_graph_node, 1);

    *n = (struct x_dbg_block_graph_node){
        .id = dump_id(d, vertex),
        .type = type,
        .name = g_strdup(name ? name : ""),
    };
    qapi_list_append(&d->out->nodes, n);
}

static void dump_perms(struct block_permission_list *list, unsigned perm)
{
    static const struct {
        unsigned perm;
        enum block_permission name;
    } table[] = {
        {PERM_CONSISTENT_READ, BLOCK_PERMISSION_CONSISTENT_READ},
        {PERM_WRITE, BLOCK_PERMISSION_WRITE},
        {PERM_WRITE_UNCHANGED, BLOCK_PERMISSION_WRITE_UNCHANGED},
        {PERM_RESIZE, BLOCK_PERMISSION_RESIZE},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(table); i++) {
        if (perm & table[i].perm) {
            qapi_list_append(list, table[i].name);
        }
    }
}

static void dump_edge(struct dump *d, const void *parent,
                      const struct edge *edge)
{
    struct x_dbg_block_graph_edge *e = g_new0(struct x_dbg_block_graph_edge, 1);

    e->parent = dump_id(d, parent);
    e->child = dump_id(d, edge->child);
    e->name = g_strdup(edge->name);
    dump_perms(&e->perm, edge->perm);
    dump_perms(&e->shared_perm, edge->shared);
    qapi_list_append(&d->out->edges, e);
}

static bool graph_visit(const void *args, void *result, GError **error)
{
    struct graph *graph = graph_current();
    struct dump *d = result;
    struct backend *b;
    struct job *job;
    struct node *node;

    TAILQ_FOREACH (b, &graph->backends, link) {
        dump_vertex(d, b, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_BACKEND, b->name);
        if (b->root) {
            dump_edge(d, b, b->root);
        }
    }
    TAILQ_FOREACH (job, &graph->jobs, link) {
        dump_vertex(d, job, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_JOB, job->id);
        for (guint i = 0; i < job->edges->len; i++) {
            dump_edge(d, job, job->edges->pdata[i]);
        }
    }
    TAILQ_FOREACH (node, &graph->nodes, link) {
        const struct edge *edge;
        dump_vertex(d, node, X_DBG_BLOCK_GRAPH_NODE_TYPE_BLOCK_DRIVER,
                    node->name);
        LIST_FOREACH (edge, &node->children, in_children) {
            dump_edge(d, node, edge);
        }
    }
    return true;
}

struct x_dbg_block_graph *qmp_x_debug_query_block_graph(GError **errp)
{
    struct dump d = {
        .out = g_new0(struct x_dbg_block_graph, 1),
        .ids = g_hash_table_new(NULL, NULL),
    };

    co_visit_all(graph_visit, NULL, &d, 0, errp);
    g_hash_table_unref(d.ids);
    return d.out;
}
