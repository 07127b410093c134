/*
 * Options of an image that exists: "compat=0.10,size=4G".
 *
 * What is asked for is checked as a whole; then each difference to what is
 * there is made so, a higher version first and a lower one last. Every step is
 * one write of the header that takes effect when all that it needs is stable.
 *
 * Runs on the node's loop, while nobody else writes to the node.
 */
#include "block/drivers/qcow2/create.h"
#include "block/drivers/qcow2/survey.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "util/error.h"
#include "util/keyval.h"

/* ---- what is asked for --------------------------------------------------- */

static char *text_of(const struct header_extension *e)
{
    return e ? g_strndup((const char *)e->data, e->bytes) : NULL;
}

static void spec_of_image(const struct qcow2 *s, struct image_spec *spec)
{
    *spec = (struct image_spec){
        .size = s->node->length,
        .version = s->version,
        .refcount_bits = UINT64_C(1) << s->refcount_order,
        .lazy_refcounts = s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS,
        .backing_file = s->node->backing_filename,
        .backing_format = s->node->backing_format,
        .data_file_raw = s->external_raw,
    };
}

static bool check_option(const struct keyval *kv, GError **error)
{
    static const char *const known[] = {
        "backing_file", "backing_fmt",   "compat",
        "data_file",    "data_file_raw", "lazy_refcounts",
        "size",         "refcount_bits", NULL};
    static const char *const of_creation[] = {"cluster_size",
                                              "preallocation",
                                              "extended_l2",
                                              "compression_type",
                                              "encryption",
                                              "encrypt.format",
                                              "nocow",
                                              "extent_size_hint",
                                              NULL};

    if (g_strv_contains(of_creation, kv->key)) {
        error_set(error, "Invalid parameter '%s'", kv->key);
        error_add_hint(error,
                       "This option is only supported for image creation");
        return false;
    }
    if (!g_strv_contains(known, kv->key)) {
        return error_set(error, "Invalid parameter '%s'", kv->key);
    }
    const char *const levels[] = {"0.10", "v2", "1.1", "v3", NULL};
    if (!strcmp(kv->key, "compat") && !g_strv_contains(levels, kv->value)) {
        return error_set(error, "Unknown compatibility level %s", kv->value);
    }
    return true;
}

/* The members of x-blockdev-amend. */
static void take_members(const struct blockdev_amend_options_qcow2 *o,
                         struct image_spec *wanted)
{
    if (o->has_version) {
        wanted->version = o->version == BLOCKDEV_QCOW2_VERSION_V2 ? 2 : 3;
    }
    if (o->has_size) {
        wanted->size = o->size;
    }
    if (o->has_lazy_refcounts) {
        wanted->lazy_refcounts = o->lazy_refcounts;
    }
    if (o->has_refcount_bits) {
        wanted->refcount_bits = o->refcount_bits;
    }
    if (o->data_file) {
        wanted->data_file_name = o->data_file;
    }
    if (o->has_data_file_raw) {
        wanted->data_file_raw = o->data_file_raw;
    }
}

/* *list holds the texts of *wanted. */
static bool parse(const struct qcow2 *s, const struct amend_request *request,
                  struct image_spec *wanted, GPtrArray **list, GError **error)
{
    spec_of_image(s, wanted);
    if (!request->text) {
        take_members(&request->options->u.qcow2, wanted);
        return true;
    }
    g_autoptr(GPtrArray) first = keyval_split(request->text, NULL, error);
    for (unsigned i = 0; first && i < first->len; i++) {
        if (!check_option(g_ptr_array_index(first, i), error)) {
            return false;
        }
    }
    return first &&
           qcow2_parse_create_options(request->text, wanted, list, error);
}

static bool check_backing(const struct qcow2 *s, const struct image_spec *w,
                          GError **error)
{
    if (!g_strcmp0(w->backing_file, s->node->backing_filename) &&
        !g_strcmp0(w->backing_format, s->node->backing_format)) {
        return true;
    }
    error_set(error, "Cannot amend the backing file");
    error_add_hint(error, "You can use 'varve-img rebase' instead.");
    return false;
}

static bool check_wanted(const struct qcow2 *s, const struct image_spec *w,
                         GError **error)
{
    bool lazy = s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;

    if (!is_power_of_2(w->refcount_bits) || w->refcount_bits > 64) {
        return error_set(error, "Refcount width must be a power of two and may "
                                "not exceed 64 bits");
    }
    if (w->version < 3 && w->refcount_bits != 16) {
        return error_set(error,
                         "Refcount widths other than 16 bits require "
                         "compatibility level 1.1 or above (use compat=1.1 or "
                         "greater)");
    }
    if (w->version < 3 && w->lazy_refcounts && !lazy) {
        return error_set(error,
                         "Lazy refcounts only supported with compatibility "
                         "level 1.1 and above (use compat=1.1 or greater)");
    }
    if (w->data_file_name && !s->external) {
        return error_set(error, "data-file can only be set for images that use "
                                "an external data file");
    }
    if (w->data_file_raw && !s->external_raw) {
        return error_set(error, "data-file-raw cannot be set on existing "
                                "images");
    }
    return check_backing(s, w, error);
}

/* ---- the header ---------------------------------------------------------- */

static void put_upgrade(struct header_area *h, void *opaque)
{
    h->fields.version = 3;
    header_area_set_feature_names(h);
}

static void put_downgrade(struct header_area *h, void *opaque)
{
    h->fields.version = 2;
    h->fields.incompatible = h->fields.compatible = h->fields.autoclear = 0;
    header_area_set(h, QCOW2_EXT_FEATURE_NAMES, NULL, 0);
}

/* The features and the data file; opaque: struct image_spec. */
static void put_features(struct header_area *h, void *opaque)
{
    const struct image_spec *w = opaque;

    h->fields.compatible &= ~QCOW2_COMPAT_LAZY_REFCOUNTS;
    if (w->lazy_refcounts) {
        h->fields.compatible |= QCOW2_COMPAT_LAZY_REFCOUNTS;
    }
    if (!w->data_file_raw) {
        h->fields.autoclear &= ~QCOW2_AUTOCLEAR_RAW_DATA;
    }
    if (w->data_file_name) {
        bool none = !*w->data_file_name;
        header_area_set(h, QCOW2_EXT_DATA_FILE, none ? NULL : w->data_file_name,
                        strlen(w->data_file_name));
    }
}

static bool co_set_version(struct qcow2 *s, unsigned version, GError **error)
{
    if (!co_qcow2_edit_header(s, version == 3 ? put_upgrade : put_downgrade,
                              NULL, error)) {
        return false;
    }
    s->version = version;
    /* Version 2 has no bit that says so; the refcounts are settled. */
    s->lazy = s->lazy && version >= 3;
    return true;
}

/* Entries of snapshots that do not say how large the disk was, as those of
 * version 2 may, say it first. */
static bool co_upgrade(struct qcow2 *s, GError **error)
{
    bool sized = true;

    for (unsigned i = 0; i < s->snapshots.list->len; i++) {
        sized = sized && qcow2_snapshot_has_size(
                             g_ptr_array_index(s->snapshots.list, i));
    }
    int ret = sized ? 0 : co_qcow2_snapshots_rewrite(s);
    return ret < 0 ? error_set_errno(error, ret,
                                     "Could not write the snapshot table")
                   : co_set_version(s, 3, error);
}

static bool co_set_features(struct qcow2 *s, struct image_spec *w,
                            GError **error)
{
    g_autofree char *name = text_of(qcow2_extension(s, QCOW2_EXT_DATA_FILE));
    bool lazy = s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;

    if (w->lazy_refcounts == lazy && w->data_file_raw == s->external_raw &&
        (!w->data_file_name || !g_strcmp0(name, w->data_file_name))) {
        return true;
    }
    if (!co_qcow2_edit_header(s, put_features, w, error)) {
        return false;
    }
    s->external_raw = w->data_file_raw;
    if (w->lazy_refcounts != lazy) {
        s->lazy = w->lazy_refcounts;
    }
    return true;
}

/* ---- refcounts of another width ------------------------------------------ */

static bool check_width(struct survey *v, uint64_t bits, GError **error)
{
    uint64_t max = bits == 64 ? UINT64_MAX : (UINT64_C(1) << bits) - 1;

    for (int64_t c = 0; c < v->end; c++) {
        uint32_t n = qcow2_survey_count_at(v, c);
        if (n > max) {
            return error_set(error,
                             "Cannot decrease refcount entry width to %" PRIu64
                             " bits: Cluster at offset %#" PRIx64
                             " has a refcount of %" PRIu32,
                             bits, (uint64_t)c << v->s->cluster_bits, n);
        }
    }
    return true;
}

static bool co_set_width(struct qcow2 *s, uint64_t bits, GError **error)
{
    struct survey v;

    int ret = co_qcow2_settle(s);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not write the metadata");
    }
    bool ok = qcow2_survey_init(&v, s) ||
              error_set_errno(error, ENOMEM, "Could not count the references");
    ok = ok && co_qcow2_survey(&v, error) && check_width(&v, bits, error) &&
         co_qcow2_rebuild_refcounts(&v, g_bit_nth_lsf(bits, -1), error);
    qcow2_survey_clear(&v);
    return ok;
}

static bool co_downgrade(struct qcow2 *s, struct amend_request *request,
                         GError **error)
{
    int ret = co_qcow2_expand_zeroes(s, request);

    if (ret < 0) {
        return error_set_errno(error, ret,
                               "Failed to turn zero into data "
                               "clusters");
    }
    return co_set_version(s, 2, error);
}

/* ---- all together -------------------------------------------------------- */

static bool co_apply(struct qcow2 *s, struct image_spec *w,
                     struct amend_request *request, GError **error)
{
    if (w->version > s->version && !co_upgrade(s, error)) {
        return false;
    }
    if (w->refcount_bits != UINT64_C(1) << s->refcount_order &&
        !co_set_width(s, w->refcount_bits, error)) {
        return false;
    }
    if (s->version >= 3 && !co_set_features(s, w, error)) {
        return false;
    }
    if (w->size != (uint64_t)s->node->length &&
        !co_node_truncate(s->node, (int64_t)w->size, false, PREALLOC_MODE_OFF,
                          0, error)) {
        return false;
    }
    return w->version >= s->version || co_downgrade(s, request, error);
}

bool co_qcow2_amend(struct node *node, struct amend_request *request,
                    GError **error)
{
    g_autoptr(GPtrArray) list = NULL;
    struct image_spec wanted;
    struct qcow2 *s = node->state;

    return parse(s, request, &wanted, &list, error) &&
           check_wanted(s, &wanted, error) &&
           (wanted.version >= s->version ||
            co_qcow2_check_downgrade(s, error)) &&
           co_apply(s, &wanted, request, error);
}
