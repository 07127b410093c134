/*
 * blkverify: does everything twice and compares.
 *
 * "test" is the image under suspicion, "raw" one that is trusted; both get
 * every write, and a read from both must bring the same. A difference is logged
 * with its place, and the read fails with EIO, so whoever uses the node stops
 * there. Both requests run at the same time. Lengths need not be equal: the
 * node is as long as "test".
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "aio/colock.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct blkverify_state {
    struct edge *test, *raw;
};

static bool co_blkverify_open(struct node *node,
                              const struct blockdev_options *options,
                              GError **error)
{
    const struct blockdev_options_blkverify *o = &options->u.blkverify;
    struct blkverify_state *s = node->state;

    s->raw = co_node_open_child(node, o->raw, "raw",
                                ROLE_FILTERED | ROLE_PRIMARY, error);
    s->test = s->raw
                  ? co_node_open_child(node, o->test, "test", ROLE_DATA, error)
                  : NULL;
    if (!s->test) {
        return false;
    }
    node->length = s->test->child->length;
    return true;
}

/* One request to both children. */
struct pair {
    int (*co_run)(struct node *child, const struct pair *p,
                  const struct iov *iov);
    int64_t offset, bytes;
    unsigned flags;
};

struct half {
    const struct pair *pair;
    struct node *child;
    const struct iov *iov;
    int ret;
};

static int co_run_half(void *opaque)
{
    struct half *h = opaque;

    h->ret = h->pair->co_run(h->child, h->pair, h->iov);
    return 0;
}

static int co_run_pair(struct node *node, const char *what,
                       const struct pair *p, const struct iov *test_iov,
                       const struct iov *raw_iov)
{
    const struct blkverify_state *s = node->state;
    struct half test = {p, s->test->child, test_iov, 0};
    struct half raw = {p, s->raw->child, raw_iov, 0};
    struct co_pool pool = {.limit = 2};

    co_pool_start(&pool, co_run_half, &test);
    co_pool_start(&pool, co_run_half, &raw);
    co_pool_wait(&pool);
    if (test.ret != raw.ret) {
        g_warning("blkverify: %s offset=%" PRId64 " bytes=%" PRId64
                  " return value mismatch %d != %d",
                  what, p->offset, p->bytes, test.ret, raw.ret);
        return test.ret < 0 ? test.ret : raw.ret;
    }
    return test.ret;
}

static int co_read_half(struct node *child, const struct pair *p,
                        const struct iov *iov)
{
    return co_node_preadv(child, p->offset, iov, p->flags);
}

/* The first byte that differs, or -1. */
static int64_t first_difference(const struct iov *iov, const char *copy)
{
    g_autofree char *mine = g_try_malloc(iov->bytes);

    if (!mine) {
        return -1;
    }
    iov_to_buf(iov, 0, mine, iov->bytes);
    for (size_t i = 0; i < iov->bytes; i++) {
        if (mine[i] != copy[i]) {
            return (int64_t)i;
        }
    }
    return -1;
}

static int co_blkverify_preadv(struct node *node, int64_t offset, int64_t bytes,
                               const struct iov *iov, unsigned flags)
{
    const struct blkverify_state *s = node->state;
    struct pair p = {co_read_half, offset, bytes, flags};
    char *copy = io_buffer_try_alloc(s->raw->child, bytes);
    struct iovec vec;

    if (!copy) {
        return -ENOMEM;
    }
    struct iov raw_iov = iov_buf(&vec, copy, bytes);
    int ret = co_run_pair(node, "read", &p, iov, &raw_iov);
    int64_t at = ret == 0 ? first_difference(iov, copy) : -1;
    if (at >= 0) {
        g_warning("blkverify: read offset=%" PRId64 " bytes=%" PRId64
                  " contents mismatch at offset %" PRId64,
                  offset, bytes, offset + at);
        ret = -EIO;
    }
    io_buffer_free(copy);
    return ret;
}

static int co_write_half(struct node *child, const struct pair *p,
                         const struct iov *iov)
{
    return co_node_pwritev(child, p->offset, iov, p->flags);
}

static int co_blkverify_pwritev(struct node *node, int64_t offset,
                                int64_t bytes, const struct iov *iov,
                                unsigned flags)
{
    struct pair p = {co_write_half, offset, bytes, flags};

    return co_run_pair(node, "write", &p, iov, iov);
}

static int co_zero_half(struct node *child, const struct pair *p,
                        const struct iov *iov)
{
    return co_node_pwrite_zeroes(child, p->offset, p->bytes, p->flags);
}

static int co_blkverify_pwrite_zeroes(struct node *node, int64_t offset,
                                      int64_t bytes, unsigned flags)
{
    struct pair p = {co_zero_half, offset, bytes, flags};

    return co_run_pair(node, "write-zeroes", &p, NULL, NULL);
}

/* What a discarded range reads as is the driver's own affair: it is left
 * alone, or every discard would be a difference. */
static int co_blkverify_pdiscard(struct node *node, int64_t offset,
                                 int64_t bytes)
{
    return -ENOTSUP;
}

static int co_blkverify_block_status(struct node *node, bool want_zero,
                                     int64_t offset, int64_t bytes,
                                     struct block_status *status)
{
    *status = (struct block_status){
        .flags = BLOCK_DATA | BLOCK_ALLOCATED,
        .bytes = bytes,
    };
    return 0;
}

static void blkverify_refresh_filename(struct node *node)
{
    const struct blkverify_state *s = node->state;
    const char *raw = node->file->child->filename;
    const char *test = s->test->child->filename;

    g_free(node->filename);
    node->filename =
        g_str_has_prefix(raw, "json:") || g_str_has_prefix(test, "json:")
            ? node_json_filename(node)
            : g_strdup_printf("blkverify:%s:%s", raw, test);
}

const struct block_driver driver_blkverify = {
    .name = "blkverify",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct blkverify_state),
    .writes_fua = true,
    .co_open = co_blkverify_open,
    .co_preadv = co_blkverify_preadv,
    .co_pwritev = co_blkverify_pwritev,
    .co_pwrite_zeroes = co_blkverify_pwrite_zeroes,
    .co_pdiscard = co_blkverify_pdiscard,
    .co_block_status = co_blkverify_block_status,
    .refresh_filename = blkverify_refresh_filename,
};
