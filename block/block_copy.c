/*
 * The block-copy engine: what is copied when, and who waits for whom.
 *
 * Invariant: a cluster that the target lacks is either set in the copy bitmap
 * or part of exactly one task in flight. A task claims its clusters by clearing
 * them before anything suspends, and sets them again if it fails, before it
 * wakes those who wait for it. Who finds neither a bit nor a task in a range
 * knows that the target has it.
 *
 * Two callers: the copy-before-write filter asks for a range, in a hurry; the
 * job asks for everything, with a speed limit and pauses.
 */
#include "block/block_copy_internal.h"

#include <assert.h>
#include <errno.h>
#include "aio/loop.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

/* ---- life ---------------------------------------------------------------- */

/* A copy of part of a target's cluster would lose the rest of it, unless a
 * backing file supplies that. */
static bool co_cluster_size_for(struct node *target, int64_t *size,
                                GError **error)
{
    struct node_info info = {0};
    int ret = co_node_get_info(target, &info);

    *size = BLOCK_COPY_CLUSTER_DEFAULT;
    if (ret >= 0) {
        *size = max_i64(*size, info.cluster_size);
    } else if (node_backing_chain_next(target)) {
        return true;
    } else if (ret == -ENOTSUP) {
        g_info("'%s' does not tell its cluster size, and has no backing file; "
               "a cluster of more than %" G_GINT64_FORMAT
               " bytes would make the copy unusable",
               target->name, *size);
    } else {
        return error_set_errno(error, ret,
                               "Couldn't determine the cluster size of the "
                               "target image, which has no backing file");
    }
    return true;
}

struct block_copy *co_block_copy_new(struct node *source, struct node *target,
                                     GError **error)
{
    int64_t cluster_size;

    if (target->length < source->length) {
        error_set(error, "Source and target image have different sizes");
        return NULL;
    }
    if (!co_cluster_size_for(target, &cluster_size, error)) {
        return NULL;
    }
    struct hbitmap *todo = hbitmap_new(source->length, cluster_size);
    if (!todo) {
        error_set(error, "Not enough memory for the copy bitmap of '%s'",
                  source->name);
        return NULL;
    }
    hbitmap_set_all(todo);
    struct block_copy *s = g_new0(struct block_copy, 1);
    s->source = source;
    s->target = target;
    s->base = node_backing_chain_next(source);
    s->length = source->length;
    s->cluster_size = cluster_size;
    s->chunk = cluster_size;
    s->claim = COPY_CLAIM_MIN;
    s->todo = todo;
    /* A target that reads through to the source must not do so while a cluster
     * moves over. */
    s->write_flags = node_chain_contains(target, source) ? REQ_SERIALISING : 0;
    TAILQ_INIT(&s->tasks);
    return s;
}

void co_block_copy_wait_idle(struct block_copy *s)
{
    co_count_wait_zero(&s->calls);
    assert(TAILQ_EMPTY(&s->tasks));
}

void co_block_copy_free(struct block_copy *s)
{
    if (s) {
        co_block_copy_wait_idle(s);
        copy_buffers_free(s);
        hbitmap_free(s->todo);
        g_free(s);
    }
}

int64_t block_copy_cluster_size(const struct block_copy *s)
{
    return s->cluster_size;
}

struct hbitmap *block_copy_bitmap(struct block_copy *s)
{
    return s->todo;
}

int64_t block_copy_remaining(const struct block_copy *s)
{
    return hbitmap_count(s->todo) + s->in_flight_bytes;
}

void block_copy_set_compress(struct block_copy *s, bool compress)
{
    s->compress = compress;
}

void block_copy_set_copy_range(struct block_copy *s, bool allowed)
{
    s->copy_range = allowed;
}

void block_copy_set_skip_unallocated(struct block_copy *s, bool skip)
{
    s->skip_unallocated = skip;
}

void block_copy_set_speed(struct block_copy *s, int64_t speed)
{
    bucket_set_rate(&s->limit, speed);
}

void block_copy_set_progress(struct block_copy *s, block_copy_progress_fn *fn,
                             void *opaque)
{
    s->progress = fn;
    s->progress_opaque = opaque;
}

/* ---- tasks --------------------------------------------------------------- */

static int64_t now_ns(void)
{
    return loop_now_ns(loop_current());
}

/* Takes the clusters out of the bitmap. */
static void task_claim(struct block_copy *s, struct copy_task *t,
                       int64_t offset, int64_t bytes)
{
    *t = (struct copy_task){.s = s, .offset = offset, .bytes = bytes};
    hbitmap_clear(s->todo, offset, bytes);
    s->in_flight_bytes += bytes;
    TAILQ_INSERT_TAIL(&s->tasks, t, link);
}

/* Keeps the first `bytes`, and gives the rest back to the bitmap. */
static void task_shrink(struct copy_task *t, int64_t bytes)
{
    struct block_copy *s = t->s;

    if (bytes == t->bytes) {
        return;
    }
    hbitmap_set(s->todo, t->offset + bytes, t->bytes - bytes);
    s->in_flight_bytes -= t->bytes - bytes;
    t->bytes = bytes;
    co_queue_wake_all(&t->done);
}

static void task_end(struct copy_task *t, int ret)
{
    struct block_copy *s = t->s;

    if (ret < 0) {
        hbitmap_set(s->todo, t->offset, t->bytes);
    }
    s->in_flight_bytes -= t->bytes;
    TAILQ_REMOVE(&s->tasks, t, link);
    co_queue_wake_all(&t->done);
    if (s->progress && ret == 0) {
        s->progress(s->progress_opaque,
                    t->method == COPY_NOTHING ? 0 : t->bytes,
                    block_copy_remaining(s));
    }
}

/* Looks at how the claimed clusters are to be copied, and keeps those at the
 * start that go in one piece. */
static int co_task_plan(struct copy_task *t)
{
    struct block_copy *s = t->s;
    int64_t run;
    int ret = co_copy_status(s, t->offset, t->bytes, &t->method, &run);

    if (ret < 0) {
        t->is_read = true;
        return ret;
    }
    if (t->method == COPY_DATA) {
        run = min_i64(run, copy_chunk(s));
        s->claim = max_i64(COPY_CLAIM_MIN, copy_chunk(s));
    } else if (run == t->bytes) {
        s->claim = min_i64(s->claim * 2, COPY_CLAIM_MAX);
    }
    task_shrink(t, run);
    if (t->method != COPY_NOTHING) {
        bucket_add(&s->limit, t->bytes, now_ns());
    }
    return 0;
}

static struct copy_task *task_in(struct block_copy *s, int64_t offset,
                                 int64_t bytes)
{
    struct copy_task *t;

    TAILQ_FOREACH (t, &s->tasks, link) {
        if (range_overlap(t->offset, t->bytes, offset, bytes)) {
            return t;
        }
    }
    return NULL;
}

/* ---- several at a time --------------------------------------------------- */

/* Tasks that one caller has in flight. */
struct co_span {
    struct co_pool pool;
    int ret; /* the first error */
    bool is_read;
};

static void span_fail(struct co_span *span, int ret, bool is_read)
{
    if (!span->ret) {
        span->ret = ret;
        span->is_read = is_read;
    }
}

static int co_pooled_task(void *opaque)
{
    struct copy_task *t = opaque;
    struct co_span *span = t->span;
    int ret = co_copy_task_run(t);

    if (ret < 0) {
        span_fail(span, ret, t->is_read);
    }
    task_end(t, ret);
    g_free(t);
    return 0;
}

/* Claims the run, plans it, and starts it on the pool. Returns where the part
 * that was dealt with ends. */
static int64_t co_span_start(struct co_span *span, struct block_copy *s,
                             int64_t offset, int64_t bytes, bool for_guest)
{
    struct copy_task *t = g_new(struct copy_task, 1);

    task_claim(s, t, offset, bytes);
    t->span = span;
    t->for_guest = for_guest;
    int ret = co_task_plan(t);
    int64_t end = t->offset + t->bytes;
    if (ret < 0 || t->method == COPY_NOTHING) {
        if (ret < 0) {
            span_fail(span, ret, true);
        }
        task_end(t, ret);
        g_free(t);
        return end;
    }
    co_pool_start(&span->pool, co_pooled_task, t);
    return end;
}

/* ---- a range, for a guest write ------------------------------------------ */

/* The usual case: the whole range is one task, on this stack. */
static int co_copy_one(struct block_copy *s, int64_t offset, int64_t bytes,
                       bool *is_read)
{
    struct copy_task t;

    task_claim(s, &t, offset, bytes);
    t.for_guest = true;
    int ret = co_task_plan(&t);
    if (ret == 0) {
        ret = co_copy_task_run(&t);
    }
    *is_read = t.is_read;
    task_end(&t, ret);
    return ret;
}

static int co_copy_todo(struct block_copy *s, int64_t offset, int64_t bytes,
                        bool *is_read)
{
    struct co_span span = {.pool.limit = BLOCK_COPY_WORKERS_DEFAULT};
    int64_t end = offset + bytes, run, run_bytes;

    while (!span.ret && hbitmap_next_run(s->todo, offset, end - offset,
                                         COPY_CLAIM_MAX, &run, &run_bytes)) {
        if (run_bytes <= copy_chunk(s)) {
            int ret = co_copy_one(s, run, run_bytes, is_read);
            if (ret < 0) {
                span_fail(&span, ret, *is_read);
            }
        } else {
            co_span_start(&span, s, run, run_bytes, true);
        }
    }
    co_pool_wait(&span.pool);
    *is_read = span.is_read;
    return span.ret;
}

static int co_copy_and_wait(struct block_copy *s, int64_t offset, int64_t bytes,
                            bool *is_read)
{
    struct copy_task *t;
    int64_t start = align_down(offset, s->cluster_size);
    int64_t end =
        min_i64(s->length,
                align_up(min_i64(s->length, offset + bytes), s->cluster_size));
    for (;;) {
        int ret = co_copy_todo(s, start, end - start, is_read);
        if (ret < 0) {
            return ret;
        }
        t = task_in(s, start, end - start);
        if (!t) {
            return 0;
        }
        co_queue_wait(&t->done);
    }
}

int co_block_copy_range(struct block_copy *s, int64_t offset, int64_t bytes,
                        bool *is_read)
{
    bool dummy;

    if (offset >= s->length) {
        return 0;
    }
    co_count_inc(&s->calls);
    int ret = co_copy_and_wait(s, offset, bytes, is_read ? is_read : &dummy);
    co_count_dec(&s->calls);
    return ret;
}

/* ---- everything, for a job ----------------------------------------------- */

static int64_t claim_limit(const struct block_copy *s,
                           const struct block_copy_call *call)
{
    int64_t max = s->claim;

    if (call->max_chunk) {
        max = min_i64(max, call->max_chunk);
    }
    /* Pieces of one slice of time keep a slow copy smooth. */
    if (s->limit.rate) {
        max = min_i64(max, bucket_headroom(&s->limit));
    }
    return max_i64(s->cluster_size, align_down(max, s->cluster_size));
}

/* Holds the copier up as long as it must be; true if it must end. */
static bool co_hold(struct block_copy *s, struct block_copy_call *call,
                    struct co_span *span)
{
    for (;;) {
        int64_t ns = bucket_delay(&s->limit, now_ns());
        if (call->wants_pause && call->wants_pause(call->opaque)) {
            co_pool_wait(&span->pool);
            if (call->co_pause(call->opaque)) {
                return true;
            }
        } else if (ns > 0) {
            co_pool_wait(&span->pool);
            if (span->ret) {
                return true;
            }
            call->co_sleep(call->opaque, ns);
        } else {
            return span->ret != 0;
        }
    }
}

/* One pass from the start to the end; true if it was not ended early. */
static bool co_copy_pass(struct block_copy *s, struct block_copy_call *call,
                         struct co_span *span)
{
    int64_t pos = 0, run, run_bytes;

    while (!hbitmap_empty(s->todo)) {
        /* Before a claim: what is in flight may fail and end the pass. */
        co_pool_wait_slot(&span->pool);
        if (co_hold(s, call, span)) {
            return false;
        }
        if (!hbitmap_next_run(s->todo, pos, s->length - pos,
                              claim_limit(s, call), &run, &run_bytes)) {
            break;
        }
        pos = co_span_start(span, s, run, run_bytes, false);
        /* What the page cache holds is copied without ever suspending. */
        co_share_loop();
    }
    return true;
}

int co_block_copy_all(struct block_copy *s, struct block_copy_call *call)
{
    struct co_span span = {.pool.limit = call->max_workers};
    bool go_on;

    co_count_inc(&s->calls);
    do {
        go_on = co_copy_pass(s, call, &span);
        co_pool_wait(&span.pool);
        /* A copy for a guest write may still fail and leave its clusters. */
        if (go_on && !span.ret && hbitmap_empty(s->todo) &&
            !TAILQ_EMPTY(&s->tasks)) {
            co_queue_wait(&TAILQ_FIRST(&s->tasks)->done);
        }
    } while (go_on && !span.ret &&
             !(hbitmap_empty(s->todo) && TAILQ_EMPTY(&s->tasks)));
    co_count_dec(&s->calls);
    call->is_read = span.is_read;
    return span.ret;
}

int co_block_copy_reset_unallocated(struct block_copy *s, int64_t offset,
                                    int64_t *bytes)
{
    struct block_status st;
    int64_t left = s->length - offset;
    int ret = co_node_status_above(s->source, s->base, false, false, offset,
                                   left, &st, NULL);

    if (ret < 0) {
        return ret;
    }
    bool allocated = st.flags & BLOCK_ALLOCATED;
    if (!allocated && st.bytes < left) {
        /* A cluster that the source holds in part is copied. */
        st.bytes = align_down(st.bytes, s->cluster_size);
        allocated = !st.bytes;
    }
    if (allocated) {
        *bytes = min_i64(left, max_i64(s->cluster_size,
                                       align_up(st.bytes, s->cluster_size)));
        return 0;
    }
    *bytes = min_i64(left, st.bytes);
    hbitmap_clear(s->todo, offset, *bytes);
    if (s->progress) {
        s->progress(s->progress_opaque, 0, block_copy_remaining(s));
    }
    return 1;
}

bool block_copy_has(const struct block_copy *s, int64_t offset, int64_t bytes,
                    int64_t *run)
{
    bool has = !hbitmap_get(s->todo, offset);
    int64_t end = has ? hbitmap_next_set(s->todo, offset, bytes)
                      : hbitmap_next_clear(s->todo, offset, bytes);
    struct copy_task *t;

    *run = end < 0 ? bytes : end - offset;
    if (!has) {
        return false;
    }
    TAILQ_FOREACH (t, &s->tasks, link) {
        if (range_overlap(t->offset, t->bytes, offset, 1)) {
            *run = min_i64(*run, t->offset + t->bytes - offset);
            return false;
        }
        if (t->offset > offset) {
            *run = min_i64(*run, t->offset - offset);
        }
    }
    return true;
}

void co_block_copy_wait_range(struct block_copy *s, int64_t offset,
                              int64_t bytes)
{
    struct copy_task *t;

    while ((t = task_in(s, offset, bytes))) {
        co_queue_wait(&t->done);
    }
}
