/*
 * What the files block/open*.c and block/reopen.c share.
 */
#ifndef VARVE_BLOCK_OPEN_INT_H
#define VARVE_BLOCK_OPEN_INT_H

#include <glib.h>
#include "block/node.h"

/* Opens one node with its children. opened_for (may be NULL) is the node whose
 * child it will be; ready_file (may be NULL) is used as its primary child
 * instead of what its options name. */
struct node *co_open_node(const struct blockdev_options *options,
                          const struct open_defaults *defaults,
                          struct node *opened_for, struct node *ready_file,
                          GError **error);
/* ---- block/open_settings.c ---- */

/* The settings of a node with these options. */
bool node_settings_compute(const struct blockdev_options *o,
                           const struct open_defaults *d,
                           struct node_settings *s, GError **error);
struct node_settings node_settings_of(const struct node *node);
void node_settings_apply(struct node *node, const struct node_settings *s);
/* What a parent with these settings has for a child that does not say. */
struct open_defaults node_child_defaults(bool parent_is_filter,
                                         struct node_settings parent,
                                         unsigned roles);

/* As co_node_open_filename(). */
struct node *co_open_filename(const char *filename, const char *format,
                              const struct open_defaults *defaults,
                              struct node *opened_for, GError **error);

#endif
