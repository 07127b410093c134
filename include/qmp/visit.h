/*
 * How a command's handler does its work where the graph lives.
 *
 * A handler is a coroutine on the main loop; these suspend it, run fn as a
 * coroutine on the loop of the graph, and come back with its result. Pointers
 * to nodes, jobs or bitmaps do not leave fn; plain structs in *result do.
 */
#ifndef VARVE_QMP_VISIT_H
#define VARVE_QMP_VISIT_H

#include <glib.h>
#include <stdbool.h>

/* args and result as the caller gave them; false and *error on failure. */
typedef bool qmp_visit_fn(const void *args, void *result, GError **error);

/* Holds the change lock: for what changes the graph. Returns what fn does.
 */
bool co_visit_change(qmp_visit_fn *fn, const void *args, void *result,
                     GError **error);
/* Without the lock: for queries, and for what takes it by itself. */
bool co_visit(qmp_visit_fn *fn, const void *args, void *result, GError **error);

#endif
