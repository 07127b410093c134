/*
 * Options of a node as a tree: what may be left out is found out, and what is
 * wrong is said in the words that people know.
 */
#ifndef VARVE_TOOLS_COMMON_IMAGE_TREE_H
#define VARVE_TOOLS_COMMON_IMAGE_TREE_H

#include <glib.h>
#include <stdbool.h>

struct json_object;

/* Puts drivers where there are none: a child with just a "filename" is a file
 * or a device; a node over a file is what the file looks like (*probed, if that
 * is nothing: raw); a backing image without a file is the one that the image
 * names, in the format that it names. no_backing: there will be none, so
 * options for it are refused. On the graph's loop; suspends, and opens images
 * to look at them. */
bool co_image_tree_complete(struct json_object *tree, bool no_backing,
                            bool *probed, GError **error);
/* Always false: the driver does not know the option, or what is below it. */
bool image_tree_refuse(const char *driver, const char *key,
                       struct json_object *value, GError **error);
/* False if the tree, or a node in it, has an option that its driver does not
 * know, or a value that cannot be meant. Other faults are for the decoder. */
bool image_tree_check(struct json_object *tree, GError **error);

#endif
