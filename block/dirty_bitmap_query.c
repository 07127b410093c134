/*
 * What people are told about dirty bitmaps.
 *
 * Runs on the node's loop; nothing here suspends.
 */
#include <string.h>
#include "block/dirty_bitmap.h"
#include "qapi/types.h"
#include "util/range.h"

bool dirty_bitmap_recording(const struct dirty_bitmap *b)
{
    return b->successor ? !b->successor->disabled : !b->disabled;
}

int64_t dirty_bitmap_count(const struct dirty_bitmap *b)
{
    int64_t size = hbitmap_size(b->bits);
    int64_t cut = size & (hbitmap_granularity(b->bits) - 1);
    int64_t count = hbitmap_count(b->bits);

    if (cut && hbitmap_get(b->bits, size - 1)) {
        count += hbitmap_granularity(b->bits) - cut;
    }
    return count;
}

/* The digest is over whole 64-bit little-endian words of bits, at least one;
 * found by asking QEMU for bitmaps with known bits. */
char *dirty_bitmap_sha256(const struct dirty_bitmap *b, GError **error)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree char *buf = g_malloc(65536 + 8);
    int64_t size = hbitmap_size(b->bits);
    int64_t granularity = hbitmap_granularity(b->bits);
    int64_t chunk = size; /* a bitmap that fits the buffer whole */
    int64_t offset = 0;

    range_mul(granularity, 65536 * 8, &chunk);
    do {
        int64_t n = min_i64(chunk, size - offset);
        size_t bytes = hbitmap_serial_size(b->bits, offset, n);
        size_t padded = bytes ? align_up(bytes, 8) : 8;
        memset(buf, 0, padded);
        hbitmap_serialize(b->bits, offset, n, buf);
        g_checksum_update(sum, (const guchar *)buf, padded);
        offset += n;
    } while (offset < size);
    return g_strdup(g_checksum_get_string(sum));
}

struct block_dirty_info_list *dirty_bitmaps_query(struct node *node)
{
    struct block_dirty_info_list *list =
        g_new0(struct block_dirty_info_list, 1);
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        list->n++;
    }
    list->items = g_new0(struct block_dirty_info *, list->n);
    size_t i = 0;
    LIST_FOREACH (b, &node->bitmaps, link) {
        struct block_dirty_info *info = g_new0(struct block_dirty_info, 1);
        info->name = g_strdup(b->name);
        info->count = dirty_bitmap_count(b);
        info->granularity = hbitmap_granularity(b->bits);
        info->recording = dirty_bitmap_recording(b);
        info->busy = b->busy;
        info->persistent = b->persistent;
        info->has_inconsistent = info->inconsistent = b->inconsistent;
        list->items[i++] = info;
    }
    return list;
}
