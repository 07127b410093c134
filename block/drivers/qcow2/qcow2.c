/*
 * qcow2: disk images that grow, with backing files and refcounts.
 *
 * Files: header.c reads and checks the header, header_area.c writes it;
 * tables.c holds L1, the refcount table and the map of metadata clusters; map.c
 * finds clusters through cached L2 slices (cache.c); io.c reads and writes;
 * alloc.c does the writes that need new clusters, refcount.c and reftable.c
 * hand those out; zero.c changes entries without data; free.c and commit.c keep
 * the order in which things become stable; subclusters.c knows extended L2
 * entries, external.c data files; compress.c compresses, pack.c finds room for
 * what comes out, compressed.c expands; repair.c recounts; bitmaps.h tells of
 * stored bitmaps, snapshots.h of snapshots, vmstate.c of machines; resize.c
 * changes the size, with preallocate.c for places in the file and trim.c for a
 * shorter one; create*.c speak for themselves.
 *
 * Invariants:
 *   - what a table on disk refers to is stable and counted before the table
 *     says so; a crash leaves leaked clusters at worst, and a close none;
 *   - an L2 entry changes in one step without suspension, when the data are
 *     written and no request that read the old entry can be harmed;
 *   - no lock is held over guest data.
 *
 * What the options do is said in options.c. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "block/graph.h"
#include "util/error.h"

/* ---- open ---------------------------------------------------------------- */

static void state_init(struct qcow2 *s, struct node *node)
{
    s->node = node;
    s->bitmaps = qcow2_bitmaps_new();
    qcow2_snapshots_init(&s->snapshots);
    TAILQ_INIT(&s->allocations);
    s->extensions = g_ptr_array_new_with_free_func(g_free);
    for (unsigned i = 0; i < FREE_STAGES; i++) {
        s->frees[i] = g_array_new(false, false, sizeof(struct free_run));
    }
}

static void state_free(struct qcow2 *s)
{
    meta_cache_destroy(&s->l2);
    meta_cache_destroy(&s->rb);
    qcow2_free_tables(s);
    qcow2_free_compressors(s);
    g_ptr_array_unref(s->extensions);
    g_free(s->further_fields);
    qcow2_bitmaps_free(s->bitmaps);
    if (s->guard.inactive_l1) {
        g_array_free(s->guard.inactive_l1, true);
    }
    qcow2_snapshots_clear(&s->snapshots);
    for (unsigned i = 0; i < FREE_STAGES; i++) {
        g_array_free(s->frees[i], true);
    }
}

/* The file may have turned out to be read-only. */
static bool settle_read_only(struct node *node, struct node *file,
                             GError **error)
{
    if (!node->read_only && file->read_only) {
        if (!node->auto_read_only) {
            return error_set(error, "Node '%s' is read-only", file->name);
        }
        node->read_only = true;
    }
    return true;
}

/* Unknown autoclear bits say that some data follow the guest's writes; with
 * us they do not, so the bits go before the first write. */
static bool co_clear_autoclear(struct qcow2 *s, GError **error)
{
    uint64_t keep = s->header.autoclear & QCOW2_AUTOCLEAR_KNOWN;

    if (!s->external) {
        keep &= ~QCOW2_AUTOCLEAR_RAW_DATA;
    }
    uint64_t field = htobe64(keep);
    if (keep == s->header.autoclear) {
        return true;
    }
    int ret =
        co_qcow2_write_field(s, offsetof(struct qcow2_disk_header, autoclear),
                             &field, sizeof(field));
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not update qcow2 header");
    }
    return true;
}

static bool co_repair_if_dirty(struct qcow2 *s, GError **error)
{
    if (!(s->header.incompatible & QCOW2_INCOMPAT_DIRTY)) {
        return true;
    }
    if (!co_qcow2_repair_refcounts(s, error)) {
        g_prefix_error(error, "Could not repair dirty image: ");
        return false;
    }
    /* If this is lost, they are repaired once more. */
    int ret = co_qcow2_update_incompat(s, 0, QCOW2_INCOMPAT_DIRTY);
    return ret == 0 ||
           error_set_errno(error, ret, "Could not update qcow2 header");
}

bool co_qcow2_prepare_writing(struct qcow2 *s, GError **error)
{
    if (s->header.incompatible & QCOW2_INCOMPAT_CORRUPT) {
        return error_set(error, "qcow2: Image is corrupt; cannot be opened "
                                "read/write");
    }
    return co_clear_autoclear(s, error) && co_repair_if_dirty(s, error);
}

static bool co_open_image(struct qcow2 *s,
                          const struct blockdev_options_qcow2 *o,
                          GError **error)
{
    if (!co_qcow2_read_header(s, error)) {
        return false;
    }
    qcow2_refcount_init(s);
    s->damage_told = s->header.incompatible & QCOW2_INCOMPAT_CORRUPT;
    s->zero_from = align_up(qcow2_file(s)->length, s->cluster_size);
    s->node->length = s->header.size;
    s->node->limits.pwrite_zeroes_align = INT64_C(1) << s->sub_bits;
    s->node->limits.pdiscard_align = s->cluster_size;
    if (!co_qcow2_open_data_file(s, o->data_file, error) ||
        !co_qcow2_load_tables(s, error) || !co_qcow2_snapshots_read(s, error) ||
        !qcow2_apply_options(s, o, error) ||
        !co_qcow2_options_ready(s, o, error)) {
        return false;
    }
    co_qcow2_bitmaps_read(s);
    return (s->node->read_only || s->node->for_check ||
            co_qcow2_prepare_writing(s, error)) &&
           co_node_open_backing(s->node, o->backing, error) &&
           (s->node->for_check || co_qcow2_bitmaps_open(s, error));
}

static bool co_qcow2_open(struct node *node,
                          const struct blockdev_options *options,
                          GError **error)
{
    const struct blockdev_options_qcow2 *o = &options->u.qcow2;
    struct qcow2 *s = node->state;

    const struct edge *file = co_node_open_child(
        node, o->file, "file", ROLE_DATA | ROLE_METADATA | ROLE_PRIMARY, error);
    if (!file || !settle_read_only(node, file->child, error)) {
        return false;
    }
    state_init(s, node);
    if (!co_open_image(s, o, error)) {
        state_free(s);
        return false;
    }
    return true;
}

static void qcow2_drain_begin(struct node *node)
{
    struct qcow2 *s = node->state;

    meta_cache_pause(&s->l2);
    meta_cache_pause(&s->rb);
}

static void qcow2_drain_end(struct node *node)
{
    struct qcow2 *s = node->state;

    meta_cache_resume(&s->l2);
    meta_cache_resume(&s->rb);
}

/* ---- flush and close ----------------------------------------------------- */

static int co_qcow2_flush(struct node *node)
{
    return co_qcow2_commit(node->state);
}

/* Nobody uses mappings any more, so each round moves all frees on; what the
 * last ones changed in the refcounts is one more. */
int co_qcow2_settle(struct qcow2 *s)
{
    co_qcow2_drop_reserve(s);
    int ret = co_qcow2_commit(s);

    for (unsigned i = 0; ret == 0 && i < 4 && qcow2_frees_left(s); i++) {
        ret = co_qcow2_commit(s);
    }
    if (ret == 0) {
        ret = co_qcow2_commit(s);
    }
    if (ret == 0) {
        ret = co_qcow2_catch_up(s);
    }
    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

static void co_qcow2_close(struct node *node)
{
    struct qcow2 *s = node->state;

    if (!node->read_only && !s->broken) {
        g_autoptr(GError) error = NULL;
        if (!node->for_check && !co_qcow2_bitmaps_store(s, &error)) {
            graph_warn_lost(node, "its bitmaps are lost: %s", error->message);
        }
        int ret = co_qcow2_settle(s);
        if (ret < 0) {
            g_warning("qcow2: closing '%s' failed, clusters may be leaked: %s",
                      node->name, g_strerror(-ret));
        }
    }
    state_free(s);
}

/* ---- backing file -------------------------------------------------------- */

struct backing_names {
    const char *file, *format;
};

static void put_backing(struct header_area *h, void *opaque)
{
    const struct backing_names *b = opaque;

    g_free(h->backing_file);
    h->backing_file = g_strdup(b->file);
    header_area_set(h, QCOW2_EXT_BACKING_FORMAT, b->format,
                    b->format ? strlen(b->format) : 0);
}

static bool co_qcow2_change_backing(struct node *node, const char *file,
                                    const char *format, GError **error)
{
    struct backing_names b = {file, file ? format : NULL};

    if (file && strlen(file) > QCOW2_MAX_BACKING_NAME) {
        return error_set(error, "Backing file name too long");
    }
    /* Its data file is to be all that the guest sees. */
    if (file && *file && ((struct qcow2 *)node->state)->external_raw) {
        return error_set(error, "%s", g_strerror(EINVAL));
    }
    if (!co_qcow2_edit_header(node->state, put_backing, &b, error)) {
        return false;
    }
    g_free(node->backing_filename);
    g_free(node->backing_format);
    node->backing_filename = g_strdup(b.file);
    node->backing_format = g_strdup(b.format);
    return true;
}

static int co_qcow2_make_empty(struct node *node)
{
    struct qcow2 *s = node->state;
    int64_t end = align_up(node->length, qcow2_table_bytes(s));
    int ret = co_qcow2_unmap(s, 0, end);

    if (ret == 0) {
        co_qcow2_drop_tables(s, 0, end);
        ret = co_qcow2_commit(s);
    }
    if (ret == 0) {
        co_qcow2_trim(s);
    }
    return ret;
}

/* ---- information --------------------------------------------------------- */

static int co_qcow2_get_info(struct node *node, struct node_info *info)
{
    const struct qcow2 *s = node->state;

    info->cluster_size = s->cluster_size;
    info->is_dirty = s->header.incompatible & QCOW2_INCOMPAT_DIRTY;
    info->vm_state_offset = qcow2_vmstate_offset(s, node->length);
    return 0;
}

static struct image_info_specific *co_qcow2_query_specific(struct node *node)
{
    const struct qcow2 *s = node->state;
    struct image_info_specific *info = g_new0(struct image_info_specific, 1);
    struct image_info_specific_qcow2 *q =
        g_new0(struct image_info_specific_qcow2, 1);

    info->type = IMAGE_INFO_SPECIFIC_KIND_QCOW2;
    info->u.qcow2.data = q;
    q->compat = g_strdup(s->version == 2 ? "0.10" : "1.1");
    q->refcount_bits = 1 << s->refcount_order;
    q->compression_type = s->header.compression_type;
    if (s->version >= 3) {
        q->has_lazy_refcounts = true;
        q->lazy_refcounts = s->header.compatible & QCOW2_COMPAT_LAZY_REFCOUNTS;
        q->has_corrupt = true;
        q->corrupt = s->header.incompatible & QCOW2_INCOMPAT_CORRUPT;
        if (s->external) {
            const struct header_extension *name =
                qcow2_extension(s, QCOW2_EXT_DATA_FILE);
            q->data_file =
                name ? g_strndup((const char *)name->data, name->bytes) : NULL;
            q->has_data_file_raw = true;
            q->data_file_raw = s->external_raw;
        }
        q->has_extended_l2 = true;
        q->extended_l2 = s->extended;
        qcow2_bitmaps_query(s, q);
    }
    return info;
}

static int qcow2_probe(const uint8_t *head, size_t bytes, const char *filename)
{
    struct qcow2_disk_header h;

    if (bytes < offsetof(struct qcow2_disk_header, backing_file_offset)) {
        return 0;
    }
    memcpy(&h, head, offsetof(struct qcow2_disk_header, backing_file_offset));
    return be32toh(h.magic) == QCOW2_MAGIC && be32toh(h.version) >= 2 ? 100 : 0;
}

/* The content is in the file, but for what an option puts in its place. */
static const char *const qcow2_strong_options[] = {"file", "backing", NULL};

const struct block_driver driver_qcow2 = {
    .name = "qcow2",
    .kind = DRIVER_FORMAT,
    .state_size = sizeof(struct qcow2),
    .supports_backing = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .unmapped_reads_zero = true,
    .co_open = co_qcow2_open,
    .co_close = co_qcow2_close,
    .reopen = &qcow2_reopen_ops,
    .drain_begin = qcow2_drain_begin,
    .drain_end = qcow2_drain_end,
    .co_preadv = co_qcow2_preadv,
    .co_pwritev = co_qcow2_pwritev,
    .co_pwrite_zeroes = co_qcow2_pwrite_zeroes,
    .co_pdiscard = co_qcow2_pdiscard,
    .co_flush = co_qcow2_flush,
    .co_write_back = co_qcow2_write_back,
    .co_block_status = co_qcow2_block_status,
    .co_truncate = co_qcow2_truncate,
    .co_amend = co_qcow2_amend,
    .co_check = co_qcow2_check,
    .can_store_bitmap = qcow2_can_store_bitmap,
    .co_remove_stored_bitmap = co_qcow2_remove_stored_bitmap,
    .co_repair_bitmaps = co_qcow2_repair_bitmaps,
    .co_save_vmstate = co_qcow2_save_vmstate,
    .co_load_vmstate = co_qcow2_load_vmstate,
    .snapshots = &qcow2_snapshot_ops,
    .co_get_info = co_qcow2_get_info,
    .co_measure = co_qcow2_measure,
    .co_change_backing = co_qcow2_change_backing,
    .co_make_empty = co_qcow2_make_empty,
    .co_query_specific = co_qcow2_query_specific,
    .probe = qcow2_probe,
    .strong_options = qcow2_strong_options,
    .co_create = co_qcow2_create,
    .co_create_file = co_qcow2_create_file,
};
