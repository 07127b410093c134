/*
 * The inside of a loop. Private to aio/.
 */
#ifndef VARVE_AIO_LOOP_INTERNAL_H
#define VARVE_AIO_LOOP_INTERNAL_H

#include <sys/epoll.h>
#include <time.h>
#include "aio/coroutine_internal.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/timer.h"

struct timer_heap {
    struct timer **slots; /* slots[1] is due first; slots[0] is unused */
    unsigned count;
    unsigned capacity;
};

struct loop_fd;

struct loop {
    /* Used by every pass and every coroutine switch. */
    struct co_context leader; /* the thread's own stack, outside coroutines */
    struct co_list ready;
    struct co_list paused; /* become ready in the next pass */
    struct co_stacks stacks;
    struct deferred *deferred, **deferred_last;
    struct loop_hook *hooks, *hook_cursor;
    unsigned poll_hooks;
    struct timer_heap timers;
    bool in_pass;
    bool armed; /* hooks are armed and senders of mail must signal */
    bool quit;

    /* Descriptors. */
    int epoll_fd;
    struct loop_fd **fds; /* by number */
    unsigned fds_len;
    uint32_t fd_generation;
    unsigned always_ready; /* descriptors that epoll refuses: plain files */
    int64_t last_epoll_ns;

    /* Adaptive polling. */
    int64_t poll_max_ns;
    int64_t poll_ns;
    unsigned poll_credit; /* polls in vain that the window outlives */
    bool may_try;         /* to poll for longer than poll_max_ns */
    unsigned near_misses; /* sleeps a little too long, since the last trial */
    unsigned trial_after; /* so many of them */
    unsigned trial_left;  /* waits of the trial that is on */

    /* Calls on other loops: see mailbox.c. */
    unsigned calls_to_sleep, calls_asleep;

    enum loop_clock clock;
    int64_t simulated_ns;
    int64_t stamp_ns; /* of this round of work; 0 = not asked for yet */
    char *name;
    void *slots[LOOP_SLOT_COUNT];
    void (*slot_destroy[LOOP_SLOT_COUNT])(void *value);
    struct loop *all_next, **all_prev; /* for the debugger */

    /* Written by other threads, on a cache line of their own. */
    struct mail *inbox __attribute__((aligned(64)));
    int signallers; /* threads that are writing to mail_fd */
    int mail_fd;
};

/* The loop that this thread is bound to. */
extern __thread struct loop *loop_tls
    __attribute__((tls_model("initial-exec")));

/* ---- timer.c ---- */
bool timers_run_due(struct loop *loop);

/* ---- mailbox.c ---- */
void mailbox_init(struct loop *loop);
void mailbox_destroy(struct loop *loop);
/* Calls all mail that is there; true if there was any. */
bool mailbox_run(struct loop *loop);
bool mailbox_empty(struct loop *loop);
/* Announces a sleep: false if mail is there already. */
bool mailbox_prepare_sleep(struct loop *loop);
void mailbox_awake(struct loop *loop);

/* ---- loop.c, loop_wait.c ---- */
enum { LOOP_POLL_DEFAULT_NS = 32000 };
static inline bool loop_has_ready(const struct loop *loop)
{
    return loop->ready.first || loop->paused.first || loop->deferred;
}
/* Within a loop that waits for another thread. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}
void loop_flush(struct loop *loop);
/* Arms hooks and mailbox before a sleep; false, and nothing armed, if there is
 * work after all. */
bool loop_arm(struct loop *loop);
void loop_disarm(struct loop *loop);
/* ns until the next timer, 0 if due, -1 if none (or the clock stands). */
int64_t loop_timeout_ns(struct loop *loop);

static inline int64_t loop_real_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
/* Calls every poll hook; true if one made progress. */
bool loop_poll_hooks(struct loop *loop);
/* Polls, then sleeps, until something happens; true if anything did. */
bool loop_wait(struct loop *loop);

/* ---- loop_fd.c ---- */
void loop_fd_destroy_all(struct loop *loop);
enum { LOOP_FD_BATCH = 64 };
/* Waits at most timeout_ns (-1: for ever) for descriptors; returns how many of
 * events[0..LOOP_FD_BATCH) it filled. */
int loop_fd_wait(struct loop *loop, struct epoll_event *events,
                 int64_t timeout_ns);
/* Calls their handlers; true if one was called that is not an engine's. */
bool loop_fd_dispatch(struct loop *loop, const struct epoll_event *events,
                      int n);
/* An engine's descriptor: fn(opaque) (may be NULL) at each edge, so that it
 * need never be read. Does not count as an event, because the engine may have
 * seen in its poll hook what the edge was about. */
void loop_fd_set_engine(struct loop *loop, int fd, loop_fd_fn *fn,
                        void *opaque);

#endif
