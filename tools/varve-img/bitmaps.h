/*
 * Stored bitmaps, for several subcommands of varve-img.
 */
#ifndef VARVE_TOOLS_VARVE_IMG_BITMAPS_H
#define VARVE_TOOLS_VARVE_IMG_BITMAPS_H

#include <stdbool.h>

struct node;
struct json_object;

/* Prints a table, or JSON, of the node's bitmaps, oldest first. */
void img_list_bitmaps(struct node *node, bool json);
/* The list as JSON; the caller owns it. */
struct json_object *img_bitmaps_json(struct node *node);

/* For convert: whether the source's bitmaps can be copied; false after saying
 * why. skip: those that cannot be used do not matter. */
bool img_check_bitmaps(struct node *src, bool skip);
/* Whether the target can take them. */
bool img_takes_bitmaps(struct node *dst);
/* Makes copies in dst; false after saying what went wrong. Suspends. */
bool co_img_copy_bitmaps(struct node *src, struct node *dst);

#endif
