/*
 * Opening a chain of images anew: a part of it, or with other rights than the
 * backing files of an image usually get. The options of the nodes tell how.
 */
#include "tools/varve-img/img.h"

#include <string.h>
#include "qapi/codec.h"
#include "qapi/options.h"

static bool same_file(const char *a, const char *b)
{
    g_autofree char *x = realpath(a, NULL), *y = realpath(b, NULL);

    return x && y && !strcmp(x, y);
}

struct node *img_find_in_chain(struct node *top, const char *name)
{
    struct node *overlay = node_skip_filters(top), *below;

    for (; (below = node_backing_chain_next(overlay)); overlay = below) {
        if (!strcmp(below->filename, name) ||
            !g_strcmp0(overlay->backing_filename, name) ||
            same_file(below->filename, name)) {
            return below;
        }
        g_autofree char *path = img_backing_path(overlay->filename, name);
        if (same_file(below->filename, path)) {
            return below;
        }
    }
    return NULL;
}

static struct json_object *node_tree(const struct node *node, bool writable)
{
    struct json_object *tree =
        qapi_encode(&qapi_type_blockdev_options, node->options);

    json_object_object_del(tree, "node-name");
    json_object_object_add(tree, "read-only",
                           json_object_new_boolean(!writable));
    return tree;
}

struct json_object *img_layers_tree(struct node *top, struct node *base,
                                    bool writable)
{
    struct json_object *first = NULL, *last = NULL;

    for (struct node *n = node_skip_filters(top); n && n != base;
         n = node_backing_chain_next(n)) {
        struct json_object *tree = node_tree(n, writable && !last);
        if (last) {
            json_object_object_add(last, "backing", tree);
        } else {
            first = tree;
        }
        last = tree;
    }
    json_object_object_add(last, "backing", NULL);
    return first;
}

struct json_object *img_writable_tree(struct node *node)
{
    struct json_object *tree = node_tree(node, true);

    json_object_object_add(tree, "discard", json_object_new_string("unmap"));
    return tree;
}

struct backend *co_img_open_tree(struct json_object *tree, unsigned perm,
                                 GError **error)
{
    qapi_auto(blockdev_options) options =
        qapi_blockdev_options_decode(tree, error);
    struct node *node = options ? co_node_open(options, error) : NULL;
    struct backend *b = NULL;

    json_object_put(tree);
    if (node) {
        b = co_backend_new(NULL, node, perm, PERM_ALL, error);
        co_node_unref(node);
    }
    return b;
}
