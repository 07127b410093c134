/*
 * The header of an image, read and checked field by field; header_area.c writes
 * it.
 *
 * Nothing that the file says is believed before it has been compared with a
 * limit.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/header.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "block/drivers/qcow2/qcow2.h"
#include "util/error.h"

void qcow2_header_to_host(struct qcow2_disk_header *h)
{
    h->magic = be32toh(h->magic);
    h->version = be32toh(h->version);
    h->backing_file_offset = be64toh(h->backing_file_offset);
    h->backing_file_size = be32toh(h->backing_file_size);
    h->cluster_bits = be32toh(h->cluster_bits);
    h->size = be64toh(h->size);
    h->crypt_method = be32toh(h->crypt_method);
    h->l1_size = be32toh(h->l1_size);
    h->l1_table_offset = be64toh(h->l1_table_offset);
    h->refcount_table_offset = be64toh(h->refcount_table_offset);
    h->refcount_table_clusters = be32toh(h->refcount_table_clusters);
    h->nb_snapshots = be32toh(h->nb_snapshots);
    h->snapshots_offset = be64toh(h->snapshots_offset);
    h->incompatible = be64toh(h->incompatible);
    h->compatible = be64toh(h->compatible);
    h->autoclear = be64toh(h->autoclear);
    h->refcount_order = be32toh(h->refcount_order);
    h->header_length = be32toh(h->header_length);
}

/* Version 2 has none of the later fields; their place may hold anything. */
static void v2_defaults(struct qcow2_disk_header *h)
{
    h->incompatible = h->compatible = h->autoclear = 0;
    h->refcount_order = 4;
    h->header_length = QCOW2_V2_HEADER;
    h->compression_type = 0;
}

static bool check_version(const struct qcow2_disk_header *h, GError **error)
{
    if (h->magic != QCOW2_MAGIC) {
        return error_set(error, "Image is not in qcow2 format");
    }
    if (h->version < 2 || h->version > 3) {
        return error_set(error, "Unsupported qcow2 version %" PRIu32,
                         h->version);
    }
    if (h->cluster_bits < QCOW2_MIN_CLUSTER_BITS ||
        h->cluster_bits > QCOW2_MAX_CLUSTER_BITS) {
        return error_set(error, "Unsupported cluster size: 2^%" PRIu32,
                         h->cluster_bits);
    }
    return true;
}

static bool check_length(const struct qcow2_disk_header *h, GError **error)
{
    if (h->version == 2) {
        return true;
    }
    if (h->header_length < QCOW2_V3_HEADER) {
        return error_set(error, "qcow2 header too short: %" PRIu32 " bytes",
                         h->header_length);
    }
    if (h->header_length > UINT32_C(1) << h->cluster_bits) {
        return error_set(error, "qcow2 header exceeds cluster size");
    }
    return true;
}

/* ---- features ------------------------------------------------------------ */

/* "dirty bit" of the image's own table, or "unknown ... bit: 17". */
static char *feature_name(const struct header_extension *table, unsigned bit)
{
    const struct qcow2_disk_feature *row =
        table ? (const void *)table->data : NULL;

    for (size_t n = table ? table->bytes / sizeof(*row) : 0; n; n--, row++) {
        if (row->type == 0 && row->bit == bit && row->name[0]) {
            char *name = g_strndup(row->name, sizeof(row->name));
            /* It goes into messages: printable ASCII only. */
            for (char *p = name; *p; p++) {
                if (!g_ascii_isprint(*p)) {
                    *p = '?';
                }
            }
            return name;
        }
    }
    static const char *const known[] = {
        [2] = "external data file",
        [4] = "extended L2 entries",
    };
    if (bit < G_N_ELEMENTS(known) && known[bit]) {
        return g_strdup(known[bit]);
    }
    return g_strdup_printf("unknown incompatible feature: bit %u", bit);
}

static bool check_features(const struct qcow2_disk_header *h,
                           const struct header_extension *names, GError **error)
{
    uint64_t unknown = h->incompatible & ~QCOW2_INCOMPAT_KNOWN;

    if (!unknown) {
        return true;
    }
    g_autoptr(GString) list = g_string_new(NULL);
    for (unsigned bit = 0; bit < 64; bit++) {
        if (unknown >> bit & 1) {
            g_autofree char *name = feature_name(names, bit);
            g_string_append_printf(list, "%s%s", list->len ? ", " : "", name);
        }
    }
    return error_set(error, "Unsupported qcow2 feature(s): %s", list->str);
}

static bool check_compression(const struct qcow2_disk_header *h, GError **error)
{
    bool bit = h->incompatible & QCOW2_INCOMPAT_COMPRESSION;

    if (h->compression_type > QCOW2_COMPRESSION_TYPE_ZSTD) {
        return error_set(error, "qcow2: unknown compression type: %u",
                         h->compression_type);
    }
    if (bit != (h->compression_type != QCOW2_COMPRESSION_TYPE_ZLIB)) {
        return error_set(error,
                         "qcow2: Compression type incompatible feature bit "
                         "must %sbe set",
                         bit ? "not " : "");
    }
    return true;
}

/* ---- numbers ------------------------------------------------------------- */

/* A table's place: cluster-aligned, and its end below the largest offset. */
static bool check_table(const struct qcow2_disk_header *h, const char *name,
                        uint64_t offset, uint64_t entries, uint64_t entry_bytes,
                        uint64_t max_bytes, GError **error)
{
    if (entries > max_bytes / entry_bytes) {
        return error_set(error, "%s too large", name);
    }
    if (offset & ((UINT64_C(1) << h->cluster_bits) - 1)) {
        return error_set(error, "%s offset invalid", name);
    }
    if (offset > (uint64_t)BLOCK_MAX_LENGTH - entries * entry_bytes ||
        (entries && !offset)) {
        return error_set(error, "%s offset invalid", name);
    }
    return true;
}

bool qcow2_header_check_snapshots(const struct qcow2_disk_header *h,
                                  GError **error)
{
    uint32_t n = MIN(h->nb_snapshots, QCOW2_MAX_SNAPSHOTS);

    return check_table(h, "Snapshot table", h->snapshots_offset, n,
                       sizeof(struct qcow2_disk_snapshot),
                       QCOW2_MAX_SNAPSHOTS * sizeof(struct qcow2_disk_snapshot),
                       error);
}

static bool check_size(const struct qcow2_disk_header *h, GError **error)
{
    bool extended = h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2;
    unsigned l1_shift = h->cluster_bits + h->cluster_bits - 3 - extended;

    if (h->size > (uint64_t)BLOCK_MAX_LENGTH) {
        return error_set(error, "Image size %" PRIu64 " is too large", h->size);
    }
    uint64_t need =
        (h->size >> l1_shift) + !!(h->size & ((UINT64_C(1) << l1_shift) - 1));
    if (need > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error, "Image is too big");
    }
    if (h->l1_size < need) {
        return error_set(error, "L1 table is too small");
    }
    return true;
}

static bool check_numbers(const struct qcow2_disk_header *h, GError **error)
{
    uint64_t per_cluster = (UINT64_C(1) << h->cluster_bits) / 8;

    if ((h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2) &&
        h->cluster_bits < QCOW2_MIN_SUBCLUSTER_BITS + 5) {
        return error_set(error, "Unsupported subcluster size: %u",
                         (1u << h->cluster_bits) / QCOW2_SUBCLUSTERS);
    }

    if (h->crypt_method) {
        static const char *const names[] = {"", "AES", "LUKS"};
        return error_set(error, "Unsupported encryption method %" PRIu32 "%s%s",
                         h->crypt_method, h->crypt_method < 3 ? ": " : "",
                         h->crypt_method < 3 ? names[h->crypt_method] : "");
    }
    if (h->refcount_order > QCOW2_MAX_REFCOUNT_ORDER) {
        return error_set(error, "Reference count entry width too large; may "
                                "not exceed 64 bits");
    }
    if (!h->refcount_table_clusters) {
        return error_set(error,
                         "Image does not contain a reference count table");
    }
    return check_table(h, "Reference count table", h->refcount_table_offset,
                       h->refcount_table_clusters * per_cluster, 8,
                       QCOW2_MAX_REFTABLE_BYTES, error) &&
           check_table(h, "Active L1 table", h->l1_table_offset, h->l1_size, 8,
                       QCOW2_MAX_L1_BYTES, error) &&
           check_size(h, error);
}

/* ---- extensions and backing name ----------------------------------------- */

/* Takes over the extensions in area[from, end). */
static bool parse_extensions(const uint8_t *area, size_t from, size_t end,
                             GPtrArray *out, GError **error)
{
    for (size_t at = from; at + sizeof(struct qcow2_disk_extension) <= end;) {
        struct qcow2_disk_extension ext;
        memcpy(&ext, area + at, sizeof(ext));
        uint32_t type = be32toh(ext.type), length = be32toh(ext.length);
        at += sizeof(ext);
        if (type == QCOW2_EXT_END) {
            return true;
        }
        if (length > end - at) {
            return error_set(
                error, "Header extension 0x%08" PRIx32 " too large", type);
        }
        if (type == QCOW2_EXT_BACKING_FORMAT &&
            length > QCOW2_MAX_BACKING_FORMAT) {
            return error_set(
                error, "ERROR: ext_backing_format: len=%" PRIu32 " too large",
                length);
        }
        struct header_extension *e = g_malloc(sizeof(*e) + length);
        e->type = type;
        e->bytes = length;
        memcpy(e->data, area + at, length);
        g_ptr_array_add(out, e);
        at += MIN(align_up(length, 8), (int64_t)(end - at));
    }
    return true;
}

static bool check_backing(const struct qcow2_disk_header *h, GError **error)
{
    uint64_t cluster = UINT64_C(1) << h->cluster_bits;

    if (!h->backing_file_offset) {
        return true;
    }
    if (h->backing_file_offset > cluster ||
        h->backing_file_offset < h->header_length) {
        return error_set(error, "Invalid backing file offset");
    }
    if (h->backing_file_size > QCOW2_MAX_BACKING_NAME ||
        h->backing_file_size > cluster - h->backing_file_offset) {
        return error_set(error, "Backing file name too long");
    }
    return true;
}

/* The first cluster is in `area`, of which the file has all it can have. */
static bool parse_first_cluster(struct qcow2 *s, const uint8_t *area,
                                GError **error)
{
    const struct qcow2_disk_header *h = &s->header;
    size_t cluster = (size_t)1 << h->cluster_bits;
    size_t end = h->backing_file_offset ? h->backing_file_offset : cluster;

    g_ptr_array_set_size(s->extensions, 0);
    if (!parse_extensions(area, h->header_length, end, s->extensions, error) ||
        !check_features(h, qcow2_extension(s, QCOW2_EXT_FEATURE_NAMES),
                        error) ||
        !check_compression(h, error) || !check_numbers(h, error) ||
        (!s->node->for_check && !qcow2_header_check_snapshots(h, error))) {
        return false;
    }
    g_free(s->further_fields);
    s->further_fields = NULL;
    s->further_bytes =
        h->header_length > sizeof(*h) ? h->header_length - sizeof(*h) : 0;
    if (s->further_bytes) {
        s->further_fields = g_memdup2(area + sizeof(*h), s->further_bytes);
    }
    const struct header_extension *format =
        qcow2_extension(s, QCOW2_EXT_BACKING_FORMAT);
    g_free(s->node->backing_filename);
    g_free(s->node->backing_format);
    s->node->backing_filename =
        h->backing_file_offset && h->backing_file_size
            ? g_strndup((const char *)area + h->backing_file_offset,
                        h->backing_file_size)
            : NULL;
    s->node->backing_format =
        format ? g_strndup((const char *)format->data, format->bytes) : NULL;
    return true;
}

static void set_geometry(struct qcow2 *s)
{
    const struct qcow2_disk_header *h = &s->header;

    s->version = h->version;
    s->cluster_bits = h->cluster_bits;
    s->cluster_size = INT64_C(1) << h->cluster_bits;
    s->extended = !!(h->incompatible & QCOW2_INCOMPAT_EXTENDED_L2);
    s->l2_bits = h->cluster_bits - 3 - s->extended;
    s->sub_bits = h->cluster_bits - (s->extended ? 5 : 0);
    s->refcount_order = h->refcount_order;
    s->rb_bits = h->cluster_bits + 3 - h->refcount_order;
    s->l1_size = h->l1_size;
}

bool co_qcow2_read_header(struct qcow2 *s, GError **error)
{
    struct qcow2_disk_header *h = &s->header;

    int ret = co_node_pread(qcow2_file(s), 0, h, sizeof(*h), 0);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not read qcow2 header");
    }
    qcow2_header_to_host(h);
    if (!check_version(h, error)) {
        return false;
    }
    if (h->version == 2) {
        v2_defaults(h);
    } else if (h->header_length <=
               offsetof(struct qcow2_disk_header, compression_type)) {
        h->compression_type = 0;
    }
    if (!check_length(h, error) || !check_backing(h, error)) {
        return false;
    }
    set_geometry(s);
    uint8_t *area = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);
    if (!area) {
        return error_set_errno(error, ENOMEM, "Could not read qcow2 header");
    }
    ret = co_node_pread(qcow2_file(s), 0, area, s->cluster_size, 0);
    bool ok = ret < 0 ? error_set_errno(error, ret,
                                        "Could not read qcow2 header "
                                        "extensions")
                      : parse_first_cluster(s, area, error);
    io_buffer_free(area);
    return ok;
}
