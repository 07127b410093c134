/*
 * New images.
 *
 * The whole layout is known before the first byte is written: header, refcount
 * table, refcount blocks, L1 table, and for a preallocated image L2 tables and
 * data clusters, one behind the other. Tables are written from a small buffer,
 * so memory does not depend on the size of the image. The header comes last: a
 * file whose creation failed is no image.
 *
 * Runs on the caller's loop.
 */
#include "block/drivers/qcow2/create.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "block/backend.h"
#include "block/drivers/qcow2/header.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

#define CHUNK (1 << 20)
#define V3    " level 1.1 and above (use version=v3 or greater)"

/* Counts and places, in clusters. */
struct layout {
    const struct image_spec *spec;
    unsigned cluster_bits;
    uint64_t data, l2_tables, l1_entries; /* data and l2_tables: preallocated */
    uint64_t reftable, blocks, l1;
    uint64_t reftable_at, blocks_at, l1_at, l2_at, data_at, end;
};

/* ---- what is asked for --------------------------------------------------- */

bool qcow2_check_spec(const struct image_spec *q, GError **error)
{
    bool old = q->version < 3;
    size_t name = q->backing_file ? strlen(q->backing_file) : 0;
    size_t format = q->backing_format ? strlen(q->backing_format) : 0;
    const struct {
        bool wrong;
        const char *message;
    } rules[] = {
        {!is_power_of_2(q->cluster_size) || q->cluster_size < 512 ||
             q->cluster_size > 2 << 20,
         "Cluster size must be a power of two between 512 and 2048k"},
        {!is_power_of_2(q->refcount_bits) || q->refcount_bits > 64,
         "Refcount width must be a power of two and may not exceed 64 bits"},
        {old && q->refcount_bits != 16,
         "Different refcount widths than 16 bits require compatibility level "
         "1.1 or above (use version=v3 or greater)"},
        {old && q->lazy_refcounts,
         "Lazy refcounts only supported with compatibility" V3},
        {old && q->compression != QCOW2_COMPRESSION_TYPE_ZLIB,
         "Non-zlib compression type is only supported with compatibility" V3},
        {old && q->data_file_name,
         "External data files are only supported with compatibility" V3},
        {q->data_file_raw && !q->data_file_name,
         "data-file-raw requires data-file"},
        {q->data_file_raw && q->backing_file,
         "Backing file and data-file-raw cannot be used at the same time"},
        {old && q->extended_l2,
         "Extended L2 entries are only supported with compatibility" V3},
        {q->extended_l2 && q->cluster_size < QCOW2_SUBCLUSTERS
                                                 << QCOW2_MIN_SUBCLUSTER_BITS,
         "Extended L2 entries are only supported with cluster sizes of at "
         "least 16384 bytes"},
        {q->backing_file && q->preallocation != PREALLOC_MODE_OFF &&
             !q->extended_l2,
         "Backing file and preallocation can only be used at the same time if "
         "extended_l2 is on"},
        {q->backing_format && !q->backing_file,
         "Backing format cannot be used without backing file"},
        {name > QCOW2_MAX_BACKING_NAME, "Backing file name too long"},
        {format > QCOW2_MAX_BACKING_FORMAT, "Backing format name too long"},
        {q->size % BLOCK_SECTOR_SIZE,
         "Image size must be a multiple of 512 bytes"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        if (rules[i].wrong) {
            return error_set(error, "%s", rules[i].message);
        }
    }
    return true;
}

/* ---- layout -------------------------------------------------------------- */

static bool plan(struct layout *l, const struct image_spec *q, GError **error)
{
    uint64_t cluster = q->cluster_size;
    uint64_t per_table = cluster / (q->extended_l2 ? 16 : 8);
    uint64_t per_block = cluster * 8 / q->refcount_bits;
    uint64_t clusters = div_round_up(q->size, cluster);

    l->spec = q;
    l->cluster_bits = g_bit_nth_lsf(cluster, -1);
    l->l1_entries = div_round_up(clusters, per_table);
    if (q->size > BLOCK_MAX_LENGTH || l->l1_entries > QCOW2_MAX_L1_BYTES / 8) {
        return error_set(error,
                         "The image size is too large for file format 'qcow2' "
                         "(try using a larger cluster size)");
    }
    /* A raw data file is all there, so the tables say so. */
    if (q->preallocation != PREALLOC_MODE_OFF || q->data_file_raw) {
        l->data = clusters;
        l->l2_tables = l->l1_entries;
    }
    l->l1 = div_round_up(l->l1_entries * 8, cluster);
    /* Blocks count themselves and their table. */
    uint64_t fixed =
        1 + l->l1 + l->l2_tables + (q->data_file_name ? 0 : l->data);
    do {
        l->end = fixed + l->reftable + l->blocks;
        l->blocks = div_round_up(l->end, per_block);
        l->reftable = div_round_up(l->blocks * 8, cluster);
    } while (fixed + l->reftable + l->blocks != l->end);
    if (l->reftable * cluster > QCOW2_MAX_REFTABLE_BYTES) {
        return error_set(error, "The preallocated image needs too large a "
                                "refcount table (try using a larger cluster "
                                "size)");
    }
    l->reftable_at = 1;
    l->blocks_at = l->reftable_at + l->reftable;
    l->l1_at = l->blocks_at + l->blocks;
    l->l2_at = l->l1_at + l->l1;
    l->data_at = q->data_file_name ? 0 : l->l2_at + l->l2_tables;
    return true;
}

bool qcow2_count_clusters(const struct image_spec *spec, uint64_t *all,
                          uint64_t *data, GError **error)
{
    struct layout l = {0};

    if (!plan(&l, spec, error)) {
        return false;
    }
    *all = l.end;
    *data = l.data;
    return true;
}

/* ---- tables -------------------------------------------------------------- */

/* Writes `bytes` bytes at cluster `at`; entry i refers to cluster `first + i`
 * for i < n, with the flag bits, and is 0 behind. Further words of 8 bytes of
 * an entry are 0. */
static int co_write_table(struct node *file, const struct layout *l,
                          uint64_t at, uint64_t bytes, unsigned words,
                          uint64_t n, uint64_t first, uint64_t flags)
{
    uint64_t *buf = io_buffer_try_alloc(file, MIN(bytes, CHUNK));
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t pos = 0; ret == 0 && pos < bytes; pos += CHUNK) {
        uint64_t chunk = MIN(bytes - pos, CHUNK);
        memset(buf, 0, chunk);
        for (uint64_t i = 0; i < chunk / 8; i += words) {
            uint64_t k = (pos / 8 + i) / words;
            buf[i] =
                k < n ? htobe64(((first + k) << l->cluster_bits) | flags) : 0;
        }
        ret =
            co_node_pwrite(file, (at << l->cluster_bits) + pos, buf, chunk, 0);
    }
    io_buffer_free(buf);
    return ret;
}

/* Sets refcount i of `bits` bits in a zeroed buffer to 1. */
static void set_one(uint8_t *buf, uint64_t i, unsigned bits)
{
    if (bits < 8) {
        buf[i * bits / 8] |= 1u << (i * bits % 8);
    } else {
        buf[(i + 1) * (bits / 8) - 1] = 1;
    }
}

static int co_write_blocks(struct node *file, const struct layout *l)
{
    uint64_t bytes = l->blocks << l->cluster_bits;
    unsigned bits = l->spec->refcount_bits;
    uint8_t *buf = io_buffer_try_alloc(file, MIN(bytes, CHUNK));
    int ret = 0;

    if (!buf) {
        return -ENOMEM;
    }
    for (uint64_t pos = 0; ret == 0 && pos < bytes; pos += CHUNK) {
        uint64_t chunk = MIN(bytes - pos, CHUNK);
        uint64_t first = pos * 8 / bits, n = chunk * 8 / bits;
        memset(buf, 0, chunk);
        for (uint64_t i = 0; i < n && first + i < l->end; i++) {
            set_one(buf, i, bits);
        }
        ret = co_node_pwrite(file, (l->blocks_at << l->cluster_bits) + pos, buf,
                             chunk, 0);
    }
    io_buffer_free(buf);
    return ret;
}

static int co_write_tables(struct node *file, const struct layout *l)
{
    int ret =
        co_write_table(file, l, l->reftable_at, l->reftable << l->cluster_bits,
                       1, l->blocks, l->blocks_at, 0);
    if (ret == 0) {
        ret = co_write_blocks(file, l);
    }
    if (ret == 0) {
        /* What is left of its last cluster need not be there. */
        ret = co_write_table(file, l, l->l1_at, l->l1_entries * 8, 1,
                             l->l2_tables, l->l2_at, QCOW2_COPIED);
    }
    if (ret == 0 && l->l2_tables) {
        /* No subcluster is allocated: they read as zeroes, or what is below. */
        ret = co_write_table(file, l, l->l2_at, l->l2_tables << l->cluster_bits,
                             1u + l->spec->extended_l2, l->data, l->data_at,
                             QCOW2_COPIED);
    }
    return ret;
}

/* ---- header -------------------------------------------------------------- */

static void fill_header(struct qcow2_disk_header *h, const struct layout *l)
{
    const struct image_spec *q = l->spec;
    bool zstd = q->compression == QCOW2_COMPRESSION_TYPE_ZSTD;

    *h = (struct qcow2_disk_header){
        .magic = QCOW2_MAGIC,
        .version = q->version,
        .cluster_bits = l->cluster_bits,
        .size = q->size,
        .l1_size = l->l1_entries,
        .l1_table_offset = l->l1_at << l->cluster_bits,
        .refcount_table_offset = l->reftable_at << l->cluster_bits,
        .refcount_table_clusters = l->reftable,
    };
    if (q->version >= 3) {
        h->incompatible = (zstd ? QCOW2_INCOMPAT_COMPRESSION : 0) |
                          (q->data_file_name ? QCOW2_INCOMPAT_DATA_FILE : 0) |
                          (q->extended_l2 ? QCOW2_INCOMPAT_EXTENDED_L2 : 0);
        h->autoclear = q->data_file_raw ? QCOW2_AUTOCLEAR_RAW_DATA : 0;
        h->compatible = q->lazy_refcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0;
        h->refcount_order = g_bit_nth_lsf(q->refcount_bits, -1);
        h->compression_type = q->compression;
    }
}

/* The first cluster, `size` bytes. */
static bool build_first_cluster(uint8_t *first, const struct layout *l,
                                GError **error)
{
    const struct image_spec *q = l->spec;
    struct header_area h = {.backing_file = g_strdup(q->backing_file)};

    fill_header(&h.fields, l);
    if (q->backing_format) {
        header_area_set(&h, QCOW2_EXT_BACKING_FORMAT, q->backing_format,
                        strlen(q->backing_format));
    }
    if (q->data_file_name) {
        header_area_set(&h, QCOW2_EXT_DATA_FILE, q->data_file_name,
                        strlen(q->data_file_name));
    }
    if (q->version >= 3) {
        header_area_set_feature_names(&h);
    }
    bool ok = header_area_build(&h, 0, first, q->cluster_size);
    header_area_clear(&h);
    return ok || error_set(error, "The names of the backing file and the data "
                                  "file are too long for the cluster size");
}

/* ---- all together -------------------------------------------------------- */

static bool co_write_image(struct node *file, const struct layout *l,
                           uint8_t *first, GError **error)
{
    const struct image_spec *q = l->spec;
    enum prealloc_mode mode = q->preallocation == PREALLOC_MODE_METADATA
                                  ? PREALLOC_MODE_OFF
                                  : q->preallocation;

    if (q->data_file) {
        if (!co_node_truncate(q->data_file, q->size, false, mode, 0, error)) {
            return false;
        }
        mode = PREALLOC_MODE_OFF;
    }
    if (!build_first_cluster(first, l, error) ||
        !co_node_truncate(file, 0, false, PREALLOC_MODE_OFF, 0, error)) {
        return false;
    }
    if (l->data && !co_node_truncate(file, l->end << l->cluster_bits, false,
                                     mode, 0, error)) {
        return false;
    }
    int ret = co_write_tables(file, l);
    if (ret == 0 && q->data_file) {
        ret = co_node_flush(q->data_file);
    }
    if (ret == 0) {
        ret = co_node_flush(file);
    }
    if (ret == 0) {
        ret = co_node_pwrite(file, 0, first, q->cluster_size, 0);
    }
    if (ret == 0) {
        ret = co_node_flush(file);
    }
    return ret == 0 ||
           error_set_errno(error, ret, "Could not write qcow2 image");
}

bool co_qcow2_format(struct node *file, const struct image_spec *q,
                     GError **error)
{
    struct layout l = {0};

    if (!qcow2_check_spec(q, error) || !plan(&l, q, error)) {
        return false;
    }
    uint8_t *first = io_buffer_try_alloc(file, q->cluster_size);
    if (!first) {
        return error_set_errno(error, ENOMEM, "Could not write qcow2 image");
    }
    bool ok = co_write_image(file, &l, first, error);
    io_buffer_free(first);
    return ok;
}
