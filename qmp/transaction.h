/*
 * What an action of a transaction is made of.
 */
#ifndef VARVE_QMP_TRANSACTION_H
#define VARVE_QMP_TRANSACTION_H

#include <glib.h>
#include <stdbool.h>
#include "block/place.h"
#include "qapi/types.h"

struct action;
struct dirty_bitmap;
struct hbitmap;
struct job;
struct job_group;
struct node;

/* On the loop of the action's place but for place and co_join. Prepare does the
 * work and may fail, and then has changed nothing; of a prepared action exactly
 * one of commit and abort is called: after all were prepared in order of the
 * list, before the guest goes on. Actions are aborted in reverse order. NULL:
 * nothing to do. */
struct action_ops {
    /* What the action is about; missing: it does not matter where it is done.
     */
    struct place (*place)(const struct transaction_action *data);
    /* Moves what the action connects to one loop; false and *error if that
     * cannot be. On any loop, before any action. */
    bool (*co_join)(const struct transaction_action *data, GError **error);
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
    struct loop *loop;
    GError *refused;   /* by co_join */
    struct node *held; /* in a drained section */
    GError **error;
    bool ok;
    /* the undo state of its kind */
    struct dirty_bitmap *bitmap;
    struct hbitmap *backup;
    bool was_disabled;
    struct job *job;
    char *snapshot; /* its id */
};

#endif
