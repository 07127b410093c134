/*
 * Objects that users make: I/O threads. Main thread only.
 */
#ifndef VARVE_QMP_OBJECTS_H
#define VARVE_QMP_OBJECTS_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct iothread;

/* As object-add and --object; does not suspend. */
bool object_add(const struct object_options *options, GError **error);
/* Ends all that are left: the program ends, and nothing lives on them. */
void objects_end(void);
/* NULL and *error if there is none. */
struct iothread *object_iothread(const char *id, GError **error);

#endif
