/*
 * Drained sections: hold new requests off a part of the graph.
 *
 * Every node counts the sections that were opened on it, and nothing else is
 * state. How deeply a node or a root is drained follows from the graph: the
 * sum of the sections of all nodes that can be reached from it downwards, each
 * once. After every change of an edge that sum is computed anew, and whoever
 * falls to or rises from zero is told. So the count stays right however the
 * graph changes while a section is open. With no section open, a change costs
 * one comparison.
 *
 * Beginning a section suspends until nothing is in flight above it, by waiting
 * on the graph's queue; whoever brings a counter to zero kicks that queue. No
 * loop is polled from here.
 */
#include <assert.h>

#include "block/graph_int.h"

/* ---- accounting ---- */

/* Adds n to node and to all above it. */
static void add_due(struct node *node, unsigned n, uint64_t visit)
{
    struct edge *e;
    node->visited = visit;
    node->drain_due += n;
    LIST_FOREACH (e, &node->parents, in_parents) {
        if (!e->parent) {
            e->drain_due += n;
        } else if (e->parent->visited != visit) {
            add_due(e->parent, n, visit);
        }
    }
}

static void compute_due(struct graph *graph)
{
    struct node *node;
    struct edge *e;
    TAILQ_FOREACH (node, &graph->nodes, link) {
        node->drain_due = graph->drain_all;
        LIST_FOREACH (e, &node->parents, in_parents) {
            e->drain_due = graph->drain_all;
        }
    }
    TAILQ_FOREACH (node, &graph->nodes, link) {
        if (node->drain_sections) {
            add_due(node, node->drain_sections, ++graph->visit);
        }
    }
}

static void apply_due_root(struct edge *e)
{
    unsigned before = e->drained;
    e->drained = e->drain_due;
    if (!before && e->drained) {
        e->ops->drained_begin(e);
    } else if (before && !e->drained) {
        e->ops->drained_end(e);
    }
}

static void apply_due_node(struct node *node)
{
    unsigned before = node->drained;
    node->drained = node->drain_due;
    if (!before && node->drained && node->driver->drain_begin) {
        node->driver->drain_begin(node);
    } else if (before && !node->drained && node->driver->drain_end) {
        node->driver->drain_end(node);
    }
}

static void update(struct graph *graph)
{
    struct node *node;
    struct edge *e;
    compute_due(graph);
    /* Ending comes last, and nodes before roots: a root that resumes may send
     * requests at once, and must meet a graph that is ready for them. */
    TAILQ_FOREACH (node, &graph->nodes, link) {
        apply_due_node(node);
    }
    TAILQ_FOREACH (node, &graph->nodes, link) {
        LIST_FOREACH (e, &node->parents, in_parents) {
            if (!e->parent) {
                apply_due_root(e);
            }
        }
    }
}

void graph_drain_kick(struct graph *graph)
{
    co_queue_wake_all(&graph->drain_waiters);
}

void graph_drain_update(struct graph *graph)
{
    if (graph->drain_sections) {
        update(graph);
        /* Whoever was waited for may have left: a node that closes is told of
         * no section, and does not kick when its last flush is over. */
        graph_drain_kick(graph);
    }
}

/* ---- sections ---- */

static bool busy_here(struct node *node)
{
    struct edge *e;
    if (node->in_flight) {
        return true;
    }
    LIST_FOREACH (e, &node->parents, in_parents) {
        if (!e->parent && e->ops->drained_poll(e)) {
            return true;
        }
    }
    return false;
}

static bool busy_above(struct node *node, uint64_t visit)
{
    struct edge *e;
    node->visited = visit;
    if (busy_here(node)) {
        return true;
    }
    LIST_FOREACH (e, &node->parents, in_parents) {
        if (e->parent && e->parent->visited != visit &&
            busy_above(e->parent, visit)) {
            return true;
        }
    }
    return false;
}

static bool busy_anywhere(const struct graph *graph)
{
    struct node *node;
    TAILQ_FOREACH (node, &graph->nodes, link) {
        if (busy_here(node)) {
            return true;
        }
    }
    return false;
}

void co_drain_begin(struct node *node)
{
    struct graph *graph = node->graph;
    assert(graph == graph_current());
    node->drain_sections++;
    graph->drain_sections++;
    update(graph);
    while (busy_above(node, ++graph->visit)) {
        co_queue_wait(&graph->drain_waiters);
    }
}

void co_drain_end(struct node *node)
{
    struct graph *graph = node->graph;
    assert(graph == graph_current());
    assert(node->drain_sections > 0);
    node->drain_sections--;
    graph->drain_sections--;
    update(graph);
}

void co_drain_all_begin(void)
{
    struct graph *graph = graph_current();
    graph->drain_all++;
    graph->drain_sections++;
    update(graph);
    while (busy_anywhere(graph)) {
        co_queue_wait(&graph->drain_waiters);
    }
}

void co_drain_all_end(void)
{
    struct graph *graph = graph_current();
    assert(graph->drain_all > 0);
    graph->drain_all--;
    graph->drain_sections--;
    update(graph);
}
