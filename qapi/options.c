/*
 * The one option path: text of any kind becomes one json tree, and the tree a
 * struct of the schema. Dotted keys are put into the tree here; what "0", "1"
 * in a path mean is left to the decoder, which knows from the schema where a
 * list is. Any loop; never suspends, opens nothing.
 */
#include "qapi/options.h"

#include <json-c/json.h>
#include <string.h>
#include <sys/stat.h>

#include "qapi/json.h"
#include "qapi/nbd_name.h"
#include "util/error.h"
#include "util/keyval.h"

static bool put_json(struct json_object *tree, const char *key,
                     struct json_object *value, bool last_wins, GError **error);

static bool inconsistent(GError **error, const char *key, size_t length)
{
    return error_set(error, "Parameters '%.*s.*' used inconsistently",
                     (int)length, key);
}

/* Puts value, which it owns, at a key without dots; path is for errors. */
static bool put_leaf(struct json_object *tree, const char *name,
                     struct json_object *value, bool last_wins,
                     const char *path, GError **error)
{
    struct json_object *old;
    if (!json_object_object_get_ex(tree, name, &old)) {
        json_object_object_add(tree, name, value);
        return true;
    }
    bool both = json_object_is_type(old, json_type_object) &&
                json_object_is_type(value, json_type_object);
    bool either = json_object_is_type(old, json_type_object) ||
                  json_object_is_type(value, json_type_object);
    if (!either && last_wins) {
        json_object_object_add(tree, name, value);
        return true;
    }
    bool ok = both;
    if (both) {
        json_object_object_foreach(value, key, member)
        {
            ok = ok &&
                 put_json(old, key, json_object_get(member), last_wins, error);
        }
    } else {
        inconsistent(error, path, strlen(path));
    }
    json_object_put(value);
    return ok;
}

/* Walks down key ("a.b.c"), making objects on the way, and puts value, which
 * it owns, there. last_wins: a later scalar replaces an earlier one. */
static bool put_json(struct json_object *tree, const char *key,
                     struct json_object *value, bool last_wins, GError **error)
{
    const char *part = key;
    for (unsigned depth = 0; depth < QAPI_MAX_DEPTH; depth++) {
        size_t length = strcspn(part, ".");
        g_autofree char *name = g_strndup(part, length);
        if (length == 0) {
            break;
        }
        if (!part[length]) {
            return put_leaf(tree, name, value, last_wins, key, error);
        }
        struct json_object *next;
        if (!json_object_object_get_ex(tree, name, &next)) {
            next = json_object_new_object();
            json_object_object_add(tree, name, next);
        }
        if (!json_object_is_type(next, json_type_object)) {
            json_object_put(value);
            return inconsistent(error, key, (size_t)(part + length - key));
        }
        tree = next;
        part += length + 1;
    }
    json_object_put(value);
    return error_set(error, "Invalid parameter '%s'", key);
}

bool qapi_options_put(struct json_object *tree, const char *key,
                      struct json_object *value, GError **error)
{
    return put_json(tree, key, value, true, error);
}

/* A copy of json with dotted keys taken apart; NULL and *error on conflict. */
static struct json_object *expand(struct json_object *json, GError **error)
{
    if (json_object_is_type(json, json_type_array)) {
        struct json_object *array = json_object_new_array();
        for (size_t i = 0; i < json_object_array_length(json); i++) {
            struct json_object *item = json_object_array_get_idx(json, i);
            struct json_object *copy = item ? expand(item, error) : NULL;
            if (item && !copy) {
                json_object_put(array);
                return NULL;
            }
            json_object_array_add(array, copy);
        }
        return array;
    }
    if (!json_object_is_type(json, json_type_object)) {
        return json_object_get(json);
    }
    struct json_object *tree = json_object_new_object();
    json_object_object_foreach(json, key, value)
    {
        struct json_object *copy = value ? expand(value, error) : NULL;
        if ((value && !copy) || !put_json(tree, key, copy, false, error)) {
            json_object_put(tree);
            return NULL;
        }
    }
    return tree;
}

static struct json_object *parse_object(const char *text, GError **error)
{
    struct json_object *json = qapi_json_parse(text, strlen(text), error);
    if (json && !json_object_is_type(json, json_type_object)) {
        json_object_put(json);
        error_set(error, "Invalid JSON object given");
        return NULL;
    }
    return json;
}

static void *parse_json(const struct qapi_type *type, const char *text,
                        GError **error)
{
    struct json_object *json = parse_object(text, error);
    void *value = json ? qapi_decode(type, json, error) : NULL;
    json_object_put(json);
    return value;
}

/* Gives each child in the tree that has a file name, but no driver, the driver
 * of the protocol that the name says, and options of old their new form. depth
 * is that of the tree. */
static bool complete(struct json_object *tree, unsigned depth, GError **error)
{
    struct json_object *filename, *driver;

    if (depth == QAPI_MAX_DEPTH) {
        return error_set(error, "Options are nested too deeply");
    }
    if (!qapi_nbd_modernise(tree, error)) {
        return false;
    }
    json_object_object_foreach(tree, key, value)
    {
        if (!json_object_is_type(value, json_type_object)) {
            continue;
        }
        if (json_object_object_get_ex(value, "filename", &filename) &&
            json_object_is_type(filename, json_type_string) &&
            !json_object_object_get_ex(value, "driver", &driver)) {
            qapi_auto(blockdev_options) named = qapi_blockdev_from_filename(
                json_object_get_string(filename), error);
            if (!named) {
                return false;
            }
            json_object_object_del(value, "filename");
            struct json_object *encoded =
                qapi_encode(&qapi_type_blockdev_options, named);
            json_object_object_foreach(encoded, name, member)
            {
                json_object_object_add(value, name, json_object_get(member));
            }
            json_object_put(encoded);
        }
        if (!complete(value, depth + 1, error)) {
            return false;
        }
        (void)key;
    }
    return true;
}

bool qapi_blockdev_options_complete(struct json_object *tree, GError **error)
{
    return complete(tree, 0, error);
}

struct blockdev_options *qapi_blockdev_options_decode(struct json_object *tree,
                                                      GError **error)
{
    return complete(tree, 0, error)
               ? qapi_decode_keyval(&qapi_type_blockdev_options, tree, error)
               : NULL;
}

struct json_object *qapi_options_json_tree(const char *text, GError **error)
{
    GError *why = NULL;
    struct json_object *json = qapi_json_parse(text, strlen(text), &why);

    if (!json) {
        g_propagate_prefixed_error(error, why,
                                   "Could not parse the JSON options: ");
        return NULL;
    }
    struct json_object *tree = NULL;
    if (json_object_is_type(json, json_type_object)) {
        tree = expand(json, error);
    } else {
        error_set(error, "Invalid JSON object given");
    }
    json_object_put(json);
    return tree;
}

/* The text after "json:". */
static void *parse_json_name(const struct qapi_type *type, const char *text,
                             GError **error)
{
    struct json_object *tree = qapi_options_json_tree(text, error);
    void *value = NULL;

    if (tree && type == &qapi_type_blockdev_options) {
        value = qapi_blockdev_options_decode(tree, error);
    } else if (tree) {
        value = qapi_decode_keyval(type, tree, error);
    }
    json_object_put(tree);
    return value;
}

static void *parse_keyval(const struct qapi_type *type, const char *text,
                          const char *implied_key, GError **error)
{
    g_autoptr(GPtrArray) pairs = keyval_split(text, implied_key, error);
    struct json_object *tree = pairs ? json_object_new_object() : NULL;
    bool ok = tree != NULL;
    for (guint i = 0; ok && i < pairs->len; i++) {
        const struct keyval *pair = g_ptr_array_index(pairs, i);
        ok = put_json(tree, pair->key, json_object_new_string(pair->value),
                      true, error);
    }
    void *value = ok ? qapi_decode_keyval(type, tree, error) : NULL;
    json_object_put(tree);
    return value;
}

void *qapi_options_parse(const struct qapi_type *type, const char *text,
                         const char *implied_key, GError **error)
{
    if (text[0] == '{') {
        return parse_json(type, text, error);
    }
    if (g_str_has_prefix(text, "json:")) {
        return parse_json_name(type, text + strlen("json:"), error);
    }
    return parse_keyval(type, text, implied_key, error);
}

struct blockdev_options *qapi_blockdev_options_parse(const char *text,
                                                     GError **error)
{
    return qapi_options_parse(&qapi_type_blockdev_options, text, "driver",
                              error);
}

/* ---- file names ---- */

bool qapi_filename_has_protocol(const char *filename)
{
    return filename[strcspn(filename, ":/")] == ':';
}

static struct blockdev_options *file_options(const char *path)
{
    struct blockdev_options *options = g_new0(struct blockdev_options, 1);
    options->driver = BLOCKDEV_DRIVER_FILE;
    options->u.file.filename = g_strdup(path);
    return options;
}

enum blockdev_driver qapi_driver_of_path(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && (S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode))
               ? BLOCKDEV_DRIVER_HOST_DEVICE
               : BLOCKDEV_DRIVER_FILE;
}

static struct blockdev_options *path_options(const char *path)
{
    struct blockdev_options *options = file_options(path);
    options->driver = qapi_driver_of_path(path);
    return options;
}

/* "CONFIG:IMAGE"; either part may hold no further colon before the first. */
static struct blockdev_options *blkdebug_options(const char *text,
                                                 unsigned depth,
                                                 GError **error);

static struct blockdev_options *from_filename(const char *filename,
                                              unsigned depth, GError **error)
{
    if (g_str_has_prefix(filename, "json:")) {
        return parse_json_name(&qapi_type_blockdev_options,
                               filename + strlen("json:"), error);
    }
    if (g_str_has_prefix(filename, "file:")) {
        return file_options(filename + strlen("file:"));
    }
    if (g_str_has_prefix(filename, "null-co:") &&
        strcmp(filename, "null-co://") != 0) {
        error_set(error, "The only allowed filename for this driver is "
                         "'null-co://'");
        return NULL;
    }
    if (!strcmp(filename, "null-co://")) {
        struct blockdev_options *options = g_new0(struct blockdev_options, 1);
        options->driver = BLOCKDEV_DRIVER_NULL_CO;
        return options;
    }
    if (qapi_is_nbd_name(filename)) {
        return qapi_nbd_from_name(filename, error);
    }
    if (g_str_has_prefix(filename, "blkdebug:")) {
        return blkdebug_options(filename + strlen("blkdebug:"), depth, error);
    }
    if (qapi_filename_has_protocol(filename)) {
        error_set(error, "Unknown protocol '%.*s'", (int)strcspn(filename, ":"),
                  filename);
        return NULL;
    }
    return path_options(filename);
}

static struct blockdev_options *blkdebug_options(const char *text,
                                                 unsigned depth, GError **error)
{
    const char *image = strchr(text, ':');
    if (!image || depth == QAPI_MAX_DEPTH) {
        error_set(error, "blkdebug requires both config file and image path");
        return NULL;
    }
    qapi_auto(blockdev_options) child =
        from_filename(image + 1, depth + 1, error);
    if (!child) {
        return NULL;
    }
    struct blockdev_options *options = g_new0(struct blockdev_options, 1);
    struct blockdev_options_blkdebug *blkdebug = &options->u.blkdebug;
    options->driver = BLOCKDEV_DRIVER_BLKDEBUG;
    if (image > text) {
        blkdebug->config = g_strndup(text, (gsize)(image - text));
    }
    blkdebug->image = g_new0(struct blockdev_ref, 1);
    blkdebug->image->kind = QAPI_KIND_OBJECT;
    /* The branch is held by value: move the contents, free the shell. */
    blkdebug->image->u.definition = *child;
    memset(child, 0, sizeof(*child));
    return options;
}

struct blockdev_options *qapi_blockdev_from_filename(const char *filename,
                                                     GError **error)
{
    return from_filename(filename, 0, error);
}

char *qapi_blockdev_options_to_filename(const struct blockdev_options *options)
{
    g_autofree char *text =
        qapi_encode_text(&qapi_type_blockdev_options, options);
    return g_strconcat("json:", text, NULL);
}
