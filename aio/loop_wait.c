/*
 * Hooks of a loop, and how it waits: busy-polling first, sleeping after.
 *
 * A loop with nothing to do calls its poll hooks for the present polling
 * window, and then sleeps in epoll. The window doubles when something that a
 * poll hook sees arrives within poll_max_ns, and halves down to nothing when it
 * does not pay; each poll that paid lets it outlive one that did not, so that a
 * thread that lost its CPU once does not give up.
 *
 * Two threads that feed one another may both fall asleep, and then each waits
 * for the other's waking, which takes longer than the work and than the window.
 * So after some sleeps that were just too long, a loop whose window nobody has
 * chosen polls for as long as such a waking takes, for some waits: enough for
 * the other side to do so, too. Until that has paid, each trial comes after
 * twice as many such sleeps as the last one.
 *
 * A loop to which nothing comes polls once and sleeps for good. Invariant:
 * hooks and mailbox are armed only while the thread may sleep. A hook may be
 * removed from within any hook. Runs on the loop's own thread.
 */
#include <assert.h>
#include "aio/loop_internal.h"

/* A smaller window ends before anything can arrive. */
#define POLL_MIN_NS 4000

/* Polls in vain that a busy loop's window outlives. */
#define CREDIT_MAX  8
/* A thread's waking. */
#define TRIAL_NS    128000
#define TRIAL_WAITS 64
#define TRIAL_FIRST 16
#define TRIAL_RARE  16384

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
    loop->may_try = false;
    loop->trial_left = 0;
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

/* Learns from a poll that made progress, begun at start. */
static void polling_paid(struct loop *loop, int64_t start)
{
    if (G_UNLIKELY(loop->trial_left)) {
        loop->trial_left--;
        if (loop_real_ns() - start > loop->poll_max_ns) {
            return;
        }
        loop->poll_ns = loop->poll_max_ns;
    }
    loop->poll_credit += loop->poll_credit < CREDIT_MAX;
    loop->trial_after = TRIAL_FIRST;
}

static void plan_trial(struct loop *loop)
{
    unsigned after = MAX(loop->trial_after, TRIAL_FIRST);

    if (++loop->near_misses >= after) {
        loop->trial_left = TRIAL_WAITS;
        loop->near_misses = 0;
        loop->trial_after = MIN(after * 2, TRIAL_RARE);
    }
}

/* Learns from a sleep that began, polling included, at start; useful: polling
 * could have seen what ended it. */
static void adapt_polling(struct loop *loop, int64_t start, bool useful)
{
    int64_t took = loop_real_ns() - start;

    loop->trial_left -= loop->trial_left > 0;
    if (useful && took <= loop->poll_max_ns) {
        loop->poll_ns =
            MIN(MAX(loop->poll_ns * 2, POLL_MIN_NS), loop->poll_max_ns);
        return;
    }
    if (loop->poll_credit) {
        loop->poll_credit--;
    } else {
        loop->poll_ns /= 2;
        if (loop->poll_ns < POLL_MIN_NS) {
            loop->poll_ns = 0;
        }
    }
    if (useful && took <= TRIAL_NS && loop->may_try && !loop->trial_left) {
        plan_trial(loop);
    }
}

static int64_t poll_window(const struct loop *loop, int64_t timeout)
{
    int64_t window = loop->trial_left ? TRIAL_NS : loop->poll_ns;

    return timeout < 0 ? window : MIN(window, timeout);
}

bool loop_wait(struct loop *loop)
{
    struct epoll_event events[LOOP_FD_BATCH];
    int64_t timeout = loop_timeout_ns(loop);
    bool may_poll = loop->poll_hooks && loop->poll_max_ns > 0;
    int64_t start = may_poll ? loop_real_ns() : 0;

    int64_t window = may_poll ? poll_window(loop, timeout) : 0;
    if (window) {
        if (busy_poll(loop, start, window)) {
            polling_paid(loop, start);
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
