/*
 * The bitmap directory: read, marked in place, replaced as a whole.
 *
 * Marking changes flags of one sector each, before the first write of a guest,
 * so any part of it may get lost in a crash. Everything else writes a new
 * directory; the header, which changes at once, decides which one is in force.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "util/error.h"

struct qcow2_bitmaps *qcow2_bitmaps_new(void)
{
    struct qcow2_bitmaps *b = g_new0(struct qcow2_bitmaps, 1);

    b->list = stored_bitmaps_new();
    return b;
}

void qcow2_bitmaps_free(struct qcow2_bitmaps *b)
{
    g_ptr_array_unref(b->list);
    g_free(b->damage);
    g_free(b);
}

/* ---- reading ------------------------------------------------------------- */

static void G_GNUC_PRINTF(2, 3)
    directory_damage(struct qcow2_bitmaps *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    b->damage = g_strdup_vprintf(fmt, ap);
    va_end(ap);
}

static void parse_directory(struct qcow2_bitmaps *b, const uint8_t *directory,
                            uint32_t count)
{
    g_autoptr(GHashTable) names = g_hash_table_new(g_str_hash, g_str_equal);
    int64_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        struct stored_bitmap *stored =
            stored_bitmap_parse(directory + at, b->directory_bytes - at);
        if (!stored) {
            directory_damage(b,
                             "the bitmap directory ends within entry %" PRIu32
                             " of %" PRIu32,
                             i + 1, count);
            return;
        }
        if (!g_hash_table_add(names, stored->name)) {
            stored_bitmap_damage(stored, "its name is there twice");
        }
        g_ptr_array_add(b->list, stored);
        at += align_up(stored->entry_bytes, 8);
    }
    if (at < b->directory_bytes) {
        directory_damage(b,
                         "the bitmap directory has %" PRId64
                         " bytes behind its last entry",
                         b->directory_bytes - at);
    }
}

/* The fields of the header extension, or damage. */
static bool take_extension(struct qcow2 *s, const struct header_extension *ext,
                           uint32_t *count)
{
    struct qcow2_bitmaps *b = s->bitmaps;
    struct qcow2_disk_bitmaps d;

    if (ext->bytes != sizeof(d)) {
        directory_damage(b, "the bitmaps extension has %" PRIu32 " bytes",
                         ext->bytes);
        return false;
    }
    memcpy(&d, ext->data, sizeof(d));
    *count = be32toh(d.count);
    uint64_t bytes = be64toh(d.directory_size);
    uint64_t offset = be64toh(d.directory_offset);
    if (d.reserved) {
        directory_damage(b, "the reserved field of the bitmaps extension is "
                            "set");
    } else if (!*count || *count > QCOW2_MAX_BITMAPS) {
        directory_damage(b, "the bitmaps extension counts %" PRIu32 " bitmaps",
                         *count);
    } else if (!bytes || bytes > QCOW2_MAX_BITMAP_DIRECTORY) {
        directory_damage(b, "the bitmap directory has %" PRIu64 " bytes",
                         bytes);
    } else if (!offset || (offset & (s->cluster_size - 1)) ||
               offset > (uint64_t)qcow2_file(s)->length ||
               bytes > (uint64_t)qcow2_file(s)->length - offset) {
        directory_damage(
            b, "the bitmap directory's offset %#" PRIx64 " is invalid", offset);
    } else if (qcow2_meta_overlaps(s, offset, bytes)) {
        directory_damage(b, "the bitmap directory overlaps other metadata");
    } else {
        b->directory_offset = offset;
        b->directory_bytes = bytes;
    }
    return !b->damage;
}

void co_qcow2_bitmaps_read_directory(struct qcow2 *s)
{
    const struct header_extension *ext = qcow2_extension(s, QCOW2_EXT_BITMAPS);
    struct qcow2_bitmaps *b = s->bitmaps;
    uint32_t count;

    if (!ext || s->version < 3) {
        return;
    }
    if (!(s->header.autoclear & QCOW2_AUTOCLEAR_BITMAPS)) {
        g_warning("'%s': a program lacking bitmap support modified this file, "
                  "so all bitmaps are now considered inconsistent; some "
                  "clusters may be leaked",
                  qcow2_file(s)->filename);
        return;
    }
    if (!take_extension(s, ext, &count)) {
        return;
    }
    uint8_t *directory = io_buffer_try_alloc(qcow2_file(s), b->directory_bytes);
    int ret = directory ? co_node_pread(qcow2_file(s), b->directory_offset,
                                        directory, b->directory_bytes, 0)
                        : -ENOMEM;
    if (ret < 0) {
        b->unreadable = true;
        directory_damage(b, "the bitmap directory could not be read: %s",
                         g_strerror(-ret));
    } else {
        qcow2_meta_add(s, b->directory_offset, b->directory_bytes);
        parse_directory(b, directory, count);
    }
    io_buffer_free(directory);
}

/* ---- writing ------------------------------------------------------------- */

/* The content of the list's directory; NULL without memory. */
static uint8_t *build(struct qcow2 *s, const GPtrArray *list)
{
    uint8_t *directory =
        io_buffer_try_alloc(qcow2_file(s), stored_bitmaps_bytes(list));

    if (directory) {
        stored_bitmaps_build(list, directory);
    }
    return directory;
}

static int co_write_directory(struct qcow2 *s, const GPtrArray *list,
                              int64_t offset)
{
    uint8_t *directory = build(s, list);

    if (!directory) {
        return -ENOMEM;
    }
    int ret = co_node_pwrite(qcow2_file(s), offset, directory,
                             stored_bitmaps_bytes(list), 0);
    io_buffer_free(directory);
    return ret;
}

static void mark(const GPtrArray *list, const uint32_t *flags, uint32_t set)
{
    for (unsigned i = 0; i < list->len; i++) {
        stored_bitmap_set_flags(g_ptr_array_index(list, i), flags[i] | set);
    }
}

bool co_qcow2_bitmaps_mark_in_use(struct qcow2 *s, GError **error)
{
    GPtrArray *list = s->bitmaps->list;
    g_autofree uint32_t *flags = g_new0(uint32_t, list->len + 1);
    bool change = false;

    for (unsigned i = 0; i < list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(list, i);
        flags[i] = b->flags;
        change |= !(b->flags & QCOW2_BITMAP_IN_USE);
    }
    if (!change) {
        return true;
    }
    mark(list, flags, QCOW2_BITMAP_IN_USE);
    int ret = co_write_directory(s, list, s->bitmaps->directory_offset);
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        mark(list, flags, 0);
        return error_set_errno(error, ret,
                               "Could not mark the bitmaps as in use");
    }
    return true;
}

static void edit_extension(struct header_area *h, void *opaque)
{
    const struct qcow2_disk_bitmaps *d = opaque;

    header_area_set(h, QCOW2_EXT_BITMAPS, d->count ? d : NULL, sizeof(*d));
    if (d->count) {
        h->fields.autoclear |= QCOW2_AUTOCLEAR_BITMAPS;
    } else {
        h->fields.autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
    }
}

bool co_qcow2_bitmaps_forget(struct qcow2 *s, GError **error)
{
    struct qcow2_disk_bitmaps none = {0};

    return co_qcow2_edit_header(s, edit_extension, &none, error);
}

/* The header may name this directory after a failed write. If its entries were
 * to be right from then on: they no longer are. */
static void co_disown(struct qcow2 *s, GPtrArray *list, int64_t offset)
{
    for (unsigned i = 0; i < list->len; i++) {
        struct stored_bitmap *b = g_ptr_array_index(list, i);
        stored_bitmap_set_flags(b, b->flags | QCOW2_BITMAP_IN_USE);
    }
    if (offset) {
        (void)co_write_directory(s, list, offset);
    }
}

/* Where the list's directory has been written; 0 if it is empty. */
static int64_t co_place(struct qcow2 *s, const GPtrArray *list)
{
    int64_t bytes = align_up(stored_bitmaps_bytes(list), s->cluster_size);

    if (!list->len) {
        return 0;
    }
    int64_t offset = co_qcow2_alloc_contiguous(s, bytes >> s->cluster_bits,
                                               "bitmap directory");
    if (offset < 0) {
        return offset;
    }
    int ret = co_write_directory(s, list, offset);
    /* Stable: all that the new directory refers to, and that it is counted. */
    if (ret == 0) {
        ret = co_qcow2_commit(s);
    }
    if (ret == 0) {
        ret = co_node_flush(qcow2_file(s));
    }
    if (ret < 0) {
        co_qcow2_free_unused(s, offset, bytes);
        return ret;
    }
    return offset;
}

static void adopt(struct qcow2 *s, GPtrArray *list, int64_t offset)
{
    struct qcow2_bitmaps *b = s->bitmaps;
    int64_t bytes = stored_bitmaps_bytes(list);

    if (b->directory_offset) {
        qcow2_free_later(s, b->directory_offset,
                         align_up(b->directory_bytes, s->cluster_size),
                         FREE_OTHER);
    }
    if (offset) {
        qcow2_meta_add(s, offset, bytes);
    }
    g_ptr_array_unref(b->list);
    g_free(b->damage);
    *b = (struct qcow2_bitmaps){
        .list = list,
        .directory_offset = offset,
        .directory_bytes = offset ? bytes : 0,
    };
}

bool co_qcow2_bitmaps_replace(struct qcow2 *s, GPtrArray *list, bool *unsure,
                              GError **error)
{
    struct qcow2_disk_bitmaps d = {
        .count = htobe32(list->len),
        .directory_size = htobe64(stored_bitmaps_bytes(list)),
    };

    *unsure = false;
    if (stored_bitmaps_bytes(list) > QCOW2_MAX_BITMAP_DIRECTORY) {
        return error_set(error, "Not enough space in the bitmap directory");
    }
    int64_t offset = co_place(s, list);
    if (offset < 0) {
        return error_set_errno(error, offset,
                               "Could not write the bitmap directory");
    }
    d.directory_offset = htobe64(offset);
    if (!co_qcow2_edit_header(s, edit_extension, &d, error)) {
        *unsure = true;
        co_disown(s, list, offset);
        return false;
    }
    adopt(s, list, offset);
    return true;
}
