/*
 * Requests in flight on a node, and who waits for whom.
 *
 * Every read and write is on its node's list from before its first look at the
 * data until after its bookkeeping. A serialising request excludes all that
 * overlaps it; its range is widened to whole blocks, because a
 * read-modify-write touches those.
 *
 * The list is in order of arrival, and a request waits only for conflicting
 * ones before it. That order has no circles, so there is no deadlock, and
 * nobody is overtaken for ever. node->serialising counts the serialising ones:
 * while it is 0, nobody looks at the list.
 *
 * On the node's loop only.
 */
#include "block/request_internal.h"

/* The oldest request before self that may not run beside it. */
static struct tracked_request *find_conflict(const struct tracked_request *self)
{
    struct tracked_request *r;

    TAILQ_FOREACH (r, &self->node->tracked, link) {
        if (r == self) {
            break;
        }
        if ((r->serialising || self->serialising) &&
            range_overlap(r->overlap_offset, r->overlap_bytes,
                          self->overlap_offset, self->overlap_bytes)) {
            return r;
        }
    }
    return NULL;
}

void co_tracked_wait(struct tracked_request *req)
{
    struct tracked_request *r;

    req->co = co_self();
    while ((r = find_conflict(req))) {
        /* A request that starts another one on its own node would wait for
         * itself for ever. */
        assert(r->co != req->co);
        co_queue_wait(&r->waiters);
    }
}

int co_tracked_begin_serialising(struct tracked_request *req, struct node *node,
                                 int64_t offset, int64_t bytes, bool is_write,
                                 int64_t align, unsigned flags)
{
    assert(node->loop == loop_current());
    tracked_insert(req, node, offset, bytes, is_write);
    req->overlap_offset = align_down(offset, align);
    req->overlap_bytes = align_up(offset + bytes, align) - req->overlap_offset;
    req->serialising = true;
    node->serialising++;
    if ((flags & REQ_NO_WAIT) && find_conflict(req)) {
        tracked_end(req);
        return -EBUSY;
    }
    co_tracked_wait(req);
    return 0;
}

void tracked_end_slow(struct tracked_request *req)
{
    if (req->serialising) {
        req->node->serialising--;
    }
    co_queue_wake_all(&req->waiters);
}
