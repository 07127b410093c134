/*
 * Timers: a binary heap of pointers a loop, ordered by deadline.
 *
 * Slots are numbered from 1, and a timer knows its own, so that cancelling and
 * moving cost a few steps. The heap's array grows and never shrinks; arming
 * allocates only when more timers are armed at once than ever before. Owner's
 * thread only.
 */
#include "aio/timer.h"

#include <assert.h>
#include <glib.h>
#include "aio/loop_internal.h"

static void place(struct timer_heap *h, unsigned slot, struct timer *t)
{
    h->slots[slot] = t;
    t->heap_slot = slot;
}

static void sift_up(struct timer_heap *h, unsigned slot, struct timer *t)
{
    while (slot > 1 && h->slots[slot / 2]->deadline > t->deadline) {
        place(h, slot, h->slots[slot / 2]);
        slot /= 2;
    }
    place(h, slot, t);
}

static void sift_down(struct timer_heap *h, unsigned slot, struct timer *t)
{
    for (;;) {
        unsigned child = slot * 2;
        if (child > h->count) {
            break;
        }
        if (child < h->count &&
            h->slots[child + 1]->deadline < h->slots[child]->deadline) {
            child++;
        }
        if (h->slots[child]->deadline >= t->deadline) {
            break;
        }
        place(h, slot, h->slots[child]);
        slot = child;
    }
    place(h, slot, t);
}

void timer_init(struct timer *t, struct loop *loop, void (*fn)(void *opaque),
                void *opaque)
{
    *t = (struct timer){.fn = fn, .opaque = opaque, .loop = loop};
}

void timer_arm(struct timer *t, int64_t ns)
{
    struct timer_heap *h = &t->loop->timers;

    assert(t->loop == loop_tls);
    timer_cancel(t);
    int64_t now = loop_now_ns(t->loop);
    if (ns < 0) {
        ns = 0;
    }
    t->deadline = ns > INT64_MAX - now ? INT64_MAX : now + ns;
    if (h->count + 1 >= h->capacity) {
        h->capacity = h->capacity ? h->capacity * 2 : 16;
        h->slots = g_renew(struct timer *, h->slots, h->capacity);
    }
    h->count++;
    sift_up(h, h->count, t);
}

void timer_cancel(struct timer *t)
{
    struct timer_heap *h = &t->loop->timers;
    unsigned slot = t->heap_slot;

    if (!slot) {
        return;
    }
    assert(t->loop == loop_tls);
    t->heap_slot = 0;
    struct timer *last = h->slots[h->count--];
    if (last == t) {
        return;
    }
    if (slot > 1 && h->slots[slot / 2]->deadline > last->deadline) {
        sift_up(h, slot, last);
    } else {
        sift_down(h, slot, last);
    }
}

bool timer_armed(const struct timer *t)
{
    return t->heap_slot != 0;
}

bool timers_run_due(struct loop *loop)
{
    struct timer_heap *h = &loop->timers;
    bool any = false;

    if (!h->count) {
        return false;
    }
    /* One reading of the clock: a timer that re-arms itself with 0 ns waits
     * for the next pass. */
    int64_t now = loop_now_ns(loop);
    unsigned bound = h->count;
    while (bound-- && h->count && h->slots[1]->deadline <= now) {
        struct timer *t = h->slots[1];
        timer_cancel(t);
        t->fn(t->opaque);
        any = true;
    }
    return any;
}

static void sleep_over(void *opaque)
{
    struct co_sleep *s = opaque;
    struct coroutine *co = s->sleeper;

    s->sleeper = NULL;
    co_wake(co);
}

void co_sleep_wait(struct co_sleep *s, int64_t ns)
{
    assert(co_inside() && !s->sleeper);
    timer_init(&s->timer, loop_tls, sleep_over, s);
    s->sleeper = co_self();
    if (ns >= 0) {
        timer_arm(&s->timer, ns);
    }
    co_yield ();
}

void co_sleep_wake(struct co_sleep *s)
{
    if (s->sleeper) {
        timer_cancel(&s->timer);
        sleep_over(s);
    }
}

void co_sleep_ns(int64_t ns)
{
    struct co_sleep s = {0};
    co_sleep_wait(&s, ns < 0 ? 0 : ns);
}
