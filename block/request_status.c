/*
 * Block status: what is stored where, in one layer and through a chain.
 *
 * A driver answers for an aligned range. The engine cuts the answer to what was
 * asked, follows BLOCK_RECURSE into the storage below, and adds what the driver
 * need not know: the end of the node, and that what no layer holds reads as
 * zeroes.
 *
 * Runs on the node's loop.
 */
#include "block/request_internal.h"

/* The driver's answer for the aligned range around the asked one, cut to it;
 * the node's end limits it. */
static int co_ask_driver(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *s)
{
    int64_t align = request_align(node);
    int64_t start = align_down(offset, align);
    int64_t end = align_up(offset + bytes, align);
    int64_t head = offset - start;

    *s = (struct block_status){0};
    int ret =
        node->driver->co_block_status(node, want_zero, start, end - start, s);
    if (ret < 0) {
        return ret;
    }
    assert(s->bytes > head);
    s->bytes = min_i64(s->bytes - head, bytes);
    s->map += head;
    return 0;
}

/* What a driver without a function to ask would say. */
static void default_status(struct node *node, int64_t offset, int64_t bytes,
                           struct block_status *s)
{
    *s = (struct block_status){
        .flags = BLOCK_DATA | BLOCK_ALLOCATED,
        .bytes = bytes,
    };
    if (node->driver->kind == DRIVER_PROTOCOL) {
        s->flags |= BLOCK_OFFSET_VALID;
        s->map = offset;
        s->file = node;
    }
}

/* A layer's data may be zeroes where the storage below has a hole. It was only
 * for more precision, so an error does not matter. */
static void co_refine(struct block_status *s)
{
    struct block_status below;

    if (co_node_block_status(s->file, true, s->map, s->bytes, &below) == 0) {
        s->bytes = below.bytes;
        s->flags |= below.flags & BLOCK_ZERO;
    }
}

/* What reads as zeroes since no layer below has it either. */
static bool nothing_below(struct node *node, int64_t offset)
{
    return node->driver->supports_backing &&
           (!node->backing || offset >= node->backing->child->length);
}

/* The answer of this layer itself, or in *whole the node whose answer at s->map
 * stands for it. */
static int co_own_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *s,
                         struct node **whole)
{
    if (node->driver->co_block_status) {
        int ret = co_ask_driver(node, want_zero, offset, bytes, s);
        if (ret < 0) {
            return ret;
        }
    } else if (request_forwards(node)) {
        *s = (struct block_status){
            .flags = BLOCK_RECURSE | BLOCK_OFFSET_VALID,
            .bytes = bytes,
            .map = offset,
            .file = node->file->child,
        };
    } else {
        default_status(node, offset, bytes, s);
    }
    bool recurse = s->flags & BLOCK_RECURSE;
    assert(!recurse || ((s->flags & BLOCK_OFFSET_VALID) && s->file));
    s->flags &= ~(BLOCK_RECURSE | BLOCK_EOF);
    if (recurse && !(s->flags & BLOCK_DATA)) {
        *whole = s->file;
        return 0;
    }
    if (recurse && want_zero) {
        co_refine(s);
    }
    if (s->flags & (BLOCK_DATA | BLOCK_ZERO)) {
        s->flags |= BLOCK_ALLOCATED;
    } else if (!(s->flags & BLOCK_ALLOCATED) && nothing_below(node, offset)) {
        s->flags |= BLOCK_ZERO;
    }
    return 0;
}

int co_node_block_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *s)
{
    struct node *whole = NULL;

    assert(node->loop == loop_current());
    if (!range_within(offset, bytes, BLOCK_MAX_LENGTH)) {
        return -EIO;
    }
    if (offset >= node->length || !bytes) {
        *s = (struct block_status){.flags = BLOCK_ZERO | BLOCK_EOF,
                                   .bytes = bytes};
        return 0;
    }
    bytes = min_i64(bytes, node->length - offset);

    node->in_flight++;
    int ret = co_own_status(node, want_zero, offset, bytes, s, &whole);
    if (ret == 0 && whole && s->map >= whole->length) {
        /* The rest of the last sector, which a file need not have. */
        s->flags = BLOCK_ZERO | BLOCK_ALLOCATED | BLOCK_OFFSET_VALID;
    } else if (ret == 0 && whole) {
        ret = co_node_block_status(whole, want_zero, s->map, s->bytes, s);
    }
    request_left(node);
    if (ret == 0) {
        s->flags &= ~BLOCK_EOF;
        if (offset + s->bytes >= node->length) {
            s->flags |= BLOCK_EOF;
        }
    }
    return ret;
}

/* Filters of one layer count as that layer. */
static bool same_layer(struct node *a, struct node *b)
{
    return node_skip_filters(a) == node_skip_filters(b);
}

int co_node_status_above(struct node *node, struct node *base,
                         bool include_base, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *s, int *depth)
{
    int64_t end = node->length;
    int level = 0;

    if (!depth) {
        depth = &level;
    }
    *depth = 0;
    *s = (struct block_status){.bytes = bytes};
    for (struct node *n = node; n; n = node_backing_chain_next(n)) {
        bool last = base && same_layer(n, base);
        if (last && !include_base) {
            break;
        }
        int ret = co_node_block_status(n, want_zero, offset, bytes, s);
        if (ret < 0) {
            return ret;
        }
        level++;
        if (n != node && offset >= n->length) {
            /* The layer above is larger, and this one stands for the rest of
             * the chain: it cuts off what lies behind it. */
            s->flags = BLOCK_ZERO | BLOCK_ALLOCATED;
        }
        if (s->flags & BLOCK_ALLOCATED) {
            *depth = level;
            break;
        }
        bytes = s->bytes;
        if (last) {
            break;
        }
    }
    s->flags &= ~BLOCK_EOF;
    if (offset + s->bytes >= end) {
        s->flags |= BLOCK_EOF;
    }
    return 0;
}
