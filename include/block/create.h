/*
 * Images that do not exist yet. Nothing here needs an open node of the format;
 * all of it runs on the caller's loop and suspends.
 */
#ifndef VARVE_BLOCK_CREATE_H
#define VARVE_BLOCK_CREATE_H

#include <glib.h>
#include <stdbool.h>
#include "block/driver_types.h"

struct node;

/* Creates an image file; refuses an unknown format by name. */
bool co_image_create(const char *filename, const char *format,
                     const struct create_params *params, GError **error);
/* How large an image of that format would be. source may be NULL, then
 * params->size counts. */
bool co_image_measure(const char *format, const struct create_params *params,
                      struct node *source, struct image_measure *measure,
                      GError **error);
/* For formats: creates what the image will lie in, by the protocol that the
 * filename says; params as the protocol takes them. */
bool co_image_create_file(const char *filename,
                          const struct create_params *params, GError **error);
/* Takes it away again, after a failure, if the protocol can. Nothing of it may
 * be open. */
void co_image_delete_file(const char *filename);

#endif
