/*
 * throttle: a filter that lets requests through at the rate of its group.
 *
 * The limits are the group's (aio/throttle.h), which other nodes and devices
 * may be in as well; so nothing of them is here. What writes without data
 * counts as the bytes that it covers. Flushes are never held up. While the node
 * is drained nothing waits, so that a drained section does not take as long as
 * the queue is.
 */
#include "block/driver.h"
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "block/throttle.h"
#include "util/error.h"

struct throttle_state {
    struct throttle_member *member;
    struct throttle_member *next; /* a reopen's */
};

static struct throttle_member *join(const struct blockdev_options *options,
                                    GError **error)
{
    const char *name = options->u.throttle.throttle_group;
    struct throttle_group *group = throttle_group_find(name);

    if (!group) {
        error_set(error, "Throttle group '%s' does not exist", name);
        return NULL;
    }
    struct throttle_member *member = throttle_join(group);
    throttle_group_unref(group);
    return member;
}

static bool co_throttle_open(struct node *node,
                             const struct blockdev_options *options,
                             GError **error)
{
    struct throttle_state *s = node->state;

    if (!co_node_open_child(node, options->u.throttle.file, "file",
                            ROLE_FILTERED | ROLE_PRIMARY, error)) {
        return false;
    }
    node->length = node->file->child->length;
    s->member = join(options, error);
    /* The child may have brought a drained section along. */
    if (s->member && node->drained) {
        throttle_bypass_begin(s->member);
    }
    return s->member != NULL;
}

static void co_throttle_close(struct node *node)
{
    struct throttle_state *s = node->state;

    g_clear_pointer(&s->member, throttle_leave);
}

static bool co_throttle_reopen_prepare(struct node *node,
                                       const struct node_reopen *to,
                                       GError **error)
{
    struct throttle_state *s = node->state;

    s->next = join(to->options, error);
    return s->next != NULL;
}

static void co_throttle_reopen_commit(struct node *node,
                                      const struct blockdev_options *options)
{
    struct throttle_state *s = node->state;

    /* It is drained, and the end of that will be told to the new one. */
    throttle_bypass_begin(s->next);
    throttle_bypass_end(s->member);
    throttle_leave(s->member);
    s->member = g_steal_pointer(&s->next);
}

static void co_throttle_reopen_abort(struct node *node)
{
    struct throttle_state *s = node->state;

    g_clear_pointer(&s->next, throttle_leave);
}

static void co_wait(struct node *node, int64_t bytes,
                    enum throttle_direction direction)
{
    struct throttle_state *s = node->state;

    co_throttle(s->member, bytes, direction);
}

static int co_throttle_preadv(struct node *node, int64_t offset, int64_t bytes,
                              const struct iov *iov, unsigned flags)
{
    co_wait(node, bytes, THROTTLE_READ);
    return co_node_preadv(node->file->child, offset, iov, flags);
}

static int co_throttle_pwritev(struct node *node, int64_t offset, int64_t bytes,
                               const struct iov *iov, unsigned flags)
{
    co_wait(node, bytes, THROTTLE_WRITE);
    return co_node_pwritev(node->file->child, offset, iov, flags);
}

static int co_throttle_pwrite_zeroes(struct node *node, int64_t offset,
                                     int64_t bytes, unsigned flags)
{
    co_wait(node, bytes, THROTTLE_WRITE);
    return co_node_pwrite_zeroes(node->file->child, offset, bytes, flags);
}

static int co_throttle_pdiscard(struct node *node, int64_t offset,
                                int64_t bytes)
{
    co_wait(node, bytes, THROTTLE_WRITE);
    return co_node_pdiscard(node->file->child, offset, bytes);
}

/* Sections may begin before it is open, and end after it has closed. */
static void throttle_drain_begin(struct node *node)
{
    struct throttle_state *s = node->state;

    if (s->member) {
        throttle_bypass_begin(s->member);
    }
}

static void throttle_drain_end(struct node *node)
{
    struct throttle_state *s = node->state;

    if (s->member) {
        throttle_bypass_end(s->member);
    }
}

static const char *const throttle_mutable_options[] = {"throttle-group", NULL};

static const struct reopen_ops throttle_reopen_ops = {
    .mutable_options = throttle_mutable_options,
    .co_prepare = co_throttle_reopen_prepare,
    .co_commit = co_throttle_reopen_commit,
    .co_abort = co_throttle_reopen_abort,
};

const struct block_driver driver_throttle = {
    .name = "throttle",
    .kind = DRIVER_FILTER,
    .state_size = sizeof(struct throttle_state),
    .writes_fua = true,
    .writes_compressed = true,
    .zeroes_unmap = true,
    .reopen = &throttle_reopen_ops,
    .co_open = co_throttle_open,
    .co_close = co_throttle_close,
    .co_preadv = co_throttle_preadv,
    .co_pwritev = co_throttle_pwritev,
    .co_pwrite_zeroes = co_throttle_pwrite_zeroes,
    .co_pdiscard = co_throttle_pdiscard,
    .drain_begin = throttle_drain_begin,
    .drain_end = throttle_drain_end,
    .refresh_filename = node_refresh_json_filename,
};
