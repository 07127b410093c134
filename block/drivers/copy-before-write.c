/*
 * copy-before-write: keeps the state that its "file" child has now.
 *
 * Before anything changes a cluster of "file", the old content is copied to
 * "target", each cluster once; so target, and what it has not got from file,
 * together are file at the instant at which the filter was put in. Used by
 * backup, which shares the engine, and alone (a target that is an overlay of
 * file is then a snapshot that others can read).
 *
 * When a copy fails, either the guest's write fails too (break-guest-write,
 * and the snapshot stays whole), or the write goes on, and the snapshot is lost
 * (break-snapshot): nothing more is copied then. A write waits for its copy no
 * longer than cbw-timeout; what is under way then goes on by itself.
 *
 * Others read the snapshot through a snapshot-access node: what the target has
 * from there, the rest from file, where a guest's write waits for such a look
 * to end after it has saved the old data. A bitmap limits both what is saved
 * and what can be read.
 *
 * Nobody but the filter may write to file while the filter has parents.
 */
#include <errno.h>

#include "aio/timer.h"
#include "block/block_copy.h"
#include "block/dirty_bitmap.h"
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct cbw_state {
    struct block_copy *copy;
    enum on_cbw_error on_error;
    int64_t timeout_ns; /* 0 = none */
    int snapshot_error; /* not 0: the snapshot is lost */
    struct node *target;
    struct hbitmap *access;      /* what the snapshot is of; NULL = all */
    LIST_HEAD(, cbw_look) looks; /* those that are frozen */
};

extern const struct block_driver driver_copy_before_write;

struct block_copy *cbw_block_copy(const struct node *filter)
{
    const struct cbw_state *s = filter->state;

    return s->copy;
}

int cbw_snapshot_error(const struct node *filter)
{
    const struct cbw_state *s = filter->state;

    return s->snapshot_error;
}

/* ---- opening ------------------------------------------------------------- */

/* Only what the bitmap marks is part of the snapshot. */
static bool co_take_bitmap(struct cbw_state *s,
                           const struct block_dirty_bitmap *name,
                           GError **error)
{
    struct node *owner;
    struct dirty_bitmap *b =
        dirty_bitmap_lookup(name->node, name->name, &owner, error);
    struct hbitmap *todo = block_copy_bitmap(s->copy);

    if (!b || !dirty_bitmap_check(b, REFUSE_INCONSISTENT, error)) {
        return false;
    }
    if (hbitmap_size(b->bits) != hbitmap_size(todo)) {
        return error_set(error, "Bitmap '%s' has another size than the node",
                         name->name);
    }
    hbitmap_clear_all(todo);
    hbitmap_merge(todo, b->bits);
    s->access = hbitmap_new(hbitmap_size(todo), hbitmap_granularity(todo));
    if (!s->access) {
        return error_set(error, "Not enough memory for the bitmap of the "
                                "snapshot");
    }
    hbitmap_merge(s->access, todo);
    return true;
}

static bool co_cbw_open(struct node *node,
                        const struct blockdev_options *options, GError **error)
{
    const struct blockdev_options_cbw *o = &options->u.copy_before_write;
    struct cbw_state *s = node->state;

    if (!co_node_open_child(node, o->file, "file", ROLE_FILTERED | ROLE_PRIMARY,
                            error)) {
        return false;
    }
    struct edge *target =
        co_node_open_child(node, o->target, "target", ROLE_DATA, error);
    if (!target) {
        return false;
    }
    node->length = node->file->child->length;
    s->target = target->child;
    s->on_error =
        o->has_on_cbw_error ? o->on_cbw_error : ON_CBW_ERROR_BREAK_GUEST_WRITE;
    s->timeout_ns = (int64_t)(o->has_cbw_timeout ? o->cbw_timeout : 0) *
                    G_GINT64_CONSTANT(1000000000);
    s->copy = co_block_copy_new(node->file->child, target->child, error);
    if (!s->copy) {
        return false;
    }
    if (o->bitmap && !co_take_bitmap(s, o->bitmap, error)) {
        co_block_copy_free(s->copy);
        return false;
    }
    return true;
}

static void co_cbw_close(struct node *node)
{
    struct cbw_state *s = node->state;

    co_block_copy_free(s->copy);
    if (s->access) {
        hbitmap_free(s->access);
    }
}

static void cbw_child_perm(struct node *node, const struct edge *child,
                           unsigned roles, unsigned parent_perm,
                           unsigned parent_shared, unsigned *perm,
                           unsigned *shared)
{
    if (!(roles & ROLE_FILTERED)) {
        /* Others may read the snapshot, and write what they do not read. */
        *perm = PERM_WRITE;
        *shared = PERM_ALL;
        return;
    }
    *perm = parent_perm;
    *shared = parent_shared | PERM_WRITE_UNCHANGED;
    if (LIST_EMPTY(&node->parents)) {
        return;
    }
    if (*perm & PERM_WRITE) {
        *perm |= PERM_CONSISTENT_READ;
    }
    *shared &= ~(unsigned)(PERM_WRITE | PERM_RESIZE);
}

/* ---- looks at the snapshot ----------------------------------------------- */

/* Cuts *run to where access ends; false if it does not even begin. */
static bool accessible(const struct cbw_state *s, int64_t offset, int64_t *run)
{
    if (!s->access) {
        return true;
    }
    int64_t end = hbitmap_next_clear(s->access, offset, *run);
    *run = end < 0 ? *run : end - offset;
    return *run > 0;
}

int cbw_look_begin(struct node *filter, int64_t offset, int64_t bytes,
                   struct cbw_look *look)
{
    struct cbw_state *s = filter->state;

    if (filter->driver != &driver_copy_before_write) {
        return -ENOTSUP;
    }
    if (s->snapshot_error || !accessible(s, offset, &bytes)) {
        return -EACCES;
    }
    *look = (struct cbw_look){.offset = offset, .cbw = s};
    look->frozen = !block_copy_has(s->copy, offset, bytes, &look->bytes);
    look->from = look->frozen ? filter->file->child : s->target;
    if (look->frozen) {
        LIST_INSERT_HEAD(&s->looks, look, link);
    }
    return 0;
}

void cbw_look_end(struct cbw_look *look)
{
    if (look->frozen) {
        LIST_REMOVE(look, link);
        co_queue_wake_all(&look->waiters);
    }
}

static void co_wait_for_looks(struct cbw_state *s, int64_t offset,
                              int64_t bytes)
{
    struct cbw_look *look = LIST_FIRST(&s->looks);

    while (look) {
        if (range_overlap(look->offset, look->bytes, offset, bytes)) {
            co_queue_wait(&look->waiters);
            look = LIST_FIRST(&s->looks);
        } else {
            look = LIST_NEXT(look, link);
        }
    }
}

int co_cbw_forget(struct node *filter, int64_t offset, int64_t bytes)
{
    struct cbw_state *s = filter->state;

    if (filter->driver != &driver_copy_before_write) {
        return -ENOTSUP;
    }
    struct hbitmap *todo = block_copy_bitmap(s->copy);
    int64_t cluster = block_copy_cluster_size(s->copy);
    int64_t end = offset + bytes;
    offset = align_up(offset, cluster);
    end = end >= hbitmap_size(todo) ? hbitmap_size(todo)
                                    : align_down(end, cluster);
    if (offset >= end) {
        return 0;
    }
    if (!s->access) {
        s->access = hbitmap_new(hbitmap_size(todo), cluster);
        if (!s->access) {
            return -ENOMEM;
        }
        hbitmap_set_all(s->access);
    }
    hbitmap_clear(s->access, offset, end - offset);
    co_block_copy_wait_range(s->copy, offset, end - offset);
    hbitmap_clear(todo, offset, end - offset);
    return co_node_pdiscard(s->target, offset, end - offset);
}

/* ---- requests ------------------------------------------------------------ */

/* A copy that outlives the request that asked for it. */
struct timed_copy {
    struct block_copy *copy;
    int64_t offset, bytes;
    int ret;
    bool done;
    unsigned refs;
    struct co_sleep sleep;
};

static void timed_copy_unref(struct timed_copy *t)
{
    if (--t->refs == 0) {
        g_free(t);
    }
}

static void co_timed_copy(void *opaque)
{
    struct timed_copy *t = opaque;

    t->ret = co_block_copy_range(t->copy, t->offset, t->bytes, NULL);
    t->done = true;
    co_sleep_wake(&t->sleep);
    timed_copy_unref(t);
}

static int co_copy_with_timeout(struct cbw_state *s, int64_t offset,
                                int64_t bytes)
{
    struct timed_copy *t = g_new0(struct timed_copy, 1);

    *t = (struct timed_copy){s->copy, offset, bytes, .refs = 2};
    co_enter(co_create(co_timed_copy, t));
    if (!t->done) {
        co_sleep_wait(&t->sleep, s->timeout_ns);
    }
    int ret = t->done ? t->ret : -ETIMEDOUT;
    timed_copy_unref(t);
    return ret;
}

static int co_copy_before(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    struct cbw_state *s = node->state;
    int ret;

    if (s->snapshot_error || flags & REQ_WRITE_UNCHANGED) {
        return 0;
    }
    ret = s->timeout_ns ? co_copy_with_timeout(s, offset, bytes)
                        : co_block_copy_range(s->copy, offset, bytes, NULL);
    if (G_UNLIKELY(!LIST_EMPTY(&s->looks))) {
        co_wait_for_looks(s, offset, bytes);
    }
    if (ret < 0 && s->on_error == ON_CBW_ERROR_BREAK_SNAPSHOT) {
        s->snapshot_error = s->snapshot_error ? s->snapshot_error : ret;
        return 0;
    }
    return ret;
}

static int co_cbw_pwritev(struct node *node, int64_t offset, int64_t bytes,
                          const struct iov *iov, unsigned flags)
{
    int ret = co_copy_before(node, offset, bytes, flags);

    return ret < 0 ? ret
                   : co_node_pwritev(node->file->child, offset, iov, flags);
}

static int co_cbw_pwrite_zeroes(struct node *node, int64_t offset,
                                int64_t bytes, unsigned flags)
{
    int ret = co_copy_before(node, offset, bytes, flags);

    return ret < 0
               ? ret
               : co_node_pwrite_zeroes(node->file->child, offset, bytes, flags);
}

static int co_cbw_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    int ret = co_copy_before(node, offset, bytes, 0);

    return ret < 0 ? ret : co_node_pdiscard(node->file->child, offset, bytes);
}

const struct block_driver driver_copy_before_write = {
    .name = "copy-before-write",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct cbw_state),
    .writes_fua = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .co_open = co_cbw_open,
    .co_close = co_cbw_close,
    .child_perm = cbw_child_perm,
    .co_pwritev = co_cbw_pwritev,
    .co_pwrite_zeroes = co_cbw_pwrite_zeroes,
    .co_pdiscard = co_cbw_pdiscard,
};
