/*
 * A temporary overlay, and copy-on-read. On the graph's loop.
 */
#include "tools/common/layers.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <unistd.h>

#include "block/create.h"
#include "qapi/codec.h"
#include "qapi/options.h"
#include "util/error.h"

static struct json_object *new_tree(const char *driver)
{
    struct json_object *tree = json_object_new_object();

    json_object_object_add(tree, "driver", json_object_new_string(driver));
    return tree;
}

/* Consumes the tree, and the reference to node, which the tree names. */
static struct node *co_open_above(struct node *node, struct json_object *tree,
                                  GError **error)
{
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_decode(tree, error);
    struct node *top = options ? co_node_open(options, error) : NULL;

    json_object_put(tree);
    co_node_unref(node);
    return top;
}

/* An empty file; the caller removes and frees the name. */
static char *temporary_file(GError **error)
{
    const char *dir = g_getenv("TMPDIR");
    char *path = g_build_filename(dir ? dir : "/var/tmp", "vl.XXXXXX", NULL);
    int fd = mkstemp(path);

    if (fd < 0) {
        error_set_errno(error, errno, "Could not get temporary filename");
        g_free(path);
        return NULL;
    }
    close(fd);
    return path;
}

struct node *co_layer_snapshot(struct node *node, bool read_only,
                               GError **error)
{
    const struct create_params params = {.size = node->length};
    g_autofree char *path = temporary_file(error);
    struct node *top = NULL;

    if (!path || !co_image_create(path, "qcow2", &params, error)) {
        co_node_unref(node);
    } else {
        struct json_object *tree = new_tree("qcow2"), *file = new_tree("file"),
                           *cache = json_object_new_object();
        json_object_object_add(file, "filename", json_object_new_string(path));
        json_object_object_add(tree, "file", file);
        json_object_object_add(cache, "no-flush", json_object_new_boolean(1));
        json_object_object_add(tree, "cache", cache);
        json_object_object_add(tree, "read-only",
                               json_object_new_boolean(read_only));
        json_object_object_add(tree, "backing",
                               json_object_new_string(node->name));
        top = co_open_above(node, tree, error);
    }
    if (path) {
        unlink(path);
    }
    return top;
}

struct node *co_layer_copy_on_read(struct node *node, GError **error)
{
    if (node->read_only) {
        error_set(error, "Can't use copy-on-read on read-only device");
        co_node_unref(node);
        return NULL;
    }
    struct json_object *tree = new_tree("copy-on-read");
    json_object_object_add(tree, "file", json_object_new_string(node->name));
    return co_open_above(node, tree, error);
}
