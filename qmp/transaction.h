/*
 * What an action of a transaction is made of.
 */
#ifndef VARVE_QMP_TRANSACTION_H
#define VARVE_QMP_TRANSACTION_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct action;
struct dirty_bitmap;
struct hbitmap;
struct job;
struct job_group;
struct node;

/* On the graph's loop. Prepare does the work and may fail, and then has changed
 * nothing; of a prepared action exactly one of commit and abort is called:
 * after all were prepared in order of the list, before the guest goes on.
 * Actions are aborted in reverse order. NULL: nothing to do. */
struct action_ops {
    /* The node whose requests must be held meanwhile; NULL if there is none,
     * which prepare then complains about. */
    struct node *(*touches)(const struct transaction_action *data);
    bool (*co_prepare)(struct action *a, GError **error);
    void (*co_commit)(struct action *a);
    void (*co_abort)(struct action *a);
    bool jobs; /* may be part of a completion group */
};

/* By the kind's value; actions without co_prepare are not offered. */
extern const struct action_ops action_table[];

struct action {
    const struct transaction_action *data;
    struct job_group *group; /* or NULL */
    /* the undo state of its kind */
    struct dirty_bitmap *bitmap;
    struct hbitmap *backup;
    bool was_disabled;
    struct job *job;
};

#endif
