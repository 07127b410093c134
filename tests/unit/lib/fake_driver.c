/*
 * The driver of fake_driver.h.
 */
#include "fake_driver.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "aio/loop.h"
#include "block/node_int.h"
#include "block/request.h"
#include "util/error.h"

static GString *fake_log;
static unsigned fake_rng = 1;

static const char *const op_names[FAKE_OPS] = {
    [FAKE_READ] = "read",
    [FAKE_WRITE] = "write",
    [FAKE_ZEROES] = "zeroes",
    [FAKE_DISCARD] = "discard",
    [FAKE_FLUSH] = "flush",
    [FAKE_CLOSE] = "close",
    [FAKE_PERM_PREPARE] = "perm-prepare",
    [FAKE_PERM_COMMIT] = "perm-commit",
    [FAKE_PERM_ABORT] = "perm-abort",
    [FAKE_DRAIN_BEGIN] = "drain-begin",
    [FAKE_DRAIN_END] = "drain-end",
};

struct fake *fake_of(struct node *node)
{
    return node->state;
}

static int note(struct node *node, enum fake_op op)
{
    struct fake *f = fake_of(node);
    f->calls[op]++;
    g_string_append_printf(fake_log, "%s%s:%s", fake_log->len ? " " : "",
                           node->name, op_names[op]);
    bool fails = f->fail_at[op] && --f->fail_at[op] == 0;
    return fails ? -(f->fail_errno ? f->fail_errno : EIO) : 0;
}

void fake_seed(unsigned seed)
{
    fake_rng = seed * 2654435761u | 1;
}

static void co_pause_some(unsigned max)
{
    fake_rng = fake_rng * 1664525u + 1013904223u;
    for (unsigned n = max ? (fake_rng >> 8) % (max + 1) : 0; n; n--) {
        co_pause();
    }
}

static int co_request(struct node *node, enum fake_op op)
{
    struct fake *f = fake_of(node);
    int ret = note(node, op);
    f->inside++;
    co_pause_some(f->pauses);
    while (f->hold[op]) {
        co_queue_wait(&f->held);
    }
    f->inside--;
    return ret;
}

/* ---- sparse formats ---- */

static int co_read_behind(struct node *node, int64_t offset,
                          const struct iov *iov)
{
    if (!node->backing) {
        iov_set(iov, 0, 0, iov->bytes);
        return 0;
    }
    return co_node_preadv(node->backing->child, offset, iov, 0);
}

static int co_sparse_read(struct node *node, int64_t offset,
                          const struct iov *iov)
{
    const struct fake *f = fake_of(node);
    int ret = 0;
    for (size_t done = 0; ret == 0 && done < iov->bytes;) {
        int64_t pos = offset + (int64_t)done;
        int64_t rest = f->unit - pos % f->unit;
        size_t n = MIN((size_t)rest, iov->bytes - done);
        struct iov piece = iov_slice(iov, done, n);
        ret = f->allocated[pos / f->unit]
                  ? co_node_preadv(node->file->child, pos, &piece, 0)
                  : co_read_behind(node, pos, &piece);
        done += n;
    }
    return ret;
}

/* Copies the units that a write touches up from behind, and takes them. */
static int co_sparse_fill(struct node *node, int64_t offset, int64_t bytes)
{
    struct fake *f = fake_of(node);
    g_autofree char *buf = g_malloc((size_t)f->unit);
    int ret = 0;
    co_mutex_lock(&f->allocating);
    for (int64_t u = offset / f->unit; ret == 0 && u * f->unit < offset + bytes;
         u++) {
        int64_t n = MIN(f->unit, node->length - u * f->unit);
        struct iovec vec;
        struct iov iov = iov_buf(&vec, buf, (size_t)n);
        if (f->allocated[u]) {
            continue;
        }
        ret = co_read_behind(node, u * f->unit, &iov);
        if (ret == 0) {
            ret = co_node_pwritev(node->file->child, u * f->unit, &iov, 0);
        }
        f->allocated[u] = ret == 0;
    }
    co_mutex_unlock(&f->allocating);
    return ret;
}

void fake_make_sparse(struct node *node, int64_t unit)
{
    struct fake *f = fake_of(node);
    f->unit = unit;
    f->allocated = g_malloc0((size_t)(node->length / unit + 1));
}

static int co_sparse_status(struct node *node, int64_t offset, int64_t bytes,
                            struct block_status *status)
{
    const struct fake *f = fake_of(node);
    bool here = f->allocated[offset / f->unit];
    int64_t end = offset;
    do {
        end += f->unit - end % f->unit;
    } while (end < offset + bytes && f->allocated[end / f->unit] == here);
    status->flags = here ? BLOCK_DATA | BLOCK_ALLOCATED : 0;
    status->bytes = MIN(bytes, end - offset);
    return 0;
}

static bool is_zero_block(const struct node *node, int64_t block)
{
    static const uint8_t zeroes[4096];
    int64_t offset = block * 4096;
    return !memcmp(((struct fake *)node->state)->data + offset, zeroes,
                   (size_t)MIN(4096, node->length - offset));
}

static int co_fake_block_status(struct node *node, bool want_zero,
                                int64_t offset, int64_t bytes,
                                struct block_status *status)
{
    const struct fake *f = fake_of(node);
    *status = (struct block_status){.flags = BLOCK_DATA | BLOCK_ALLOCATED,
                                    .bytes = bytes};
    co_pause_some(f->pauses);
    if (f->allocated) {
        return co_sparse_status(node, offset, bytes, status);
    }
    if (f->tells_zeroes && !node->file) {
        bool zero = is_zero_block(node, offset / 4096);
        int64_t end = offset;
        do {
            end += 4096 - end % 4096;
        } while (end < offset + bytes &&
                 is_zero_block(node, end / 4096) == zero);
        status->flags = BLOCK_ALLOCATED | (zero ? BLOCK_ZERO : BLOCK_DATA);
        status->bytes = MIN(bytes, end - offset);
    }
    return 0;
}

/* ---- the driver's functions ---- */

static int co_fake_preadv(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    int ret = co_request(node, FAKE_READ);
    if (ret < 0) {
        return ret;
    }
    if (fake_of(node)->allocated) {
        return co_sparse_read(node, offset, iov);
    }
    if (node->file) {
        return co_node_preadv(node->file->child, offset, iov, flags);
    }
    iov_from_buf(iov, 0, fake_of(node)->data + offset, (size_t)bytes);
    return 0;
}

static int co_fake_pwritev(struct node *node, int64_t offset, int64_t bytes,
                           const struct iov *iov, unsigned flags)
{
    int ret = co_request(node, FAKE_WRITE);
    if (ret < 0) {
        return ret;
    }
    if (fake_of(node)->allocated &&
        (ret = co_sparse_fill(node, offset, bytes)) < 0) {
        return ret;
    }
    if (node->file) {
        return co_node_pwritev(node->file->child, offset, iov, flags);
    }
    iov_to_buf(iov, 0, fake_of(node)->data + offset, (size_t)bytes);
    return 0;
}

static int co_fake_pwrite_zeroes(struct node *node, int64_t offset,
                                 int64_t bytes, unsigned flags)
{
    int ret = co_request(node, FAKE_ZEROES);
    if (ret == 0) {
        memset(fake_of(node)->data + offset, 0, (size_t)bytes);
    }
    return ret;
}

static int co_fake_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    int ret = co_request(node, FAKE_DISCARD);
    if (ret == 0 && fake_of(node)->data) {
        memset(fake_of(node)->data + offset, 0, (size_t)bytes);
    }
    return ret;
}

static int co_fake_flush(struct node *node)
{
    return co_request(node, FAKE_FLUSH);
}

static void co_fake_close(struct node *node)
{
    note(node, FAKE_CLOSE);
    g_free(fake_of(node)->data);
    g_free(fake_of(node)->allocated);
}

static bool fake_perm_prepare(struct node *node, unsigned perm, unsigned shared,
                              GError **error)
{
    struct fake *f = fake_of(node);
    f->wanted = perm;
    f->unshared = PERM_ALL & ~shared;
    return note(node, FAKE_PERM_PREPARE) == 0 ||
           error_set(error, "%s: no permission", node->name);
}

static void fake_perm_commit(struct node *node)
{
    note(node, FAKE_PERM_COMMIT);
}

static void fake_perm_abort(struct node *node)
{
    note(node, FAKE_PERM_ABORT);
}

static void fake_drain_begin(struct node *node)
{
    note(node, FAKE_DRAIN_BEGIN);
}

static void fake_drain_end(struct node *node)
{
    note(node, FAKE_DRAIN_END);
}

#define FAKE_COMMON                                                     \
    .name = "fake", .state_size = sizeof(struct fake),                  \
    .co_close = co_fake_close, .co_flush = co_fake_flush,               \
    .perm_prepare = fake_perm_prepare, .perm_commit = fake_perm_commit, \
    .perm_abort = fake_perm_abort, .drain_begin = fake_drain_begin,     \
    .drain_end = fake_drain_end

static const struct block_driver fake_drivers[] = {
    [DRIVER_PROTOCOL] =
        {
            FAKE_COMMON,
            .kind = DRIVER_PROTOCOL,
            .co_preadv = co_fake_preadv,
            .co_pwritev = co_fake_pwritev,
            .co_block_status = co_fake_block_status,
            .co_pwrite_zeroes = co_fake_pwrite_zeroes,
            .co_pdiscard = co_fake_pdiscard,
        },
    [DRIVER_FORMAT] =
        {
            FAKE_COMMON,
            .kind = DRIVER_FORMAT,
            .supports_backing = true,
            .co_block_status = co_fake_block_status,
            .co_preadv = co_fake_preadv,
            .co_pwritev = co_fake_pwritev,
        },
    [DRIVER_FILTER] =
        {
            FAKE_COMMON,
            .kind = DRIVER_FILTER,
        },
};

/* ---- making nodes ---- */

static struct node *make(const char *name, enum driver_kind kind,
                         int64_t length)
{
    GError *error = NULL;
    struct node *node = node_new(&fake_drivers[kind], name, &error);
    if (!node) {
        fail_msg("%s", error->message);
    }
    node->length = length;
    node->discard = true;
    return node;
}

struct node *co_fake_node(const char *name, int64_t length)
{
    struct node *node = make(name, DRIVER_PROTOCOL, length);
    fake_of(node)->data = g_malloc0((size_t)length + 1);
    node_set_opened(node);
    return node;
}

static void co_attach(struct node *parent, struct node *child, const char *name,
                      unsigned roles)
{
    GError *error = NULL;
    struct graph_tx *tx = graph_tx_begin();
    if (!graph_tx_attach(tx, parent, child, name, roles, &error) ||
        !co_graph_tx_commit(tx, &error)) {
        fail_msg("%s", error->message);
    }
}

struct node *co_fake_above(const char *name, enum driver_kind kind,
                           struct node *file)
{
    struct node *node = make(name, kind, file->length);
    co_attach(node, file, "file",
              kind == DRIVER_FILTER ? ROLE_FILTERED | ROLE_PRIMARY
                                    : ROLE_DATA | ROLE_METADATA | ROLE_PRIMARY);
    node_set_opened(node);
    return node;
}

void co_fake_set_backing(struct node *node, struct node *backing)
{
    co_attach(node, backing, "backing", ROLE_COW);
}

void fake_release(struct node *node)
{
    struct fake *f = fake_of(node);
    memset(f->hold, 0, sizeof(f->hold));
    co_queue_wake_all(&f->held);
}

/* ---- the log ---- */

void fake_log_is(const char *expected)
{
    assert_string_equal(fake_log->str, expected);
    fake_log_forget();
}

void fake_log_forget(void)
{
    g_string_truncate(fake_log, 0);
}

/* ---- running ---- */

void in_fake_loop(co_fn *co_body)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    fake_log = g_string_new(NULL);
    loop_run_co(loop, co_body, NULL);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    g_string_free(fake_log, true);
}

void co_settle(void)
{
    for (int i = 0; i < 100; i++) {
        co_pause();
    }
}

static void co_call(void *opaque)
{
    static unsigned order;
    struct fake_call *c = opaque;
    g_autofree char *buf = g_malloc0((size_t)c->bytes + 1);
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, (size_t)c->bytes);
    c->ret = c->is_write ? co_backend_pwritev(c->backend, c->offset, &iov, 0)
                         : co_backend_preadv(c->backend, c->offset, &iov, 0);
    c->order = ++order;
}

void fake_start(struct fake_call *call)
{
    call->ret = 1;
    call->order = 0;
    co_start(co_call, call);
}
