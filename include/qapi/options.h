/*
 * The one option path: what a person, a script or an image file says about a
 * node becomes the struct that the driver's open() takes.
 *
 *   driver=qcow2,file.driver=file,file.filename=x     as on a command line
 *   {"driver": "qcow2", "file": {...}}                JSON, typed
 *   json:{"driver": "qcow2", "file.filename": "x"}    JSON in a file name; keys
 *                                                     may be dotted, scalars
 *                                                     may be strings
 *   disk.img   file:disk.img   null-co://             file names
 *
 * They open nothing, and look only whether a path is a device. Any loop; do not
 * suspend.
 */
#ifndef VARVE_QAPI_OPTIONS_H
#define VARVE_QAPI_OPTIONS_H

#include <glib.h>
#include "qapi/types.h"

struct json_object;

/* Any struct or union from "key=value,..." or JSON ("{...}", "json:{...}").
 * Lists are a.0.b=...; implied_key (may be NULL) names a first value without
 * key. Free with qapi_free(type, ...). */
void *qapi_options_parse(const struct qapi_type *type, const char *text,
                         const char *implied_key, GError **error);

/* The argument of --blockdev and --image-opts; implied key: driver. */
struct blockdev_options *qapi_blockdev_options_parse(const char *text,
                                                     GError **error);

/* For callers that gather a tree from several places: puts value, which it
 * takes over, at a dotted key below tree (a JSON object), making objects on the
 * way. Two objects are merged; a later scalar replaces an earlier one; a scalar
 * where an object is needed is false and *error. qapi_decode_keyval() reads the
 * tree. */
bool qapi_options_put(struct json_object *tree, const char *key,
                      struct json_object *value, GError **error);

/* The tree of a "json:" name, whose text stands behind the colon; the caller
 * owns it. */
struct json_object *qapi_options_json_tree(const char *text, GError **error);

/* Reads such a tree, or one from a "json:" name, as a node. A child may be just
 * a file name ("file.filename=x"): its protocol is what the name says. Options
 * of old ("host", "port" and "path" of nbd) are understood. */
struct blockdev_options *qapi_blockdev_options_decode(struct json_object *tree,
                                                      GError **error);

/* Does the part of that which changes the tree: afterwards it has only what the
 * schema knows, but for mistakes. */
bool qapi_blockdev_options_complete(struct json_object *tree, GError **error);

/* A file name as it stands in a backing-file string or a command: "json:" as
 * above; "file:PATH" gives the file driver, a plain PATH too, or host_device
 * if it is there and is a device; "null-co://", "nbd:..." (qapi/nbd_name.c)
 * and "blkdebug:CONFIG:IMAGE" their drivers; any other "word:" is refused as an
 * unknown protocol. A relative PATH is left as it is. The format on top of it
 * is the caller's business. */
struct blockdev_options *qapi_blockdev_from_filename(const char *filename,
                                                     GError **error);
/* The driver of a path without a protocol: that of files, or of devices. */
enum blockdev_driver qapi_driver_of_path(const char *path);
/* True if a file name begins with "word:", so that it must not be joined to a
 * directory; "./a:b" does not. */
bool qapi_filename_has_protocol(const char *filename);

/* ---- options that change ---- */

/* The options with other values, an array of struct keyval, at their (dotted)
 * keys. What a node of this driver does not have is refused as what cannot be
 * changed. Free with blockdev_options_free(). */
struct blockdev_options *qapi_blockdev_options_change(
    const struct blockdev_options *from, const GPtrArray *pairs,
    GError **error);
/* Called for each member, by its dotted name, that differs; reset: there is
 * none any more. false ends it. */
typedef bool qapi_change_fn(const char *name, bool reset, void *opaque);
/* Returns false as soon as fn does. Children are compared as a whole. */
bool qapi_blockdev_options_compare(const struct blockdev_options *from,
                                   const struct blockdev_options *to,
                                   qapi_change_fn *fn, void *opaque);
enum qapi_child_kind {
    QAPI_CHILD_ABSENT,
    QAPI_CHILD_NULL,
    QAPI_CHILD_REFERENCE,
    QAPI_CHILD_DEFINITION,
};
struct qapi_child {
    enum qapi_child_kind kind;
    const char *reference;
    const struct blockdev_options *definition;
};
/* What the options say of a child: "file", "backing". */
struct qapi_child qapi_blockdev_options_child(const struct blockdev_options *o,
                                              const char *name);

/* "json:{...}", which qapi_blockdev_from_filename() reads back. g_free() it. */
char *qapi_blockdev_options_to_filename(const struct blockdev_options *options);

#endif
