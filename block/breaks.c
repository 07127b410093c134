/*
 * The breakpoints of breaks.h.
 *
 * A request may be stopped by several at once, and goes on when all of them let
 * it go. Runs on the graph's loop; only stopped requests and those who wait for
 * one suspend.
 */
#include "block/breaks.h"

#include <errno.h>
#include <string.h>

#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"

struct breakpoint {
    enum blkdebug_event event;
    char *tag;
    breaks_told_fn *told;
    void *opaque;
    LIST_ENTRY(breakpoint) link;
};

/* A request that stands at one or more of them; on its stack. */
struct stop {
    unsigned left;
    struct co_queue queue;
};

struct stopped {
    struct breakpoint *point;
    struct stop *stop;
    TAILQ_ENTRY(stopped) link;
};

/* On the stack of who waits. */
struct break_waiter {
    const char *tag;
    bool done;
    int ret;
    struct co_queue queue;
    LIST_ENTRY(break_waiter) link;
};

static void tell(const struct breakpoint *p, bool stopped)
{
    if (p->told) {
        p->told(p->opaque, p->tag, stopped);
    }
}

static void free_point(struct breakpoint *p)
{
    g_free(p->tag);
    g_free(p);
}

void breaks_init(struct breaks *b)
{
    LIST_INIT(&b->points);
    LIST_INIT(&b->waiters);
    TAILQ_INIT(&b->stopped);
}

static int remove_points(struct breaks *b, const char *tag)
{
    struct breakpoint *p = LIST_FIRST(&b->points);
    int n = 0;

    while (p) {
        struct breakpoint *next = LIST_NEXT(p, link);
        if (!tag || !strcmp(p->tag, tag)) {
            LIST_REMOVE(p, link);
            free_point(p);
            n++;
        }
        p = next;
    }
    return n;
}

/* Those who wait for that tag, NULL for all. */
static void wake_waiters(struct breaks *b, const char *tag, int ret)
{
    struct break_waiter *w = LIST_FIRST(&b->waiters);

    while (w) {
        struct break_waiter *next = LIST_NEXT(w, link);
        if (!tag || !strcmp(w->tag, tag)) {
            LIST_REMOVE(w, link);
            w->done = true;
            w->ret = ret;
            co_queue_wake_all(&w->queue);
        }
        w = next;
    }
}

void breaks_free(struct breaks *b)
{
    wake_waiters(b, NULL, -ECANCELED);
    g_assert(TAILQ_EMPTY(&b->stopped));
    remove_points(b, NULL);
}

/* ---- stopping ---- */

static void stop_at(struct breaks *b, struct breakpoint *p, struct stop *stop)
{
    struct stopped *s = g_new(struct stopped, 1);

    *s = (struct stopped){.point = p, .stop = stop};
    LIST_REMOVE(p, link); /* it stops one request */
    TAILQ_INSERT_TAIL(&b->stopped, s, link);
    stop->left++;
    tell(p, true);
    wake_waiters(b, p->tag, 0);
}

void co_breaks_hit(struct breaks *b, enum blkdebug_event event)
{
    struct breakpoint *p = LIST_FIRST(&b->points);
    struct stop stop = {0};

    while (p) {
        struct breakpoint *next = LIST_NEXT(p, link);
        if (p->event == event) {
            stop_at(b, p, &stop);
        }
        p = next;
    }
    while (stop.left) {
        co_queue_wait(&stop.queue);
    }
}

static struct stopped *find_stopped(struct breaks *b, const char *tag)
{
    struct stopped *s;

    TAILQ_FOREACH (s, &b->stopped, link) {
        if (!tag || !strcmp(s->point->tag, tag)) {
            return s;
        }
    }
    return NULL;
}

static bool let_go(struct breaks *b, const char *tag)
{
    struct stopped *s = find_stopped(b, tag);

    if (!s) {
        return false;
    }
    TAILQ_REMOVE(&b->stopped, s, link);
    tell(s->point, false);
    free_point(s->point);
    s->stop->left--;
    co_queue_wake_all(&s->stop->queue);
    g_free(s);
    return true;
}

/* ---- by node ---- */

static struct breaks *breaks_below(struct node *node)
{
    while (node && !node->driver->breaks) {
        node = node->file ? node->file->child : NULL;
    }
    return node ? node->driver->breaks(node) : NULL;
}

int node_break_set(struct node *node, const char *event, const char *tag,
                   breaks_told_fn *told, void *opaque)
{
    struct breaks *b = breaks_below(node);
    enum blkdebug_event which;

    if (!b) {
        return -ENOTSUP;
    }
    if (!blkdebug_event_parse(event, &which)) {
        return -ENOENT;
    }
    struct breakpoint *p = g_new(struct breakpoint, 1);
    *p = (struct breakpoint){
        .event = which, .tag = g_strdup(tag), .told = told, .opaque = opaque};
    LIST_INSERT_HEAD(&b->points, p, link);
    return 0;
}

int node_break_remove(struct node *node, const char *tag)
{
    struct breaks *b = breaks_below(node);

    if (!b) {
        return -ENOTSUP;
    }
    int n = remove_points(b, tag);
    while (let_go(b, tag)) {
    }
    return n ? 0 : -ENOENT;
}

int node_break_resume(struct node *node, const char *tag)
{
    struct breaks *b = breaks_below(node);

    if (!b) {
        return -ENOTSUP;
    }
    return let_go(b, tag) ? 0 : -ENOENT;
}

int co_node_break_wait(struct node *node, const char *tag)
{
    struct breaks *b = breaks_below(node);

    if (!b) {
        return -ENOTSUP;
    }
    if (find_stopped(b, tag)) {
        return 0;
    }
    struct break_waiter w = {.tag = tag};
    LIST_INSERT_HEAD(&b->waiters, &w, link);
    while (!w.done) {
        co_queue_wait(&w.queue);
    }
    return w.ret;
}

void breaks_release_all(void)
{
    struct node *node;

    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        struct breaks *b = node->opened && node->driver->breaks
                               ? node->driver->breaks(node)
                               : NULL;
        if (b) {
            remove_points(b, NULL);
            wake_waiters(b, NULL, -ECANCELED);
            while (let_go(b, NULL)) {
            }
        }
    }
}
