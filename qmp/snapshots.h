/*
 * The steps of the commands on internal snapshots, for the commands and for
 * transaction actions alike. On the loop of the node, with the change lock
 * held.
 */
#ifndef VARVE_QMP_SNAPSHOTS_H
#define VARVE_QMP_SNAPSHOTS_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct node;

/* The node that a command means; NULL and *error. */
struct node *snapshot_node(const char *device, GError **error);
/* Takes the snapshot; *id, which the caller frees, is its number. Suspends. */
bool co_snapshot_take(const struct blockdev_snapshot_internal *args, char **id,
                      GError **error);

#endif
