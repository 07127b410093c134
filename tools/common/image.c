/*
 * From what people type to the options of a node. All ways lead into one json
 * tree, which the schema's decoder reads; here only the words are known that
 * are not the schema's own. On the graph's loop.
 */
#include "tools/common/image.h"

#include <json-c/json.h>
#include <string.h>

#include "qapi/codec.h"
#include "qapi/options.h"
#include "tools/common/image_tree.h"
#include "tools/common/layers.h"
#include "tools/common/options.h"
#include "util/error.h"
#include "util/keyval.h"

/* ---- options in pairs ---- */

struct described {
    const char *file, *format, *aio;
    const struct cache_mode *cache;
    bool no_backing;
    bool probed;              /* it looks like nothing: raw */
    struct json_object *tree; /* all else */
};

static bool put_text(struct json_object *tree, const char *key,
                     const char *value, GError **error)
{
    return qapi_options_put(tree, key, json_object_new_string(value), error);
}

static bool put_discard(struct json_object *tree, const char *value,
                        GError **error)
{
    const char *mode = discard_mode_find(value);

    return mode ? put_text(tree, "discard", mode, error)
                : error_set(error, "Invalid discard option");
}

/* The short form of an option that has members is one of them. */
static bool put_option(struct json_object *tree, const char *key,
                       const char *value, GError **error)
{
    static const char whole[] = "overlap-check";
    static const char member[] = "overlap-check.template";
    struct json_object *checks, *old;
    bool short_form = !strcmp(key, whole);

    if (!strcmp(key, "discard")) {
        return put_discard(tree, value, error);
    }
    if (!short_form && strcmp(key, member) != 0) {
        return put_text(tree, key, value, error);
    }
    if (json_object_object_get_ex(tree, whole, &checks) &&
        json_object_object_get_ex(checks, "template", &old) &&
        strcmp(json_object_get_string(old), value) != 0) {
        const char *was = json_object_get_string(old);
        return error_set(error,
                         "Conflicting values for qcow2 options '%s' ('%s') "
                         "and '%s' ('%s')",
                         whole, short_form ? value : was, member,
                         short_form ? was : value);
    }
    return put_text(tree, member, value, error);
}

static bool take_pair(struct described *d, const struct keyval *pair,
                      GError **error)
{
    if (!strcmp(pair->key, "file")) {
        d->file = pair->value;
    } else if (!strcmp(pair->key, "format") || !strcmp(pair->key, "driver")) {
        if (d->format) {
            return error_set(error, "Cannot specify both 'driver' and "
                                    "'format'");
        }
        d->format = pair->value;
    } else if (!strcmp(pair->key, "aio")) {
        d->aio = pair->value;
    } else if (!strcmp(pair->key, "cache")) {
        d->cache = cache_mode_find(pair->value);
        if (!d->cache) {
            return error_set(error, "invalid cache option");
        }
    } else {
        return put_option(d->tree, pair->key, pair->value, error);
    }
    return true;
}

static bool put_bool(struct json_object *tree, const char *key, bool value)
{
    /* What is said one by one counts more than the mode. */
    struct json_object *cache, *old;
    if (json_object_object_get_ex(tree, "cache", &cache) &&
        json_object_object_get_ex(cache, key + strlen("cache."), &old)) {
        return true;
    }
    return qapi_options_put(tree, key, json_object_new_boolean(value), NULL);
}

/* What tree already says counts more than from, which this takes over. */
static bool put_below(struct json_object *tree, struct json_object *from)
{
    json_object_object_foreach(from, key, value)
    {
        if (!json_object_object_get_ex(tree, key, NULL)) {
            json_object_object_add(tree, key, json_object_get(value));
        }
    }
    json_object_put(from);
    return true;
}

/* A file for a driver that has none below it. */
static bool put_protocol(struct described *d, GError **error)
{
    static const struct {
        const char *driver, *refusal;
    } strict[] = {
        {"nbd", "File name string for NBD must start with 'nbd:'"},
        {"null-co", "The only allowed filename for this driver is "
                    "'null-co://'"},
        {"null-aio", "The only allowed filename for this driver is "
                     "'null-aio://'"},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(strict); i++) {
        if (!strcmp(strict[i].driver, d->format)) {
            return error_set(error, "%s", strict[i].refusal);
        }
    }
    const char *path = d->file;
    if (g_str_has_prefix(path, "file:")) {
        path += strlen("file:");
    }
    if (!strcmp(d->format, "blkdebug")) {
        return put_text(d->tree, "image.filename", path, error);
    }
    if (!strcmp(d->format, "file") || !strcmp(d->format, "host_device")) {
        return put_text(d->tree, "filename", path, error);
    }
    /* Its driver will say what it misses. */
    return true;
}

/* Puts the named file into the tree: as the node itself, or below it. */
static bool put_file(struct described *d, GError **error)
{
    if (d->format && !block_driver_find(d->format)) {
        return error_set(error, "Unknown driver '%s'", d->format);
    }
    if (g_str_has_prefix(d->file, "json:")) {
        struct json_object *tree =
            qapi_options_json_tree(d->file + strlen("json:"), error);
        return tree && put_below(d->tree, tree);
    }
    qapi_auto(blockdev_options) file =
        qapi_blockdev_from_filename(d->file, error);
    const char *protocol = file ? blockdev_driver_str(file->driver) : NULL;
    if (!file || (!*d->file && !put_text(d->tree, "driver", "file", error))) {
        return false;
    }
    if (!*d->file) {
        return true;
    }
    struct json_object *tree = NULL;
    if (!d->format || block_driver_has_file(d->format)) {
        tree = qapi_encode(&qapi_type_blockdev_options, file);
        return qapi_options_put(d->tree, "file", tree, error);
    }
    if (!strcmp(protocol, d->format)) {
        tree = qapi_encode(&qapi_type_blockdev_options, file);
        return put_below(d->tree, tree);
    }
    return put_protocol(d, error);
}

/* Where the data is in the end, by the options. */
static struct json_object *lowest(struct json_object *tree)
{
    struct json_object *child;

    while ((json_object_object_get_ex(tree, "file", &child) ||
            json_object_object_get_ex(tree, "image", &child)) &&
           json_object_is_type(child, json_type_object)) {
        tree = child;
    }
    return tree;
}

static bool put_aio(struct described *d, GError **error)
{
    struct json_object *file = lowest(d->tree), *driver, *old;

    if (!d->aio || json_object_object_get_ex(file, "aio", &old)) {
        return true;
    }
    if (json_object_object_get_ex(file, "driver", &driver) &&
        strcmp(json_object_get_string(driver), "file")) {
        return true; /* of no meaning elsewhere, as it always was */
    }
    return put_text(file, "aio", d->aio, error);
}

static bool co_describe(struct described *d, const GPtrArray *pairs,
                        GError **error)
{
    for (guint i = 0; i < pairs->len; i++) {
        if (!take_pair(d, pairs->pdata[i], error)) {
            return false;
        }
    }
    struct json_object *driver;
    if (!d->format && json_object_object_get_ex(d->tree, "driver", &driver)) {
        d->format = json_object_get_string(driver);
    }
    if (d->file && !put_file(d, error)) {
        return false;
    }
    if (d->format && (!d->file || *d->file) &&
        !put_text(d->tree, "driver", d->format, error)) {
        return false;
    }
    if (d->cache) {
        put_bool(d->tree, "cache.direct", d->cache->direct);
        put_bool(d->tree, "cache.no-flush", d->cache->no_flush);
    }
    return co_image_tree_complete(d->tree, d->no_backing, &d->probed, error) &&
           put_aio(d, error);
}

/* The schema's decoder takes it for null. */
static void warn_of_empty_backing(struct json_object *tree)
{
    struct json_object *backing;

    if (json_object_object_get_ex(tree, "backing", &backing) &&
        json_object_is_type(backing, json_type_string) &&
        !json_object_get_string_len(backing)) {
        g_warning("Use of \"backing\": \"\" is deprecated; use \"backing\": "
                  "null instead");
    }
}

static struct blockdev_options *co_options(struct described *d,
                                           const GPtrArray *pairs,
                                           GError **error)
{
    if (!co_describe(d, pairs, error) ||
        !qapi_blockdev_options_complete(d->tree, error) ||
        !image_tree_check(d->tree, error)) {
        return NULL;
    }
    warn_of_empty_backing(d->tree);
    return qapi_blockdev_options_decode(d->tree, error);
}

struct blockdev_options *co_image_options(const GPtrArray *pairs, bool *probed,
                                          bool *writethrough, GError **error)
{
    struct described d = {.tree = json_object_new_object()};
    struct blockdev_options *options = co_options(&d, pairs, error);

    *writethrough = d.cache && d.cache->writethrough;
    *probed = d.probed;
    json_object_put(d.tree);
    return options;
}

/* ---- an image by name ---- */

static void pair_free(gpointer p)
{
    struct keyval *pair = p;
    g_free(pair->key);
    g_free(pair->value);
    g_free(pair);
}

static void add_pair(GPtrArray *pairs, const char *key, const char *value)
{
    if (value) {
        struct keyval *pair = g_new(struct keyval, 1);
        *pair = (struct keyval){.key = g_strdup(key), .value = g_strdup(value)};
        g_ptr_array_add(pairs, pair);
    }
}

/* What the program's own options say, unless tree says it already. */
static GPtrArray *program_options(const struct image_open *how,
                                  struct json_object *tree)
{
    GPtrArray *pairs = g_ptr_array_new_with_free_func(pair_free);
    const struct {
        const char *key, *value;
    } own[] = {
        {"file", how->image_opts ? NULL : how->filename},
        {"format", how->image_opts ? NULL : how->format},
        {"cache", how->cache},
        {"aio", how->aio},
        {"discard",
         how->discard ? how->discard : (how->writable ? "unmap" : NULL)},
        {"read-only", how->writable && !how->snapshot ? NULL : "on"},
        {"force-share", how->force_share ? "on" : NULL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        if (!json_object_object_get_ex(tree, own[i].key, NULL) ||
            !strcmp(own[i].key, "cache")) {
            add_pair(pairs, own[i].key, own[i].value);
        }
    }
    return pairs;
}

/* --image-opts; a word alone names a node. */
static bool take_image_opts(const char *text, struct json_object *tree,
                            GError **error)
{
    g_autoptr(GPtrArray) pairs = tool_split_image_opts(text, "file", error);
    bool ok = pairs != NULL;

    for (guint i = 0; ok && i < pairs->len; i++) {
        const struct keyval *pair = pairs->pdata[i];
        ok = put_option(tree, pair->key, pair->value, error);
    }
    return ok;
}

struct node *co_image_open(const struct image_open *how, bool *writethrough,
                           GError **error)
{
    struct described d = {.tree = json_object_new_object(),
                          .no_backing = how->no_backing};
    g_autoptr(GPtrArray) pairs = NULL;
    qapi_auto(blockdev_options) options = NULL;

    const char *list = how->image_opts ? how->filename : how->options;
    if (!list || take_image_opts(list, d.tree, error)) {
        pairs = program_options(how, d.tree);
        options = co_options(&d, pairs, error);
    }
    json_object_put(d.tree);
    if (writethrough) {
        *writethrough = d.cache && d.cache->writethrough;
    }
    const struct open_defaults defaults = {.no_backing = how->no_backing,
                                           .no_data = how->no_data,
                                           .probed = d.probed,
                                           .check = how->check};
    struct node *node =
        options ? co_node_open_with(options, &defaults, error) : NULL;
    if (node && how->snapshot) {
        node = co_layer_snapshot(node, !how->writable, error);
    }
    if (node && how->copy_on_read) {
        node = co_layer_copy_on_read(node, error);
    }
    return node;
}
