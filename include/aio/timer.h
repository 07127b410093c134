/*
 * Timers of a loop, on its clock. Owner's thread only.
 */
#ifndef VARVE_AIO_TIMER_H
#define VARVE_AIO_TIMER_H

#include <stdbool.h>
#include <stdint.h>

struct loop;

struct timer {
    void (*fn)(void *opaque);
    void *opaque;
    struct loop *loop;  /* private from here on */
    int64_t deadline;   /* ns on the loop's clock */
    unsigned heap_slot; /* 0 = not armed */
};

void timer_init(struct timer *t, struct loop *loop, void (*fn)(void *opaque),
                void *opaque);
/* Fires once at loop_now_ns() + ns; re-arming moves it. fn runs outside of any
 * coroutine. */
void timer_arm(struct timer *t, int64_t ns);
void timer_cancel(struct timer *t);
bool timer_armed(const struct timer *t);

/* Suspends for ns nanoseconds of the current loop's clock. */
void co_sleep_ns(int64_t ns);

/* A sleep that another coroutine of the loop can end early. Zero-initialise;
 * one sleeper at a time. */
struct co_sleep {
    struct coroutine *sleeper;
    struct timer timer;
};
/* ns < 0 sleeps until woken. */
void co_sleep_wait(struct co_sleep *s, int64_t ns);
/* Ends the sleep, if anybody sleeps. Does not suspend. */
void co_sleep_wake(struct co_sleep *s);

#endif
