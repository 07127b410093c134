/*
 * What the files of the graph share among themselves: walks, permission
 * updates, drain accounting. Private to block/.
 */
#ifndef VARVE_BLOCK_GRAPH_INT_H
#define VARVE_BLOCK_GRAPH_INT_H

#include <glib.h>
#include <stdbool.h>
#include "block/graph.h"

/* ---- graph.c ---- */

/* True if `to` is `from` or can be reached from it downwards. */
bool graph_reaches(struct node *from, const struct node *to);
/* Recomputes the limits of node and of all above it. */
void graph_refresh_limits(struct node *node);

/* Enter edge into the lists of its child and its parent (if it has one), before
 * next or, if that is NULL, at the end. */
void edge_link_child(struct edge *edge, struct edge *next);
void edge_link_parent(struct edge *edge, struct edge *next);
void edge_unlink(struct edge *edge);
/* A root that leaves the graph leaves its drained sections as well. */
void edge_undrain(struct edge *edge);
void edge_free(struct edge *edge);
/* false and *error, which names both ends, for a frozen edge. */
bool edge_check_frozen(const struct edge *edge, GError **error);

/* ---- graph_tx.c ---- */

/* As co_graph_tx_commit(), for a change that only takes users away: if a driver
 * cannot give its permissions back, the change stays nevertheless. */
void co_graph_tx_commit_forced(struct graph_tx *tx);

/* ---- perm.c ---- */

/* A permission update that was prepared and waits for its verdict. */
struct perm_update;

/* Recomputes the permissions of the nodes and of all below them. On success the
 * edges carry the new ones and every driver is prepared; on failure nothing has
 * changed, and NULL and *error. */
struct perm_update *perm_update_prepare(GPtrArray *nodes, GError **error);
/* Either one ends the update and frees it. Nodes whose driver has a
 * co_perm_changed are added to `told`, with a reference. */
void perm_update_commit(struct perm_update *u, GPtrArray *told);
void perm_update_abort(struct perm_update *u);

/* What an edge is for people: "node 'fmt' (uses node 'f' as 'file' child)". */
char *edge_describe_use(const struct edge *edge);
/* "consistent read, write"; caller frees. */
char *perm_names(unsigned perm);

/* ---- drain.c ---- */

/* After an edge was added, removed or moved: begins and ends drained sections
 * of the roots and nodes whose count has changed by it. */
void graph_drain_update(struct graph *graph);

#endif
