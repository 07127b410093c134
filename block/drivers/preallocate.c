/*
 * preallocate: a filter that makes its file longer than need be.
 *
 * For formats that write to the end of their file all the time, on file systems
 * where growing is dear: a write past the end of the child first makes the
 * child, with its blocks, "prealloc-size" bytes longer than the write needs, up
 * to a multiple of "prealloc-align". Whoever is above sees the length that was
 * written or asked for. The rest is cut off when nobody above writes any more,
 * when the child is another one, and at close; a killed process leaves a file
 * that is too long.
 *
 * Writes that make the child longer, and changes of its length, come one at a
 * time, so that no change of the length cuts off what a write has added. Nobody
 * else may write to the child.
 */
#include "block/driver.h"

#include "aio/colock.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

struct preallocate_options {
    int64_t align, size; /* bytes */
};

struct preallocate_state {
    struct preallocate_options o, next; /* next: by a reopen in progress */
    struct co_mutex lock;
    bool tail;         /* the child goes on behind `end` */
    int64_t end;       /* with a tail: the length that we show */
    int64_t zero_from; /* with a tail: nothing was written from here on */
};

static struct node *below(const struct node *node)
{
    return node->file->child;
}

/* ---- the tail ---- */

/* Cuts the child to what was asked for; with the lock held, or drained. */
static bool co_drop_tail(struct node *node, GError **error)
{
    struct preallocate_state *s = node->state;

    if (s->tail && below(node)->length > s->end &&
        !co_node_truncate(below(node), s->end, true, PREALLOC_MODE_OFF, 0,
                          error)) {
        return false;
    }
    s->tail = false;
    return true;
}

/* With the lock held: room for a write up to `end`, if it can be had. */
static void co_grow(struct node *node, int64_t end)
{
    struct preallocate_state *s = node->state;
    int64_t old = below(node)->length, size;

    if (!range_add(end, s->o.size, &size) ||
        size > BLOCK_MAX_LENGTH - s->o.align) {
        return;
    }
    size = div_round_up(size, s->o.align) * s->o.align;
    if (co_node_truncate(below(node), size, false, PREALLOC_MODE_FALLOC, 0,
                         NULL) &&
        !s->tail) {
        s->tail = true;
        s->end = s->zero_from = old;
    }
}

/* Before a write; true if the child has no room, and the lock stays held. */
static bool co_make_room(struct node *node, int64_t end)
{
    struct preallocate_state *s = node->state;

    if (G_LIKELY(end <= below(node)->length)) {
        return false;
    }
    co_mutex_lock(&s->lock);
    if (end > below(node)->length) {
        co_grow(node, end);
    }
    if (end > below(node)->length) {
        return true;
    }
    co_mutex_unlock(&s->lock);
    return false;
}

static void written(struct node *node, int64_t end, bool locked, int ret)
{
    struct preallocate_state *s = node->state;

    if (ret == 0) {
        s->end = max_i64(s->end, end);
    }
    if (locked) {
        co_mutex_unlock(&s->lock);
    }
}

/* ---- open, close, reopen ---- */

static bool parse(struct preallocate_options *to,
                  const struct blockdev_options_preallocate *o, GError **error)
{
    *to = (struct preallocate_options){
        .align = o->has_prealloc_align ? o->prealloc_align : 1 << 20,
        .size = o->has_prealloc_size ? o->prealloc_size : 128 << 20,
    };
    if (to->align <= 0 || to->align % BLOCK_SECTOR_SIZE) {
        return error_set(error,
                         "prealloc-align parameter of preallocate filter is "
                         "not aligned to %d",
                         BLOCK_SECTOR_SIZE);
    }
    return to->size >= 0 ||
           error_set(error, "prealloc-size parameter of preallocate "
                            "filter is negative");
}

static bool co_preallocate_open(struct node *node,
                                const struct blockdev_options *options,
                                GError **error)
{
    struct preallocate_state *s = node->state;
    const struct blockdev_options_preallocate *o = &options->u.preallocate;

    if (!parse(&s->o, o, error) ||
        !co_node_open_child(node, o->file, "file", ROLE_FILTERED | ROLE_PRIMARY,
                            error)) {
        return false;
    }
    node->length = below(node)->length;
    return true;
}

static void co_preallocate_close(struct node *node)
{
    g_autoptr(GError) error = NULL;

    if (!co_drop_tail(node, &error)) {
        g_warning("Node '%s': the preallocated part stays: %s", node->name,
                  error->message);
    }
}

/* It may turn read-only, or get another child. */
static bool co_preallocate_reopen_prepare(struct node *node,
                                          const struct node_reopen *to,
                                          GError **error)
{
    struct preallocate_state *s = node->state;
    bool stays = !to->settings->read_only && to->file == below(node);

    return parse(&s->next, &to->options->u.preallocate, error) &&
           (stays || co_drop_tail(node, error));
}

static void co_preallocate_reopen_commit(struct node *node,
                                         const struct blockdev_options *options)
{
    struct preallocate_state *s = node->state;

    s->o = s->next;
}

static const char *const preallocate_mutable_options[] = {
    "prealloc-align", "prealloc-size", NULL};

/* ---- permissions ---- */

/* As long as there is a tail, it can be cut off. */
static void preallocate_child_perm(struct node *node, const struct edge *child,
                                   unsigned roles, unsigned parent_perm,
                                   unsigned parent_shared, unsigned *perm,
                                   unsigned *shared)
{
    const struct preallocate_state *s = node->state;

    *perm = parent_perm;
    *shared = parent_shared | PERM_WRITE_UNCHANGED;
    if (s->tail || (parent_perm & (PERM_WRITE | PERM_RESIZE))) {
        *perm |= PERM_WRITE | PERM_RESIZE;
        *shared &= ~(unsigned)(PERM_WRITE | PERM_RESIZE);
    }
}

/* The last one who writes has gone. */
static void co_preallocate_perm_changed(struct node *node)
{
    struct preallocate_state *s = node->state;
    g_autoptr(GError) error = NULL;

    if (!s->tail || (node->perm & (PERM_WRITE | PERM_RESIZE))) {
        return;
    }
    co_drain_begin(node);
    bool ok = co_drop_tail(node, &error);
    if (ok) {
        struct graph_tx *tx = graph_tx_begin();
        graph_tx_refresh_perm(tx, node);
        ok = co_graph_tx_commit(tx, &error);
    }
    if (!ok) {
        g_warning("Node '%s': %s", node->name, error->message);
    }
    co_drain_end(node);
}

/* ---- requests ---- */

static int co_preallocate_pwritev(struct node *node, int64_t offset,
                                  int64_t bytes, const struct iov *iov,
                                  unsigned flags)
{
    struct preallocate_state *s = node->state;
    bool locked = co_make_room(node, offset + bytes);

    s->zero_from = max_i64(s->zero_from, offset + bytes);
    int ret = co_node_pwritev(below(node), offset, iov, flags);
    written(node, offset + bytes, locked, ret);
    return ret;
}

static int co_preallocate_pwrite_zeroes(struct node *node, int64_t offset,
                                        int64_t bytes, unsigned flags)
{
    const struct preallocate_state *s = node->state;
    int64_t end = offset + bytes;
    bool locked = co_make_room(node, end);
    /* What is zero for certain need not be written, and keeps its blocks. */
    bool fresh =
        s->tail && offset >= s->zero_from && !locked && !(flags & REQ_FUA);
    int ret =
        fresh ? 0 : co_node_pwrite_zeroes(below(node), offset, bytes, flags);

    written(node, end, locked, ret);
    return ret;
}

static int64_t co_preallocate_getlength(struct node *node)
{
    const struct preallocate_state *s = node->state;

    if (s->tail) {
        return s->end;
    }
    int ret = co_node_refresh_length(below(node));
    return ret < 0 ? ret : below(node)->length;
}

static bool co_truncate_locked(struct node *node, int64_t size, bool exact,
                               enum prealloc_mode prealloc, unsigned flags,
                               GError **error)
{
    struct preallocate_state *s = node->state;

    if (s->tail && size > s->end && prealloc == PREALLOC_MODE_OFF &&
        size <= below(node)->length && s->zero_from <= s->end) {
        s->end = size;
        return true;
    }
    if (size > s->end && !co_drop_tail(node, error)) {
        return false;
    }
    if (!co_node_truncate(below(node), size, exact, prealloc, flags, error)) {
        return false;
    }
    s->tail = false;
    return true;
}

static bool co_preallocate_truncate(struct node *node, int64_t size, bool exact,
                                    enum prealloc_mode prealloc, unsigned flags,
                                    GError **error)
{
    struct preallocate_state *s = node->state;

    co_mutex_lock(&s->lock);
    bool ok = co_truncate_locked(node, size, exact, prealloc, flags, error);
    co_mutex_unlock(&s->lock);
    return ok;
}

static const char *const preallocate_strong_options[] = {"file", NULL};

static const struct reopen_ops preallocate_reopen_ops = {
    .mutable_options = preallocate_mutable_options,
    .co_prepare = co_preallocate_reopen_prepare,
    .co_commit = co_preallocate_reopen_commit,
};

const struct block_driver driver_preallocate = {
    .name = "preallocate",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct preallocate_state),
    .writes_fua = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .reopen = &preallocate_reopen_ops,
    .strong_options = preallocate_strong_options,
    .co_open = co_preallocate_open,
    .co_close = co_preallocate_close,
    .child_perm = preallocate_child_perm,
    .co_perm_changed = co_preallocate_perm_changed,
    .co_pwritev = co_preallocate_pwritev,
    .co_pwrite_zeroes = co_preallocate_pwrite_zeroes,
    .co_getlength = co_preallocate_getlength,
    .co_truncate = co_preallocate_truncate,
    .refresh_filename = node_refresh_json_filename,
};
