/*
 * How large a new image would be: its metadata, and the clusters that the data
 * of another image would touch.
 *
 * Refcounts are counted for the fully allocated image, also where data are
 * missing: they are there when the image is made. On the source's loop.
 */
#include "block/drivers/qcow2/create.h"
#include "block/drivers/qcow2/qcow2.h"

#include <string.h>
#include "block/dirty_bitmap.h"
#include "util/error.h"

/* Clusters of the new image that have a byte of data in source. */
static int co_count_data(struct node *source, int64_t cluster, uint64_t *n)
{
    int64_t end = 0; /* of the last one counted */

    *n = 0;
    for (int64_t at = 0; at < source->length;) {
        struct block_status st;
        int ret = co_node_status_above(source, NULL, false, true, at,
                                       source->length - at, &st, NULL);
        if (ret < 0) {
            return ret;
        }
        if (!(st.flags & BLOCK_ZERO)) {
            int64_t from = max_i64(end, align_down(at, cluster));
            end = max_i64(end, align_up(at + st.bytes, cluster));
            *n += (end - from) / cluster;
        }
        at = max_i64(at + st.bytes, end);
    }
    return 0;
}

/* Bitmap directory entries, tables and data of source's bitmaps, if none of
 * their bits is clear (qcow2 specification, "Bitmaps"). */
static int64_t bitmaps_size(const struct node *source, int64_t cluster)
{
    const struct dirty_bitmap *b;
    int64_t directory = 0, sum = 0;

    LIST_FOREACH (b, &source->bitmaps, link) {
        if (!b->persistent) {
            continue;
        }
        int64_t bits =
            div_round_up(source->length, hbitmap_granularity(b->bits));
        int64_t clusters = div_round_up(div_round_up(bits, 8), cluster);
        sum += clusters * cluster + align_up(clusters * 8, cluster);
        directory += align_up(24 + strlen(b->name), 8);
    }
    return sum + align_up(directory, cluster);
}

static bool may_have_bitmaps(const struct node *source)
{
    const struct qcow2 *s = source->state;

    return source->driver->co_measure == co_qcow2_measure && s->version >= 3;
}

bool co_qcow2_measure(const struct create_params *params, struct node *source,
                      struct image_measure *measure, GError **error)
{
    struct image_spec spec = IMAGE_SPEC_INIT;
    g_autoptr(GPtrArray) list = NULL;
    uint64_t all, full, data = 0;

    if (!qcow2_parse_create_options(params->extra, &spec, &list, error)) {
        return false;
    }
    bool layer = params->backing_file || spec.backing_file;
    bool whole = layer || spec.preallocation == PREALLOC_MODE_FALLOC ||
                 spec.preallocation == PREALLOC_MODE_FULL;
    /* What says nothing about the size may be as it likes. */
    spec.backing_file = spec.backing_format = NULL;
    spec.data_file_name = NULL;
    spec.data_file_raw = false;
    spec.lazy_refcounts = false;
    spec.compression = QCOW2_COMPRESSION_TYPE_ZLIB;
    spec.preallocation = PREALLOC_MODE_FULL;
    spec.size =
        align_up(source ? source->length : params->size, BLOCK_SECTOR_SIZE);
    if (!qcow2_check_spec(&spec, error)) {
        return false;
    }
    if (!qcow2_count_clusters(&spec, &all, &full, NULL)) {
        return error_set(error, "The image size is too large (try using a "
                                "larger cluster size)");
    }
    if (source && !whole) {
        int ret = co_count_data(source, spec.cluster_size, &data);
        if (ret < 0) {
            return error_set_errno(error, ret, "Unable to get block status");
        }
    }
    measure->required =
        (all - full + (whole ? full : data)) * spec.cluster_size;
    measure->fully_allocated = all * spec.cluster_size;
    measure->bitmaps = source && spec.version >= 3 && may_have_bitmaps(source)
                           ? bitmaps_size(source, spec.cluster_size)
                           : -1;
    return true;
}
