/*
 * A fair mutex among coroutines of any loops.
 *
 * It is for control paths: whoever waits suspends, and is woken by mail. What
 * one holder wrote, the next one sees, on whichever thread it runs. It belongs
 * to a piece of work and not to a coroutine, which may have parts of that work
 * done on other loops meanwhile (co_call_on()).
 */
#ifndef VARVE_AIO_SHARED_MUTEX_H
#define VARVE_AIO_SHARED_MUTEX_H

#include <pthread.h>
#include <stdbool.h>

struct shared_waiter;

struct co_shared_mutex {
    pthread_mutex_t guard; /* of the members below, for some instructions */
    bool locked;
    struct shared_waiter *first, **last;
};

#define CO_SHARED_MUTEX_INITIALIZER        \
    {                                      \
        .guard = PTHREAD_MUTEX_INITIALIZER \
    }

/* Suspends while somebody else holds it; served in order of arrival. */
void co_shared_mutex_lock(struct co_shared_mutex *m);
/* Does not suspend. On any loop's thread. */
void co_shared_mutex_unlock(struct co_shared_mutex *m);

#endif
