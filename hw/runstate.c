/*
 * Whether the guest runs.
 *
 * One struct per loop, made at first use and freed with the loop. Invariant:
 * between two changes that listeners hear of, the state is RUNNING or not, and
 * each listener hears of them alternately. A change holds the lock from its
 * first listener to its last flush, so that stop and cont from two monitors do
 * not mix. Runs on the graph's loop.
 */
#include "hw/runstate.h"

#include <assert.h>
#include <glib.h>

#include "aio/colock.h"
#include "aio/loop.h"
#include "block/backend.h"
#include "block/graph.h"
#include "block/listener.h"

TAILQ_HEAD(listener_list, runstate_listener);

struct runstate {
    enum run_state state;
    struct listener_list listeners; /* ascending order */
    struct co_mutex lock;
    bool stopping; /* a stop because of an I/O error is on its way */
    struct block_listener block;
};

static void co_stop_on_error(void *opaque)
{
    struct runstate *rs = opaque;

    rs->stopping = false;
    co_vm_stop(RUN_STATE_IO_ERROR);
}

static void on_stop_request(void *opaque, const struct backend *backend)
{
    struct runstate *rs = opaque;

    if (rs->state == RUN_STATE_RUNNING && !rs->stopping) {
        rs->stopping = true;
        co_start(co_stop_on_error, rs);
    }
}

static void runstate_free(void *opaque)
{
    struct runstate *rs = opaque;

    assert(TAILQ_EMPTY(&rs->listeners));
    block_listener_remove(&rs->block);
    g_free(rs);
}

static struct runstate *runstate(void)
{
    struct loop *loop = loop_current();
    struct runstate *rs = loop_get(loop, LOOP_SLOT_RUNSTATE);

    if (!rs) {
        rs = g_new0(struct runstate, 1);
        rs->state = RUN_STATE_PRELAUNCH;
        TAILQ_INIT(&rs->listeners);
        rs->block.stop_request = on_stop_request;
        rs->block.opaque = rs;
        block_listener_add(&rs->block);
        loop_set(loop, LOOP_SLOT_RUNSTATE, rs, runstate_free);
    }
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
    return runstate()->state;
}

bool vm_running(void)
{
    return vm_state() == RUN_STATE_RUNNING;
}

void co_vm_start(void)
{
    struct runstate *rs = runstate();
    struct runstate_listener *l, *next;
    struct backend *b;

    co_mutex_lock(&rs->lock);
    if (rs->state != RUN_STATE_RUNNING) {
        rs->state = RUN_STATE_RUNNING;
        TAILQ_FOREACH (b, &graph_current()->backends, link) {
            backend_reset_io_status(b);
        }
        for (l = TAILQ_FIRST(&rs->listeners); l; l = next) {
            next = TAILQ_NEXT(l, link);
            l->changed(l->opaque, true, rs->state);
        }
    }
    co_mutex_unlock(&rs->lock);
}

static int co_flush_backends(void)
{
    struct backend *b = TAILQ_FIRST(&graph_current()->backends), *next;
    int ret = 0;

    /* A reference keeps a backend in the list while its flush suspends. */
    for (b = b ? backend_ref(b) : NULL; b; b = next) {
        if (b->node) {
            int r = co_backend_flush(b);
            ret = ret ? ret : r;
        }
        next = TAILQ_NEXT(b, link);
        if (next) {
            backend_ref(next);
        }
        co_backend_unref(b);
    }
    return ret;
}

int co_vm_stop(enum run_state state)
{
    struct runstate *rs = runstate();
    struct runstate_listener *l, *next;

    assert(state != RUN_STATE_RUNNING && state < RUN_STATE__COUNT);
    co_mutex_lock(&rs->lock);
    if (rs->state == RUN_STATE_RUNNING) {
        rs->state = state;
        for (l = TAILQ_LAST(&rs->listeners, listener_list); l; l = next) {
            next = TAILQ_PREV(l, listener_list, link);
            l->changed(l->opaque, false, state);
        }
    }
    co_drain_all_begin();
    co_drain_all_end();
    int ret = co_flush_backends();
    co_mutex_unlock(&rs->lock);
    return ret;
}
