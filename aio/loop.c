/*
 * The pass of an event loop, and its bounded busy-polling.
 *
 * A pass first settles: it runs ready coroutines and deferred calls until none
 * is left, then the flush hooks, which may make more ready. Then it polls, and
 * if nothing at all happened it may wait: first by calling the poll hooks for
 * the present polling window, then in epoll. The window doubles when something
 * that a poll hook sees arrives within poll_max_ns, and halves down to nothing
 * when it does not pay. While polling makes progress, epoll is asked only every
 * so often, because asking costs as much as a small request. Invariants: hooks
 * and mailbox are armed only while the thread may sleep; coroutines are entered
 * by the pass outside of any other. Runs on the loop's own thread.
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
#define POLL_DEFAULT_NS   32000
#define POLL_MIN_NS       4000

__thread struct loop *loop_tls __attribute__((tls_model("initial-exec")));

/* Every loop of the process: scripts/gdb starts here. */
static pthread_mutex_t all_loops_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *all_loops;

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
}

/* ---- life ---- */

struct loop *loop_new(const char *name, enum loop_clock clock)
{
    struct loop *loop = g_aligned_alloc0(1, sizeof(*loop), 64);

    loop->name = g_strdup(name);
    loop->clock = clock;
    loop->poll_max_ns = POLL_DEFAULT_NS;
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

void loop_clock_advance(struct loop *loop, int64_t ns)
{
    assert(loop->clock == LOOP_CLOCK_SIMULATED && ns >= 0);
    loop->simulated_ns += ns;
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

/* ---- hooks ---- */

void loop_hook_add(struct loop *loop, struct loop_hook *hook)
{
    assert(loop == loop_tls);
    hook->next = loop->hooks;
    hook->prev = &loop->hooks;
    if (loop->hooks) {
        loop->hooks->prev = &hook->next;
    }
    loop->hooks = hook;
    loop->poll_hooks += hook->poll != NULL;
}

void loop_hook_remove(struct loop *loop, struct loop_hook *hook)
{
    assert(loop == loop_tls);
    if (loop->hook_cursor == hook) {
        loop->hook_cursor = hook->next;
    }
    *hook->prev = hook->next;
    if (hook->next) {
        hook->next->prev = hook->prev;
    }
    loop->poll_hooks -= hook->poll != NULL;
}

void loop_set_poll_max(struct loop *loop, int64_t ns)
{
    loop->poll_max_ns = ns;
    if (loop->poll_ns > ns) {
        loop->poll_ns = ns;
    }
}

void loop_flush(struct loop *loop)
{
    for (struct loop_hook *h = loop->hooks; h; h = loop->hook_cursor) {
        loop->hook_cursor = h->next;
        if (h->flush) {
            h->flush(h->opaque);
        }
    }
}

static bool run_pollers(struct loop *loop)
{
    bool any = false;

    for (struct loop_hook *h = loop->hooks; h; h = loop->hook_cursor) {
        loop->hook_cursor = h->next;
        if (h->poll && h->poll(h->opaque)) {
            any = true;
        }
    }
    return any;
}

void loop_disarm(struct loop *loop)
{
    loop->armed = false;
    mailbox_awake(loop);
    for (struct loop_hook *h = loop->hooks; h; h = loop->hook_cursor) {
        loop->hook_cursor = h->next;
        if (h->disarm) {
            h->disarm(h->opaque);
        }
    }
}

bool loop_arm(struct loop *loop)
{
    bool work = false;

    /* All are armed even after one has found work: disarming is for all. */
    for (struct loop_hook *h = loop->hooks; h; h = loop->hook_cursor) {
        loop->hook_cursor = h->next;
        if (h->arm && h->arm(h->opaque)) {
            work = true;
        }
    }
    loop->armed = true;
    if (!mailbox_prepare_sleep(loop) || work || loop_has_ready(loop)) {
        loop_disarm(loop);
        return false;
    }
    return true;
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

static bool busy_poll(struct loop *loop, int64_t start, int64_t window)
{
    for (;;) {
        if (run_pollers(loop) || !mailbox_empty(loop)) {
            return true;
        }
        if (loop_real_ns() - start >= window) {
            return false;
        }
        cpu_relax();
    }
}

/* Learns from a sleep that began at start; useful: polling could have seen what
 * ended it. */
static void adapt_polling(struct loop *loop, int64_t start, bool useful)
{
    if (useful && loop_real_ns() - start <= loop->poll_max_ns) {
        loop->poll_ns =
            MIN(MAX(loop->poll_ns * 2, POLL_MIN_NS), loop->poll_max_ns);
    } else {
        loop->poll_ns /= 2;
        if (loop->poll_ns < POLL_MIN_NS) {
            loop->poll_ns = 0;
        }
    }
}

static bool look_at_fds(struct loop *loop, int64_t timeout_ns)
{
    struct epoll_event events[LOOP_FD_BATCH];
    int n = loop_fd_wait(loop, events, timeout_ns);

    return loop_fd_dispatch(loop, events, n);
}

static bool wait_for_event(struct loop *loop)
{
    struct epoll_event events[LOOP_FD_BATCH];
    int64_t timeout = loop_timeout_ns(loop);
    bool may_poll = loop->poll_hooks && loop->poll_max_ns > 0;
    int64_t start = may_poll ? loop_real_ns() : 0;

    if (may_poll && loop->poll_ns && timeout != 0) {
        int64_t window =
            timeout > 0 ? MIN(timeout, loop->poll_ns) : loop->poll_ns;
        if (busy_poll(loop, start, window)) {
            return true;
        }
        timeout = loop_timeout_ns(loop);
    }
    if (!loop_arm(loop)) {
        return true;
    }
    int n = loop_fd_wait(loop, events, timeout);
    loop_disarm(loop);
    bool any = !mailbox_empty(loop);
    if (may_poll && timeout != 0) {
        any |= run_pollers(loop);
        adapt_polling(loop, start, any);
    }
    return loop_fd_dispatch(loop, events, n) || any;
}

bool loop_pass(struct loop *loop, bool block)
{
    struct loop *outer = loop_tls;

    assert(!co_self() && !loop->in_pass);
    loop_tls = loop;
    loop->in_pass = true;
    if (loop->armed) {
        loop_disarm(loop);
    }

    bool any = unpause(loop);
    any |= settle(loop);
    any |= run_pollers(loop);
    any |= mailbox_run(loop);
    if (!block) {
        any |= look_at_fds(loop, 0);
    } else if (!any && !loop_has_ready(loop)) {
        any = wait_for_event(loop);
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
