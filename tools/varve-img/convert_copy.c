/*
 * Copying for varve-img convert.
 *
 * One coroutine walks the sources by block status, and tasks copy what holds
 * data, several at once. Where the target reads as zeroes, ranges that are zero
 * in the source, and runs of -S bytes that turn out to be zero, are not
 * written.
 *
 * With -c the pieces are whole clusters of the target, which compresses several
 * of them at once; a piece may lie in several sources.
 */
#include "tools/varve-img/convert.h"

#include <inttypes.h>
#include <string.h>
#include "aio/loop.h"
#include "aio/timer.h"
#include "block/request.h"
#include "util/range.h"

struct convert_task {
    struct convert *c;
    int64_t offset, bytes;
};

static int convert_error(struct convert *c, const char *what, int64_t offset,
                         int ret)
{
    if (!c->failed) {
        tool_error("error while %s at byte %" PRId64 ": %s", what, offset,
                   g_strerror(-ret));
    }
    c->failed = true;
    return ret;
}

static void account(struct convert *c, int64_t bytes)
{
    c->done += bytes;
    progress_update(&c->progress, c->done, c->total);
}

/* Which one is at offset of the target. */
static struct convert_source *source_at(const struct convert *c, int64_t offset)
{
    struct convert_source *s = c->src;

    while (offset >= s->start + s->bytes) {
        s++;
    }
    return s;
}

/* ---- writing ------------------------------------------------------------- */

static int co_write_zero_range(struct convert *c, int64_t offset, int64_t bytes)
{
    if (offset >= c->zero_from) {
        return 0;
    }
    int ret = co_backend_pwrite_zeroes(c->dst, offset, bytes, REQ_MAY_UNMAP);
    return ret < 0 ? convert_error(c, "writing", offset, ret) : 0;
}

/* Only whole clusters can be compressed, of which the last one may end where
 * the target does. */
static int co_write_run(struct convert *c, int64_t offset, uint8_t *buf,
                        int64_t bytes)
{
    int64_t whole = 0;
    struct iovec v;
    int ret = 0;

    if (c->compressed) {
        whole = offset + bytes == backend_length(c->dst)
                    ? bytes
                    : align_down(bytes, c->unit);
    }
    if (whole) {
        struct iov iov = iov_buf(&v, buf, whole);
        ret = co_backend_pwritev(c->dst, offset, &iov, REQ_COMPRESSED);
    }
    if (ret == 0 && whole < bytes) {
        struct iov iov = iov_buf(&v, buf + whole, bytes - whole);
        ret = co_backend_pwritev(c->dst, offset + whole, &iov, 0);
    }
    return ret < 0 ? convert_error(c, "writing", offset, ret) : 0;
}

static int co_write_data(struct convert *c, int64_t offset, uint8_t *buf,
                         int64_t bytes)
{
    int64_t step = c->compressed ? c->unit : c->sparse;

    for (int64_t at = 0; at < bytes;) {
        bool zero = false;
        int64_t n =
            c->sparse ? img_zero_run(buf + at, bytes - at, step, &zero) : bytes;
        int ret;
        if (zero) {
            ret = co_write_zero_range(c, offset + at, n);
        } else {
            ret = co_write_run(c, offset + at, buf + at, n);
        }
        if (ret < 0) {
            return ret;
        }
        at += n;
    }
    return 0;
}

/* ---- reading ------------------------------------------------------------- */

/* Sector by sector; what cannot be read is zero. */
static void co_salvage(struct convert *c, struct convert_source *s,
                       int64_t offset, uint8_t *buf, int64_t bytes)
{
    for (int64_t at = 0, n; at < bytes; at += n) {
        n = min_i64(bytes - at, BLOCK_SECTOR_SIZE);
        int ret =
            co_node_pread(s->b->node, offset - s->start + at, buf + at, n, 0);
        if (ret < 0) {
            memset(buf + at, 0, n);
            if (!c->quiet) {
                tool_error("warning: error while reading offset %" PRId64
                           ": %s",
                           offset + at, g_strerror(-ret));
            }
        }
    }
}

/* What is behind the end of a source is zero up to the next one. */
static int co_read_range(struct convert *c, int64_t offset, uint8_t *buf,
                         int64_t bytes)
{
    for (int64_t at = 0, n; at < bytes; at += n) {
        struct convert_source *s = source_at(c, offset + at);
        int64_t in = offset + at - s->start;
        n = min_i64(bytes - at, s->bytes - in);
        int ret = co_node_pread(s->b->node, in, buf + at, n, 0);
        if (ret < 0 && c->salvage) {
            co_salvage(c, s, offset + at, buf + at, n);
        } else if (ret < 0) {
            return convert_error(c, "reading", offset + at, ret);
        }
    }
    return 0;
}

/* ---- one piece ----------------------------------------------------------- */

/* Within the storage, if it can. */
static bool co_offload(struct convert *c, int64_t offset, int64_t bytes)
{
    struct convert_source *s = source_at(c, offset);
    int64_t in = offset - s->start;

    if (!c->copy_range || in + bytes > backend_length(s->b)) {
        return false;
    }
    if (co_node_copy_range(s->b->node, in, c->dst->node, offset, bytes, 0) <
        0) {
        /* Whatever the reason is: a plain copy will tell a real error. */
        c->copy_range = false;
    }
    return c->copy_range;
}

static int co_convert_piece(void *opaque)
{
    struct convert_task *t = opaque;
    struct convert *c = t->c;
    uint8_t *buf = NULL;
    int ret = 0;

    if (!co_offload(c, t->offset, t->bytes)) {
        buf = io_buffer_try_alloc(c->dst->node, t->bytes);
        ret = buf ? co_read_range(c, t->offset, buf, t->bytes)
                  : convert_error(c, "reading", t->offset, -ENOMEM);
        if (ret == 0) {
            ret = co_write_data(c, t->offset, buf, t->bytes);
        }
    }
    if (ret == 0) {
        account(c, t->bytes);
    }
    io_buffer_free(buf);
    g_free(t);
    return ret;
}

/* ---- the walk ------------------------------------------------------------ */

enum extent_kind { EXTENT_DATA, EXTENT_ZERO, EXTENT_BEHIND };

/* What the source has at offset; *bytes of it. EXTENT_BEHIND: the target's
 * backing file has it. */
static int co_extent(struct convert *c, int64_t offset, int64_t *bytes,
                     enum extent_kind *kind)
{
    struct convert_source *s = source_at(c, offset);
    int64_t in = offset - s->start, length = backend_length(s->b);
    struct node *base =
        c->backing_file ? node_backing_chain_next(s->b->node) : NULL;
    unsigned flags;

    *bytes = min_i64(*bytes, s->bytes - in);
    /* -S 0 wants all of the target written, up to the end of what is behind it.
     */
    *kind = c->sparse || offset >= c->zero_from ? EXTENT_ZERO : EXTENT_DATA;
    if (in >= length) {
        return 0;
    }
    *bytes = min_i64(*bytes, length - in);
    int ret = co_img_status(&s->known, s->b->node, base, in, bytes, &flags);
    if (ret < 0 && c->salvage) {
        *kind = EXTENT_DATA;
        *bytes = min_i64(*bytes, c->chunk);
        return 0;
    }
    if (ret < 0) {
        return convert_error(c, "reading block status", offset, ret);
    }
    /* Zeroes first: they may come from there being nothing behind the source,
     * and then the target's backing file must not show. */
    if (!(flags & BLOCK_ZERO)) {
        *kind = c->backing_file && !(flags & BLOCK_ALLOCATED) ? EXTENT_BEHIND
                                                              : EXTENT_DATA;
    }
    return 0;
}

/* Deals with the extent at offset, or starts a task; how much of it, or
 * -errno. */
static int64_t co_convert_extent(struct convert *c, int64_t offset)
{
    enum extent_kind kind;
    int64_t bytes = c->total - offset;

    if (offset < c->zero_from) {
        bytes = min_i64(bytes, c->zero_from - offset);
    }
    int ret = co_extent(c, offset, &bytes, &kind);
    if (ret < 0) {
        return ret;
    }
    /* What is only in part to be skipped counts as data. */
    if (offset + bytes < c->total) {
        int64_t whole = align_down(bytes, c->unit);
        kind = whole ? kind : EXTENT_DATA;
        bytes = kind != EXTENT_DATA ? whole : align_up(bytes, c->unit);
        bytes = min_i64(bytes, c->total - offset);
    }
    if (kind != EXTENT_DATA) {
        ret = kind == EXTENT_ZERO ? co_write_zero_range(c, offset, bytes) : 0;
        account(c, bytes);
        return ret < 0 ? ret : bytes;
    }
    /* Ends on chunk borders, so that clusters are written whole. */
    struct convert_task *t = g_new(struct convert_task, 1);
    bytes = min_i64(bytes, align_up(offset + 1, c->chunk) - offset);
    *t = (struct convert_task){c, offset, bytes};
    co_pool_start(&c->pool, co_convert_piece, t);
    bucket_add(&c->rate, bytes, loop_now_ns(c->dst->node->loop));
    return bytes;
}

static void co_keep_to_rate(struct convert *c)
{
    int64_t ns;

    while ((ns = bucket_delay(&c->rate, loop_now_ns(c->dst->node->loop)))) {
        co_sleep_ns(ns);
    }
}

bool co_convert_copy(struct convert *c)
{
    for (int64_t at = 0; at < c->total && !c->failed;) {
        co_keep_to_rate(c);
        int64_t n = co_convert_extent(c, at);
        if (n < 0) {
            break;
        }
        at += n;
    }
    co_pool_wait(&c->pool);
    return !c->failed;
}
