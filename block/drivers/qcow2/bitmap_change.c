/*
 * Stored bitmaps: what commands ask of the format.
 *
 * A new persistent bitmap is only promised room; it reaches the image when it
 * is stored. A removal takes effect on disk at once.
 *
 * Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <string.h>
#include "block/dirty_bitmap.h"
#include "util/error.h"

/* Bitmaps that are to be in the directory, and the bytes that takes. */
static void count_persistent(struct qcow2 *s, uint64_t *n, uint64_t *bytes)
{
    struct dirty_bitmap *d;

    *n = s->bitmaps->list->len;
    *bytes = stored_bitmaps_bytes(s->bitmaps->list);
    LIST_FOREACH (d, &s->node->bitmaps, link) {
        if (d->persistent && !stored_bitmaps_find(s->bitmaps->list, d->name)) {
            ++*n;
            *bytes +=
                align_up(sizeof(struct qcow2_disk_bitmap) + strlen(d->name), 8);
        }
    }
}

static bool has_room(struct qcow2 *s, const char *name, int64_t granularity,
                     GError **error)
{
    unsigned bits = g_bit_nth_lsf(granularity, -1);
    uint64_t n, bytes;

    if (s->version < 3) {
        return error_set(error, "Cannot store dirty bitmaps in qcow2 v2 files");
    }
    if (strlen(name) > DIRTY_BITMAP_NAME_MAX) {
        return error_set(error, "Name length exceeds maximum (%d characters)",
                         DIRTY_BITMAP_NAME_MAX);
    }
    if (qcow2_bitmap_table_entries(s, s->node->length, bits) >
        QCOW2_MAX_BITMAP_BYTES >> s->cluster_bits) {
        return error_set(error, "Too much space will be occupied by the "
                                "bitmap. Use larger granularity");
    }
    if (stored_bitmaps_find(s->bitmaps->list, name) &&
        !dirty_bitmap_find(s->node, name)) {
        return error_set(error,
                         "Bitmap '%s' is stored in the image and cannot "
                         "be used",
                         name);
    }
    count_persistent(s, &n, &bytes);
    if (n >= QCOW2_MAX_BITMAPS) {
        return error_set(error, "Maximum number of persistent bitmaps is "
                                "already reached");
    }
    bytes += align_up(sizeof(struct qcow2_disk_bitmap) + strlen(name), 8);
    return bytes <= (uint64_t)QCOW2_MAX_BITMAP_DIRECTORY ||
           error_set(error, "Not enough space in the bitmap directory");
}

bool qcow2_can_store_bitmap(struct node *node, const char *name,
                            int64_t granularity, GError **error)
{
    if (has_room(node->state, name, granularity, error)) {
        return true;
    }
    g_prefix_error(error, "Can't make bitmap '%s' persistent in '%s': ", name,
                   node->name);
    return false;
}

bool co_qcow2_remove_stored_bitmap(struct node *node, const char *name,
                                   GError **error)
{
    struct qcow2 *s = node->state;
    bool unsure;

    g_autoptr(GPtrArray) old = g_ptr_array_ref(s->bitmaps->list);
    struct stored_bitmap *gone = stored_bitmaps_find(old, name);
    if (!gone) {
        return true;
    }
    GPtrArray *list = stored_bitmaps_new();
    for (unsigned i = 0; i < old->len; i++) {
        struct stored_bitmap *b = g_ptr_array_index(old, i);
        if (b != gone) {
            g_ptr_array_add(list, stored_bitmap_copy(b));
        }
    }
    if (!co_qcow2_bitmaps_replace(s, list, &unsure, error)) {
        g_ptr_array_unref(list);
        g_prefix_error(error, "Failed to remove bitmap '%s': ", name);
        return false;
    }
    qcow2_bitmap_release(s, gone);
    return true;
}

bool co_qcow2_repair_bitmaps(struct node *node, unsigned *dropped,
                             GError **error)
{
    return co_qcow2_bitmaps_repair(node->state, dropped, error);
}

bool qcow2_bitmaps_check_resize(struct qcow2 *s, GError **error)
{
    GPtrArray *list = s->bitmaps->list;

    for (unsigned i = 0; i < list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(list, i);
        struct dirty_bitmap *d = dirty_bitmap_find(s->node, b->name);
        if (d && !dirty_bitmap_check(d, REFUSE_DEFAULT, error)) {
            return false;
        }
    }
    return true;
}

void qcow2_bitmaps_query(const struct qcow2 *s,
                         struct image_info_specific_qcow2 *q)
{
    GPtrArray *list = s->bitmaps->list;

    q->has_bitmaps = list->len > 0;
    for (unsigned i = 0; i < list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(list, i);
        struct qcow2_bitmap_info *info = g_new0(struct qcow2_bitmap_info, 1);
        info->name = g_strdup(b->name);
        info->granularity =
            b->granularity_bits < 32 ? UINT32_C(1) << b->granularity_bits : 0;
        if (b->flags & QCOW2_BITMAP_IN_USE) {
            qapi_list_append(&info->flags, QCOW2_BITMAP_INFO_FLAGS_IN_USE);
        }
        if (b->flags & QCOW2_BITMAP_AUTO) {
            qapi_list_append(&info->flags, QCOW2_BITMAP_INFO_FLAGS_AUTO);
        }
        qapi_list_append(&q->bitmaps, info);
    }
}
