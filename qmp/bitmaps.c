/*
 * Commands on dirty bitmaps: bitmaps.json.
 */
#include "bitmaps.h"

#include "block/dirty_bitmap.h"
#include "lookup.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

/* ---- steps ---- */

struct dirty_bitmap *bitmap_add(const struct block_dirty_bitmap_add *args,
                                GError **error)
{
    struct node *node =
        lookup_below_job_filters(node_lookup(args->node, args->node, error));

    if (!node) {
        return NULL;
    }
    if (args->has_granularity &&
        !dirty_bitmap_check_granularity(args->granularity, error)) {
        return NULL;
    }
    return co_dirty_bitmap_add(node, args->name,
                               args->has_granularity ? args->granularity : 0,
                               args->has_persistent && args->persistent,
                               args->has_disabled && args->disabled, error);
}

struct dirty_bitmap *bitmap_find(const char *node, const char *name,
                                 GError **error)
{
    struct node *disk = lookup_below_job_filters(node_lookup(node, node, NULL));
    struct dirty_bitmap *b = disk ? dirty_bitmap_find(disk, name) : NULL;

    return b ? b : dirty_bitmap_lookup(node, name, NULL, error);
}

static struct dirty_bitmap *lookup(const struct block_dirty_bitmap *args,
                                   unsigned refuse, GError **error)
{
    struct dirty_bitmap *b = bitmap_find(args->node, args->name, error);

    return b && dirty_bitmap_check(b, refuse, error) ? b : NULL;
}

struct dirty_bitmap *bitmap_for_change(const struct block_dirty_bitmap *args,
                                       GError **error)
{
    return lookup(args, REFUSE_DEFAULT, error);
}

struct dirty_bitmap *bitmap_for_switch(const struct block_dirty_bitmap *args,
                                       GError **error)
{
    return lookup(args, REFUSE_ALLOW_RO, error);
}

struct dirty_bitmap *bitmap_for_removal(const struct block_dirty_bitmap *args,
                                        GError **error)
{
    return lookup(args, REFUSE_BUSY | REFUSE_READONLY, error);
}

/* ---- commands ---- */

static bool add_visit(const void *args, void *result, GError **error)
{
    return bitmap_add(args, error) != NULL;
}

bool qmp_block_dirty_bitmap_add(const struct block_dirty_bitmap_add *args,
                                GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, add_visit, args, NULL, errp);
}

static bool remove_visit(const void *args, void *result, GError **error)
{
    struct dirty_bitmap *b = bitmap_for_removal(args, error);

    return b && co_dirty_bitmap_remove(b, error);
}

bool qmp_block_dirty_bitmap_remove(const struct block_dirty_bitmap *args,
                                   GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, remove_visit, args, NULL, errp);
}

static bool clear_visit(const void *args, void *result, GError **error)
{
    struct dirty_bitmap *b = bitmap_for_change(args, error);

    if (b) {
        dirty_bitmap_clear(b, NULL);
    }
    return b != NULL;
}

bool qmp_block_dirty_bitmap_clear(const struct block_dirty_bitmap *args,
                                  GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, clear_visit, args, NULL, errp);
}

static bool enable_visit(const void *args, void *result, GError **error)
{
    struct dirty_bitmap *b = bitmap_for_switch(args, error);

    if (b) {
        dirty_bitmap_enable(b);
    }
    return b != NULL;
}

bool qmp_block_dirty_bitmap_enable(const struct block_dirty_bitmap *args,
                                   GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, enable_visit, args, NULL, errp);
}

static bool disable_visit(const void *args, void *result, GError **error)
{
    struct dirty_bitmap *b = bitmap_for_switch(args, error);

    if (b) {
        dirty_bitmap_disable(b);
    }
    return b != NULL;
}

bool qmp_block_dirty_bitmap_disable(const struct block_dirty_bitmap *args,
                                    GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, disable_visit, args, NULL, errp);
}

static bool merge_visit(const void *args, void *result, GError **error)
{
    return co_bitmap_merge(args, NULL, error) != NULL;
}

bool qmp_block_dirty_bitmap_merge(const struct block_dirty_bitmap_merge *args,
                                  GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};

    return co_visit_change(&place, merge_visit, args, NULL, errp);
}

static bool sha256_visit(const void *opaque, void *result, GError **error)
{
    const struct block_dirty_bitmap *args = opaque;
    struct block_dirty_bitmap_sha256 *out = result;
    struct dirty_bitmap *b = bitmap_find(args->node, args->name, error);

    out->sha256 = b ? dirty_bitmap_sha256(b, error) : NULL;
    return out->sha256 != NULL;
}

struct block_dirty_bitmap_sha256 *qmp_x_debug_block_dirty_bitmap_sha256(
    const struct block_dirty_bitmap *args, GError **errp)
{
    const struct place place = {.device = args->node, .node = args->node};
    qapi_auto(block_dirty_bitmap_sha256) out =
        g_new0(struct block_dirty_bitmap_sha256, 1);

    return co_visit(&place, sha256_visit, args, out, errp)
               ? g_steal_pointer(&out)
               : NULL;
}
