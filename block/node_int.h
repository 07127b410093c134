/*
 * Making and ending nodes, for the files of block/ and for tests.
 */
#ifndef VARVE_BLOCK_NODE_INT_H
#define VARVE_BLOCK_NODE_INT_H

#include <glib.h>
#include <stdbool.h>
#include "block/node.h"

/* A node of the current loop's graph with one reference, which the caller owns:
 * its name is taken, it has state, default limits and no length, and its
 * driver's co_open has not run. name NULL makes one up ("#block100"). NULL and
 * *error for a name that is malformed or taken. The driver need not be in
 * block_drivers[]. */
struct node *node_new(const struct block_driver *driver, const char *name,
                      GError **error);
/* As if it was made now. */
void node_now_youngest(struct node *node);
/* co_open has succeeded: others find the node from now on. */
void node_set_opened(struct node *node);
/* Ends a node whose co_open has failed: detaches its children and frees it. */
void co_node_discard(struct node *node);
/* The name for people, from the driver or the child. Call after node_new() and
 * co_open(), and whenever a child's name changes. */
void node_refresh_filename(struct node *node);

/* The rule for ids of all kinds: a letter, then letters, digits, '-', '.' and
 * '_'. */
bool block_id_wellformed(const char *id);

#endif
