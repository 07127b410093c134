/*
 * What a kind of object is.
 */
#ifndef VARVE_BLOCK_OBJECT_INT_H
#define VARVE_BLOCK_OBJECT_INT_H

#include "block/objects.h"

struct object {
    char *id;
    const struct object_kind *kind;
    void *state; /* of its kind */
};

struct object_kind {
    const struct qapi_type *properties; /* a struct */
    /* The state of a new object; NULL and *error. */
    void *(*make)(const struct object_options *options, GError **error);
    /* False if anybody uses it. true: it can be ended. Suspends. */
    bool (*co_let_go)(void *state);
    void (*end)(void *state);
    /* As object_properties() and object_change(). */
    void *(*get)(const void *state);
    bool (*set)(void *state, const void *properties, GError **error);
};

extern const struct object_kind object_iothread, object_secret,
    object_throttle_group;

/* ---- object_iothread.c ---- */

struct loop *object_iothread_loop(const void *state);
struct io_thread_info *object_iothread_query(const char *id, const void *state);

#endif
