/*
 * raw: the guest's data as it lies in the child, or a window of it.
 *
 * Without offset and size the node shows all of its child, whose length it
 * rounds up to a sector, and grows with it. Either option makes it a window:
 * its size is then fixed by `size`, or follows from the end of the child.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/driver.h"
#include "block/create.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct window {
    int64_t offset; /* in the child */
    int64_t size;   /* if fixed */
    bool fixed;     /* node->length is the option `size` */
    unsigned roles; /* of the child */
};

struct raw_state {
    struct window w, next; /* next: by a reopen in progress */
};

static struct node *below(const struct node *node)
{
    return node->file->child;
}

/* The window's length when it reaches to the end of the child. */
static int64_t open_length(const struct window *w, const struct node *child)
{
    int64_t real = align_up(child->length, BLOCK_SECTOR_SIZE);
    return align_down(max_i64(0, real - w->offset), BLOCK_SECTOR_SIZE);
}

static int64_t window_length(const struct window *w, const struct node *child)
{
    return w->fixed ? w->size : open_length(w, child);
}

static unsigned child_roles(const struct blockdev_options_raw *o)
{
    return ROLE_PRIMARY |
           (o->has_offset || o->has_size ? ROLE_DATA : ROLE_FILTERED);
}

static bool parse_window(struct window *w, const struct blockdev_options_raw *o,
                         const struct node *child, GError **error)
{
    int64_t real = align_up(child->length, BLOCK_SECTOR_SIZE);
    int64_t end;
    *w = (struct window){
        .offset = o->has_offset ? o->offset : 0,
        .size = o->has_size ? o->size : 0,
        .fixed = o->has_size,
        .roles = child_roles(o),
    };
    if (w->offset < 0 || w->offset > real) {
        return error_set(error,
                         "Offset (%" PRId64 ") cannot be greater than size of "
                         "the containing file (%" PRId64 ")",
                         w->offset, real);
    }
    if (!w->fixed) {
        return true;
    }
    if (!range_add(w->offset, w->size, &end) || end > real) {
        return error_set(error,
                         "The sum of offset (%" PRId64 ") and size (%" PRId64
                         ") has to be smaller or equal to the  actual size of "
                         "the containing file (%" PRId64 ")",
                         w->offset, w->size, real);
    }
    return is_aligned(w->size, BLOCK_SECTOR_SIZE) ||
           error_set(error, "Specified size is not multiple of %d",
                     BLOCK_SECTOR_SIZE);
}

static bool co_raw_open(struct node *node,
                        const struct blockdev_options *options, GError **error)
{
    struct raw_state *s = node->state;
    const struct blockdev_options_raw *o = &options->u.raw;
    if (!co_node_open_child(node, o->file, "file", child_roles(o), error) ||
        !parse_window(&s->w, o, below(node), error)) {
        return false;
    }
    node->length = window_length(&s->w, below(node));
    if (node->probed && !node->read_only) {
        g_message("WARNING: Image format was not specified for '%s' and "
                  "probing guessed raw.\n"
                  "         Automatically detecting the format is dangerous "
                  "for raw images, write operations on block 0 will be "
                  "restricted.\n"
                  "         Specify the 'raw' format explicitly to remove the "
                  "restrictions.",
                  below(node)->filename);
    }
    return true;
}

/* ---- reopen ---- */

static bool co_raw_reopen_prepare(struct node *node,
                                  const struct node_reopen *to, GError **error)
{
    struct raw_state *s = node->state;
    if (!parse_window(&s->next, &to->options->u.raw, to->file, error)) {
        return false;
    }
    /* What the child is decides what may be done to it. */
    node->file->roles = s->next.roles;
    return true;
}

static void co_raw_reopen_commit(struct node *node,
                                 const struct blockdev_options *options)
{
    struct raw_state *s = node->state;
    s->w = s->next;
    graph_limits_changed(node);
}

static void co_raw_reopen_abort(struct node *node)
{
    const struct raw_state *s = node->state;
    node->file->roles = s->w.roles;
}

static const char *const raw_mutable_options[] = {"offset", "size", NULL};

/* ---- requests ---- */

/* A window without end may be written beyond its length, a fixed one not. */
static inline int to_child(const struct node *node, int64_t *offset,
                           int64_t bytes)
{
    const struct raw_state *s = node->state;
    if (G_UNLIKELY(s->w.fixed && !range_within(*offset, bytes, node->length))) {
        return -ENOSPC;
    }
    return range_add(*offset, s->w.offset, offset) ? 0 : -EINVAL;
}

static int co_raw_preadv(struct node *node, int64_t offset, int64_t bytes,
                         const struct iov *iov, unsigned flags)
{
    int ret = to_child(node, &offset, bytes);
    if (ret < 0) {
        return ret;
    }
    co_node_debug_event(below(node), BLKDEBUG_EVENT_READ_AIO);
    return co_node_preadv(below(node), offset, iov, flags);
}

/* A guest whose disk was taken for raw must not turn it into a format, with a
 * backing file of its choice, that is recognised the next time. */
static bool becomes_format(const struct node *node, int64_t offset,
                           const struct iov *iov)
{
    uint8_t head[BLOCK_SECTOR_SIZE];

    if (G_LIKELY(!node->probed) || offset >= BLOCK_SECTOR_SIZE ||
        iov->bytes < sizeof(head)) {
        return false;
    }
    iov_to_buf(iov, 0, head, sizeof(head));
    return block_probe(head, sizeof(head), "") != node->driver;
}

static int co_raw_pwritev(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    if (becomes_format(node, offset, iov)) {
        return -EPERM;
    }
    int ret = to_child(node, &offset, bytes);
    if (ret < 0) {
        return ret;
    }
    co_node_debug_event(below(node), BLKDEBUG_EVENT_WRITE_AIO);
    return co_node_pwritev(below(node), offset, iov, flags);
}

static int co_raw_pwrite_zeroes(struct node *node, int64_t offset,
                                int64_t bytes, unsigned flags)
{
    int ret = to_child(node, &offset, bytes);
    return ret < 0 ? ret
                   : co_node_pwrite_zeroes(below(node), offset, bytes, flags);
}

static int co_raw_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    int ret = to_child(node, &offset, bytes);
    return ret < 0 ? ret : co_node_pdiscard(below(node), offset, bytes);
}

static int co_raw_block_status(struct node *node, bool want_zero,
                               int64_t offset, int64_t bytes,
                               struct block_status *status)
{
    const struct raw_state *s = node->state;
    *status = (struct block_status){
        .flags = BLOCK_RECURSE | BLOCK_OFFSET_VALID,
        .bytes = bytes,
        .map = offset + s->w.offset,
        .file = below(node),
    };
    return 0;
}

static int64_t co_raw_getlength(struct node *node)
{
    const struct raw_state *s = node->state;
    int ret = co_node_refresh_length(below(node));
    if (ret < 0) {
        return ret;
    }
    return window_length(&s->w, below(node));
}

static bool co_raw_truncate(struct node *node, int64_t size, bool exact,
                            enum prealloc_mode prealloc, unsigned flags,
                            GError **error)
{
    const struct raw_state *s = node->state;
    int64_t end;
    if (s->w.fixed) {
        return error_set(error, "Cannot resize fixed-size raw disks");
    }
    if (!range_add(size, s->w.offset, &end) || end > BLOCK_MAX_LENGTH) {
        return error_set(error, "Disk size too large for the chosen offset");
    }
    return co_node_truncate(below(node), end, exact, prealloc, flags, error);
}

static int co_raw_copy_range(struct node *src, int64_t src_offset,
                             struct node *dst, int64_t dst_offset,
                             int64_t bytes, unsigned flags)
{
    int ret = to_child(src, &src_offset, bytes);
    if (dst->probed && dst_offset < BLOCK_SECTOR_SIZE) {
        return -ENOTSUP;
    }
    if (ret == 0) {
        ret = to_child(dst, &dst_offset, bytes);
    }
    return ret < 0 ? ret
                   : co_node_copy_range(below(src), src_offset, below(dst),
                                        dst_offset, bytes, flags);
}

static int co_raw_get_info(struct node *node, struct node_info *info)
{
    return co_node_get_info(below(node), info);
}

static void raw_refresh_limits(struct node *node)
{
    const struct raw_state *s = node->state;
    node->limits = below(node)->limits;
    /* The child widens what is unaligned; a window at an odd place must leave
     * all of that to it. */
    if (s->w.offset & (node->limits.request_alignment - 1)) {
        node->limits.request_alignment = 1;
        node->limits.pdiscard_align = 0;
        node->limits.pwrite_zeroes_align = 0;
    }
    if (node->probed) {
        /* What becomes of the first sector is seen as a whole. */
        node->limits.request_alignment =
            max_i64(node->limits.request_alignment, BLOCK_SECTOR_SIZE);
    }
}

static int raw_probe(const uint8_t *head, size_t bytes, const char *filename)
{
    /* Anything can be raw: the last resort. */
    return 1;
}

/* A raw image is the file or device itself. */
static bool co_raw_create_file(const char *filename,
                               const struct create_params *params,
                               GError **error)
{
    return co_image_create_file(filename, params, error);
}

static bool co_raw_measure(const struct create_params *params,
                           struct node *source, struct image_measure *measure,
                           GError **error)
{
    int64_t size = source ? source->length : params->size;

    size = align_up(size, BLOCK_SECTOR_SIZE);
    *measure = (struct image_measure){size, size, -1};
    return true;
}

static const struct reopen_ops raw_reopen_ops = {
    .mutable_options = raw_mutable_options,
    .co_prepare = co_raw_reopen_prepare,
    .co_commit = co_raw_reopen_commit,
    .co_abort = co_raw_reopen_abort,
};

const struct block_driver driver_raw = {
    .name = "raw",
    .kind = DRIVER_FORMAT,
    .state_size = sizeof(struct raw_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .writes_grow = true,
    .reopen = &raw_reopen_ops,
    .co_open = co_raw_open,
    .co_preadv = co_raw_preadv,
    .co_pwritev = co_raw_pwritev,
    .co_pwrite_zeroes = co_raw_pwrite_zeroes,
    .co_pdiscard = co_raw_pdiscard,
    .co_block_status = co_raw_block_status,
    .co_getlength = co_raw_getlength,
    .co_truncate = co_raw_truncate,
    .co_copy_range = co_raw_copy_range,
    .co_get_info = co_raw_get_info,
    .refresh_limits = raw_refresh_limits,
    .co_create_file = co_raw_create_file,
    .co_measure = co_raw_measure,
    .probe = raw_probe,
};
