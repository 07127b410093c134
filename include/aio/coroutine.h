/*
 * Stackful coroutines, pinned to the loop that made them.
 *
 * A function whose name contains co_ may suspend, and may only be called inside
 * a coroutine; the exceptions are the verbs of this header that make or resume
 * one. A coroutine runs on the thread of its loop from birth to end. Stacks are
 * pooled per loop and end in a guard page; switches tell ASan and valgrind.
 */
#ifndef VARVE_AIO_COROUTINE_H
#define VARVE_AIO_COROUTINE_H

#include <stdbool.h>

struct coroutine;
struct loop;

typedef void co_fn(void *opaque);

/* Makes a coroutine of the current loop; it runs at the first co_enter() or
 * co_wake(), and frees itself when fn returns. Any context on a loop's
 * thread. */
struct coroutine *co_create(co_fn *fn, void *opaque);

/* Runs co until it suspends or ends, then returns to the caller, which may be a
 * coroutine itself. Does not suspend the caller. co must not be running. */
void co_enter(struct coroutine *co);

/* Queues co to be entered by its loop in this pass (after what is queued
 * already). Only on the loop's own thread; each suspension takes exactly one
 * co_enter() or co_wake(). */
void co_wake(struct coroutine *co);

/* co_create() and co_wake() in one. */
void co_start(co_fn *fn, void *opaque);

/* Suspends the running coroutine until somebody enters or wakes it. */
void co_yield (void);

/* Lets everything else that is ready on this loop run first. */
void co_pause(void);

/* The running coroutine, or NULL outside of any. */
struct coroutine *co_self(void);

/* For assertions: the caller is in a coroutine. */
static inline bool co_inside(void)
{
    return co_self() != (struct coroutine *)0;
}

struct loop *co_loop(const struct coroutine *co);

#endif
