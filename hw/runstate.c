/*
 * Whether the guest runs.
 *
 * There is one state; each loop has its own listeners, and a flag of what they
 * were told, so that a listener that comes knows what the others of its loop
 * know. Invariant: each listener hears of starts and stops alternately. A
 * change holds the lock of the loops from its first listener to its last flush,
 * so that stop and cont from two monitors do not mix; a stop holds the change
 * lock as well while it goes over nodes and backends, because they move with
 * it. The home's listeners (monitors are there) are the first to hear of a
 * start and the last to hear of a stop. Runs on any loop that has a graph.
 */
#include "hw/runstate.h"

#include <assert.h>
#include <glib.h>

#include "aio/atomic.h"
#include "aio/loop.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/listener.h"
#include "block/place.h"

TAILQ_HEAD(listener_list, runstate_listener);

/* Of one loop; made at first use, freed with the loop. */
struct runstate {
    bool running;                   /* what listeners know */
    struct listener_list listeners; /* ascending order */
    bool stopping; /* a stop because of an I/O error is on its way */
    bool main;     /* of the home */
    struct block_listener block;
};

/* An enum run_state: read on any loop, changed with GRAPH_LOCK_LOOPS. */
static uint16_t current;

static struct runstate *runstate(void);

static void co_stop_on_error(void *opaque)
{
    runstate()->stopping = false;
    co_vm_stop(RUN_STATE_IO_ERROR);
}

/* On the loop of the backend. */
static void on_stop_request(void *opaque, const struct backend *backend)
{
    struct runstate *rs = runstate();

    if (rs->running && !rs->stopping) {
        rs->stopping = true;
        co_start(co_stop_on_error, NULL);
    }
}

static void runstate_free(void *opaque)
{
    struct runstate *rs = opaque;

    assert(TAILQ_EMPTY(&rs->listeners));
    if (rs->main) {
        block_listener_remove(&rs->block);
    }
    g_free(rs);
}

static struct runstate *runstate(void)
{
    struct loop *loop = loop_current();
    struct runstate *rs = loop_get(loop, LOOP_SLOT_RUNSTATE);

    if (rs) {
        return rs;
    }
    rs = g_new0(struct runstate, 1);
    TAILQ_INIT(&rs->listeners);
    rs->main = !graph_home() || loop == graph_home();
    if (rs->main) {
        store_release_u16(&current, RUN_STATE_PRELAUNCH);
        rs->block.stop_request = on_stop_request;
        block_listener_add(&rs->block);
    }
    rs->running = vm_state() == RUN_STATE_RUNNING;
    loop_set(loop, LOOP_SLOT_RUNSTATE, rs, runstate_free);
    graph_current(); /* changes go round by the graphs */
    return rs;
}

void runstate_listener_add(struct runstate_listener *l)
{
    struct runstate *rs = runstate();
    struct runstate_listener *other;

    TAILQ_FOREACH (other, &rs->listeners, link) {
        if (other->order > l->order) {
            TAILQ_INSERT_BEFORE(other, l, link);
            return;
        }
    }
    TAILQ_INSERT_TAIL(&rs->listeners, l, link);
}

void runstate_listener_remove(struct runstate_listener *l)
{
    TAILQ_REMOVE(&runstate()->listeners, l, link);
}

enum run_state vm_state(void)
{
    return load_acquire_u16(&current);
}

bool vm_running(void)
{
    return runstate()->running;
}

/* ---- start ---- */

static void tell_start(void *opaque)
{
    struct runstate *rs = runstate();
    struct runstate_listener *l, *next;
    struct backend *b;

    if (rs->running) {
        return; /* the loop has got its graph just now */
    }
    rs->running = true;
    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        backend_reset_io_status(b);
    }
    for (l = TAILQ_FIRST(&rs->listeners); l; l = next) {
        next = TAILQ_NEXT(l, link);
        l->changed(l->opaque, true, RUN_STATE_RUNNING);
    }
}

void co_vm_start(void)
{
    runstate();
    co_graph_lock(GRAPH_LOCK_LOOPS);
    if (vm_state() != RUN_STATE_RUNNING) {
        store_release_u16(&current, RUN_STATE_RUNNING);
        co_graphs_each(tell_start, NULL, false);
    }
    graph_unlock(GRAPH_LOCK_LOOPS);
}

/* ---- stop ---- */

static void tell_stop(void *opaque)
{
    struct runstate *rs = runstate();
    struct runstate_listener *l, *next;

    if (!rs->running) {
        return;
    }
    rs->running = false;
    for (l = TAILQ_LAST(&rs->listeners, listener_list); l; l = next) {
        next = TAILQ_PREV(l, listener_list, link);
        l->changed(l->opaque, false, vm_state());
    }
}

/* *opaque becomes the first error. */
static void co_settle_backends(void *opaque)
{
    struct backend *b, *next;
    int *ret = opaque;

    co_drain_all_begin();
    co_drain_all_end();
    b = TAILQ_FIRST(&graph_current()->backends);
    /* A reference keeps a backend in the list while its flush suspends. */
    for (b = b ? backend_ref(b) : NULL; b; b = next) {
        if (b->node) {
            int r = co_backend_flush(b);
            *ret = *ret ? *ret : r;
        }
        next = TAILQ_NEXT(b, link);
        if (next) {
            backend_ref(next);
        }
        co_backend_unref(b);
    }
}

int co_vm_stop(enum run_state state)
{
    int ret = 0;

    assert(state != RUN_STATE_RUNNING && state < RUN_STATE__COUNT);
    runstate();
    co_graph_lock(GRAPH_LOCK_LOOPS);
    if (vm_state() == RUN_STATE_RUNNING) {
        store_release_u16(&current, state);
        co_graphs_each(tell_stop, NULL, true);
    }
    co_graph_lock(GRAPH_LOCK_CHANGE);
    co_graphs_each(co_settle_backends, &ret, false);
    graph_unlock(GRAPH_LOCK_CHANGE);
    graph_unlock(GRAPH_LOCK_LOOPS);
    return ret;
}
