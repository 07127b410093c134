/*
 * From options to a new image: blockdev-create's struct, and the parameters of
 * the image tools ("-o cluster_size=64k,...").
 *
 * Runs on the caller's loop.
 */
#include "block/drivers/qcow2/create.h"
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
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

static bool parse_bool(const struct keyval *kv, bool *out, GError **error)
{
    if (!strcmp(kv->value, "on") || !strcmp(kv->value, "off")) {
        *out = kv->value[1] == 'n';
        return true;
    }
    return error_set(error, "Parameter '%s' expects 'on' or 'off'", kv->key);
}

static bool parse_enum(const struct keyval *kv, const struct qapi_type *type,
                       int *out, GError **error)
{
    *out = qapi_enum_parse(type, kv->value);
    return *out >= 0 ||
           error_set(error, "Parameter '%s' does not accept value '%s'",
                     kv->key, kv->value);
}

static bool parse_size(const struct keyval *kv, uint64_t *out, GError **error)
{
    g_autoptr(GError) why = NULL;

    return keyval_parse_size(kv->value, out, &why) ||
           error_set(error, "Parameter '%s' expects a size: %s", kv->key,
                     why->message);
}

static bool parse_compat(const struct keyval *kv, unsigned *version,
                         GError **error)
{
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

/* Options that only change something if they are on: refused by name then. */
static bool parse_absent(const struct keyval *kv, GError **error)
{
    static const char *const names[] = {"encryption", "encrypt.format"};

    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++) {
        if (!strcmp(kv->key, names[i])) {
            return !strcmp(kv->value, "off") ||
                   error_set(error, "Parameter '%s' is not supported", kv->key);
        }
    }
    return error_set(error, "Invalid parameter '%s'", kv->key);
}

static bool parse_option(const struct keyval *kv, struct image_spec *spec,
                         GError **error)
{
    bool ok;
    int value;

    if (!strcmp(kv->key, "cluster_size")) {
        return parse_size(kv, &spec->cluster_size, error);
    }
    if (!strcmp(kv->key, "refcount_bits")) {
        return parse_size(kv, &spec->refcount_bits, error);
    }
    if (!strcmp(kv->key, "size")) {
        return parse_size(kv, &spec->size, error);
    }
    if (!strcmp(kv->key, "compat")) {
        return parse_compat(kv, &spec->version, error);
    }
    if (!strcmp(kv->key, "lazy_refcounts")) {
        return parse_bool(kv, &spec->lazy_refcounts, error);
    }
    if (!strcmp(kv->key, "data_file_raw")) {
        return parse_bool(kv, &spec->data_file_raw, error);
    }
    if (!strcmp(kv->key, "extended_l2")) {
        return parse_bool(kv, &spec->extended_l2, error);
    }
    if (!strcmp(kv->key, "preallocation")) {
        ok = parse_enum(kv, &qapi_type_prealloc_mode, &value, error);
        spec->preallocation = ok ? value : 0;
        return ok;
    }
    if (!strcmp(kv->key, "compression_type")) {
        ok = parse_enum(kv, &qapi_type_qcow2_compression_type, &value, error);
        spec->compression = ok ? value : 0;
        return ok;
    }
    if (!strcmp(kv->key, "backing_file")) {
        spec->backing_file = kv->value;
        return true;
    }
    if (!strcmp(kv->key, "backing_fmt")) {
        spec->backing_format = kv->value;
        return true;
    }
    if (!strcmp(kv->key, "data_file")) {
        spec->data_file_name = kv->value;
        return true;
    }
    if (!strcmp(kv->key, "nocow") || !strcmp(kv->key, "extent_size_hint")) {
        return true;
    }
    return parse_absent(kv, error);
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

/* Makes a file, by the protocol that its name says, and opens it. */
static struct node *co_new_file(const char *filename, GError **error)
{
    qapi_auto(blockdev_options) options =
        qapi_blockdev_from_filename(filename, error);
    struct create_params empty = {0};

    if (!options || !co_image_create_file(filename, &empty, error)) {
        return NULL;
    }
    return co_node_open(options, error);
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
    struct node *file = co_new_file(filename, error);
    if (file && spec.data_file_name) {
        spec.data_file = co_new_file(spec.data_file_name, error);
    }
    return co_format_opened(file, &spec, error);
}
