/*
 * Bitmaps of a node that is closed: from the node into the image.
 *
 * All of them are written to new clusters, and a new directory names them; what
 * they were stored in before is freed when nothing on disk refers to it. Of
 * bits that are all equal, the table alone is written.
 *
 * Runs on the node's loop; nobody writes to the node.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/dirty_bitmap.h"
#include "util/error.h"

struct store {
    struct qcow2 *s;
    GPtrArray *list; /* the directory to be */
    GArray *taken;   /* struct free_run: clusters that it refers to */
    uint8_t *buf;    /* a cluster */
    bool news;       /* the directory differs from the old one */
};

/* ---- one bitmap ---------------------------------------------------------- */

static int64_t co_take_clusters(struct store *st, int64_t bytes)
{
    struct qcow2 *s = st->s;
    struct free_run run = {.bytes = align_up(bytes, s->cluster_size)};

    run.offset =
        co_qcow2_alloc_contiguous(s, run.bytes >> s->cluster_bits, "bitmap");
    if (run.offset >= 0) {
        g_array_append_val(st->taken, run);
    }
    return run.offset;
}

/* The bits of [offset, offset + bytes), as a table entry says them. */
static int co_store_span(struct store *st, const struct hbitmap *bits,
                         int64_t offset, int64_t bytes, uint64_t *entry)
{
    struct qcow2 *s = st->s;

    if (hbitmap_next_set(bits, offset, bytes) < 0) {
        *entry = 0;
        return 0;
    }
    if (hbitmap_next_clear(bits, offset, bytes) < 0) {
        *entry = QCOW2_BITMAP_ALL_ONES;
        return 0;
    }
    int64_t host = co_take_clusters(st, s->cluster_size);
    if (host < 0) {
        return (int)host;
    }
    memset(st->buf, 0, s->cluster_size);
    hbitmap_serialize(bits, offset, bytes, st->buf);
    *entry = host;
    return co_node_pwrite(qcow2_file(s), host, st->buf, s->cluster_size, 0);
}

static int co_store_bits(struct store *st, const struct hbitmap *bits,
                         struct stored_bitmap *b, uint32_t entries)
{
    int64_t span = qcow2_bitmap_cluster_span(st->s, b->granularity_bits);
    int64_t size = hbitmap_size(bits);

    b->table = g_new0(uint64_t, entries);
    for (uint32_t i = 0; i < entries && i * span < size; i++) {
        int ret = co_store_span(st, bits, i * span,
                                min_i64(span, size - i * span), &b->table[i]);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int co_store_table(struct store *st, struct stored_bitmap *b,
                          uint32_t entries)
{
    int64_t bytes = (int64_t)entries * 8;
    int64_t offset = co_take_clusters(st, bytes);

    if (offset < 0) {
        return (int)offset;
    }
    g_autofree uint64_t *disk = g_new(uint64_t, entries);
    for (uint32_t i = 0; i < entries; i++) {
        disk[i] = htobe64(b->table[i]);
    }
    stored_bitmap_set_table(b, offset, entries);
    return co_node_pwrite(qcow2_file(st->s), offset, disk, bytes, 0);
}

static bool co_store_bitmap(struct store *st, const struct dirty_bitmap *d,
                            struct stored_bitmap *b, GError **error)
{
    int64_t entries =
        max_i64(1, qcow2_bitmap_table_entries(st->s, st->s->node->length,
                                              b->granularity_bits));

    if (!dirty_bitmap_check(d, REFUSE_BUSY, error)) {
        return false;
    }
    if (entries > QCOW2_MAX_BITMAP_BYTES >> st->s->cluster_bits) {
        return error_set(error, "Bitmap '%s' has become too large to be stored",
                         d->name);
    }
    g_free(g_steal_pointer(&b->table));
    stored_bitmap_set_flags(b, (b->flags & QCOW2_BITMAP_EXTRA_COMPATIBLE) |
                                   (d->disabled ? 0 : QCOW2_BITMAP_AUTO));
    int ret = co_store_bits(st, d->bits, b, entries);
    if (ret == 0) {
        ret = co_store_table(st, b, entries);
    }
    st->news = true;
    return ret == 0 ||
           error_set_errno(error, ret, "Could not write bitmap '%s'", d->name);
}

/* ---- all of them --------------------------------------------------------- */

static bool storable(const struct dirty_bitmap *d)
{
    return d && d->persistent && !d->inconsistent && !d->skip_store;
}

/* Entries that are there already keep their order. */
static bool co_store_old(struct store *st, GError **error)
{
    GPtrArray *old = st->s->bitmaps->list;

    for (unsigned i = 0; i < old->len; i++) {
        const struct stored_bitmap *was = g_ptr_array_index(old, i);
        struct dirty_bitmap *d = dirty_bitmap_find(st->s->node, was->name);
        struct stored_bitmap *b = stored_bitmap_copy(was);
        g_ptr_array_add(st->list, b);
        if (!was->damage && storable(d) && !co_store_bitmap(st, d, b, error)) {
            return false;
        }
    }
    return true;
}

static bool co_store_new(struct store *st, GError **error)
{
    struct dirty_bitmap *d;

    LIST_FOREACH (d, &st->s->node->bitmaps, link) {
        if (!storable(d) ||
            stored_bitmaps_find(st->s->bitmaps->list, d->name)) {
            continue;
        }
        struct stored_bitmap *b = stored_bitmap_new(
            d->name, 0, g_bit_nth_lsf(hbitmap_granularity(d->bits), -1));
        g_ptr_array_add(st->list, b);
        if (!co_store_bitmap(st, d, b, error)) {
            return false;
        }
    }
    return true;
}

void qcow2_bitmap_release(struct qcow2 *s, const struct stored_bitmap *b)
{
    if (!b->table) {
        return;
    }
    for (uint32_t i = 0; i < b->table_entries; i++) {
        if (b->table[i] > QCOW2_BITMAP_ALL_ONES) {
            qcow2_free_later(s, (int64_t)b->table[i], s->cluster_size,
                             FREE_OTHER);
        }
    }
    qcow2_free_later(s, b->table_offset,
                     align_up((int64_t)b->table_entries * 8, s->cluster_size),
                     FREE_OTHER);
}

/* The clusters of what is stored anew elsewhere. */
static void release_old(struct qcow2 *s, GPtrArray *old, GPtrArray *list)
{
    for (unsigned i = 0; i < old->len; i++) {
        const struct stored_bitmap *was = g_ptr_array_index(old, i);
        const struct stored_bitmap *is = g_ptr_array_index(list, i);
        if (was->table_offset != is->table_offset) {
            qcow2_bitmap_release(s, was);
        }
    }
}

static void guard_taken(struct store *st)
{
    for (unsigned i = 0; i < st->taken->len; i++) {
        const struct free_run *run =
            &g_array_index(st->taken, struct free_run, i);
        qcow2_meta_add(st->s, run->offset, run->bytes);
    }
}

static bool co_store(struct store *st, GError **error)
{
    struct qcow2 *s = st->s;
    bool unsure = false;

    if (co_store_old(st, error) && co_store_new(st, error)) {
        if (!st->news) {
            g_ptr_array_unref(st->list);
            return true;
        }
        g_autoptr(GPtrArray) old = g_ptr_array_ref(s->bitmaps->list);
        if (co_qcow2_bitmaps_replace(s, st->list, &unsure, error)) {
            guard_taken(st);
            release_old(s, old, st->list);
            return true;
        }
    }
    for (unsigned i = 0; !unsure && i < st->taken->len; i++) {
        const struct free_run *run =
            &g_array_index(st->taken, struct free_run, i);
        co_qcow2_free_unused(s, run->offset, run->bytes);
    }
    g_ptr_array_unref(st->list);
    return false;
}

bool co_qcow2_bitmaps_store(struct qcow2 *s, GError **error)
{
    struct store st = {
        .s = s,
        .list = stored_bitmaps_new(),
        .taken = g_array_new(false, false, sizeof(struct free_run)),
        .buf = io_buffer_try_alloc(qcow2_file(s), s->cluster_size),
    };
    bool ok =
        st.buf ? co_store(&st, error)
               : error_set_errno(error, ENOMEM, "Could not write the bitmaps");

    if (!st.buf) {
        g_ptr_array_unref(st.list);
    }
    io_buffer_free(st.buf);
    g_array_unref(st.taken);
    return ok;
}
