/*
 * Objects that users make, and name: I/O threads, throttle groups, secrets.
 * Main thread only.
 */
#ifndef VARVE_BLOCK_OBJECTS_H
#define VARVE_BLOCK_OBJECTS_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct loop;
struct object;

/* As object-add and --object; does not suspend. */
bool object_add(const struct object_options *options, GError **error);
/* As object-del: refused while anybody uses it. Suspends. */
bool co_object_del(const char *id, GError **error);
/* Ends all that are left: the program ends, and nothing uses them. */
void objects_end(void);

/* The loop of an I/O thread; NULL if id is, or there is none of that name. It
 * stays as long as the caller has the change lock. */
struct loop *object_loop(const char *id);
/* For query-iothreads; caller frees. */
struct io_thread_info_list *objects_query_iothreads(void);

/* ---- properties ---- */

/* By "ID" or "/objects/ID"; NULL and "Device 'x' not found" of that class. */
struct object *object_find(const char *path, GError **error);
/* What kind it is, and what its properties are: a struct. */
const char *object_type_name(const struct object *o);
const struct qapi_type *object_properties_type(const struct object *o);
/* All of them as they are now; free with qapi_free(). */
void *object_properties(const struct object *o);
/* Changes those that are present in such a struct. */
bool object_change(struct object *o, const void *properties, GError **error);

#endif
