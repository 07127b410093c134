/*
 * What a coroutine is made of. Private to aio/; scripts/gdb knows the names.
 */
#ifndef VARVE_AIO_COROUTINE_INTERNAL_H
#define VARVE_AIO_COROUTINE_INTERNAL_H

#include <stdbool.h>
#include "aio/context.h"
#include "aio/coroutine.h"

enum co_state {
    CO_POOLED,
    CO_SUSPENDED, /* also: created and never entered */
    CO_RUNNING,   /* or has entered one that runs */
    CO_ENDED,     /* fn returned; whoever entered it last puts it away */
};

/* Lies at the top of its own stack. */
struct coroutine {
    struct co_context ctx;
    enum co_state state;
    bool queued; /* on the loop's ready or paused list */
    struct coroutine *caller;
    struct coroutine *next; /* in the ready list, the paused list or the pool */
    struct loop *loop;
    co_fn *fn;
    void *opaque;
    void *map; /* start of the mapping, which begins with the guard */
    unsigned valgrind_id;
    struct coroutine *all_next, **all_prev; /* every stack of the loop */
};

struct co_list {
    struct coroutine *first, **last;
};

static inline void co_list_init(struct co_list *l)
{
    l->first = (struct coroutine *)0;
    l->last = &l->first;
}

static inline void co_list_append(struct co_list *l, struct coroutine *co)
{
    co->next = (struct coroutine *)0;
    *l->last = co;
    l->last = &co->next;
}

static inline struct coroutine *co_list_pop(struct co_list *l)
{
    struct coroutine *co = l->first;
    l->first = co->next;
    if (!l->first) {
        l->last = &l->first;
    }
    return co;
}

/* Stacks of one loop, in use and pooled. */
struct co_stacks {
    struct coroutine *pool;
    unsigned pooled;
    unsigned live; /* created and not ended */
    unsigned made; /* ever; picks the colour of the next */
    struct coroutine *all;
};

/* Unmaps all; nothing may be live. */
void co_stacks_free(struct co_stacks *s);

#endif
