/*
 * Bitmaps of an image that is opened: from the directory into the node.
 *
 * The tables are read and checked first; what they refer to is guarded as
 * metadata, and a cluster that is already something else's makes the bitmap
 * damaged. So two bitmaps never share clusters, and the memory for tables is
 * bounded by the file.
 *
 * Runs on the node's loop, inside open or reopen.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "block/dirty_bitmap.h"
#include "util/error.h"

/* ---- sizes --------------------------------------------------------------- */

int64_t qcow2_bitmap_cluster_span(const struct qcow2 *s,
                                  unsigned granularity_bits)
{
    return s->cluster_size << (granularity_bits + 3);
}

int64_t qcow2_bitmap_table_entries(const struct qcow2 *s, int64_t length,
                                   unsigned granularity_bits)
{
    return div_round_up(length, qcow2_bitmap_cluster_span(s, granularity_bits));
}

/* ---- tables -------------------------------------------------------------- */

static bool takes_entries(const struct qcow2 *s, int64_t entries)
{
    return entries <= QCOW2_MAX_BITMAP_BYTES >> s->cluster_bits;
}

static void check_table_place(struct qcow2 *s, struct stored_bitmap *b)
{
    int64_t bytes = (int64_t)b->table_entries * 8;
    int64_t need =
        qcow2_bitmap_table_entries(s, s->node->length, b->granularity_bits);

    if (!b->table_entries || !takes_entries(s, b->table_entries)) {
        stored_bitmap_damage(b, "its table has %" PRIu32 " entries",
                             b->table_entries);
    } else if (!(b->flags & QCOW2_BITMAP_IN_USE) && b->table_entries < need) {
        stored_bitmap_damage(b,
                             "its table has %" PRIu32 " entries, where %" PRId64
                             " are needed",
                             b->table_entries, need);
    } else if (!b->table_offset ||
               !is_aligned(b->table_offset, s->cluster_size) ||
               !range_within(b->table_offset, bytes, qcow2_file(s)->length)) {
        stored_bitmap_damage(b, "its table offset %#" PRIx64 " is invalid",
                             b->table_offset);
    } else if (qcow2_meta_overlaps(s, b->table_offset, bytes)) {
        stored_bitmap_damage(b, "its table overlaps other metadata");
    }
}

/* Entry i, which names a cluster or stands for one of equal bits. */
static void check_table_entry(struct qcow2 *s, struct stored_bitmap *b,
                              uint32_t i)
{
    uint64_t host = b->table[i];

    if (host <= QCOW2_BITMAP_ALL_ONES) {
        return;
    }
    if ((host & (s->cluster_size - 1)) || host & ~QCOW2_OFFSET_MASK ||
        host >= (uint64_t)qcow2_file(s)->length) {
        stored_bitmap_damage(b,
                             "entry %" PRIu32 " of its table is invalid: "
                             "%#" PRIx64,
                             i, host);
    } else if (qcow2_meta_overlaps(s, host, s->cluster_size)) {
        stored_bitmap_damage(b,
                             "entry %" PRIu32 " of its table points to other "
                             "metadata: %#" PRIx64,
                             i, host);
    } else {
        qcow2_meta_add(s, host, s->cluster_size);
    }
}

static int co_read_table(struct qcow2 *s, struct stored_bitmap *b)
{
    int64_t bytes = (int64_t)b->table_entries * 8;
    uint64_t *table = g_try_malloc(bytes);

    if (!table) {
        return -ENOMEM;
    }
    int ret = co_node_pread(qcow2_file(s), b->table_offset, table, bytes, 0);
    if (ret < 0) {
        g_free(table);
        return ret;
    }
    for (uint32_t i = 0; i < b->table_entries; i++) {
        table[i] = be64toh(table[i]);
    }
    b->table = table;
    return 0;
}

static void co_take_table(struct qcow2 *s, struct stored_bitmap *b)
{
    if (!b->damage) {
        check_table_place(s, b);
    }
    if (b->damage) {
        return;
    }
    int ret = co_read_table(s, b);
    if (ret < 0) {
        stored_bitmap_damage(b, "its table could not be read: %s",
                             g_strerror(-ret));
        return;
    }
    qcow2_meta_add(s, b->table_offset, (int64_t)b->table_entries * 8);
    for (uint32_t i = 0; i < b->table_entries && !b->damage; i++) {
        check_table_entry(s, b, i);
    }
    if (b->damage) {
        /* Nobody shall free what it says. */
        g_free(g_steal_pointer(&b->table));
    }
}

/* ---- bits ---------------------------------------------------------------- */

/* Whether the memory for its bits is warranted. */
static bool take_memory(struct qcow2 *s, struct stored_bitmap *b)
{
    int64_t used = 0;

    for (uint32_t i = 0; i < b->table_entries; i++) {
        used += b->table[i] ? s->cluster_size : 0;
    }
    if (used > QCOW2_MAX_ALL_BITMAP_BYTES - s->bitmaps->loaded_bytes) {
        stored_bitmap_damage(b, "with the others it takes more than 1 GiB");
        return false;
    }
    s->bitmaps->loaded_bytes += used;
    return true;
}

static int co_read_bits(struct qcow2 *s, const struct stored_bitmap *b,
                        struct hbitmap *bits)
{
    int64_t span = qcow2_bitmap_cluster_span(s, b->granularity_bits);
    uint8_t *buf = io_buffer_try_alloc(qcow2_file(s), s->cluster_size);
    int ret = buf ? 0 : -ENOMEM;
    int64_t size = hbitmap_size(bits);

    for (uint32_t i = 0; ret == 0 && i * span < size; i++) {
        int64_t bytes = min_i64(span, size - i * span);
        if (b->table[i] == QCOW2_BITMAP_ALL_ONES) {
            hbitmap_set(bits, i * span, bytes);
        } else if (b->table[i]) {
            ret = co_node_pread(qcow2_file(s), b->table[i], buf,
                                s->cluster_size, 0);
            if (ret == 0) {
                hbitmap_deserialize(bits, i * span, bytes, buf);
            }
        }
    }
    io_buffer_free(buf);
    return ret;
}

/* The node's bitmap that stands for a stored one. */
static void co_load_bitmap(struct qcow2 *s, struct stored_bitmap *b)
{
    g_autoptr(GError) error = NULL;
    int64_t granularity =
        b->granularity_bits >= QCOW2_MIN_GRANULARITY_BITS &&
                b->granularity_bits <= QCOW2_MAX_GRANULARITY_BITS
            ? INT64_C(1) << b->granularity_bits
            : 65536;
    struct dirty_bitmap *d =
        dirty_bitmap_new(s->node, b->name, granularity, &error);

    if (!d) {
        stored_bitmap_damage(b, "%s", error->message);
        return;
    }
    d->persistent = true;
    d->disabled = !(b->flags & QCOW2_BITMAP_AUTO);
    if (!b->damage && !(b->flags & QCOW2_BITMAP_IN_USE) && take_memory(s, b)) {
        int ret = co_read_bits(s, b, d->bits);
        if (ret < 0) {
            stored_bitmap_damage(b, "it could not be read: %s",
                                 g_strerror(-ret));
            hbitmap_clear_all(d->bits);
        }
    }
    if (b->damage || (b->flags & QCOW2_BITMAP_IN_USE)) {
        d->inconsistent = d->disabled = true;
        d->reason = g_strdup(
            b->damage ? b->damage : "in use: not saved, or open elsewhere");
    }
}

/* ---- open ---------------------------------------------------------------- */

void co_qcow2_bitmaps_read(struct qcow2 *s)
{
    GPtrArray *list = s->bitmaps->list;

    co_qcow2_bitmaps_read_directory(s);
    for (unsigned i = 0; i < list->len; i++) {
        co_take_table(s, g_ptr_array_index(list, i));
    }
}

static void co_load_all(struct qcow2 *s)
{
    GPtrArray *list = s->bitmaps->list;

    for (unsigned i = 0; i < list->len; i++) {
        struct stored_bitmap *b = g_ptr_array_index(list, i);
        co_load_bitmap(s, b);
        if (b->damage) {
            g_warning("'%s': bitmap '%s' cannot be used: %s",
                      qcow2_file(s)->filename, b->name, b->damage);
        }
    }
    if (s->bitmaps->damage) {
        g_warning("'%s': %s", qcow2_file(s)->filename, s->bitmaps->damage);
    }
}

/* An extension whose bitmaps do not follow the guest's writes must not come to
 * life again with the next bitmap that is stored; nor may one that cannot be
 * read now be read later, as if it had followed. */
static bool co_drop_stale(struct qcow2 *s, GError **error)
{
    bool valid = s->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS;
    bool there = qcow2_extension(s, QCOW2_EXT_BITMAPS);

    if (s->version < 3 || (valid == there && !s->bitmaps->unreadable)) {
        return true;
    }
    return co_qcow2_bitmaps_forget(s, error);
}

bool co_qcow2_bitmaps_writable(struct qcow2 *s, GError **error)
{
    return co_drop_stale(s, error) && co_qcow2_bitmaps_mark_in_use(s, error);
}

bool co_qcow2_bitmaps_open(struct qcow2 *s, GError **error)
{
    co_load_all(s);
    return s->node->read_only || co_qcow2_bitmaps_writable(s, error);
}
