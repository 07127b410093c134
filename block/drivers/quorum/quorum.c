/*
 * quorum: several copies of the same data.
 *
 * What is written goes to all children, and what is read is put to the vote
 * among them (io.c), or with the read pattern "fifo" comes from the first child
 * that can. So the data survives children that fail or hold something else, as
 * long as vote-threshold of them agree; rewrite-corrupted repairs the others.
 * Nobody else may write to a child, or they would differ.
 *
 * Children are called "children.0" and so on, are all equally long, and may
 * come and go while the node is drained; never fewer than the threshold. One
 * that comes is not filled: that is up to whoever adds it. On the node's loop.
 */
#include "block/drivers/quorum/quorum.h"

#include <errno.h>
#include <string.h>

#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

/* ---- opening ------------------------------------------------------------- */

static bool take_options(struct quorum_state *s,
                         const struct blockdev_options_quorum *o,
                         GError **error)
{
    if (o->children.n == 0) {
        return error_set(error, "Number of provided children must be 1 or "
                                "more");
    }
    if (o->vote_threshold < 1) {
        return error_set(error,
                         "Parameter 'vote-threshold' expects a value >= 1");
    }
    if ((uint64_t)o->vote_threshold > o->children.n) {
        return error_set(error, "threshold may not exceed children count");
    }
    s->threshold = (unsigned)o->vote_threshold;
    s->fifo =
        o->has_read_pattern && o->read_pattern == QUORUM_READ_PATTERN_FIFO;
    s->blkverify = !s->fifo && o->has_blkverify && o->blkverify;
    s->rewrite = !s->fifo && o->has_rewrite_corrupted && o->rewrite_corrupted;
    if (s->blkverify && (o->children.n != 2 || s->threshold != 2)) {
        return error_set(error, "blkverify=on can only be set if there are "
                                "exactly two files and vote-threshold is 2");
    }
    return !s->blkverify || !s->rewrite ||
           error_set(error, "rewrite-corrupted=on cannot be used with "
                            "blkverify=on");
}

/* Of all children, or -EIO if they differ. */
static int64_t length_of(const struct quorum_state *s)
{
    int64_t length = s->children[0]->child->length;

    for (unsigned i = 1; i < s->n; i++) {
        if (s->children[i]->child->length != length) {
            return -EIO;
        }
    }
    return length;
}

static char *next_name(const struct quorum_state *s)
{
    return g_strdup_printf("children.%u", s->next);
}

static void append(struct quorum_state *s, struct edge *edge)
{
    s->children = g_renew(struct edge *, s->children, s->n + 1);
    s->children[s->n++] = edge;
    s->next++;
}

static bool co_open_children(struct node *node,
                             const struct blockdev_ref_list *children,
                             GError **error)
{
    struct quorum_state *s = node->state;

    for (size_t i = 0; i < children->n; i++) {
        g_autofree char *name = next_name(s);
        struct edge *edge = co_node_open_child(node, children->items[i], name,
                                               ROLE_DATA, error);
        if (!edge) {
            return false;
        }
        append(s, edge);
    }
    node->length = length_of(s);
    return node->length >= 0 ||
           error_set(error, "Could not refresh total sector count: %s",
                     g_strerror((int)-node->length));
}

static void co_quorum_close(struct node *node)
{
    struct quorum_state *s = node->state;

    g_clear_pointer(&s->children, g_free);
    s->n = 0;
}

static bool co_quorum_open(struct node *node,
                           const struct blockdev_options *options,
                           GError **error)
{
    const struct blockdev_options_quorum *o = &options->u.quorum;

    if (!take_options(node->state, o, error)) {
        return false;
    }
    if (!co_open_children(node, &o->children, error)) {
        co_quorum_close(node);
        return false;
    }
    return true;
}

/* ---- children that come and go ------------------------------------------- */

static bool co_quorum_add_child(struct node *node, struct node *child,
                                GError **error)
{
    struct quorum_state *s = node->state;
    g_autofree char *name = next_name(s);

    if (s->blkverify) {
        return error_set(error,
                         "Cannot add a child to a quorum in blkverify mode");
    }
    struct graph_tx *tx = graph_tx_begin();
    struct edge *edge =
        graph_tx_attach(tx, node, child, name, ROLE_DATA, error);
    bool ok = edge && (child->length == node->length ||
                       error_set(error,
                                 "Node '%s' is not as long as the children of "
                                 "'%s'",
                                 child->name, node->name));
    if (!ok) {
        co_graph_tx_abort(tx);
    } else if ((ok = co_graph_tx_commit(tx, error))) {
        append(s, edge);
    }
    return ok;
}

static bool co_quorum_del_child(struct node *node, struct edge *edge,
                                GError **error)
{
    struct quorum_state *s = node->state;
    unsigned i = 0;

    if (s->n <= s->threshold) {
        return error_set(error,
                         "The number of children cannot be lower than the vote "
                         "threshold %u",
                         s->threshold);
    }
    while (s->children[i] != edge) {
        i++;
    }
    /* The last name is free again. */
    g_autofree char *last = g_strdup_printf("children.%u", s->next - 1);
    if (!strcmp(edge->name, last)) {
        s->next--;
    }
    s->n--;
    memmove(&s->children[i], &s->children[i + 1],
            (s->n - i) * sizeof(*s->children));
    co_graph_detach(edge);
    return true;
}

/* ---- what it is to others ------------------------------------------------ */

static void quorum_child_perm(struct node *node, const struct edge *child,
                              unsigned roles, unsigned parent_perm,
                              unsigned parent_shared, unsigned *perm,
                              unsigned *shared)
{
    const struct quorum_state *s = node->state;

    *perm = parent_perm | (s->rewrite ? PERM_WRITE : 0);
    *shared = (parent_shared | PERM_CONSISTENT_READ | PERM_WRITE_UNCHANGED) &
              ~(unsigned)(PERM_WRITE | PERM_RESIZE);
}

/* The smaller one, if there is any limit. */
static int64_t tighter(int64_t a, int64_t b)
{
    return !a || (b && b < a) ? b : a;
}

static void quorum_refresh_limits(struct node *node)
{
    const struct quorum_state *s = node->state;
    struct block_limits l = {0};

    for (unsigned i = 0; i < s->n; i++) {
        const struct block_limits *c = &s->children[i]->child->limits;
        l.request_alignment =
            max_i64(l.request_alignment, c->request_alignment);
        l.memory_alignment = max_i64(l.memory_alignment, c->memory_alignment);
        l.opt_transfer = max_i64(l.opt_transfer, c->opt_transfer);
        l.max_transfer = tighter(l.max_transfer, c->max_transfer);
    }
    node->limits = l;
}

static int64_t co_quorum_getlength(struct node *node)
{
    return length_of(node->state);
}

const struct block_driver driver_quorum = {
    .name = "quorum",
    .kind = DRIVER_FORMAT,
    .state_size = sizeof(struct quorum_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .flushes_children = true,
    .co_open = co_quorum_open,
    .co_close = co_quorum_close,
    .co_add_child = co_quorum_add_child,
    .co_del_child = co_quorum_del_child,
    .co_preadv = co_quorum_preadv,
    .co_pwritev = co_quorum_pwritev,
    .co_pwrite_zeroes = co_quorum_pwrite_zeroes,
    .co_flush = co_quorum_flush,
    .co_write_back = co_quorum_write_back,
    .co_block_status = co_quorum_block_status,
    .co_getlength = co_quorum_getlength,
    .refresh_limits = quorum_refresh_limits,
    .refresh_filename = node_refresh_json_filename,
    .child_perm = quorum_child_perm,
};
