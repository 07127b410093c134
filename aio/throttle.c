/*
 * Whose request goes next, over several loops.
 *
 * Locks are held for some instructions; a group's is taken before mail_lock.
 * What waits is a record on its coroutine's stack, in a queue of its member for
 * each direction. Who has the turn in a direction has a timer armed on its own
 * loop, or mail on its way there that will look after it: whoever changes what
 * the timer was set by sends mail.
 *
 * Mail may find that its member has gone to another loop, and follows it; or
 * that it has left, and frees it.
 */
#include "aio/throttle.h"

#include <assert.h>
#include <glib.h>
#include "aio/coroutine.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/throttle_internal.h"
#include "aio/timer.h"

struct waiter {
    struct coroutine *co;
    int64_t bytes;
    struct waiter *next;
};

/* The requests of a member in one direction. */
struct side {
    struct throttle_member *member;
    enum throttle_direction direction;
    struct waiter *first, **last;
    struct timer timer;
};

enum mail_state {
    MAIL_NONE,
    MAIL_SENT,
    MAIL_LEFT, /* the member is gone; if mail was sent, that frees it */
};

struct throttle_member {
    struct throttle_group *group;
    struct loop *loop; /* where its requests wait; changes with both locks */
    struct side sides[THROTTLE_DIRECTIONS];
    unsigned bypass;
    struct mail mail;
    enum mail_state mail_state; /* with mail_lock */
    TAILQ_ENTRY(throttle_member) link;
};

static pthread_mutex_t mail_lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- turns: with the lock ------------------------------------------------ */

static void mail_arrived(void *opaque);

/* Has the member's loop look at what waits there. */
static void nudge(struct throttle_member *m)
{
    pthread_mutex_lock(&mail_lock);
    if (m->mail_state == MAIL_NONE) {
        m->mail_state = MAIL_SENT;
        m->mail = (struct mail){.fn = mail_arrived, .opaque = m};
        loop_post(m->loop, &m->mail);
    }
    pthread_mutex_unlock(&mail_lock);
}

/* The next one after m with something to go, or m itself, or NULL. */
static struct throttle_member *next_member(const struct throttle_group *g,
                                           struct throttle_member *m,
                                           enum throttle_direction d)
{
    struct throttle_member *n = m;

    do {
        n = TAILQ_NEXT(n, link) ? TAILQ_NEXT(n, link)
                                : TAILQ_FIRST(&g->members);
        if (n->sides[d].first) {
            return n;
        }
    } while (n != m);
    return NULL;
}

static void enqueue(struct side *s, struct waiter *w)
{
    if (!s->first) {
        s->last = &s->first;
    }
    *s->last = w;
    s->last = &w->next;
}

/* Accounts the first request and moves it to the end of what is to be woken. */
static void let_go(struct throttle_group *g, struct side *s,
                   struct waiter ***woken)
{
    struct waiter *w = s->first;

    throttle_group_account(g, s->direction, w->bytes);
    s->first = w->next;
    w->next = NULL;
    **woken = w;
    *woken = &w->next;
}

/* ---- looking, on the loop of whoever has the turn ------------------------ */

static void wake_all(struct waiter *w)
{
    while (w) {
        struct waiter *next = w->next; /* it is on the stack of w->co */
        co_wake(w->co);
        w = next;
    }
}

/* Lets go what may, from member to member, and sees to it that the next one is
 * looked after. */
static void look(struct throttle_member *m, enum throttle_direction d)
{
    struct throttle_group *g = m->group;
    struct waiter *woken = NULL, **end = &woken;

    pthread_mutex_lock(&g->lock);
    while (g->turn[d] == m) {
        int64_t ns = throttle_group_delay(g, d);
        if (ns > 0) {
            timer_arm(&m->sides[d].timer, ns);
            break;
        }
        timer_cancel(&m->sides[d].timer);
        let_go(g, &m->sides[d], &end);
        g->turn[d] = next_member(g, m, d);
        if (g->turn[d] && g->turn[d]->loop != loop_current()) {
            nudge(g->turn[d]);
        } else if (g->turn[d]) {
            m = g->turn[d];
        }
    }
    pthread_mutex_unlock(&g->lock);
    wake_all(woken);
}

static void time_is_up(void *opaque)
{
    const struct side *s = opaque;

    look(s->member, s->direction);
}

static void mail_arrived(void *opaque)
{
    struct throttle_member *m = opaque;

    pthread_mutex_lock(&mail_lock);
    bool left = m->mail_state == MAIL_LEFT;
    bool here = m->loop == loop_current();
    if (!left && here) {
        m->mail_state = MAIL_NONE;
    } else if (!left) {
        loop_post(m->loop, &m->mail);
    }
    pthread_mutex_unlock(&mail_lock);
    if (left) {
        g_free(m);
        return;
    }
    for (int d = 0; here && d < THROTTLE_DIRECTIONS; d++) {
        look(m, d);
    }
}

void throttle_group_look_again(struct throttle_group *g)
{
    for (int d = 0; d < THROTTLE_DIRECTIONS; d++) {
        if (g->turn[d]) {
            nudge(g->turn[d]);
        }
    }
}

/* ---- members ------------------------------------------------------------- */

struct throttle_member *throttle_join(struct throttle_group *group)
{
    struct throttle_member *m = g_new0(struct throttle_member, 1);

    m->group = throttle_group_ref(group);
    for (int d = 0; d < THROTTLE_DIRECTIONS; d++) {
        m->sides[d].member = m;
        m->sides[d].direction = d;
    }
    pthread_mutex_lock(&group->lock);
    TAILQ_INSERT_TAIL(&group->members, m, link);
    pthread_mutex_unlock(&group->lock);
    return m;
}

void throttle_leave(struct throttle_member *member)
{
    struct throttle_group *g = member->group;

    pthread_mutex_lock(&g->lock);
    assert(!member->sides[THROTTLE_READ].first &&
           !member->sides[THROTTLE_WRITE].first);
    TAILQ_REMOVE(&g->members, member, link);
    pthread_mutex_unlock(&g->lock);
    throttle_group_unref(g);
    pthread_mutex_lock(&mail_lock);
    bool free_now = member->mail_state == MAIL_NONE;
    member->mail_state = MAIL_LEFT;
    pthread_mutex_unlock(&mail_lock);
    if (free_now) {
        g_free(member);
    }
}

struct throttle_group *throttle_member_group(struct throttle_member *member)
{
    return member->group;
}

/* It waits here. */
static void settle(struct throttle_member *m)
{
    if (m->loop != loop_current()) {
        pthread_mutex_lock(&mail_lock);
        m->loop = loop_current();
        pthread_mutex_unlock(&mail_lock);
    }
    for (int d = 0; d < THROTTLE_DIRECTIONS; d++) {
        struct side *s = &m->sides[d];
        if (!s->first && !timer_armed(&s->timer)) {
            timer_init(&s->timer, m->loop, time_is_up, s);
        }
    }
}

void co_throttle(struct throttle_member *member, int64_t bytes,
                 enum throttle_direction d)
{
    struct throttle_group *g = member->group;
    struct waiter w = {.co = co_self(), .bytes = bytes};
    int64_t ns = 0;

    if (!(__atomic_load_n(&g->limited, __ATOMIC_RELAXED) & (1u << d))) {
        return;
    }
    pthread_mutex_lock(&g->lock);
    if (member->bypass || (!g->turn[d] && !(ns = throttle_group_delay(g, d)))) {
        throttle_group_account(g, d, bytes);
        pthread_mutex_unlock(&g->lock);
        return;
    }
    settle(member);
    enqueue(&member->sides[d], &w);
    if (!g->turn[d]) {
        g->turn[d] = member;
        timer_arm(&member->sides[d].timer, ns);
    }
    pthread_mutex_unlock(&g->lock);
    co_yield ();
}

void throttle_bypass_begin(struct throttle_member *member)
{
    struct throttle_group *g = member->group;
    struct waiter *woken = NULL, **end = &woken;

    pthread_mutex_lock(&g->lock);
    member->bypass++;
    for (int d = 0; d < THROTTLE_DIRECTIONS; d++) {
        struct side *s = &member->sides[d];
        while (s->first) {
            let_go(g, s, &end);
        }
        if (g->turn[d] == member) {
            timer_cancel(&s->timer);
            g->turn[d] = next_member(g, member, d);
            if (g->turn[d]) {
                nudge(g->turn[d]);
            }
        }
    }
    pthread_mutex_unlock(&g->lock);
    wake_all(woken);
}

void throttle_bypass_end(struct throttle_member *member)
{
    pthread_mutex_lock(&member->group->lock);
    assert(member->bypass > 0);
    member->bypass--;
    pthread_mutex_unlock(&member->group->lock);
}
