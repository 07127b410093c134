/*
 * See block/layer_copy.h. One coroutine walks the layers by block status, and
 * tasks copy what holds data.
 */
#include "block/layer_copy.h"

#include <errno.h>
#include "aio/loop.h"
#include "aio/timer.h"
#include "block/request.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    DEFAULT_TASKS = 8,
    ZERO_CHUNK = 1 << 30, /* so that a pause need not wait for long */
};

struct copy_piece {
    struct layer_copy *c;
    int64_t offset, bytes;
};

static void account(struct layer_copy *c, int64_t bytes)
{
    c->done += bytes;
    if (c->progress) {
        c->progress(c->opaque, c->done, c->total);
    }
}

static int co_copy_piece(void *opaque)
{
    struct copy_piece *p = opaque;
    struct layer_copy *c = p->c;
    bool is_read = true;
    int ret = -ENOMEM;

    void *buf = io_buffer_try_alloc(c->top, p->bytes);
    if (buf) {
        ret = co_node_pread(c->top, p->offset, buf, p->bytes, 0);
    }
    if (ret == 0) {
        is_read = false;
        ret = co_node_pwrite(c->target, p->offset, buf, p->bytes, 0);
    }
    io_buffer_free(buf);
    if (ret == 0) {
        account(c, p->bytes);
    } else if (!c->pool.result) {
        c->is_read = is_read;
    }
    g_free(p);
    return ret;
}

/* The range at offset, of *bytes at most; sets *bytes to what was dealt with,
 * or is under way. */
static int co_copy_range(struct layer_copy *c, int64_t offset, int64_t *bytes)
{
    int ret = 0;

    if (offset >= c->known_end) {
        struct block_status st;
        c->is_read = true;
        ret = co_node_status_above(c->top, c->base, false, true, offset, *bytes,
                                   &st, NULL);
        if (ret < 0) {
            return ret;
        }
        c->known = st.flags;
        c->known_end = offset + st.bytes;
    }
    *bytes = c->known_end - offset;
    if (!(c->known & BLOCK_ALLOCATED)) {
        account(c, *bytes);
        return 0;
    }
    if (c->known & BLOCK_ZERO) {
        *bytes = min_i64(*bytes, ZERO_CHUNK);
        c->is_read = false;
        ret = co_node_pwrite_zeroes(c->target, offset, *bytes, REQ_MAY_UNMAP);
        account(c, ret == 0 ? *bytes : 0);
    } else {
        /* Ends on chunk borders, so that clusters are written whole. */
        int64_t end = align_down(offset, CHUNK) + CHUNK;
        struct copy_piece *p = g_new(struct copy_piece, 1);

        *bytes = min_i64(*bytes, end - offset);
        *p = (struct copy_piece){c, offset, *bytes};
        co_pool_start(&c->pool, co_copy_piece, p);
    }
    bucket_add(&c->rate, *bytes, loop_now_ns(c->top->loop));
    return ret;
}

/* 1: go on, 0: it is over, or the error of a piece. */
static int co_wait_turn(struct layer_copy *c)
{
    for (;;) {
        if (c->wants_pause && c->wants_pause(c->opaque)) {
            int ret = co_pool_wait(&c->pool);
            if (ret < 0 || c->co_pause(c->opaque)) {
                return ret;
            }
        }
        int64_t ns = bucket_delay(&c->rate, loop_now_ns(c->top->loop));
        if (!ns) {
            return 1;
        }
        if (c->co_sleep) {
            c->co_sleep(c->opaque, ns);
        } else {
            co_sleep_ns(ns);
        }
    }
}

int co_layer_copy(struct layer_copy *c)
{
    int ret = 0;

    c->pool.limit = c->tasks ? c->tasks : DEFAULT_TASKS;
    c->total = c->top->length;
    c->done = 0;
    c->known_end = 0;
    for (int64_t at = 0, n; at < c->total && !c->pool.result; at += n) {
        ret = co_wait_turn(c);
        if (ret <= 0) {
            break;
        }
        n = c->total - at;
        ret = co_copy_range(c, at, &n);
        if (ret < 0) {
            break;
        }
    }
    int result = co_pool_wait(&c->pool);
    return ret < 0 ? ret : result;
}
