/*
 * compress: a filter whose writes are stored compressed.
 *
 * For a guest, or a tool that knows nothing of compression, on a format that
 * has it. Requests come in whole clusters of the child, because only those can
 * be compressed; the engine reads what a smaller write leaves of a cluster.
 */
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct compress_state {
    int64_t cluster_size;
};

static bool co_compress_open(struct node *node,
                             const struct blockdev_options *options,
                             GError **error)
{
    struct compress_state *s = node->state;
    struct node_info info = {0};

    if (!co_node_open_child(node, options->u.compress.file, "file",
                            ROLE_FILTERED | ROLE_PRIMARY, error)) {
        return false;
    }
    struct node *child = node->file->child;
    if (!child->driver->writes_compressed ||
        co_node_get_info(child, &info) < 0) {
        return error_set(error,
                         "Compression is not supported for underlying format: "
                         "%s",
                         child->driver->name);
    }
    s->cluster_size = info.cluster_size;
    node->length = child->length;
    return true;
}

static void compress_refresh_limits(struct node *node)
{
    const struct compress_state *s = node->state;

    node->limits = node->file->child->limits;
    node->limits.request_alignment =
        max_i64(node->limits.request_alignment, s->cluster_size);
}

static int co_compress_pwritev(struct node *node, int64_t offset, int64_t bytes,
                               const struct iov *iov, unsigned flags)
{
    struct node *child = node->file->child;
    /* The last cluster may be shorter. */
    struct iov part =
        iov_slice(iov, 0, min_i64(bytes, max_i64(child->length - offset, 0)));

    return co_node_pwritev(child, offset, &part, flags | REQ_COMPRESSED);
}

const struct block_driver driver_compress = {
    .name = "compress",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct compress_state),
    .writes_fua = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .co_open = co_compress_open,
    .co_pwritev = co_compress_pwritev,
    .refresh_limits = compress_refresh_limits,
    .refresh_filename = node_refresh_json_filename,
};
