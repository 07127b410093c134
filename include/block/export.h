/*
 * Exports: nodes that are served to others, and how they are told apart.
 *
 * A kind of export is a row of functions in the folder that speaks its
 * protocol. An export lives on the loop of its node. Unless its options forbid
 * it, it goes along when that moves. Everything here is called on that loop.
 */
#ifndef VARVE_BLOCK_EXPORT_H
#define VARVE_BLOCK_EXPORT_H

#include <glib.h>
#include <stdbool.h>
#include <sys/queue.h>

#include "block/graph.h"
#include "qapi/types.h"

struct export_driver {
    enum block_export_type type;
    /* Begins to serve e->backend and returns what close gets; NULL and *error
     * if it cannot. Suspends. */
    void *(*co_open)(struct export *e,
                     const struct block_export_options *options,
                     GError **error);
    /* True while clients use it. */
    bool (*busy)(const void *state);
    /* Hangs up on clients and ends, when nothing is in flight. Suspends. */
    void (*co_close)(void *state);
};

struct export
{
    char *id;
    uint64_t serial; /* in order of making, over all loops */
    const struct export_driver *driver;
    struct backend *backend; /* the driver's device may hold it too */
    void *state;
    bool shutting_down;
    TAILQ_ENTRY(export) link; /* in the graph's list, youngest first */
};

/* Whether such an export could be made, but for what its driver says. */
bool export_check(const struct block_export_options *options, GError **error);
/* On the loop of the node, with the change lock. wants_loop is where the user
 * wants it to be, or NULL. Suspends. */
bool co_export_add(const struct export_driver *driver,
                   const struct block_export_options *options,
                   struct loop *wants_loop, GError **error);
/* NULL and *error if there is none. */
struct export *export_find(const char *id, GError **error);
/* Begins to end an export, in a coroutine of its own that takes the change
 * lock; listeners hear when it is gone. hard: even if it has clients. Must not
 * hold the change lock. */
bool export_remove(struct export *e, bool hard, GError **error);
/* Ends all exports and waits until they are gone. Suspends. */
void co_exports_end(void);

#endif
