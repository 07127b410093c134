/*
 * qcow2: disk images that grow, with backing files and refcounts.
 *
 * Files: header.c reads and checks the header; tables.c holds L1, the refcount
 * table and the map of metadata clusters; map.c finds clusters through cached
 * L2 slices (cache.c); io.c reads and writes; alloc.c does the writes that need
 * new clusters, refcount.c and reftable.c hand those out; zero.c changes
 * entries without data; free.c and commit.c keep the order in which things
 * become stable; compressed.c expands; repair.c recounts; resize.c and
 * create*.c speak for themselves.
 *
 * Invariants:
 *   - what a table on disk refers to is stable and counted before the table
 *     says so; a crash leaves leaked clusters at worst, and a close none;
 *   - an L2 entry changes in one step without suspension, when the data are
 *     written and no request that read the old entry can be harmed;
 *   - no lock is held over guest data.
 *
 * Options: cache sizes and l2-cache-entry-size set the caches; overlap-check
 * "none" switches the guard of metadata off, any other mode guards all that the
 * driver knows; pass-discard-* say which freed clusters are discarded in the
 * file. lazy-refcounts is shown and kept, but changes nothing: refcounts are
 * written in batches anyway. cache-clean-interval is accepted; the caches take
 * memory only as they fill. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "util/error.h"

#define L2_CACHE_DEFAULT (32 << 20)
#define RB_CACHE_DEFAULT (1 << 20)
#define SLICE_DEFAULT    4096
#define CACHE_MAX        (INT64_C(1) << 36)
#define FAIR_CAPACITY    8192 /* entries */

/* ---- options ------------------------------------------------------------- */

struct cache_sizes {
    int64_t l2, rb; /* bytes */
    int64_t slice;  /* bytes of an L2 cache entry */
};

static bool check_cache_size(const char *name, int64_t bytes, GError **error)
{
    if (bytes < 0 || bytes > CACHE_MAX) {
        return error_set(error, "Parameter '%s' is out of range", name);
    }
    return true;
}

/* cache-size is both together; what one is not given is what the other leaves.
 */
static bool split_cache_size(const struct blockdev_options_qcow2 *o,
                             struct cache_sizes *c, GError **error)
{
    if (!o->has_cache_size) {
        return true;
    }
    if (o->has_l2_cache_size && o->has_refcount_cache_size) {
        return error_set(error,
                         "cache-size, l2-cache-size and refcount-cache-size "
                         "may not be set at the same time");
    }
    if (o->has_l2_cache_size && o->l2_cache_size > o->cache_size) {
        return error_set(error, "l2-cache-size may not exceed cache-size");
    }
    if (o->has_refcount_cache_size && o->refcount_cache_size > o->cache_size) {
        return error_set(error, "refcount-cache-size may not exceed "
                                "cache-size");
    }
    if (o->has_l2_cache_size) {
        c->rb = o->cache_size - c->l2;
    } else if (o->has_refcount_cache_size) {
        c->l2 = o->cache_size - c->rb;
    } else {
        c->rb = min_i64(c->rb, o->cache_size / 4);
        c->l2 = o->cache_size - c->rb;
    }
    return true;
}

static bool parse_cache_sizes(const struct qcow2 *s,
                              const struct blockdev_options_qcow2 *o,
                              struct cache_sizes *c, GError **error)
{
    c->l2 = o->has_l2_cache_size ? o->l2_cache_size : L2_CACHE_DEFAULT;
    c->rb =
        o->has_refcount_cache_size ? o->refcount_cache_size : RB_CACHE_DEFAULT;
    if (!check_cache_size("l2-cache-size", c->l2, error) ||
        !check_cache_size("refcount-cache-size", c->rb, error) ||
        (o->has_cache_size &&
         !check_cache_size("cache-size", o->cache_size, error)) ||
        !split_cache_size(o, c, error)) {
        return false;
    }
    c->slice = o->has_l2_cache_entry_size
                   ? o->l2_cache_entry_size
                   : min_i64(SLICE_DEFAULT, s->cluster_size);
    if (c->slice < 512 || c->slice > s->cluster_size ||
        !is_power_of_2(c->slice)) {
        return error_set(error,
                         "L2 cache entry size must be a power of two between "
                         "512 and the cluster size (%" PRId64 ")",
                         s->cluster_size);
    }
    return true;
}

static int co_clean_l2(void *opaque)
{
    return co_qcow2_commit(opaque);
}

static int co_clean_rb(void *opaque)
{
    struct qcow2 *s = opaque;

    return co_meta_cache_write_all(&s->rb);
}

static bool set_up_caches(struct qcow2 *s,
                          const struct blockdev_options_qcow2 *o,
                          GError **error)
{
    struct cache_sizes c;

    if (!parse_cache_sizes(s, o, &c, error)) {
        return false;
    }
    int64_t rslice = min_i64(SLICE_DEFAULT, s->cluster_size);
    s->slice_bits = g_bit_nth_lsf(c.slice, -1) - 3;
    s->rslice_bits = g_bit_nth_lsf(rslice, -1) + 3 - s->refcount_order;
    /* The index of a cache is sized by its limit, so a limit that the image can
     * never fill is cut; a disk that grows later keeps a fair one. */
    int64_t slices = ((int64_t)s->l1_size << s->l2_bits) >> s->slice_bits;
    int64_t blocks = ((int64_t)s->rt_size << s->rb_bits) >> s->rslice_bits;
    meta_cache_init(&s->l2, s->node, c.slice,
                    min_i64(c.l2 / c.slice, max_i64(slices, FAIR_CAPACITY)));
    meta_cache_init(&s->rb, s->node, rslice,
                    min_i64(c.rb / rslice, max_i64(blocks, FAIR_CAPACITY)));
    s->l2.co_clean = co_clean_l2;
    s->rb.co_clean = co_clean_rb;
    s->l2.opaque = s->rb.opaque = s;
    s->l2.load_event = BLKDEBUG_EVENT_L2_LOAD;
    s->rb.load_event = BLKDEBUG_EVENT_REFBLOCK_LOAD;
    s->l2.write_event = BLKDEBUG_EVENT_L2_UPDATE;
    s->rb.write_event = BLKDEBUG_EVENT_REFBLOCK_UPDATE_PART;
    return true;
}

static bool parse_options(struct qcow2 *s,
                          const struct blockdev_options_qcow2 *o,
                          GError **error)
{
    bool request = o->has_pass_discard_request ? o->pass_discard_request
                                               : s->node->discard;

    if (o->encrypt) {
        return error_set(error, "Parameter 'encrypt' is not supported");
    }
    if (o->data_file) {
        return error_set(error, "'data-file' can only be set for images with "
                                "an external data file");
    }
    s->discard_passed[FREE_REQUEST] = request;
    s->discard_passed[FREE_OTHER] =
        o->has_pass_discard_other && o->pass_discard_other;
    const struct qcow2_overlap_checks *check = o->overlap_check;
    enum qcow2_overlap_check_mode mode = QCOW2_OVERLAP_CHECK_MODE_CACHED;
    if (check && check->kind == QAPI_KIND_STRING) {
        mode = check->u.mode;
    } else if (check && check->u.flags.has_template) {
        mode = check->u.flags.template;
    }
    s->check_overlap = mode != QCOW2_OVERLAP_CHECK_MODE_NONE;
    return set_up_caches(s, o, error);
}

/* ---- open ---------------------------------------------------------------- */

static void state_init(struct qcow2 *s, struct node *node)
{
    s->node = node;
    TAILQ_INIT(&s->allocations);
    for (unsigned i = 0; i < FREE_STAGES; i++) {
        s->frees[i] = g_array_new(false, false, sizeof(struct free_run));
    }
}

static void state_free(struct qcow2 *s)
{
    meta_cache_destroy(&s->l2);
    meta_cache_destroy(&s->rb);
    qcow2_free_tables(s);
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
    uint64_t field = htobe64(s->header.autoclear & QCOW2_AUTOCLEAR_KNOWN);

    if (!(s->header.autoclear & ~QCOW2_AUTOCLEAR_KNOWN)) {
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
    s->header.autoclear &= QCOW2_AUTOCLEAR_KNOWN;
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
    int ret = co_qcow2_update_incompat(s, 0, QCOW2_INCOMPAT_DIRTY);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    return ret == 0 ||
           error_set_errno(error, ret, "Could not update qcow2 header");
}

static bool co_prepare_writing(struct qcow2 *s, GError **error)
{
    if (s->node->read_only) {
        return true;
    }
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
    s->marked_corrupt = s->header.incompatible & QCOW2_INCOMPAT_CORRUPT;
    s->zero_from = align_up(qcow2_file(s)->length, s->cluster_size);
    s->node->length = s->header.size;
    s->node->limits.pwrite_zeroes_align = s->cluster_size;
    s->node->limits.pdiscard_align = s->cluster_size;
    return co_qcow2_load_tables(s, error) && parse_options(s, o, error) &&
           co_prepare_writing(s, error) &&
           co_node_open_backing(s->node, o->backing, error);
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

/* ---- flush and close ----------------------------------------------------- */

static int co_qcow2_flush(struct node *node)
{
    return co_qcow2_commit(node->state);
}

/* Nobody uses mappings any more, so each round moves all frees on; what the
 * last ones changed in the refcounts is one more. */
static int co_settle(struct qcow2 *s)
{
    int ret = co_qcow2_commit(s);

    for (unsigned i = 0; ret == 0 && i < 4 && qcow2_frees_left(s); i++) {
        ret = co_qcow2_commit(s);
    }
    if (ret == 0) {
        ret = co_qcow2_commit(s);
    }
    return ret < 0 ? ret : co_node_flush(qcow2_file(s));
}

static void co_qcow2_close(struct node *node)
{
    struct qcow2 *s = node->state;

    if (!node->read_only && !s->broken) {
        int ret = co_settle(s);
        if (ret < 0) {
            g_warning("qcow2: closing '%s' failed, clusters may be leaked: %s",
                      node->name, g_strerror(-ret));
        }
    }
    state_free(s);
}

/* ---- information --------------------------------------------------------- */

static int co_qcow2_get_info(struct node *node, struct node_info *info)
{
    const struct qcow2 *s = node->state;

    info->cluster_size = s->cluster_size;
    info->is_dirty = s->header.incompatible & QCOW2_INCOMPAT_DIRTY;
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
        q->has_extended_l2 = true;
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
    .zeroes_unmap = true,
    .unmapped_reads_zero = true,
    .co_open = co_qcow2_open,
    .co_close = co_qcow2_close,
    .co_preadv = co_qcow2_preadv,
    .co_pwritev = co_qcow2_pwritev,
    .co_pwrite_zeroes = co_qcow2_pwrite_zeroes,
    .co_pdiscard = co_qcow2_pdiscard,
    .co_flush = co_qcow2_flush,
    .co_block_status = co_qcow2_block_status,
    .co_truncate = co_qcow2_truncate,
    .co_get_info = co_qcow2_get_info,
    .co_query_specific = co_qcow2_query_specific,
    .probe = qcow2_probe,
    .strong_options = qcow2_strong_options,
    .co_create = co_qcow2_create,
    .co_create_file = co_qcow2_create_file,
};
