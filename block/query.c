/*
 * What a node tells queries: BlockDeviceInfo, and ImageInfo with its backing
 * chain. Plain structs, which the monitor encodes.
 */
#include "block/node.h"

#include <assert.h>

#include "block/dirty_bitmap.h"
#include "block/graph.h"
#include "block/node_int.h"
#include "block/open_int.h"
#include "block/snapshot.h"
#include "util/error.h"
#include "util/range.h"

/* ---- ImageInfo ---- */

/* What the image's header says of its backing file, if it names one. */
static void add_backing_names(const struct node *node, struct image_info *info)
{
    if (!node->backing_filename || !*node->backing_filename) {
        return;
    }
    info->backing_filename = g_strdup(node->backing_filename);
    info->backing_filename_format = g_strdup(node->backing_format);
    info->full_backing_filename = node_full_backing_filename(node, NULL);
}

static void add_snapshots(struct node *node, struct image_info *info)
{
    struct snapshot_info_list *list = node_snapshots(node);

    info->has_snapshots = list && list->n > 0;
    if (info->has_snapshots) {
        info->snapshots = *list;
        g_free(list);
    } else {
        snapshot_info_list_free(list);
    }
}

/* About this layer alone. */
static struct image_info *co_query_layer(struct node *node)
{
    struct image_info *info = g_new0(struct image_info, 1);
    struct node_info details;
    info->filename = g_strdup(node->filename);
    info->format = g_strdup(node->driver->name);
    info->virtual_size = align_up(node->length, BLOCK_SECTOR_SIZE);
    info->actual_size = co_node_allocated_size(node);
    info->has_actual_size = info->actual_size >= 0;
    if (co_node_get_info(node, &details) == 0) {
        info->has_dirty_flag = true;
        info->dirty_flag = details.is_dirty;
        info->has_cluster_size = details.cluster_size > 0;
        info->cluster_size = details.cluster_size;
    }
    add_backing_names(node, info);
    add_snapshots(node, info);
    if (node->driver->co_query_specific) {
        info->format_specific = node->driver->co_query_specific(node);
    }
    return info;
}

struct image_info *co_node_query_image(struct node *node, bool flat,
                                       GError **error)
{
    struct image_info *top = NULL, **next = &top;
    node_refresh_filename(node);
    /* One step at a time: a filter is a layer of its own here. */
    while (node) {
        *next = co_query_layer(node);
        next = &(*next)->backing_image;
        node = flat ? NULL : node_chain_below(node);
    }
    return top;
}

/* ---- BlockDeviceInfo ---- */

static int64_t backing_depth(struct node *node)
{
    int64_t depth = 0;
    while ((node = node_chain_below(node))) {
        depth++;
    }
    return depth;
}

static void add_bitmaps(struct node *node, struct block_device_info *info)
{
    struct block_dirty_info_list *list = dirty_bitmaps_query(node);
    info->has_dirty_bitmaps = list && list->n > 0;
    if (info->has_dirty_bitmaps) {
        info->dirty_bitmaps = *list;
        g_free(list);
    } else {
        block_dirty_info_list_free(list);
    }
}

struct block_device_info *co_node_query(struct node *node, bool flat,
                                        GError **error)
{
    struct image_info *image = co_node_query_image(node, flat, error);
    if (!image) {
        return NULL;
    }
    struct block_device_info *info = g_new0(struct block_device_info, 1);
    info->file = g_strdup(node->filename);
    info->node_name = g_strdup(node->name);
    info->ro = node->read_only;
    info->drv = g_strdup(node->driver->name);
    info->encrypted = false;
    info->cache = g_new0(struct blockdev_cache_info, 1);
    info->cache->writeback = true;
    info->cache->direct = node->cache_direct;
    info->cache->no_flush = node->no_flush;
    info->backing_file =
        node->backing ? g_strdup(node->backing->child->filename) : NULL;
    info->backing_file_depth = flat ? 0 : backing_depth(node);
    info->detect_zeroes = node->detect_zeroes;
    info->write_threshold = node->write_threshold;
    info->x_engine =
        node->driver->io_engine ? node->driver->io_engine(node) : NULL;
    info->image = image;
    add_bitmaps(node, info);
    return info;
}
