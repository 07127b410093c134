/*
 * The locks of the control path, which span all loops.
 *
 * They are of the process and not of a graph, because what they order goes over
 * several graphs. No request ever takes one.
 */
#include "block/graph.h"

#include "aio/shared_mutex.h"

static struct co_shared_mutex locks[] = {
    [GRAPH_LOCK_LOOPS] = CO_SHARED_MUTEX_INITIALIZER,
    [GRAPH_LOCK_CHANGE] = CO_SHARED_MUTEX_INITIALIZER,
    [GRAPH_LOCK_PLACES] = CO_SHARED_MUTEX_INITIALIZER,
};

void co_graph_lock(enum graph_lock which)
{
    co_shared_mutex_lock(&locks[which]);
}

void graph_unlock(enum graph_lock which)
{
    co_shared_mutex_unlock(&locks[which]);
}
