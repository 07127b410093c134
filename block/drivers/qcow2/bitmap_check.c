/*
 * Stored bitmaps: what they refer to, what is damaged, and how to be rid of it.
 *
 * A damaged entry refers to nothing: its clusters count as leaked, because
 * nothing that it says can be trusted. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <inttypes.h>
#include "block/check_report.h"
#include "util/error.h"

static bool walk_bitmap(const struct qcow2 *s, const struct stored_bitmap *b,
                        qcow2_bitmaps_fn *fn, void *opaque, GError **error)
{
    if (!b->table) {
        return true;
    }
    for (uint32_t i = 0; i < b->table_entries; i++) {
        if (b->table[i] > QCOW2_BITMAP_ALL_ONES &&
            !fn(opaque, "bitmap data", b->table[i], s->cluster_size, error)) {
            return false;
        }
    }
    return fn(opaque, "bitmap table", b->table_offset,
              (uint64_t)b->table_entries * 8, error);
}

bool qcow2_bitmaps_walk(const struct qcow2 *s, qcow2_bitmaps_fn *fn,
                        void *opaque, GError **error)
{
    const struct qcow2_bitmaps *bitmaps = s->bitmaps;

    if (!bitmaps->directory_offset || bitmaps->unreadable) {
        return true;
    }
    for (unsigned i = 0; i < bitmaps->list->len; i++) {
        if (!walk_bitmap(s, g_ptr_array_index(bitmaps->list, i), fn, opaque,
                         error)) {
            return false;
        }
    }
    return fn(opaque, "bitmap directory", bitmaps->directory_offset,
              bitmaps->directory_bytes, error);
}

void qcow2_bitmaps_report(const struct qcow2 *s, struct check_report *check)
{
    const struct qcow2_bitmaps *bitmaps = s->bitmaps;

    for (unsigned i = 0; i < bitmaps->list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(bitmaps->list, i);
        if (b->damage) {
            check_report_add(check, CHECK_REPORT_ERROR,
                             "bitmap '%s' cannot be used: %s", b->name,
                             b->damage);
        }
    }
    if (bitmaps->damage) {
        check_report_add(check, CHECK_REPORT_ERROR, "%s", bitmaps->damage);
    }
}

bool co_qcow2_bitmaps_repair(struct qcow2 *s, unsigned *dropped, GError **error)
{
    GPtrArray *list = stored_bitmaps_new();
    bool unsure;

    *dropped = 0;
    for (unsigned i = 0; i < s->bitmaps->list->len; i++) {
        const struct stored_bitmap *b = g_ptr_array_index(s->bitmaps->list, i);
        if (b->damage) {
            ++*dropped;
        } else {
            g_ptr_array_add(list, stored_bitmap_copy(b));
        }
    }
    *dropped += s->bitmaps->damage != NULL;
    if (*dropped && co_qcow2_bitmaps_replace(s, list, &unsure, error)) {
        return true;
    }
    g_ptr_array_unref(list);
    return !*dropped;
}
