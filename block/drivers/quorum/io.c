/*
 * The requests of a quorum.
 *
 * A request goes to all children at once, and each brings a ballot: an error,
 * or success with the data that it read. With fewer successes than the
 * threshold the request fails with the error that most ballots have. Else reads
 * are put to the vote: what most children hold wins, and needs the threshold as
 * well. Between equals the one that came last in the list of children wins.
 *
 * A difference may just be a write on its way, which one child has done and
 * another has not. So before anybody is outvoted, all are asked once more while
 * nothing is written; then what is said of a child is true, and to write it
 * anew undoes nothing.
 *
 * Each child reads into memory of its own: a guest could change what it gave
 * between vote and repair.
 */
#include <errno.h>
#include <inttypes.h>

#include "block/drivers/quorum/vote.h"
#include "block/graph.h"
#include "block/listener.h"
#include "block/node.h"
#include "block/request.h"
#include "util/range.h"

/* ---- asking all ---------------------------------------------------------- */

static void request_init(struct quorum_request *r, struct node *node)
{
    const struct quorum_state *s = node->state;

    r->node = node;
    r->n = s->n;
    r->ballots = g_new0(struct quorum_ballot, r->n);
    for (unsigned i = 0; i < r->n; i++) {
        r->ballots[i].request = r;
        r->ballots[i].child = s->children[i]->child;
    }
}

static void request_free(struct quorum_request *r)
{
    for (unsigned i = 0; i < r->n; i++) {
        io_buffer_free(r->ballots[i].buffer);
    }
    g_free(r->ballots);
}

static int co_cast(void *opaque)
{
    struct quorum_ballot *b = opaque;

    b->ret = b->request->co_run(b);
    return 0;
}

static void co_ask_all(struct quorum_request *r)
{
    struct co_pool pool = {.limit = r->n};

    for (unsigned i = 0; i < r->n; i++) {
        co_pool_start(&pool, co_cast, &r->ballots[i]);
    }
    co_pool_wait(&pool);
}

static int co_read_child(struct quorum_ballot *b)
{
    const struct quorum_request *r = b->request;

    return co_node_pread(b->child, r->offset, b->buffer, r->bytes, r->flags);
}

static int co_write_child(struct quorum_ballot *b)
{
    const struct quorum_request *r = b->request;

    return co_node_pwritev(b->child, r->offset, r->iov, r->flags);
}

static int co_zero_child(struct quorum_ballot *b)
{
    const struct quorum_request *r = b->request;

    return co_node_pwrite_zeroes(b->child, r->offset, r->bytes, r->flags);
}

static int co_flush_child(struct quorum_ballot *b)
{
    return co_node_flush(b->child);
}

static int co_write_back_child(struct quorum_ballot *b)
{
    return co_node_write_back(b->child);
}

/* ---- reading ------------------------------------------------------------- */

/* Writes to a child what the others agree on. */
static void co_mend(struct quorum_ballot *loser,
                    const struct quorum_ballot *winner)
{
    const struct quorum_request *r = winner->request;
    int64_t bytes = min_i64(r->bytes, loser->child->length - r->offset);

    if (bytes > 0) {
        (void)co_node_pwrite(loser->child, r->offset, winner->buffer, bytes, 0);
    }
}

/* Reports all that differ from the winner, the last ones first. */
static void co_outvote(struct quorum_request *r,
                       const struct quorum_ballot *winner)
{
    const struct quorum_state *s = r->node->state;

    for (unsigned version = r->n; version-- > 0;) {
        for (unsigned i = r->n; i-- > 0;) {
            struct quorum_ballot *b = &r->ballots[i];
            if (b->ret < 0 || b->like != version || b->like == winner->like) {
                continue;
            }
            quorum_report(b);
            if (s->rewrite) {
                co_mend(b, winner);
            }
        }
    }
}

/* Two children that must not differ. */
static int fail_by_difference(const struct quorum_request *r)
{
    const char *a = r->ballots[0].buffer, *b = r->ballots[1].buffer;
    int64_t at = 0;

    while (a[at] == b[at]) {
        at++;
    }
    g_warning("quorum: offset=%" PRId64 " bytes=%" PRId64
              " contents mismatch at offset %" PRId64,
              r->offset, r->bytes, r->offset + at);
    return -EIO;
}

static int co_vote(struct quorum_request *r, const struct iov *iov)
{
    const struct quorum_state *s = r->node->state;
    unsigned votes;
    int ret = quorum_judge(r);

    if (ret < 0) {
        return ret;
    }
    if (s->blkverify && !quorum_all_alike(r)) {
        return fail_by_difference(r);
    }
    const struct quorum_ballot *winner = quorum_count(r, true, &votes);
    if (votes < s->threshold) {
        BLOCK_ANNOUNCE(quorum_failure, r->node, r->offset, r->bytes);
        return -EIO;
    }
    co_outvote(r, winner);
    iov_from_buf(iov, 0, winner->buffer, (size_t)r->bytes);
    return 0;
}

static int co_read_all(struct quorum_request *r, const struct iov *iov)
{
    struct quorum_state *s = r->node->state;

    for (unsigned i = 0; i < r->n; i++) {
        r->ballots[i].buffer =
            io_buffer_try_alloc(r->ballots[i].child, (size_t)r->bytes);
        if (!r->ballots[i].buffer) {
            return -ENOMEM;
        }
    }
    co_ask_all(r);
    if (quorum_all_alike(r)) {
        return co_vote(r, iov);
    }
    co_rwlock_wrlock(&s->writing);
    co_ask_all(r);
    int ret = co_vote(r, iov);
    co_rwlock_unlock(&s->writing);
    return ret;
}

/* One after the other, until one can. */
static int co_read_first(struct quorum_request *r, const struct iov *iov)
{
    int ret = -EIO;

    for (unsigned i = 0; i < r->n; i++) {
        struct quorum_ballot *b = &r->ballots[i];
        ret = b->ret = co_node_preadv(b->child, r->offset, iov, r->flags);
        if (ret == 0) {
            break;
        }
        quorum_report(b);
    }
    return ret;
}

int co_quorum_preadv(struct node *node, int64_t offset, int64_t bytes,
                     const struct iov *iov, unsigned flags)
{
    const struct quorum_state *s = node->state;
    struct quorum_request r = {
        .type = QUORUM_OP_TYPE_READ,
        .co_run = co_read_child,
        .offset = offset,
        .bytes = bytes,
        .flags = flags,
    };

    request_init(&r, node);
    int ret = s->fifo ? co_read_first(&r, iov) : co_read_all(&r, iov);
    request_free(&r);
    return ret;
}

/* ---- writing ------------------------------------------------------------- */

static int co_change(struct node *node, struct quorum_request *r)
{
    struct quorum_state *s = node->state;

    request_init(r, node);
    co_rwlock_rdlock(&s->writing);
    co_ask_all(r);
    co_rwlock_unlock(&s->writing);
    int ret = quorum_judge(r);
    request_free(r);
    return ret;
}

int co_quorum_pwritev(struct node *node, int64_t offset, int64_t bytes,
                      const struct iov *iov, unsigned flags)
{
    struct quorum_request r = {
        .type = QUORUM_OP_TYPE_WRITE,
        .co_run = co_write_child,
        .offset = offset,
        .bytes = bytes,
        .iov = iov,
        .flags = flags,
    };

    return co_change(node, &r);
}

int co_quorum_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                            unsigned flags)
{
    struct quorum_request r = {
        .type = QUORUM_OP_TYPE_WRITE,
        .co_run = co_zero_child,
        .offset = offset,
        .bytes = bytes,
        .flags = flags,
    };

    /* Whether a child can is not known before it has tried; one that cannot
     * must not count as broken. */
    return flags & REQ_NO_FALLBACK ? -ENOTSUP : co_change(node, &r);
}

int co_quorum_flush(struct node *node)
{
    struct quorum_request r = {
        .type = QUORUM_OP_TYPE_FLUSH,
        .co_run = co_flush_child,
    };

    return co_change(node, &r);
}

int co_quorum_write_back(struct node *node)
{
    struct quorum_request r = {
        .type = QUORUM_OP_TYPE_FLUSH,
        .co_run = co_write_back_child,
    };

    return co_change(node, &r);
}

/* ---- status -------------------------------------------------------------- */

/* Zeroes are where all children have zeroes; whoever cannot tell has data. */
int co_quorum_block_status(struct node *node, bool want_zero, int64_t offset,
                           int64_t bytes, struct block_status *status)
{
    const struct quorum_state *s = node->state;
    int64_t zeroes = bytes, data = 0;

    for (unsigned i = 0; i < s->n; i++) {
        struct block_status child;
        int ret = co_node_status_above(s->children[i]->child, NULL, false,
                                       want_zero, offset, bytes, &child, NULL);
        if (ret < 0) {
            data = bytes;
        } else if (child.flags & BLOCK_ZERO) {
            zeroes = min_i64(zeroes, child.bytes);
        } else {
            data = max_i64(data, child.bytes);
        }
    }
    *status = (struct block_status){
        .flags = BLOCK_ALLOCATED | (data ? BLOCK_DATA : BLOCK_ZERO),
        .bytes = data ? data : zeroes,
    };
    return 0;
}
