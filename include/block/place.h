/*
 * Where things live: on which loop, and how to get there.
 *
 * A thing is connected with others by edges; all that are connected live on one
 * loop. Any thread may ask; the answer holds as long as the asker has the
 * change lock, or is on that loop and does not suspend.
 */
#ifndef VARVE_BLOCK_PLACE_H
#define VARVE_BLOCK_PLACE_H

#include <glib.h>
#include <stdbool.h>
#include "aio/coroutine.h"

struct loop;
struct node;

/* What a command names; NULL: nothing of that kind. The first member that is
 * known decides. */
struct place {
    const char *device; /* a backend's name or a device's id */
    const char *node;
    const char *job;
    const char *export;
};

/* The loop on which things begin, and to which they come back when nobody has
 * another wish. Before other loops run; NULL at the end. */
void graph_set_home(struct loop *loop);
struct loop *graph_home(void);

/* False if nothing has any of these names; then *loop is the home. *loop is
 * NULL while the thing is on its way. */
bool place_find(const struct place *place, struct loop **loop);

/* ---- moving (block/move.c); with the change lock ---- */

/* Moves all that is connected with node to another loop, if everybody who holds
 * a part of it can go along; else nothing has changed, and *error names who
 * cannot. On the node's loop; from a success on the node belongs to the other.
 * Suspends. */
bool co_node_move(struct node *node, struct loop *to, GError **error);
/* The same from any loop, of what a device or a node stands for; true if there
 * is no such thing. */
bool co_place_move(const struct place *place, struct loop *to, GError **error);
/* Whether it could be moved as things are now; changes nothing. */
bool co_place_may_move(const struct place *place, struct loop *to,
                       GError **error);
/* Moves what the names (of nodes or devices; unknown ones do not matter) stand
 * for to one loop, which is then *loop. If somebody keeps them apart nothing is
 * moved, and *error says who. Suspends. */
bool co_places_join(const GPtrArray *names, struct loop **loop, GError **error);
/* Moves home what is on the current loop because of somebody who has gone, as
 * far as it can be moved. Suspends. */
void co_graph_send_home(void);

/* Runs fn(opaque) on every loop that has a graph, the home first (last) of all;
 * the caller sees to it that loops stay. Suspends. */
void co_graphs_each(co_fn *fn, void *opaque, bool home_last);

#endif
