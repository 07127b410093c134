/*
 * The pass of an event loop.
 *
 * A pass first settles: it runs ready coroutines and deferred calls until none
 * is left, then the flush hooks, which may make more ready. Then it polls, and
 * if nothing at all happened it may wait (loop_wait.c). While polling makes
 * progress, epoll is asked only every so often, because asking costs as much as
 * a small request. Invariant: coroutines are entered by the pass outside of any
 * other. Runs on the loop's own thread.
 */
#include "aio/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <unistd.h>
#include "aio/loop_internal.h"

/* Entries a settling step runs before descriptors get a look, in case two
 * coroutines wake each other for ever. */
#define READY_BUDGET      4096
#define SETTLE_ROUNDS     16
/* The longest that descriptors wait while pollers make progress. */
#define EPOLL_INTERVAL_NS 20000
/* A round that took this long is shared by those who can: guests wait. */
#define ROUND_NS          100000

__thread struct loop *loop_tls __attribute__((tls_model("initial-exec")));

/* Every loop of the process: scripts/gdb starts here. */
static pthread_mutex_t all_loops_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *all_loops;

/* ---- life ---- */

struct loop *loop_new(const char *name, enum loop_clock clock)
{
    struct loop *loop = g_aligned_alloc0(1, sizeof(*loop), 64);

    loop->name = g_strdup(name);
    loop->clock = clock;
    loop_set_poll_max(loop, LOOP_POLL_DEFAULT_NS);
    loop->may_try = true;
    loop->deferred_last = &loop->deferred;
    co_list_init(&loop->ready);
    co_list_init(&loop->paused);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (loop->epoll_fd < 0) {
        g_error("%s: epoll_create1: %s", name, g_strerror(errno));
    }
    mailbox_init(loop);

    pthread_mutex_lock(&all_loops_lock);
    loop->all_next = all_loops;
    loop->all_prev = &all_loops;
    if (all_loops) {
        all_loops->all_prev = &loop->all_next;
    }
    all_loops = loop;
    pthread_mutex_unlock(&all_loops_lock);
    return loop;
}

void loop_free(struct loop *loop)
{
    struct loop *outer = loop_tls == loop ? NULL : loop_tls;

    assert(!loop->in_pass && !loop_has_ready(loop));
    loop_tls = loop;
    for (unsigned i = 0; i < LOOP_SLOT_COUNT; i++) {
        if (loop->slots[i] && loop->slot_destroy[i]) {
            loop->slot_destroy[i](loop->slots[i]);
        }
    }
    assert(!loop->hooks && !loop->timers.count);
    mailbox_destroy(loop);
    loop_fd_destroy_all(loop);
    co_stacks_free(&loop->stacks);
    loop_tls = outer;

    pthread_mutex_lock(&all_loops_lock);
    *loop->all_prev = loop->all_next;
    if (loop->all_next) {
        loop->all_next->all_prev = loop->all_prev;
    }
    pthread_mutex_unlock(&all_loops_lock);
    close(loop->epoll_fd);
    g_free(loop->timers.slots);
    g_free(loop->name);
    g_aligned_free(loop);
}

const char *loop_name(const struct loop *loop)
{
    return loop->name;
}

struct loop *loop_current(void)
{
    return loop_tls;
}

void loop_bind(struct loop *loop)
{
    assert(!co_self());
    loop_tls = loop;
}

void *loop_get(struct loop *loop, enum loop_slot slot)
{
    assert(loop == loop_tls);
    return loop->slots[slot];
}

void loop_set(struct loop *loop, enum loop_slot slot, void *value,
              void (*destroy)(void *value))
{
    assert(loop == loop_tls);
    loop->slots[slot] = value;
    loop->slot_destroy[slot] = destroy;
}

/* ---- clock ---- */

int64_t loop_now_ns(struct loop *loop)
{
    return loop->clock == LOOP_CLOCK_REAL ? loop_real_ns() : loop->simulated_ns;
}

int64_t loop_stamp_ns(struct loop *loop)
{
    if (!loop->stamp_ns) {
        loop->stamp_ns = loop_now_ns(loop);
    }
    return loop->stamp_ns;
}

void co_share_loop(void)
{
    if (loop_now_ns(loop_tls) - loop_stamp_ns(loop_tls) >= ROUND_NS) {
        co_pause();
    }
}

void loop_clock_advance(struct loop *loop, int64_t ns)
{
    assert(loop->clock == LOOP_CLOCK_SIMULATED && ns >= 0);
    loop->simulated_ns += ns;
    loop->stamp_ns = 0;
}

int64_t loop_timeout_ns(struct loop *loop)
{
    if (!loop->timers.count) {
        return -1;
    }
    int64_t left = loop->timers.slots[1]->deadline - loop_now_ns(loop);
    if (left <= 0) {
        return 0;
    }
    return loop->clock == LOOP_CLOCK_REAL ? left : -1;
}

/* ---- deferred calls ---- */

void loop_defer(struct loop *loop, struct deferred *d)
{
    assert(loop == loop_tls);
    if (d->queued) {
        return;
    }
    d->queued = true;
    d->next = NULL;
    *loop->deferred_last = d;
    loop->deferred_last = &d->next;
}

void loop_defer_cancel(struct loop *loop, struct deferred *d)
{
    assert(loop == loop_tls);
    if (!d->queued) {
        return;
    }
    struct deferred **p = &loop->deferred;
    while (*p != d) {
        p = &(*p)->next;
    }
    *p = d->next;
    if (!*p) {
        loop->deferred_last = p;
    }
    d->queued = false;
}

static void run_one_deferred(struct loop *loop)
{
    struct deferred *d = loop->deferred;

    loop->deferred = d->next;
    if (!loop->deferred) {
        loop->deferred_last = &loop->deferred;
    }
    d->queued = false;
    d->fn(d->opaque);
}

/* ---- the pass ---- */

static bool run_ready(struct loop *loop)
{
    unsigned budget = READY_BUDGET;
    bool any = loop->ready.first || loop->deferred;

    while (loop->ready.first && budget) {
        while (loop->ready.first && budget) {
            struct coroutine *co = co_list_pop(&loop->ready);
            co->queued = false;
            co_enter(co);
            budget--;
        }
        if (!loop->deferred) {
            break;
        }
        run_one_deferred(loop);
    }
    for (budget = READY_BUDGET; loop->deferred && budget; budget--) {
        run_one_deferred(loop);
    }
    return any;
}

static bool settle(struct loop *loop)
{
    bool any = run_ready(loop);

    loop_flush(loop);
    for (unsigned i = 0;
         i < SETTLE_ROUNDS && (loop->ready.first || loop->deferred); i++) {
        run_ready(loop);
        loop_flush(loop);
        any = true;
    }
    return any;
}

static bool unpause(struct loop *loop)
{
    if (!loop->paused.first) {
        return false;
    }
    *loop->ready.last = loop->paused.first;
    loop->ready.last = loop->paused.last;
    co_list_init(&loop->paused);
    return true;
}

static bool look_at_fds(struct loop *loop, int64_t timeout_ns)
{
    struct epoll_event events[LOOP_FD_BATCH];
    int n = loop_fd_wait(loop, events, timeout_ns);

    return loop_fd_dispatch(loop, events, n);
}

bool loop_pass(struct loop *loop, bool block)
{
    struct loop *outer = loop_tls;

    assert(!co_self() && !loop->in_pass);
    loop_tls = loop;
    loop->in_pass = true;
    loop->stamp_ns = 0;
    if (loop->armed) {
        loop_disarm(loop);
    }

    bool any = unpause(loop);
    any |= settle(loop);
    any |= loop_poll_hooks(loop);
    any |= mailbox_run(loop);
    if (!block) {
        any |= look_at_fds(loop, 0);
    } else if (!any && !loop_has_ready(loop)) {
        any = loop_wait(loop);
    } else if (loop_real_ns() - loop->last_epoll_ns >= EPOLL_INTERVAL_NS) {
        any |= look_at_fds(loop, 0);
    }
    any |= timers_run_due(loop);
    any |= mailbox_run(loop);
    any |= settle(loop);

    loop->in_pass = false;
    loop_tls = outer;
    return any;
}

void loop_run(struct loop *loop)
{
    while (!loop->quit) {
        loop_pass(loop, true);
    }
    loop->quit = false;
}

void loop_quit(struct loop *loop)
{
    assert(loop == loop_tls);
    loop->quit = true;
}

struct run_co {
    co_fn *fn;
    void *opaque;
    bool done;
};

static void run_co_entry(void *opaque)
{
    struct run_co *r = opaque;

    r->fn(r->opaque);
    r->done = true;
}

void loop_run_co(struct loop *loop, co_fn *fn, void *opaque)
{
    struct run_co r = {.fn = fn, .opaque = opaque};
    struct loop *outer = loop_tls;

    assert(!co_self());
    loop_tls = loop;
    co_start(run_co_entry, &r);
    while (!r.done) {
        loop_pass(loop, true);
    }
    loop_tls = outer;
}
