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
#include "tools/common/layers.h"
#include "util/error.h"
#include "util/keyval.h"

/* ---- options in pairs ---- */

struct described {
    const char *file, *format, *aio;
    const struct cache_mode *cache;
    bool probed;              /* it looks like nothing: raw */
    struct json_object *tree; /* all else */
};

static bool put_discard(struct json_object *tree, const char *value,
                        GError **error)
{
    const char *mode = discard_mode_find(value);

    return mode ? qapi_options_put(tree, "discard",
                                   json_object_new_string(mode), error)
                : error_set(error, "Invalid discard option");
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
    } else if (!strcmp(pair->key, "discard")) {
        return put_discard(d->tree, pair->value, error);
    } else {
        return qapi_options_put(d->tree, pair->key,
                                json_object_new_string(pair->value), error);
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

/* The format of file, whose options may be changed by those below "file". */
static bool co_find_format(struct described *d,
                           const struct blockdev_options *file,
                           const char **format, GError **error)
{
    enum blockdev_driver driver;
    if (!g_strcmp0(*format, "") || !*format) {
        if (!co_node_probe(file, &driver, error)) {
            return false;
        }
        *format = blockdev_driver_str(driver);
        d->probed = driver == BLOCKDEV_DRIVER_RAW;
    }
    return block_driver_find(*format) ||
           error_set(error, "Unknown driver '%s'", *format);
}

/* Puts the named file into the tree: as the node itself, or below it. */
static bool co_put_file(struct described *d, GError **error)
{
    qapi_auto(blockdev_options) file =
        qapi_blockdev_from_filename(d->file, error);
    if (!file) {
        return false;
    }
    const char *protocol = blockdev_driver_str(file->driver);
    if (!d->format && (block_driver_has_file(protocol) ||
                       g_str_has_prefix(d->file, "json:"))) {
        d->format = protocol; /* the name says it all */
    } else if (!co_find_format(d, file, &d->format, error)) {
        return false;
    }
    struct json_object *tree = qapi_encode(&qapi_type_blockdev_options, file);
    if (!strcmp(protocol, d->format)) {
        json_object_object_foreach(tree, key, value)
        {
            struct json_object *old;
            if (!json_object_object_get_ex(d->tree, key, &old)) {
                json_object_object_add(d->tree, key, json_object_get(value));
            }
        }
        json_object_put(tree);
        return true;
    }
    if (!block_driver_has_file(d->format)) {
        json_object_put(tree);
        return error_set(error, "Driver '%s' cannot be used for a %s image",
                         d->format, protocol);
    }
    return qapi_options_put(d->tree, "file", tree, error);
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
    return qapi_options_put(file, "aio", json_object_new_string(d->aio), error);
}

static bool co_describe(struct described *d, const GPtrArray *pairs,
                        GError **error)
{
    for (guint i = 0; i < pairs->len; i++) {
        if (!take_pair(d, pairs->pdata[i], error)) {
            return false;
        }
    }
    if (d->file && *d->file && !co_put_file(d, error)) {
        return false;
    }
    if (!d->format) {
        return error_set(error, "Must specify either driver or file");
    }
    if (!block_driver_find(d->format)) {
        return error_set(error, "Unknown driver '%s'", d->format);
    }
    struct json_object *file;
    if (block_driver_has_file(d->format) &&
        !json_object_object_get_ex(d->tree, "file", &file)) {
        return error_set(error,
                         "A block device must be specified for \"file\"");
    }
    if (d->cache) {
        put_bool(d->tree, "cache.direct", d->cache->direct);
        put_bool(d->tree, "cache.no-flush", d->cache->no_flush);
    }
    return qapi_options_put(d->tree, "driver",
                            json_object_new_string(d->format), error) &&
           put_aio(d, error);
}

/* ---- options that no driver knows ---- */

static const struct qapi_member *find_member(const struct qapi_type *type,
                                             const char *name)
{
    for (uint32_t i = 0; type && i < type->n; i++) {
        if (!strcmp(type->members[i].name, name)) {
            return &type->members[i];
        }
    }
    return NULL;
}

/* "a.b" for the first thing that is said below a. */
static char *first_path(const char *key, struct json_object *value)
{
    GString *path = g_string_new(key);

    while (json_object_is_type(value, json_type_object) &&
           json_object_object_length(value)) {
        struct json_object_iterator it = json_object_iter_begin(value);

        g_string_append_printf(path, ".%s", json_object_iter_peek_name(&it));
        value = json_object_iter_peek_value(&it);
    }
    return g_string_free(path, FALSE);
}

static bool refuse_option(const char *driver, const char *key,
                          struct json_object *value, GError **error)
{
    g_autofree char *path = first_path(key, value);
    const struct block_driver *d = block_driver_find(driver);
    bool format = d && d->kind != DRIVER_PROTOCOL && strcmp(driver, "blkdebug");

    return format ? error_set(error,
                              "Block format '%s' does not support the option "
                              "'%s'",
                              driver, path)
                  : error_set(error,
                              "Block protocol '%s' doesn't support the option "
                              "'%s'",
                              driver, path);
}

/* False if the tree, or one of a child in it, holds what its driver does not
 * know. Other faults are the decoder's business. */
static bool check_known(struct json_object *tree, GError **error)
{
    const struct qapi_type *type = &qapi_type_blockdev_options;
    struct json_object *name;
    enum blockdev_driver driver;

    if (!json_object_object_get_ex(tree, "driver", &name) ||
        !blockdev_driver_parse(json_object_get_string(name), &driver)) {
        return true;
    }
    json_object_object_foreach(tree, key, value)
    {
        const struct qapi_member *m = find_member(type, key);

        m = m ? m : find_member(type->branches[driver], key);
        if (!m) {
            return refuse_option(blockdev_driver_str(driver), key, value,
                                 error);
        }
        if (m->type == &qapi_type_blockdev_ref &&
            json_object_is_type(value, json_type_object) &&
            !check_known(value, error)) {
            return false;
        }
    }
    return true;
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

struct blockdev_options *co_image_options(const GPtrArray *pairs, bool *probed,
                                          bool *writethrough, GError **error)
{
    struct described d = {.tree = json_object_new_object()};
    struct blockdev_options *options = NULL;

    if (co_describe(&d, pairs, error) &&
        qapi_blockdev_options_complete(d.tree, error) &&
        check_known(d.tree, error)) {
        warn_of_empty_backing(d.tree);
        options = qapi_blockdev_options_decode(d.tree, error);
    }
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

static bool has_key(const GPtrArray *pairs, const char *key)
{
    for (guint i = 0; i < pairs->len; i++) {
        if (!strcmp(((struct keyval *)pairs->pdata[i])->key, key)) {
            return true;
        }
    }
    return false;
}

/* What the program's own options say, unless the list says it already. */
static void add_program_options(GPtrArray *pairs, const struct image_open *how)
{
    const struct {
        const char *key, *value;
    } own[] = {
        {"format", how->image_opts ? NULL : how->format},
        {"cache", how->cache},
        {"aio", how->aio},
        {"discard",
         how->discard ? how->discard : (how->writable ? "unmap" : NULL)},
        {"read-only", how->writable && !how->snapshot ? NULL : "on"},
        {"force-share", how->force_share ? "on" : NULL},
    };
    for (size_t i = 0; i < G_N_ELEMENTS(own); i++) {
        if (!has_key(pairs, own[i].key)) {
            add_pair(pairs, own[i].key, own[i].value);
        }
    }
}

struct node *co_image_open(const struct image_open *how, bool *writethrough,
                           GError **error)
{
    g_autoptr(GPtrArray) pairs = NULL;
    bool ignored, probed = false;

    if (!how->image_opts && !*how->filename) {
        error_set(error, "The 'file' block driver requires a file name");
        return NULL;
    }
    if (how->image_opts) {
        pairs = keyval_split(how->filename, "file", error);
        if (!pairs) {
            return NULL;
        }
    } else {
        pairs = g_ptr_array_new_with_free_func(pair_free);
        add_pair(pairs, "file", how->filename);
    }
    add_program_options(pairs, how);
    qapi_auto(blockdev_options) options = co_image_options(
        pairs, &probed, writethrough ? writethrough : &ignored, error);
    const struct open_defaults defaults = {.no_backing = how->no_backing,
                                           .no_data = how->no_data,
                                           .probed = probed,
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
