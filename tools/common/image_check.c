/*
 * Options that no driver knows, and values that cannot be meant. The decoder
 * would find them, too, but says it in other words, and with the path from the
 * root; here names are those that the node's own driver knows.
 *
 * Pure functions.
 */
#include "tools/common/image_tree.h"

#include <json-c/json.h>
#include <string.h>
#include "block/driver.h"
#include "qapi/codec.h"
#include "qapi/types.h"
#include "util/error.h"
#include "util/keyval.h"

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

/* ---- options that no driver knows -----------------------------------------
 */

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

bool image_tree_refuse(const char *driver, const char *key,
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

/* ---- values ---------------------------------------------------------------
 */

static bool check_bool(const char *key, struct json_object *value,
                       GError **error)
{
    bool on;

    return json_object_is_type(value, json_type_boolean) ||
           (json_object_is_type(value, json_type_string) &&
            keyval_bool(json_object_get_string(value), &on)) ||
           error_set(error, "Parameter '%s' expects 'on' or 'off'", key);
}

/* Most whole numbers are sizes, whatever the schema calls them. */
static bool check_number(const char *key, struct json_object *value,
                         GError **error)
{
    static const char *const plain[] = {
        "cache-clean-interval", "latency-ns",     "open-timeout",
        "reconnect-delay",      "vote-threshold", NULL};
    const char *text = json_object_get_string(value);
    char *end;
    uint64_t size;

    if (g_strv_contains(plain, key)) {
        (void)g_ascii_strtoull(text, &end, 0);
        return (*text && !*end) ||
               error_set(error, "Parameter '%s' expects a number", key);
    }
    return keyval_parse_size(key, text, &size, error);
}

static bool check_enum(const struct qapi_type *type, const char *key,
                       struct json_object *value, GError **error)
{
    const char *text = json_object_get_string(value);

    if (qapi_enum_parse(type, text) >= 0) {
        return true;
    }
    if (!strcmp(key, "overlap-check.template")) {
        return error_set(error,
                         "Unsupported value '%s' for qcow2 option "
                         "'overlap-check'. Allowed are any of the following: "
                         "none, constant, cached, all",
                         text);
    }
    return error_set(error, "invalid parameter value: %s", text);
}

static bool check_value(const char *driver, const struct qapi_type *type,
                        const char *key, struct json_object *value,
                        GError **error);

/* The members of something that is no node. */
static bool check_members(const char *driver, const struct qapi_type *type,
                          const char *path, struct json_object *tree,
                          GError **error)
{
    json_object_object_foreach(tree, key, value)
    {
        const struct qapi_member *m = find_member(type, key);
        g_autofree char *name = g_strdup_printf("%s.%s", path, key);

        if (!m) {
            return image_tree_refuse(driver, name, value, error);
        }
        if (!check_value(driver, m->type, name, value, error)) {
            return false;
        }
    }
    return true;
}

static bool check_value(const char *driver, const struct qapi_type *type,
                        const char *key, struct json_object *value,
                        GError **error)
{
    bool object = json_object_is_type(value, json_type_object);
    bool text = json_object_is_type(value, json_type_string);

    switch (type->meta) {
    case QAPI_META_BOOL:
        return object || check_bool(key, value, error);
    case QAPI_META_INT:
        return object || !value || check_number(key, value, error);
    case QAPI_META_ENUM:
        return !text || check_enum(type, key, value, error);
    case QAPI_META_STRUCT:
        return !object || type->branches ||
               check_members(driver, type, key, value, error);
    default:
        return true;
    }
}

/* Either a word or its members. */
static bool check_overlap(const char *driver, struct json_object *value,
                          GError **error)
{
    const struct qapi_type *flags = &qapi_type_qcow2_overlap_check_flags;
    static const char template[] = "overlap-check.template";

    return json_object_is_type(value, json_type_string)
               ? check_enum(find_member(flags, "template")->type, template,
                            value, error)
               : check_value(driver, flags, "overlap-check", value, error);
}

/* Read apart from the node, so its members are named alone. */
static bool check_address(struct json_object *value, GError **error)
{
    if (!json_object_is_type(value, json_type_object)) {
        return error_set(error, "NBD server address missing");
    }
    void *address = qapi_decode_keyval(&qapi_type_socket_address, value, error);
    qapi_free(&qapi_type_socket_address, address);
    return address;
}

/* ---- nodes ----------------------------------------------------------------
 */

static bool check_child(const char *name, struct json_object *tree,
                        GError **error)
{
    GError *why = NULL;

    if (image_tree_check(tree, &why)) {
        return true;
    }
    g_propagate_prefixed_error(
        error, why, "%s",
        strcmp(name, "backing") ? "" : "Could not open backing file: ");
    return false;
}

static bool check_option(enum blockdev_driver driver, const char *key,
                         struct json_object *value, GError **error)
{
    const struct qapi_type *type = &qapi_type_blockdev_options;
    const struct qapi_member *m = find_member(type, key);
    const char *name = blockdev_driver_str(driver);

    m = m ? m : find_member(type->branches[driver], key);
    if (!m) {
        bool tree = json_object_is_type(value, json_type_object);
        return tree && !strcmp(key, "backing")
                   ? error_set(error, "Driver doesn't support backing files")
                   : image_tree_refuse(name, key, value, error);
    }
    if (m->type == &qapi_type_blockdev_ref ||
        m->type == &qapi_type_blockdev_ref_or_null) {
        return !json_object_is_type(value, json_type_object) ||
               check_child(key, value, error);
    }
    if (m->type == &qapi_type_socket_address) {
        return check_address(value, error);
    }
    if (m->type == &qapi_type_qcow2_overlap_checks) {
        return check_overlap(name, value, error);
    }
    return check_value(name, m->type, key, value, error);
}

bool image_tree_check(struct json_object *tree, GError **error)
{
    struct json_object *name;
    enum blockdev_driver driver;

    if (!json_object_object_get_ex(tree, "driver", &name) ||
        !blockdev_driver_parse(json_object_get_string(name), &driver)) {
        return true;
    }
    json_object_object_foreach(tree, key, value)
    {
        if (!check_option(driver, key, value, error)) {
            return false;
        }
    }
    return true;
}
