/*
 * Where things live: on which loop, and how to get there.
 *
 * A thing is connected with others by edges; all that are connected live on one
 * loop. Any thread may ask; the answer holds as long as the asker has the
 * change lock, or is on that loop and does not suspend.
 */
#ifndef VARVE_BLOCK_PLACE_H
#define VARVE_BLOCK_PLACE_H

#include <stdbool.h>
#include "aio/coroutine.h"

struct loop;

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

/* Runs fn(opaque) on every loop that has a graph, the home first (last) of all;
 * the caller sees to it that loops stay. Suspends. */
void co_graphs_each(co_fn *fn, void *opaque, bool home_last);

#endif
