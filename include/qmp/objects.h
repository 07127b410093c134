/*
 * Objects that users make: I/O threads. Main thread only.
 */
#ifndef VARVE_QMP_OBJECTS_H
#define VARVE_QMP_OBJECTS_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct loop;

/* As object-add and --object; does not suspend. */
bool object_add(const struct object_options *options, GError **error);
/* Ends all that are left: the program ends, and nothing lives on them. */
void objects_end(void);
/* The loop of an I/O thread; NULL if id is, or there is none of that name. It
 * stays as long as the caller has the change lock. */
struct loop *object_loop(const char *id);

#endif
