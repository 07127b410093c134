/*
 * From options to a new image: blockdev-create's struct, and the parameters of
 * the image tools ("-o cluster_size=64k,...").
 *
 * Runs on the caller's loop.
 */
#include "block/drivers/qcow2/create.h"
#include "block/create.h"
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include "block/backend.h"
#include "qapi/options.h"
#include "util/error.h"
#include "util/keyval.h"

/* ---- the node to write into ---------------------------------------------- */

static struct backend *co_use(struct node *node, GError **error)
{
    return co_backend_new(NULL, node, PERM_WRITE | PERM_RESIZE,
                          PERM_ALL & ~PERM_RESIZE, error);
}

/* Formats nodes that others may have too, with the rights to them. */
static bool co_format_nodes(struct node *file, const struct image_spec *spec,
                            GError **error)
{
    struct backend *b = co_use(file, error), *data = NULL;
    bool ok = b;

    if (ok && spec->data_file) {
        data = co_use(spec->data_file, error);
        ok = data;
    }
    ok = ok && co_qcow2_format(file, spec, error);
    if (data) {
        co_backend_unref(data);
    }
    if (b) {
        co_backend_unref(b);
    }
    return ok;
}

/* The same; consumes the references to file, which may be NULL after a failure,
 * and to the data file. */
static bool co_format_opened(struct node *file, struct image_spec *spec,
                             GError **error)
{
    bool ok = file && (!spec->data_file_name || spec->data_file) &&
              co_format_nodes(file, spec, error);

    if (spec->data_file) {
        co_node_unref(spec->data_file);
    }
    if (file) {
        co_node_unref(file);
    }
    return ok;
}

static struct node *co_open_ref(const struct blockdev_ref *ref, GError **error)
{
    if (ref->kind == QAPI_KIND_STRING) {
        struct node *node =
            node_lookup(ref->u.reference, ref->u.reference, error);
        return node ? node_ref(node) : NULL;
    }
    return co_node_open(&ref->u.definition, error);
}

/* ---- blockdev-create ----------------------------------------------------- */

bool co_qcow2_create(const struct blockdev_create_options *options,
                     GError **error)
{
    const struct blockdev_create_options_qcow2 *o = &options->u.qcow2;
    struct image_spec spec = IMAGE_SPEC_INIT;

    spec.data_file_raw = o->has_data_file_raw && o->data_file_raw;
    spec.extended_l2 = o->has_extended_l2 && o->extended_l2;
    spec.size = o->size;
    if (o->has_version && o->version == BLOCKDEV_QCOW2_VERSION_V2) {
        spec.version = 2;
    }
    if (o->has_cluster_size) {
        spec.cluster_size = o->cluster_size;
    }
    if (o->has_refcount_bits) {
        spec.refcount_bits = o->refcount_bits;
    }
    if (o->has_preallocation) {
        spec.preallocation = o->preallocation;
    }
    if (o->has_compression_type) {
        spec.compression = o->compression_type;
    }
    spec.lazy_refcounts = o->has_lazy_refcounts && o->lazy_refcounts;
    spec.backing_file = o->backing_file;
    if (o->has_backing_fmt) {
        spec.backing_format = blockdev_driver_str(o->backing_fmt);
    }
    struct node *file = co_open_ref(o->file, error);
    if (file && o->data_file) {
        spec.data_file = co_open_ref(o->data_file, error);
        spec.data_file_name = spec.data_file ? spec.data_file->filename : "";
    }
    return co_format_opened(file, &spec, error);
}

/* ---- "-o" ---------------------------------------------------------------- */

static bool parse_bool(const struct keyval *kv, void *out, GError **error)
{
    return keyval_take_bool(kv, out, error);
}

static bool parse_enum(const struct keyval *kv, const struct qapi_type *type,
                       int *value, GError **error)
{
    *value = qapi_enum_parse(type, kv->value);
    return *value >= 0 ||
           error_set(error, "Parameter '%s' does not accept value '%s'",
                     kv->key, kv->value);
}

static bool parse_preallocation(const struct keyval *kv, void *out,
                                GError **error)
{
    int value;
    bool ok = parse_enum(kv, &qapi_type_prealloc_mode, &value, error);

    *(enum prealloc_mode *)out = ok ? value : 0;
    return ok;
}

static bool parse_compression(const struct keyval *kv, void *out,
                              GError **error)
{
    int value;
    bool ok = parse_enum(kv, &qapi_type_qcow2_compression_type, &value, error);

    *(enum qcow2_compression_type *)out = ok ? value : 0;
    return ok;
}

static bool parse_size(const struct keyval *kv, void *out, GError **error)
{
    return keyval_parse_size(kv->key, kv->value, out, error);
}

static bool parse_number(const struct keyval *kv, void *out, GError **error)
{
    return keyval_take_number(kv, out, error);
}

static bool parse_text(const struct keyval *kv, void *out, GError **error)
{
    *(const char **)out = kv->value;
    return true;
}

static bool parse_compat(const struct keyval *kv, void *out, GError **error)
{
    unsigned *version = out;

    if (!strcmp(kv->value, "0.10") || !strcmp(kv->value, "v2")) {
        *version = 2;
    } else if (!strcmp(kv->value, "1.1") || !strcmp(kv->value, "v3")) {
        *version = 3;
    } else {
        return error_set(error,
                         "Parameter 'version' does not accept value "
                         "'%s'",
                         kv->value);
    }
    return true;
}

/* What is not there may be said to be off. */
static bool parse_absent(const struct keyval *kv, void *out, GError **error)
{
    return !strcmp(kv->value, "off") ||
           error_set(error, "Parameter '%s' is not supported", kv->key);
}

static const struct option {
    const char *name;
    bool (*parse)(const struct keyval *kv, void *out, GError **error);
    size_t member; /* of struct image_spec: its offset */
} known[] = {
    {"backing_file", parse_text, offsetof(struct image_spec, backing_file)},
    {"backing_fmt", parse_text, offsetof(struct image_spec, backing_format)},
    {"cluster_size", parse_size, offsetof(struct image_spec, cluster_size)},
    {"compat", parse_compat, offsetof(struct image_spec, version)},
    {"compression_type", parse_compression,
     offsetof(struct image_spec, compression)},
    {"data_file", parse_text, offsetof(struct image_spec, data_file_name)},
    {"data_file_raw", parse_bool, offsetof(struct image_spec, data_file_raw)},
    {"encrypt.format", parse_absent, 0},
    {"encryption", parse_absent, 0},
    {"extended_l2", parse_bool, offsetof(struct image_spec, extended_l2)},
    {"extent_size_hint", parse_text,
     offsetof(struct image_spec, extent_size_hint)},
    {"lazy_refcounts", parse_bool, offsetof(struct image_spec, lazy_refcounts)},
    {"nocow", parse_text, offsetof(struct image_spec, nocow)},
    {"preallocation", parse_preallocation,
     offsetof(struct image_spec, preallocation)},
    {"refcount_bits", parse_number, offsetof(struct image_spec, refcount_bits)},
    {"size", parse_size, offsetof(struct image_spec, size)},
};

static bool parse_option(const struct keyval *kv, struct image_spec *spec,
                         GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(known); i++) {
        if (!strcmp(kv->key, known[i].name)) {
            return known[i].parse(kv, (char *)spec + known[i].member, error);
        }
    }
    return error_set(error, "Invalid parameter '%s'", kv->key);
}

bool qcow2_parse_create_options(const char *text, struct image_spec *spec,
                                GPtrArray **list, GError **error)
{
    *list = text ? keyval_split(text, NULL, error) : NULL;
    if (text && !*list) {
        return false;
    }
    for (unsigned i = 0; *list && i < (*list)->len; i++) {
        if (!parse_option(g_ptr_array_index(*list, i), spec, error)) {
            return false;
        }
    }
    return true;
}

/* The size of the backing file; a relative name is relative to the image. */
static bool co_backing_size(const char *filename, const struct image_spec *spec,
                            uint64_t *size, GError **error)
{
    g_autofree char *path = NULL;
    const struct open_defaults defaults = {.read_only = true};

    if (!spec->backing_file) {
        return error_set(error, "Image creation needs a size parameter");
    }
    if (qapi_filename_has_protocol(spec->backing_file) ||
        g_path_is_absolute(spec->backing_file)) {
        path = g_strdup(spec->backing_file);
    } else {
        g_autofree char *dir = g_path_get_dirname(filename);
        path = g_build_filename(dir, spec->backing_file, NULL);
    }
    struct node *node =
        co_node_open_filename(path, spec->backing_format, &defaults, error);
    if (!node) {
        g_prefix_error(error, "Could not open backing image: ");
        return false;
    }
    *size = node->length;
    co_node_unref(node);
    return true;
}

/* The options that are about the files; NULL: none. Caller frees. */
static char *options_of_files(const struct image_spec *spec)
{
    GString *text = g_string_new(NULL);

    if (spec->nocow) {
        g_string_append_printf(text, "nocow=%s", spec->nocow);
    }
    if (spec->extent_size_hint) {
        g_string_append_printf(text, "%sextent_size_hint=%s",
                               text->len ? "," : "", spec->extent_size_hint);
    }
    return g_string_free(text, text->len == 0);
}

/* Makes a file, by the protocol that its name says, and opens it. */
static struct node *co_new_file(const char *filename, const char *extra,
                                GError **error)
{
    qapi_auto(blockdev_options) options =
        qapi_blockdev_from_filename(filename, error);
    struct create_params empty = {.extra = extra};

    if (!options || !co_image_create_file(filename, &empty, error)) {
        return NULL;
    }
    return co_node_open(options, error);
}

/* An image that could not be made leaves no files that pass for something. */
static bool co_make_files(const char *filename, struct image_spec *spec,
                          GError **error)
{
    g_autofree char *extra = options_of_files(spec);
    struct node *file = co_new_file(filename, extra, error);
    bool made = file;

    if (made && spec->data_file_name) {
        spec->data_file = co_new_file(spec->data_file_name, extra, error);
    }
    bool data_made = spec->data_file;
    if (co_format_opened(file, spec, error)) {
        return true;
    }
    if (made) {
        co_image_delete_file(filename);
    }
    if (data_made) {
        co_image_delete_file(spec->data_file_name);
    }
    return false;
}

bool co_qcow2_create_file(const char *filename,
                          const struct create_params *params, GError **error)
{
    struct image_spec spec = IMAGE_SPEC_INIT;
    g_autoptr(GPtrArray) extra = NULL;

    spec.size = UINT64_MAX;
    if (!qcow2_parse_create_options(params->extra, &spec, &extra, error)) {
        return false;
    }
    if (params->size >= 0) {
        spec.size = params->size;
    }
    if (params->backing_file) {
        spec.backing_file = params->backing_file;
    }
    if (params->backing_format) {
        spec.backing_format = params->backing_format;
    }
    if (spec.size == UINT64_MAX &&
        !co_backing_size(filename, &spec, &spec.size, error)) {
        return false;
    }
    if (spec.size > BLOCK_MAX_LENGTH) {
        return error_set(error, "Image size is too large");
    }
    spec.size = align_up(spec.size, BLOCK_SECTOR_SIZE);
    /* Nothing is made of what cannot be. */
    if (!qcow2_check_spec(&spec, error)) {
        return false;
    }
    return co_make_files(filename, &spec, error);
}
