/*
 * An event loop: one thread's coroutines, descriptors, timers and inbox.
 *
 * A pass runs: ready coroutines and deferred calls until none is left, the
 * flush hooks (which submit what the pass queued, so that requests of one pass
 * share a system call), the pollers, then epoll, then due timers and mail.
 * While a poller pays, the loop busy-polls for a bounded, adaptive time before
 * it sleeps. Everything here runs on the loop's own thread, but for loop_new()
 * and loop_free(), and for what aio/mailbox.h sends.
 */
#ifndef VARVE_AIO_LOOP_H
#define VARVE_AIO_LOOP_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "aio/coroutine.h"

struct loop;

enum loop_clock {
    LOOP_CLOCK_REAL,      /* CLOCK_MONOTONIC */
    LOOP_CLOCK_SIMULATED, /* moves only by loop_clock_advance() */
};

/* name is copied; it names the thread and the log lines. Aborts when the
 * kernel has no descriptors left, as GLib does without memory. */
struct loop *loop_new(const char *name, enum loop_clock clock);
/* The loop must be idle and not running. */
void loop_free(struct loop *loop);
const char *loop_name(const struct loop *loop);

/* The loop that this thread is bound to, or NULL. */
struct loop *loop_current(void);
/* Binds the calling thread to loop (NULL unbinds); loop_run() and loop_pass()
 * do so themselves for the time they run. */
void loop_bind(struct loop *loop);

/* Runs passes until loop_quit(). */
void loop_run(struct loop *loop);
void loop_quit(struct loop *loop);
/* One pass; sleeps for an event if block. True if anything ran. */
bool loop_pass(struct loop *loop, bool block);
/* Runs fn(opaque) as a coroutine and makes passes until it ended: how main()
 * and tests enter the coroutine world. Not inside a coroutine. */
void loop_run_co(struct loop *loop, co_fn *fn, void *opaque);
/* Attaches the loop to a GLib context: g_main_loop_run() then drives it. The
 * thread that iterates the context binds the loop for good (loop_bind()), and
 * then callbacks of other sources may start and enter coroutines. */
GSource *loop_attach_glib(struct loop *loop, GMainContext *context);

/* ---- clock ---- */
int64_t loop_now_ns(struct loop *loop);
/* The same, but read at most once in a round of work (what one wake-up or poll
 * brought): nearly free, and as old as the round has taken so far. */
int64_t loop_stamp_ns(struct loop *loop);
/* For work in a coroutine that may go on for long without ever waiting: lets
 * the loop serve everybody else if this round has taken long enough. May
 * suspend. */
void co_share_loop(void);
/* Simulated clock only: moves time on; timers fire in the next pass. */
void loop_clock_advance(struct loop *loop, int64_t ns);

/* ---- deferred calls ---- */
struct deferred {
    void (*fn)(void *opaque);
    void *opaque;
    struct deferred *next; /* private */
    bool queued;           /* private */
};
/* Calls d->fn once, soon, outside of any coroutine; a second call before it
 * ran does nothing. d must live until then, or be cancelled. */
void loop_defer(struct loop *loop, struct deferred *d);
void loop_defer_cancel(struct loop *loop, struct deferred *d);

/* ---- file descriptors ---- */
typedef void loop_fd_fn(void *opaque);
/* Level-triggered. NULL functions take the interest away; both NULL forgets
 * the descriptor, which must happen before it is closed. */
void loop_fd_set(struct loop *loop, int fd, loop_fd_fn *readable,
                 loop_fd_fn *writable, void *opaque);
/* Suspends until fd is readable (writable), hung up or in error. The descriptor
 * must have no handler of its own for that direction, and one waiter a
 * direction. The loop goes on knowing it: before it is closed, say
 * loop_fd_set(loop, fd, NULL, NULL, NULL). */
void co_fd_wait_readable(int fd);
void co_fd_wait_writable(int fd);

/* ---- hooks of engines and devices ---- */
struct loop_hook {
    /* Called once a pass, when nothing is ready: submit what is queued. */
    void (*flush)(void *opaque);
    /* Called while busy-polling; true if it made progress. May be NULL. */
    bool (*poll)(void *opaque);
    /* Around a sleep: true from arm() means that work arrived after all and
     * the loop must not sleep. Both may be NULL. Used to switch queue
     * notifications on for the sleep and off again. */
    bool (*arm)(void *opaque);
    void (*disarm)(void *opaque);
    void *opaque;
    struct loop_hook *next, **prev; /* private */
};
void loop_hook_add(struct loop *loop, struct loop_hook *hook);
void loop_hook_remove(struct loop *loop, struct loop_hook *hook);
/* The longest busy-poll before a sleep, in ns; 0 switches polling off. */
void loop_set_poll_max(struct loop *loop, int64_t ns);

/* ---- what hangs on a loop ---- */
enum loop_slot {
    LOOP_SLOT_LIBAIO,
    LOOP_SLOT_URING,
    LOOP_SLOT_WORKER,
    LOOP_SLOT_GRAPH,
    LOOP_SLOT_RUNSTATE,
    LOOP_SLOT_COUNT,
};
/* One pointer a slot; destroy (may be NULL) is called by loop_free(). */
void *loop_get(struct loop *loop, enum loop_slot slot);
void loop_set(struct loop *loop, enum loop_slot slot, void *value,
              void (*destroy)(void *value));

#endif
