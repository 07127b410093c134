/*
 * What the options of a node leave out; see image_tree.h.
 *
 * A tree is completed from its leaves up, as nodes are opened: to see what a
 * format node over a file is, the file's own options have to be whole. Where an
 * image has to say what its backing file is, it is opened for a look, read-only
 * and alone.
 *
 * On the graph's loop.
 */
#include "tools/common/image_tree.h"

#include <json-c/json.h>
#include <string.h>
#include "block/driver.h"
#include "block/node.h"
#include "qapi/codec.h"
#include "qapi/options.h"
#include "util/error.h"

static bool co_complete(struct json_object *tree, bool no_backing,
                        unsigned depth, bool *probed, GError **error);

static const char *text_at(struct json_object *tree, const char *key)
{
    struct json_object *value;

    return json_object_object_get_ex(tree, key, &value) &&
                   json_object_is_type(value, json_type_string)
               ? json_object_get_string(value)
               : NULL;
}

static bool put_text(struct json_object *tree, const char *key,
                     const char *value, GError **error)
{
    return qapi_options_put(tree, key, json_object_new_string(value), error);
}

/* What it takes to open the node of a complete tree; NULL and *error. */
static struct blockdev_options *decode(struct json_object *tree, GError **error)
{
    struct json_object *copy = NULL;
    struct blockdev_options *options = NULL;

    /* Decoding changes the tree. */
    if (image_tree_check(tree, error) &&
        json_object_deep_copy(tree, &copy, NULL) == 0) {
        options = qapi_blockdev_options_decode(copy, error);
    }
    json_object_put(copy);
    return options;
}

/* ---- a child --------------------------------------------------------------
 */

static bool complete_file(struct json_object *tree, const char *driver,
                          GError **error)
{
    const char *filename = text_at(tree, "filename");

    return (filename && *filename) ||
           error_set(error, "The '%s' block driver requires a file name",
                     driver);
}

static bool co_complete_child(struct json_object *child, unsigned depth,
                              GError **error)
{
    const char *filename = text_at(child, "filename");
    bool probed;

    if (!text_at(child, "driver") &&
        (!filename ||
         !put_text(child, "driver",
                   blockdev_driver_str(qapi_driver_of_path(filename)),
                   error))) {
        return filename ||
               error_set(error, "Must specify either driver or file");
    }
    return co_complete(child, false, depth + 1, &probed, error);
}

/* ---- the driver -----------------------------------------------------------
 */

static bool co_find_driver(struct json_object *tree, unsigned depth,
                           bool *probed, GError **error)
{
    struct json_object *file;
    enum blockdev_driver driver;

    if (!json_object_object_get_ex(tree, "file", &file) ||
        (json_object_is_type(file, json_type_object) &&
         !json_object_object_length(file))) {
        return error_set(error, "Must specify either driver or file");
    }
    if (!json_object_is_type(file, json_type_object)) {
        const char *name = text_at(tree, "file");
        return name && !node_lookup(name, name, error)
                   ? false
                   : error_set(error, "Must specify either driver or file");
    }
    qapi_auto(blockdev_options) options =
        co_complete_child(file, depth, error) ? decode(file, error) : NULL;
    if (!options || !co_node_probe(options, &driver, error)) {
        return false;
    }
    *probed = driver == BLOCKDEV_DRIVER_RAW;
    return put_text(tree, "driver", blockdev_driver_str(driver), error);
}

/* The member of the driver's options by that name, if it names a node. */
static const struct qapi_member *child_member(enum blockdev_driver driver,
                                              const char *name)
{
    const struct qapi_type *type = qapi_type_blockdev_options.branches[driver];

    for (uint32_t i = 0; type && i < type->n; i++) {
        if (!strcmp(type->members[i].name, name) &&
            type->members[i].type == &qapi_type_blockdev_ref) {
            return &type->members[i];
        }
    }
    return NULL;
}

/* The children that must be. */
static bool co_complete_children(struct json_object *tree,
                                 enum blockdev_driver driver, unsigned depth,
                                 GError **error)
{
    static const char *const names[] = {"raw",   "test", "file",
                                        "image", "log",  "data-file"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        const struct qapi_member *m = child_member(driver, names[i]);
        struct json_object *child = NULL;
        json_object_object_get_ex(tree, names[i], &child);
        bool object = json_object_is_type(child, json_type_object) &&
                      json_object_object_length(child);
        if (m && !m->optional && !object && !text_at(tree, names[i])) {
            return error_set(
                error, "A block device must be specified for \"%s\"", names[i]);
        }
        if (m && object && !co_complete_child(child, depth, error)) {
            return false;
        }
    }
    return true;
}

/* ---- the backing image ----------------------------------------------------
 */

/* The image of the tree without its backing image. */
static struct node *co_look(struct json_object *tree, GError **error)
{
    const struct open_defaults defaults = {.read_only = true,
                                           .force_share = true,
                                           .no_backing = true,
                                           .no_data = true};
    struct json_object *alone = NULL;
    qapi_auto(blockdev_options) options = NULL;

    if (json_object_deep_copy(tree, &alone, NULL) == 0) {
        json_object_object_del(alone, "backing");
        json_object_object_del(alone, "node-name");
        json_object_object_del(alone, "read-only");
        options = decode(alone, error);
    }
    json_object_put(alone);
    return options ? co_node_open_with(options, &defaults, error) : NULL;
}

/* Puts what node says of its backing image where backing does not. */
static bool co_adopt_backing(struct node *node, struct json_object *backing,
                             GError **error)
{
    const char *format = node->backing_format;
    struct json_object *file;

    if (!text_at(backing, "driver") && format && *format &&
        !put_text(backing, "driver", format, error)) {
        return false;
    }
    if (json_object_object_get_ex(backing, "file", &file) &&
        (text_at(backing, "file") || text_at(file, "driver") ||
         text_at(file, "filename"))) {
        return true;
    }
    if (!node->backing_filename || !*node->backing_filename) {
        return true;
    }
    g_autofree char *name = node_full_backing_filename(node, error);
    qapi_auto(blockdev_options) options =
        name ? qapi_blockdev_from_filename(name, error) : NULL;
    return options &&
           qapi_options_put(backing, "file",
                            qapi_encode(&qapi_type_blockdev_options, options),
                            error);
}

static bool co_complete_backing(struct json_object *tree, unsigned depth,
                                GError **error)
{
    struct json_object *backing, *file;
    GError *why = NULL;
    bool probed;

    if (!json_object_object_get_ex(tree, "backing", &backing) ||
        !json_object_is_type(backing, json_type_object)) {
        return true;
    }
    const struct block_driver *over =
        block_driver_find(text_at(tree, "driver"));
    if (!over->supports_backing) {
        return true;
    }
    bool whole = text_at(backing, "driver") &&
                 json_object_object_get_ex(backing, "file", &file);
    const struct block_driver *driver =
        whole ? NULL : block_driver_find(text_at(backing, "driver") ?: "qcow2");
    if (driver && block_driver_has_file(driver->name)) {
        struct node *node = co_look(tree, error);
        bool ok = node && co_adopt_backing(node, backing, &why);
        if (node) {
            co_node_unref(node);
        } else {
            return false;
        }
        if (!ok) {
            g_propagate_error(error, why);
            return false;
        }
    }
    if (co_complete(backing, false, depth + 1, &probed, &why)) {
        return true;
    }
    g_propagate_prefixed_error(error, why, "Could not open backing file: ");
    return false;
}

/* Nothing may be said of a backing image that stays closed; but what is wrong
 * with the image itself is told first. */
static bool co_refuse_backing(struct json_object *tree, GError **error)
{
    struct json_object *backing;

    if (!json_object_object_get_ex(tree, "backing", &backing) ||
        !json_object_is_type(backing, json_type_object)) {
        return true;
    }
    struct node *node = co_look(tree, error);
    if (node) {
        co_node_unref(node);
        image_tree_refuse(text_at(tree, "driver"), "backing", backing, error);
    }
    return false;
}

/* ---- together -------------------------------------------------------------
 */

static bool co_complete(struct json_object *tree, bool no_backing,
                        unsigned depth, bool *probed, GError **error)
{
    enum blockdev_driver driver;

    *probed = false;
    if (depth == QAPI_MAX_DEPTH) {
        return error_set(error, "Options are nested too deeply");
    }
    if (!text_at(tree, "driver") &&
        !co_find_driver(tree, depth, probed, error)) {
        return false;
    }
    const char *name = text_at(tree, "driver");
    if (!block_driver_find(name) || !blockdev_driver_parse(name, &driver)) {
        return error_set(error, "Unknown driver '%s'", name);
    }
    if (driver == BLOCKDEV_DRIVER_FILE ||
        driver == BLOCKDEV_DRIVER_HOST_DEVICE) {
        return complete_file(tree, name, error);
    }
    if (!co_complete_children(tree, driver, depth, error)) {
        return false;
    }
    if (driver == BLOCKDEV_DRIVER_THROTTLE &&
        !text_at(tree, "throttle-group")) {
        return error_set(error, "Please specify a throttle group");
    }
    return no_backing ? co_refuse_backing(tree, error)
                      : co_complete_backing(tree, depth, error);
}

bool co_image_tree_complete(struct json_object *tree, bool no_backing,
                            bool *probed, GError **error)
{
    return co_complete(tree, no_backing, 0, probed, error);
}
