/*
 * x-query-dirty-bitmap-regions: the marks of a bitmap, ready to be drawn.
 */
#include "block/dirty_bitmap.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"
#include "util/range.h"

#define MAX_REGIONS 4096

static int64_t dirty_bytes_in(const struct hbitmap *bits, int64_t offset,
                              int64_t bytes)
{
    int64_t end = offset + bytes, sum = 0, run, run_bytes;

    while (offset < end && hbitmap_next_run(bits, offset, end - offset,
                                            INT64_MAX, &run, &run_bytes)) {
        sum += run_bytes;
        offset = run + run_bytes;
    }
    return sum;
}

static bool visit_regions(const void *opaque, void *result, GError **error)
{
    const struct x_query_dirty_bitmap_regions_args *args = opaque;
    struct dirty_bitmap_regions *r = result;

    struct dirty_bitmap *b =
        dirty_bitmap_lookup(args->node, args->name, NULL, error);
    if (!b) {
        return false;
    }
    r->size = hbitmap_size(b->bits);
    r->granularity = hbitmap_granularity(b->bits);
    int64_t step = max_i64(div_round_up(r->size, args->regions), 1);
    for (int64_t i = 0; i < args->regions; i++) {
        int64_t from = min_i64(i * step, r->size);
        int64_t bytes = min_i64(step, r->size - from);
        qapi_list_append(&r->dirty_bytes, dirty_bytes_in(b->bits, from, bytes));
    }
    return true;
}

struct dirty_bitmap_regions *qmp_x_query_dirty_bitmap_regions(
    const struct x_query_dirty_bitmap_regions_args *args, GError **errp)
{
    if (args->regions < 1 || args->regions > MAX_REGIONS) {
        error_set(errp, "Parameter 'regions' expects a number from 1 to %d",
                  MAX_REGIONS);
        return NULL;
    }
    qapi_auto(dirty_bitmap_regions) r = g_new0(struct dirty_bitmap_regions, 1);
    const struct place place = {.device = args->node, .node = args->node};
    if (!co_visit(&place, visit_regions, args, r, errp)) {
        return NULL;
    }
    return g_steal_pointer(&r);
}
