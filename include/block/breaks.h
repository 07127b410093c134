/*
 * Breakpoints: a request stops when an event happens (see enum blkdebug_event),
 * and goes on when somebody says so.
 *
 * They are kept by blkdebug nodes; who sets one names any node above. Each has
 * a tag, which need not be unique, and stops one request. On the graph's loop.
 */
#ifndef VARVE_BLOCK_BREAKS_H
#define VARVE_BLOCK_BREAKS_H

#include <glib.h>
#include <stdbool.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/types.h"
#include "qapi/types.h"

struct node;

/* Hears that a request was stopped, or goes on. */
typedef void breaks_told_fn(void *opaque, const char *tag, bool stopped);

/* ---- for drivers ---- */

LIST_HEAD(breakpoint_list, breakpoint);
TAILQ_HEAD(stopped_list, stopped);
LIST_HEAD(break_waiter_list, break_waiter);

/* Starts with breaks_init(), ends with breaks_free(), when no request is in
 * flight any more. */
struct breaks {
    struct breakpoint_list points;
    struct stopped_list stopped;
    struct break_waiter_list waiters;
};
void breaks_init(struct breaks *b);
void breaks_free(struct breaks *b);
/* The event happens in the caller's request: suspends while it is stopped. */
void co_breaks_hit(struct breaks *b, enum blkdebug_event event);

/* ---- for users: node is at or above the one that keeps them ---- */

/* 0; -ENOTSUP if nobody below does, -ENOENT if there is no such event. told
 * (may be NULL) is called as long as the breakpoint, or a request that it
 * stopped, exists. */
int node_break_set(struct node *node, const char *event, const char *tag,
                   breaks_told_fn *told, void *opaque);
/* Removes all breakpoints of that tag and lets go on what they stopped. -ENOENT
 * if there was no breakpoint left. */
int node_break_remove(struct node *node, const char *tag);
/* Lets the oldest stopped request of that tag go on. */
int node_break_resume(struct node *node, const char *tag);
/* Until a request of that tag is stopped; -ECANCELED if the node goes, or
 * everything is let go, before. */
int co_node_break_wait(struct node *node, const char *tag);
/* Removes all of all nodes of the current loop and lets everything go on:
 * before what stopped is waited for. */
void breaks_release_all(void);

#endif
