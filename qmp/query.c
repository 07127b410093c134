/*
 * Commands that tell what there is: block-query.json.
 */
#include "block/backend.h"
#include "block/graph.h"
#include "block/throttle.h"
#include "lookup.h"
#include "qmp/commands.h"
#include "qmp/visit.h"

/* ---- query-block ---- */

static struct block_info *co_backend_info(struct backend *b, GError **error)
{
    qapi_auto(block_info) info = g_new0(struct block_info, 1);

    info->device = g_strdup(b->name ? b->name : "");
    info->qdev = g_strdup(b->device_id);
    info->type = g_strdup("unknown");
    /* Only what nobody uses can be taken out. */
    info->removable = !b->device_ops;
    if (b->io_status_enabled) {
        info->has_io_status = true;
        info->io_status = b->io_status;
    }
    struct node *node = lookup_below_job_filters(b->node);
    if (node) {
        node_ref(node);
        info->inserted = co_node_query(node, false, error);
        co_node_unref(node);
        if (!info->inserted) {
            return NULL;
        }
        info->inserted->cache->writeback = b->write_cache;
        if (b->throttle) {
            throttle_query(throttle_member_group(b->throttle), info->inserted);
        }
    }
    return g_steal_pointer(&info);
}

static bool block_visit(const void *args, void *result, GError **error)
{
    struct backend *b;

    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (!b->name && !b->device_id) {
            continue;
        }
        struct block_info *info = co_backend_info(b, error);
        if (!info) {
            return false;
        }
        gather((struct gathered *)result, struct block_info_list, info,
               b->serial);
    }
    return true;
}

struct block_info_list *qmp_query_block(GError **errp)
{
    qapi_auto(block_info_list) list = g_new0(struct block_info_list, 1);

    /* The lock keeps backends and nodes from going while the query waits. */
    return co_visit_gather(block_visit, NULL, list, VISIT_LOCKED, errp)
               ? g_steal_pointer(&list)
               : NULL;
}

/* ---- query-named-block-nodes ---- */

static bool nodes_visit(const void *opaque, void *result, GError **error)
{
    const struct query_named_block_nodes_args *args = opaque;
    struct gathered *all = result;
    struct node *node;

    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        if (!node->opened) {
            continue;
        }
        struct block_device_info *info =
            co_node_query(node, args->has_flat && args->flat, error);
        if (!info) {
            return false;
        }
        gather(all, struct block_device_info_list, info, node->serial);
    }
    return true;
}

struct block_device_info_list *qmp_query_named_block_nodes(
    const struct query_named_block_nodes_args *args, GError **errp)
{
    qapi_auto(block_device_info_list) list =
        g_new0(struct block_device_info_list, 1);

    /* Youngest first, as clients know it. */
    return co_visit_gather(nodes_visit, args, list,
                           VISIT_LOCKED | VISIT_YOUNGEST_FIRST, errp)
               ? g_steal_pointer(&list)
               : NULL;
}

/* ---- query-blockstats ---- */

static struct block_device_stats *backend_stats(const struct backend *b)
{
    const struct acct_stats *rd = &b->acct[ACCT_READ];
    const struct acct_stats *wr = &b->acct[ACCT_WRITE];
    const struct acct_stats *flush = &b->acct[ACCT_FLUSH];
    const struct acct_stats *unmap = &b->acct[ACCT_UNMAP];
    struct block_device_stats *s = g_new0(struct block_device_stats, 1);

    *s = (struct block_device_stats){
        .rd_bytes = (int64_t)rd->bytes,
        .rd_operations = (int64_t)rd->ops,
        .rd_total_time_ns = (int64_t)rd->total_ns,
        .rd_merged = (int64_t)rd->merged,
        .failed_rd_operations = (int64_t)rd->failed,
        .invalid_rd_operations = (int64_t)rd->invalid,
        .wr_bytes = (int64_t)wr->bytes,
        .wr_operations = (int64_t)wr->ops,
        .wr_total_time_ns = (int64_t)wr->total_ns,
        .wr_merged = (int64_t)wr->merged,
        .failed_wr_operations = (int64_t)wr->failed,
        .invalid_wr_operations = (int64_t)wr->invalid,
        .flush_operations = (int64_t)flush->ops,
        .flush_total_time_ns = (int64_t)flush->total_ns,
        .failed_flush_operations = (int64_t)flush->failed,
        .invalid_flush_operations = (int64_t)flush->invalid,
        .unmap_bytes = (int64_t)unmap->bytes,
        .unmap_operations = (int64_t)unmap->ops,
        .unmap_total_time_ns = (int64_t)unmap->total_ns,
        .unmap_merged = (int64_t)unmap->merged,
        .failed_unmap_operations = (int64_t)unmap->failed,
        .invalid_unmap_operations = (int64_t)unmap->invalid,
        .wr_highest_offset = (int64_t)b->wr_highest_offset,
        .account_failed = true,
        .account_invalid = true,
    };
    return s;
}

/* The child that holds the data, if one alone does. */
static const struct edge *storage_of(const struct node *node)
{
    unsigned roles = ROLE_DATA | ROLE_FILTERED;
    const struct edge *e, *found = NULL;

    if (node->file && node->file->roles & roles) {
        return node->file;
    }
    LIST_FOREACH (e, &node->children, in_children) {
        if (e->roles & roles) {
            if (found) {
                return NULL;
            }
            found = e;
        }
    }
    return found;
}

/* Requests are counted where they enter the graph: a node alone has only what
 * its driver counts, and how far it was written. */
static struct block_stats *node_stats(const struct node *node, bool chain)
{
    struct block_stats *s = g_new0(struct block_stats, 1);

    s->node_name = g_strdup(node->name);
    s->stats = g_new0(struct block_device_stats, 1);
    s->stats->wr_highest_offset = node->wr_highest_offset;
    if (node->driver->query_stats) {
        s->driver_specific = node->driver->query_stats(node);
    }
    const struct edge *storage = storage_of(node);
    if (storage) {
        s->parent = node_stats(storage->child, chain);
    }
    if (chain && node->backing) {
        s->backing = node_stats(node->backing->child, chain);
    }
    return s;
}

static void stats_of_nodes(struct gathered *all)
{
    struct node *node;

    TAILQ_FOREACH (node, &graph_current()->nodes, link) {
        if (node->opened) {
            struct block_stats *s = node_stats(node, false);
            gather(all, struct block_stats_list, s, node->serial);
        }
    }
}

static void stats_of_backends(struct gathered *all)
{
    struct backend *b;

    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (!b->name && !b->device_id) {
            continue;
        }
        struct block_stats *s =
            b->node ? node_stats(b->node, true) : g_new0(struct block_stats, 1);
        if (s->stats) {
            block_device_stats_free(s->stats);
        }
        s->stats = backend_stats(b);
        s->device = g_strdup(b->name ? b->name : "");
        s->qdev = g_strdup(b->device_id);
        gather(all, struct block_stats_list, s, b->serial);
    }
}

static bool stats_visit(const void *opaque, void *result, GError **error)
{
    const struct query_blockstats_args *args = opaque;

    if (args->has_query_nodes && args->query_nodes) {
        stats_of_nodes(result);
    } else {
        stats_of_backends(result);
    }
    return true;
}

struct block_stats_list *qmp_query_blockstats(
    const struct query_blockstats_args *args, GError **errp)
{
    struct block_stats_list *list = g_new0(struct block_stats_list, 1);

    co_visit_gather(stats_visit, args, list, 0, errp);
    return list;
}
