/*
 * The memory driver of ram_node.h. A write puts its halves down with a pause
 * between them, so that requests which should have been kept apart show.
 */
#include "ram_node.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include "aio/coroutine.h"
#include "aio/loop.h"
#include "block/dirty_bitmap.h"
#include "util/error.h"
#include "util/range.h"

static struct ram_node *of(struct node *node)
{
    return (struct ram_node *)node;
}

static void pause_some(struct ram_node *r)
{
    r->rng = r->rng * 1103515245 + 12345;
    for (unsigned n = r->pauses ? (r->rng >> 16) % (r->pauses + 1) : 0; n;
         n--) {
        co_pause();
    }
}

/* Counts, holds, pauses and fails; the promises of the engine are checked. */
static int enter(struct node *node, enum ram_op op, int64_t offset,
                 int64_t bytes, const struct iov *iov, unsigned flags)
{
    struct ram_node *r = of(node);
    const struct block_limits *l = &node->limits;
    int64_t align = max_i64(l->request_alignment, 1);

    assert(offset >= 0 && bytes >= 0);
    assert(is_aligned(offset, align) && is_aligned(bytes, align));
    if (iov) {
        assert(bytes > 0 && iov->bytes == (size_t)bytes);
        assert(!l->max_transfer || bytes <= l->max_transfer);
        assert(iov_is_aligned(iov, max_i64(l->memory_alignment, 1)));
    }
    assert(op != RAM_READ ||
           offset + bytes <= align_up(max_i64(node->length, 1), align));
    assert(!(flags & (REQ_SERIALISING | REQ_NO_WAIT)));
    r->calls[op]++;
    r->last_offset[op] = offset;
    r->last_bytes[op] = bytes;
    r->max_bytes[op] = max_i64(r->max_bytes[op], bytes);
    r->last_flags[op] = flags;
    r->inside++;
    r->max_inside = max_i64(r->max_inside, r->inside);
    bool fails = r->fail_at[op] && --r->fail_at[op] == 0;
    while (r->hold[op]) {
        co_queue_wait(&r->held);
    }
    pause_some(r);
    return fails ? -r->fail_errno : 0;
}

static int leave(struct node *node, int ret)
{
    of(node)->inside--;
    return ret;
}

static int co_ram_preadv(struct node *node, int64_t offset, int64_t bytes,
                         const struct iov *iov, unsigned flags)
{
    int ret = enter(node, RAM_READ, offset, bytes, iov, flags);
    if (ret == 0) {
        size_t half = bytes / 2;
        iov_from_buf(iov, 0, of(node)->data + offset, half);
        pause_some(of(node));
        iov_from_buf(iov, half, of(node)->data + offset + half, bytes - half);
    }
    return leave(node, ret);
}

static int co_ram_pwritev(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    int ret = enter(node, RAM_WRITE, offset, bytes, iov, flags);
    assert(offset + bytes <= of(node)->capacity);
    if (ret == 0) {
        size_t half = bytes / 2;
        iov_to_buf(iov, 0, of(node)->data + offset, half);
        pause_some(of(node));
        iov_to_buf(iov, half, of(node)->data + offset + half, bytes - half);
    }
    return leave(node, ret);
}

static int co_ram_pwrite_zeroes(struct node *node, int64_t offset,
                                int64_t bytes, unsigned flags)
{
    int ret = enter(node, RAM_ZEROES, offset, bytes, NULL, flags);
    assert(offset + bytes <= of(node)->capacity);
    if (ret == 0) {
        memset(of(node)->data + offset, 0, bytes);
    }
    return leave(node, ret);
}

/* Leaves a trace, so that a test sees what was discarded. */
static int co_ram_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    int ret = enter(node, RAM_DISCARD, offset, bytes, NULL, 0);
    if (ret == 0) {
        memset(of(node)->data + offset, 0xdd, bytes);
    }
    return leave(node, ret);
}

static int co_ram_flush(struct node *node)
{
    return leave(node, enter(node, RAM_FLUSH, 0, 0, NULL, 0));
}

static int co_ram_block_status(struct node *node, bool want_zero,
                               int64_t offset, int64_t bytes,
                               struct block_status *status)
{
    int ret = enter(node, RAM_STATUS, offset, bytes, NULL, want_zero);
    *status = of(node)->status;
    if (!status->bytes) {
        *status = (struct block_status){
            .flags = BLOCK_DATA | BLOCK_OFFSET_VALID,
            .bytes = bytes,
            .map = offset,
            .file = node,
        };
    }
    return leave(node, ret);
}

static bool co_ram_truncate(struct node *node, int64_t size, bool exact,
                            enum prealloc_mode prealloc, unsigned flags,
                            GError **error)
{
    struct ram_node *r = of(node);
    if (!co_node_hide_backing(node, size, error)) {
        return false;
    }
    int ret = enter(node, RAM_TRUNCATE, 0, 0, NULL, flags);
    if (ret == 0 && size > r->capacity) {
        ret = -ENOSPC;
    }
    if (ret == 0 && size < node->length) {
        memset(r->data + size, 0, r->capacity - size);
    }
    leave(node, ret);
    return ret == 0 || error_set_errno(error, ret, "Cannot resize");
}

static int co_ram_copy_range(struct node *src, int64_t src_offset,
                             struct node *dst, int64_t dst_offset,
                             int64_t bytes, unsigned flags)
{
    int ret = enter(src, RAM_COPY, src_offset, bytes, NULL, flags);
    if (ret == 0) {
        memcpy(of(dst)->data + dst_offset, of(src)->data + src_offset, bytes);
    }
    return leave(src, ret);
}

static struct ram_node *bare(const char *name, int64_t length)
{
    struct ram_node *r = g_new0(struct ram_node, 1);

    r->node.driver = &r->driver;
    r->node.loop = loop_current();
    r->node.graph = graph_current();
    r->node.length = length;
    r->node.name = g_strdup(name);
    r->node.refs = 1;
    r->node.discard = true;
    LIST_INIT(&r->node.bitmaps);
    TAILQ_INIT(&r->node.tracked);
    LIST_INIT(&r->node.children);
    LIST_INIT(&r->node.parents);
    r->fail_errno = EIO;
    r->rng = 1;
    r->driver.name = "ram";
    r->driver.state_size = 0;
    return r;
}

struct ram_node *ram_node_new(const char *name, int64_t length)
{
    struct ram_node *r = bare(name, length);

    r->capacity = max_i64(2 * length, 1 << 20);
    r->data = g_malloc0(r->capacity);
    r->driver.kind = DRIVER_PROTOCOL;
    r->driver.co_preadv = co_ram_preadv;
    r->driver.co_pwritev = co_ram_pwritev;
    r->driver.co_pwrite_zeroes = co_ram_pwrite_zeroes;
    r->driver.co_pdiscard = co_ram_pdiscard;
    r->driver.co_flush = co_ram_flush;
    r->driver.co_block_status = co_ram_block_status;
    r->driver.co_truncate = co_ram_truncate;
    r->driver.co_copy_range = co_ram_copy_range;
    return r;
}

static void attach(struct edge *edge, struct ram_node *parent,
                   struct ram_node *child, const char *name, unsigned roles)
{
    edge->parent = &parent->node;
    edge->child = &child->node;
    edge->name = (char *)name;
    edge->roles = roles;
    LIST_INSERT_HEAD(&parent->node.children, edge, in_children);
    LIST_INSERT_HEAD(&child->node.parents, edge, in_parents);
}

struct ram_node *ram_node_above(const char *name, enum driver_kind kind,
                                struct ram_node *below)
{
    struct ram_node *r = bare(name, below->node.length);

    r->driver.kind = kind;
    attach(&r->file, r, below, "file",
           kind == DRIVER_FILTER ? ROLE_FILTERED | ROLE_PRIMARY
                                 : ROLE_DATA | ROLE_PRIMARY);
    r->node.file = &r->file;
    return r;
}

void ram_node_set_backing(struct ram_node *r, struct ram_node *backing)
{
    r->driver.supports_backing = true;
    attach(&r->backing, r, backing, "backing", ROLE_COW);
    r->node.backing = &r->backing;
}

void ram_node_free(struct ram_node *r)
{
    assert(TAILQ_EMPTY(&r->node.tracked) && !r->node.serialising);
    assert(!r->node.in_flight && !r->inside);
    assert(LIST_EMPTY(&r->node.parents));
    while (!LIST_EMPTY(&r->node.children)) {
        struct edge *edge = LIST_FIRST(&r->node.children);
        LIST_REMOVE(edge, in_children);
        LIST_REMOVE(edge, in_parents);
    }
    dirty_bitmaps_free_all(&r->node);
    g_free(r->node.name);
    g_free(r->data);
    g_free(r);
}

void ram_release(struct ram_node *r)
{
    memset(r->hold, 0, sizeof(r->hold));
    co_queue_wake_all(&r->held);
}

void ram_reset_counters(struct ram_node *r)
{
    memset(r->calls, 0, sizeof(r->calls));
    memset(r->max_bytes, 0, sizeof(r->max_bytes));
    r->max_inside = 0;
}

/* ---- coroutines of a test ------------------------------------------------ */

static void co_call(void *opaque)
{
    struct ram_call *c = opaque;
    char *buf = g_malloc0(c->bytes + 1);

    switch (c->what) {
    case CALL_READ:
        c->ret = co_node_pread(c->node, c->offset, buf, c->bytes, c->flags);
        break;
    case CALL_WRITE:
        c->ret = co_node_pwrite(c->node, c->offset, buf, c->bytes, c->flags);
        break;
    case CALL_ZEROES:
        c->ret = co_node_pwrite_zeroes(c->node, c->offset, c->bytes, c->flags);
        break;
    case CALL_DISCARD:
        c->ret = co_node_pdiscard(c->node, c->offset, c->bytes);
        break;
    case CALL_FLUSH:
        c->ret = co_node_flush(c->node);
        break;
    }
    g_free(buf);
    c->done = true;
}

void ram_start(struct ram_call *call)
{
    call->done = false;
    co_start(co_call, call);
}

void co_ram_settle(void)
{
    for (int i = 0; i < 100; i++) {
        co_pause();
    }
}

static void co_run_body(void *opaque)
{
    void (**body)(void) = opaque;
    (*body)();
}

void ram_run(void (*co_body)(void))
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    loop_bind(loop);
    loop_run_co(loop, co_run_body, &co_body);
    while (loop_pass(loop, false)) {
    }
    loop_bind(NULL);
    loop_free(loop);
}
