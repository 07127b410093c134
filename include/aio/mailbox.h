/*
 * The one way from thread to thread.
 */
#ifndef VARVE_AIO_MAILBOX_H
#define VARVE_AIO_MAILBOX_H

#include "aio/coroutine.h"

struct loop;

struct mail {
    void (*fn)(void *opaque);
    void *opaque;
    struct mail *next; /* private */
};

/* Runs mail->fn(opaque) on loop's thread, in order of posting per sender,
 * outside of any coroutine. mail belongs to the mailbox until fn is called.
 * From any thread; does not suspend, does not allocate. */
void loop_post(struct loop *loop, struct mail *mail);
/* As loop_post() with a mail that frees itself; allocates. */
void loop_post_call(struct loop *loop, void (*fn)(void *opaque), void *opaque);

/* Runs fn(opaque) as a coroutine on loop and suspends the caller until it
 * ended; memory that either side wrote is visible to the other. If loop is the
 * current one, calls fn directly. */
void co_call_on(struct loop *loop, co_fn *fn, void *opaque);

/* The same from a thread that has no loop: blocks it. */
void loop_call_blocking(struct loop *loop, co_fn *fn, void *opaque);

#endif
