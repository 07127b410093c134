/*
 * How a command's handler does its work where things live.
 *
 * A handler is a coroutine on the main loop; these suspend it, run fn as a
 * coroutine on the loop in question, and come back with its result. Pointers
 * to nodes, jobs or bitmaps do not leave fn; plain structs in *result do. What
 * has no loop yet, or is not found, is for the home of the graphs.
 */
#ifndef VARVE_QMP_VISIT_H
#define VARVE_QMP_VISIT_H

#include <glib.h>
#include <stdbool.h>
#include "block/place.h"
#include "qapi/lists.h"

/* args and result as the caller gave them; false and *error on failure. */
typedef bool qmp_visit_fn(const void *args, void *result, GError **error);

/* Holds the change lock: for what changes the graph. place NULL is the home.
 * Returns what fn does. */
bool co_visit_change(const struct place *place, qmp_visit_fn *fn,
                     const void *args, void *result, GError **error);
/* Without the lock: for queries of one thing, and for what takes it by itself.
 */
bool co_visit(const struct place *place, qmp_visit_fn *fn, const void *args,
              void *result, GError **error);

/* ---- what is told of everything ---- */

enum visit_flags {
    VISIT_YOUNGEST_FIRST = 1 << 0,
    VISIT_LOCKED = 1 << 1, /* with the change lock: fn suspends */
};

/* Runs fn on every loop until one fails, the home's first. Without VISIT_LOCKED
 * fn must not suspend. */
bool co_visit_all(qmp_visit_fn *fn, const void *args, void *result,
                  unsigned flags, GError **error);

/* A list of pointers to structs that grows on every loop in turn. */
struct gathered {
    void *list;      /* of the QAPI type */
    GArray *serials; /* of the items' things */
};
#define gather(g, type, item, serial_)             \
    do {                                           \
        uint64_t number_ = (serial_);              \
        qapi_list_append((type *)(g)->list, item); \
        g_array_append_val((g)->serials, number_); \
    } while (0)

/* co_visit_all() with a struct gathered as its result; then the list is sorted
 * by the age of things. */
bool co_visit_gather(qmp_visit_fn *fn, const void *args, void *list,
                     unsigned flags, GError **error);

#endif
