/*
 * Names of NBD exports, and options in the words of old. Private to qapi/.
 */
#ifndef VARVE_QAPI_NBD_NAME_H
#define VARVE_QAPI_NBD_NAME_H

#include <stdbool.h>
#include "qapi/types.h"

struct json_object;

/* True for "nbd:..." and for URIs of the kinds below. */
bool qapi_is_nbd_name(const char *filename);
/* Reads such a name; the caller frees the answer. NULL and *error. */
struct blockdev_options *qapi_nbd_from_name(const char *filename,
                                            GError **error);
/* Gives a tree of options of the driver nbd, in place of "host", "port" or
 * "path", the "server" that they mean. */
bool qapi_nbd_modernise(struct json_object *tree, GError **error);

#endif
