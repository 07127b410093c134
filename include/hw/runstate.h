/*
 * Whether the guest runs: the state that stop, cont and query-status show.
 *
 * One state over all loops; everything here is called on any loop that has a
 * graph. Whoever makes the guest run (devices, the in-process guest) and
 * whoever tells of it (monitors) registers a listener with its own loop. A
 * backend whose werror or rerror says `stop` stops the guest through here as
 * well.
 */
#ifndef VARVE_HW_RUNSTATE_H
#define VARVE_HW_RUNSTATE_H

#include <stdbool.h>
#include <sys/queue.h>

#include "qapi/types.h"

enum {
    RUNSTATE_MONITORS = -10, /* first to hear of a start, last of a stop */
    RUNSTATE_DEVICES = 0,
    RUNSTATE_GUESTS = 10, /* first to stop */
};

struct runstate_listener {
    /* The guest starts or stops to run. Must not suspend. */
    void (*changed)(void *opaque, bool running, enum run_state state);
    void *opaque;
    int order; /* starts ascending, stops descending */
    TAILQ_ENTRY(runstate_listener) link; /* private */
};

/* With the current loop. Does not call the listener: vm_running() tells how
 * things are. */
void runstate_listener_add(struct runstate_listener *l);
void runstate_listener_remove(struct runstate_listener *l);

/* RUN_STATE_PRELAUNCH until the first start. */
enum run_state vm_state(void);
/* What the listeners of the current loop know. */
bool vm_running(void);

/* Starts the guest: forgets the I/O status of all backends and tells listeners,
 * so that held requests are issued again. No-op while it runs. Suspends; takes
 * GRAPH_LOCK_LOOPS. */
void co_vm_start(void);
/* Stops the guest, waits for the requests in flight, and flushes all backends;
 * requests that failed meanwhile are held. state says why: PAUSED (stop),
 * IO_ERROR (werror=stop), SHUTDOWN; a guest that is stopped already keeps its
 * state. Returns 0, or the first error of a flush. Suspends; takes
 * GRAPH_LOCK_LOOPS and the change lock. */
int co_vm_stop(enum run_state state);

#endif
