/*
 * Layers that a program puts on top of an image that it has opened.
 */
#ifndef VARVE_TOOLS_COMMON_LAYERS_H
#define VARVE_TOOLS_COMMON_LAYERS_H

#include <glib.h>
#include "block/node.h"

/* Both take the caller's reference to node, also when they fail with NULL and
 * *error, and return one to the new top. Suspend. */

/* A qcow2 overlay in a file that has no name any more. */
struct node *co_layer_snapshot(struct node *node, bool read_only,
                               GError **error);
/* What is read stays in node. */
struct node *co_layer_copy_on_read(struct node *node, GError **error);

#endif
