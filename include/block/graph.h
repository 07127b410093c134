/*
 * The graph of one loop: edges, permissions, transactional changes, drain.
 *
 * Changes are made inside a struct graph_tx: each step applies at once and
 * notes how to undo itself; commit checks permissions as a whole and undoes
 * everything if they do not hold. Where a step could disturb requests, the
 * caller holds a drained section over the nodes that it touches.
 */
#ifndef VARVE_BLOCK_GRAPH_H
#define VARVE_BLOCK_GRAPH_H

#include <glib.h>
#include <stdbool.h>
#include <sys/queue.h>
#include "aio/colock.h"
#include "block/node.h"

struct backend;
struct export;
struct job;
TAILQ_HEAD(node_list, node);
TAILQ_HEAD(backend_list, backend);
TAILQ_HEAD(job_list, job);
TAILQ_HEAD(export_list, export);

/* What hangs on one loop. */
struct graph {
    struct loop *loop;
    struct node_list nodes;
    struct backend_list backends;
    struct job_list jobs;
    struct export_list exports;
    struct co_queue export_waiters; /* private: an export is gone */
    struct co_queue drain_waiters;  /* private */
    unsigned drain_sections; /* private: open ones, of nodes and of all */
    unsigned drain_all;      /* private: open ones of the whole graph */
    int64_t last_ns; /* private: when a request last ended in this round */
    uint64_t visit;  /* private: number of the last graph walk */
    bool lost;       /* a node was closed, and not all that it had is stored */
};

/* The graph of the current loop; made at first use. */
struct graph *graph_current(void);
/* Warns that something of a node, which is being closed, could not be stored:
 * nobody waits for an answer any more. Sets graph->lost. */
void graph_warn_lost(struct node *node, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
/* The program ends: tells the drivers of the current loop's nodes, also of
 * those that are being opened, not to wait for anybody outside. */
void graph_give_up(void);

/* What holds over all loops. Who takes several does so in this order; none is
 * taken on the way of a request. */
enum graph_lock {
    /* The loops with graphs stay, and whether the guest runs. */
    GRAPH_LOCK_LOOPS,
    /* One graph-changing command at a time: nodes come, go, and move from loop
     * to loop only with it. */
    GRAPH_LOCK_CHANGE,
    /* Nothing is on its way from loop to loop. Held for short times. */
    GRAPH_LOCK_PLACES,
};
/* Suspends while it is taken. */
void co_graph_lock(enum graph_lock which);
void graph_unlock(enum graph_lock which);

/* ---- edges ---- */

struct edge;

/* How the holder of a root edge goes along when the node below moves to another
 * loop. Only co_quiet may suspend. */
struct root_move_ops {
    /* Lets requests that have begun come to their end, and begins no others,
     * until resume is called, on whichever loop. */
    void (*co_quiet)(struct edge *edge);
    void (*resume)(struct edge *edge);
    /* False and *error if it has to stay. Asked twice: the second time it is
     * quiet, and in a drained section. */
    bool (*may_leave)(const struct edge *edge, bool drained, GError **error);
    /* The old loop loses sight of it; the new one has it, and the nodes below
     * are there already. */
    void (*leave)(struct edge *edge);
    void (*arrive)(struct edge *edge);
};

/* The upper end of an edge that no node holds: a backend, a job, a command. */
struct root_ops {
    /* Who it is, for messages: "block device 'drive0'"; caller frees. */
    char *(*describe)(const struct edge *edge);
    /* Hold new requests off. Must not suspend; nests. */
    void (*drained_begin)(struct edge *edge);
    /* True while requests are in flight. When it turns false, the holder calls
     * graph_drain_kick(). */
    bool (*drained_poll)(struct edge *edge);
    void (*drained_end)(struct edge *edge);
    /* The child's length changed. May be NULL. Must not suspend. */
    void (*resized)(struct edge *edge);
    /* edge->child is another node now. May be NULL. Must not suspend. */
    void (*moved)(struct edge *edge);
    const struct root_move_ops *move; /* NULL: it stays on its loop */
};

struct edge {
    struct node *child;
    struct node *parent;         /* NULL for a root edge */
    const struct root_ops *ops;  /* of a root edge */
    void *opaque;                /* of a root edge */
    char *name;                  /* "file", "backing", "target", "root" */
    unsigned roles;              /* enum child_role */
    unsigned perm, shared;       /* enum perm */
    bool frozen;                 /* replacing or detaching is refused by name */
    unsigned drained, drain_due; /* private: of a root edge */
    LIST_ENTRY(edge) in_children, in_parents; /* private */
};

/* A driver has changed what its limits follow from. */
void graph_limits_changed(struct node *node);

/* ---- transactional changes ---- */

struct graph_tx;
struct graph_tx *graph_tx_begin(void);
/* Adds parent -> child, which keeps a reference of its own to the child.
 * Permissions follow from the parent's driver at commit. NULL and *error on a
 * cycle, another loop, or a name that is taken. */
struct edge *graph_tx_attach(struct graph_tx *tx, struct node *parent,
                             struct node *child, const char *name,
                             unsigned roles, GError **error);
/* Adds a root edge that needs perm and shares shared. */
struct edge *graph_tx_attach_root(struct graph_tx *tx, struct node *child,
                                  const char *name, const struct root_ops *ops,
                                  void *opaque, unsigned perm, unsigned shared,
                                  GError **error);
bool graph_tx_detach(struct graph_tx *tx, struct edge *edge, GError **error);
/* Makes edge point to child. */
bool graph_tx_replace_child(struct graph_tx *tx, struct edge *edge,
                            struct node *child, GError **error);
/* Makes all parents of `from` point to `to`, but for the edges inside the
 * subtree that starts at `to` (so that a filter can go above its own child). */
bool graph_tx_replace_node(struct graph_tx *tx, struct node *from,
                           struct node *to, GError **error);
/* Changes what a root edge needs and shares. */
void graph_tx_set_perm(struct graph_tx *tx, struct edge *edge, unsigned perm,
                       unsigned shared);
/* Recomputes the permissions of node and below at commit (its driver's answer
 * has changed). */
void graph_tx_refresh_perm(struct graph_tx *tx, struct node *node);
/* Checks and keeps (true), or undoes all steps (false and *error, which names
 * both conflicting users and the permission). Frees tx. Suspends, because nodes
 * may be closed. */
bool co_graph_tx_commit(struct graph_tx *tx, GError **error);
/* Undoes all steps and frees tx. */
void co_graph_tx_abort(struct graph_tx *tx);

/* One-step forms. */
struct edge *co_graph_attach_root(struct node *child, const char *name,
                                  const struct root_ops *ops, void *opaque,
                                  unsigned perm, unsigned shared,
                                  GError **error);
void co_graph_detach(struct edge *edge);
bool co_graph_set_perm(struct edge *edge, unsigned perm, unsigned shared,
                       GError **error);

/* ---- drain ---- */

/* Holds off new requests of every root from which node can be reached, and
 * waits until none of theirs is in flight. Nests. The caller must not be part
 * of a request on these nodes, and keeps a reference to node until it ends the
 * section. A root that is moved while the section is open counts by where it
 * stands: so drain the lowest node that a change touches. */
void co_drain_begin(struct node *node);
void co_drain_end(struct node *node);
void co_drain_all_begin(void);
void co_drain_all_end(void);
/* The requests of a root or a drained node have fallen to zero: waiters look
 * again. */
void graph_drain_kick(struct graph *graph);

#endif
