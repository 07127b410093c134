/*
 * A mutex that coroutines of different loops wait for.
 *
 * Waiters are records on the stacks of those who wait, as in colock.c. The lock
 * is handed over before the next holder runs. A waiter on the loop of whoever
 * unlocks is queued at once, so that with one loop the order of things is that
 * of a co_mutex; others get mail, which the end of co_yield() cannot miss,
 * because mail is read outside of coroutines.
 */
#include "aio/shared_mutex.h"

#include <assert.h>
#include <stddef.h>
#include "aio/coroutine.h"
#include "aio/loop.h"
#include "aio/mailbox.h"

struct shared_waiter {
    struct coroutine *co;
    struct mail mail;
    struct shared_waiter *next;
};

static void wake(void *opaque)
{
    co_wake(opaque);
}

void co_shared_mutex_lock(struct co_shared_mutex *m)
{
    struct shared_waiter w = {.co = co_self()};

    assert(w.co);
    pthread_mutex_lock(&m->guard);
    if (!m->locked) {
        m->locked = true;
        pthread_mutex_unlock(&m->guard);
        return;
    }
    if (!m->first) {
        m->last = &m->first;
    }
    *m->last = &w;
    m->last = &w.next;
    pthread_mutex_unlock(&m->guard);
    co_yield ();
}

void co_shared_mutex_unlock(struct co_shared_mutex *m)
{
    struct shared_waiter *w;

    pthread_mutex_lock(&m->guard);
    assert(m->locked);
    w = m->first;
    if (w) {
        m->first = w->next;
    } else {
        m->locked = false;
    }
    pthread_mutex_unlock(&m->guard);
    if (!w) {
        return;
    }
    struct loop *loop = co_loop(w->co);
    if (loop == loop_current()) {
        co_wake(w->co);
        return;
    }
    w->mail = (struct mail){.fn = wake, .opaque = w->co};
    loop_post(loop, &w->mail);
}
