/*
 * Hooks of a loop, and how it waits: busy-polling first, sleeping after.
 *
 * A loop with nothing to do calls its poll hooks for the present polling
 * window, and then sleeps in epoll. The window doubles when something that a
 * poll hook sees arrives within poll_max_ns, and halves down to nothing when it
 * does not pay. Invariant: hooks and mailbox are armed only while the thread
 * may sleep. A hook may be removed from within any hook. Runs on the loop's own
 * thread.
 */
#include <assert.h>
#include "aio/loop_internal.h"

/* A smaller window ends before anything can arrive. */
#define POLL_MIN_NS 4000

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
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

bool loop_poll_hooks(struct loop *loop)
{
    bool any = false;

    loop->stamp_ns = 0;
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

/* ---- waiting ---- */

static bool busy_poll(struct loop *loop, int64_t start, int64_t window)
{
    for (;;) {
        if (loop_poll_hooks(loop) || !mailbox_empty(loop)) {
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

bool loop_wait(struct loop *loop)
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
        any |= loop_poll_hooks(loop);
        adapt_polling(loop, start, any);
    }
    return loop_fd_dispatch(loop, events, n) || any;
}
