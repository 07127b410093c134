/*
 * Waiting for each other inside one loop. No threads: these order coroutines,
 * and need no atomics. All may be zero-initialised; none allocates.
 */
#ifndef VARVE_AIO_COLOCK_H
#define VARVE_AIO_COLOCK_H

#include <stdbool.h>
#include "aio/coroutine.h"

struct co_waiter;

/* A queue of suspended coroutines: a condition to wait on. */
struct co_queue {
    struct co_waiter *first, **last;
};
void co_queue_wait(struct co_queue *q);
/* Wakes the first (all) of them; true if there was one. Does not suspend. */
bool co_queue_wake_one(struct co_queue *q);
bool co_queue_wake_all(struct co_queue *q);
bool co_queue_empty(const struct co_queue *q);

/* A fair mutex: handed over in order of arrival. */
struct co_mutex {
    struct coroutine *owner;
    struct co_queue waiters;
};
void co_mutex_lock(struct co_mutex *m);
void co_mutex_unlock(struct co_mutex *m);
bool co_mutex_trylock(struct co_mutex *m);

/* Many readers or one writer; a waiting writer holds new readers off. */
struct co_rwlock {
    int readers; /* -1: a writer */
    unsigned writers_waiting;
    struct co_queue read_queue, write_queue;
};
void co_rwlock_rdlock(struct co_rwlock *l);
void co_rwlock_wrlock(struct co_rwlock *l);
void co_rwlock_unlock(struct co_rwlock *l);

/* A bounded pool of tasks: at most `limit` coroutines run at once. */
struct co_pool {
    unsigned limit;
    unsigned running;
    int result; /* first negative return of a task */
    struct co_queue done;
};
typedef int co_pool_fn(void *opaque);
/* Suspends while the pool is full, then starts fn(opaque). */
void co_pool_start(struct co_pool *p, co_pool_fn *fn, void *opaque);
/* Suspends while the pool is full. */
void co_pool_wait_slot(struct co_pool *p);
/* Suspends until all ended; returns and resets p->result. */
int co_pool_wait(struct co_pool *p);

/* A counter to wait on until it falls to zero: requests in flight. */
struct co_count {
    unsigned n;
    struct co_queue zero;
};
static inline void co_count_inc(struct co_count *c)
{
    c->n++;
}
void co_count_dec(struct co_count *c);
void co_count_wait_zero(struct co_count *c);

#endif
