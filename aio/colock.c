/*
 * Queues, locks, task pools and counters among coroutines of one loop.
 *
 * Waiters are small records on the stacks of the coroutines that wait. A lock
 * is handed to the waiter that gets it before that one runs, so nobody can slip
 * in between, and order of arrival is order of service. Runs on any loop.
 */
#include "aio/colock.h"

#include <assert.h>
#include <stddef.h>

struct co_waiter {
    struct coroutine *co;
    struct co_waiter *next;
};

/* ---- queue ---- */

void co_queue_wait(struct co_queue *q)
{
    struct co_waiter w = {.co = co_self()};

    assert(w.co);
    if (!q->first) {
        q->last = &q->first;
    }
    *q->last = &w;
    q->last = &w.next;
    co_yield ();
}

/* Takes the first waiter off, or returns NULL. */
static struct coroutine *co_queue_pop(struct co_queue *q)
{
    struct co_waiter *w = q->first;

    if (!w) {
        return NULL;
    }
    q->first = w->next;
    return w->co;
}

bool co_queue_wake_one(struct co_queue *q)
{
    struct coroutine *co = co_queue_pop(q);

    if (co) {
        co_wake(co);
    }
    return co != NULL;
}

bool co_queue_wake_all(struct co_queue *q)
{
    bool any = false;

    while (co_queue_wake_one(q)) {
        any = true;
    }
    return any;
}

bool co_queue_empty(const struct co_queue *q)
{
    return !q->first;
}

/* ---- mutex ---- */

void co_mutex_lock(struct co_mutex *m)
{
    assert(co_inside() && m->owner != co_self());
    if (m->owner) {
        co_queue_wait(&m->waiters);
        assert(m->owner == co_self());
    } else {
        m->owner = co_self();
    }
}

void co_mutex_unlock(struct co_mutex *m)
{
    assert(co_inside() && m->owner == co_self());
    m->owner = co_queue_pop(&m->waiters);
    if (m->owner) {
        co_wake(m->owner);
    }
}

bool co_mutex_trylock(struct co_mutex *m)
{
    assert(co_inside());
    if (m->owner) {
        return false;
    }
    m->owner = co_self();
    return true;
}

/* ---- readers and writers ---- */

void co_rwlock_rdlock(struct co_rwlock *l)
{
    assert(co_inside());
    if (l->readers >= 0 && !l->writers_waiting) {
        l->readers++;
    } else {
        co_queue_wait(&l->read_queue);
    }
}

void co_rwlock_wrlock(struct co_rwlock *l)
{
    assert(co_inside());
    if (l->readers == 0 && !l->writers_waiting) {
        l->readers = -1;
    } else {
        l->writers_waiting++;
        co_queue_wait(&l->write_queue);
    }
}

void co_rwlock_unlock(struct co_rwlock *l)
{
    assert(co_inside() && l->readers != 0);
    if (l->readers > 0) {
        if (--l->readers > 0) {
            return;
        }
    } else {
        /* After a writer it is the turn of the readers that it held off, and
         * after them of the next writer, so neither kind starves. */
        l->readers = 0;
        while (co_queue_wake_one(&l->read_queue)) {
            l->readers++;
        }
    }
    if (l->readers == 0 && co_queue_wake_one(&l->write_queue)) {
        l->writers_waiting--;
        l->readers = -1;
    }
}

/* ---- task pool ---- */

struct pool_task {
    struct co_pool *pool;
    co_pool_fn *fn;
    void *opaque;
};

static void co_pool_task(void *opaque)
{
    struct pool_task t = *(struct pool_task *)opaque;
    int ret = t.fn(t.opaque);

    if (ret < 0 && t.pool->result == 0) {
        t.pool->result = ret;
    }
    t.pool->running--;
    co_queue_wake_all(&t.pool->done);
}

void co_pool_wait_slot(struct co_pool *p)
{
    assert(co_inside() && p->limit > 0);
    while (p->running >= p->limit) {
        co_queue_wait(&p->done);
    }
}

void co_pool_start(struct co_pool *p, co_pool_fn *fn, void *opaque)
{
    struct pool_task t = {.pool = p, .fn = fn, .opaque = opaque};

    co_pool_wait_slot(p);
    p->running++;
    /* Entered at once, so that it copies t before this frame goes. */
    co_enter(co_create(co_pool_task, &t));
}

int co_pool_wait(struct co_pool *p)
{
    assert(co_inside());
    while (p->running) {
        co_queue_wait(&p->done);
    }
    int result = p->result;
    p->result = 0;
    return result;
}

/* ---- counter ---- */

void co_count_dec(struct co_count *c)
{
    assert(c->n > 0);
    if (--c->n == 0) {
        co_queue_wake_all(&c->zero);
    }
}

void co_count_wait_zero(struct co_count *c)
{
    assert(co_inside());
    while (c->n) {
        co_queue_wait(&c->zero);
    }
}
