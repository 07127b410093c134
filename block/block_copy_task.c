/*
 * Copying one piece: how (status, zeroes, offloaded, plain), and with what
 * memory.
 *
 * Buffers are kept by size class for the next piece. Together they stay under a
 * bound for background copies, which wait; a copy for a guest write may exceed
 * it, because the guest would wait behind the background otherwise.
 */
#include "block/block_copy_internal.h"

#include <assert.h>
#include <errno.h>
#include "block/request.h"
#include "util/range.h"

/* ---- buffers ------------------------------------------------------------- */

/* Class c holds buffers of cluster_size << c. */
static unsigned buffer_class(const struct block_copy *s, int64_t bytes)
{
    unsigned c = 0;

    while (s->cluster_size << c < bytes) {
        c++;
    }
    assert(c < COPY_BUFFER_CLASSES);
    return c;
}

static void drop_free_buffers(struct block_copy *s)
{
    for (unsigned c = 0; c < COPY_BUFFER_CLASSES; c++) {
        while (s->free[c]) {
            struct copy_buffer *b = s->free[c];
            s->free[c] = b->next;
            s->memory -= s->cluster_size << c;
            io_buffer_free(b);
        }
    }
}

void copy_buffers_free(struct block_copy *s)
{
    assert(!s->buffers_in_use);
    drop_free_buffers(s);
    assert(!s->memory);
}

static bool memory_is_short(struct block_copy *s, int64_t size)
{
    if (s->memory + size <= COPY_MEMORY_MAX) {
        return false;
    }
    drop_free_buffers(s);
    return s->memory + size > COPY_MEMORY_MAX;
}

static void *co_buffer_get(struct block_copy *s, unsigned class, bool wait)
{
    int64_t size = s->cluster_size << class;

    while (!s->free[class] && wait && s->buffers_in_use &&
           memory_is_short(s, size)) {
        co_queue_wait(&s->memory_waiters);
    }
    struct copy_buffer *b = s->free[class];
    if (b) {
        s->free[class] = b->next;
    } else {
        b = io_buffer_try_alloc(s->source, size);
        if (!b) {
            return NULL;
        }
        s->memory += size;
    }
    s->buffers_in_use++;
    return b;
}

static void buffer_put(struct block_copy *s, unsigned class, void *buffer)
{
    struct copy_buffer *b = buffer;

    b->next = s->free[class];
    s->free[class] = b;
    s->buffers_in_use--;
    if (s->memory > COPY_MEMORY_MAX) {
        drop_free_buffers(s);
    }
    co_queue_wake_one(&s->memory_waiters);
}

/* ---- how ----------------------------------------------------------------- */

int64_t copy_chunk(const struct block_copy *s)
{
    if (s->compress) {
        return s->cluster_size;
    }
    if (s->copy_range) {
        return max_i64(s->cluster_size, COPY_RANGE_MAX);
    }
    return s->chunk;
}

int co_copy_status(struct block_copy *s, int64_t offset, int64_t bytes,
                   enum copy_method *method, int64_t *run)
{
    struct block_status st;
    struct node *base = s->skip_unallocated ? s->base : NULL;
    int ret = co_node_status_above(s->source, base, false, true, offset, bytes,
                                   &st, NULL);

    if (ret < 0) {
        return ret;
    }
    if (!(st.flags & BLOCK_ALLOCATED)) {
        *method = s->skip_unallocated ? COPY_NOTHING : COPY_ZEROES;
    } else {
        *method = st.flags & BLOCK_ZERO ? COPY_ZEROES : COPY_DATA;
    }
    /* Clusters that are so as a whole; a mixed one is data. */
    if (*method != COPY_DATA) {
        *run =
            st.bytes >= bytes ? bytes : align_down(st.bytes, s->cluster_size);
        if (*run) {
            return 0;
        }
        *method = COPY_DATA;
    }
    *run = min_i64(bytes, align_up(st.bytes, s->cluster_size));
    return 0;
}

/* ---- one piece ----------------------------------------------------------- */

/* A target that reads as zeroes there already needs no request. Zeroes of its
 * backing file do not count: that may be the source, which is about to change.
 */
static bool co_target_is_zero(struct block_copy *s, int64_t offset,
                              int64_t bytes)
{
    struct node *base = node_backing_chain_next(s->target);

    while (bytes) {
        struct block_status st;
        if (co_node_status_above(s->target, base, false, true, offset, bytes,
                                 &st, NULL) < 0 ||
            !(st.flags & BLOCK_ZERO) ||
            (base && !(st.flags & BLOCK_ALLOCATED))) {
            return false;
        }
        int64_t n = min_i64(st.bytes, bytes);
        offset += n;
        bytes -= n;
    }
    return true;
}

static int co_copy_zeroes(struct copy_task *t)
{
    struct block_copy *s = t->s;

    if (co_target_is_zero(s, t->offset, t->bytes)) {
        return 0;
    }
    return co_node_pwrite_zeroes(s->target, t->offset, t->bytes,
                                 s->write_flags);
}

static int co_copy_plain(struct copy_task *t)
{
    struct block_copy *s = t->s;
    unsigned flags = s->write_flags | (s->compress ? REQ_COMPRESSED : 0);
    int64_t step = min_i64(t->bytes, max_i64(COPY_CHUNK_MAX, s->cluster_size));
    unsigned class = buffer_class(s, step);
    void *buffer = co_buffer_get(s, class, !t->for_guest);
    int ret = 0;

    if (!buffer) {
        return -ENOMEM;
    }
    for (int64_t done = 0; ret == 0 && done < t->bytes; done += step) {
        int64_t n = min_i64(step, t->bytes - done);
        t->is_read = true;
        ret = co_node_pread(s->source, t->offset + done, buffer, n, 0);
        if (ret == 0) {
            t->is_read = false;
            ret = co_node_pwrite(s->target, t->offset + done, buffer, n, flags);
        }
    }
    buffer_put(s, class, buffer);
    return ret;
}

static int co_copy_data(struct copy_task *t)
{
    struct block_copy *s = t->s;

    if (s->copy_range) {
        if (co_node_copy_range(s->source, t->offset, s->target, t->offset,
                               t->bytes, s->write_flags) == 0) {
            return 0;
        }
        /* Whatever the reason is: a plain copy will tell a real error. */
        s->copy_range = false;
    }
    int ret = co_copy_plain(t);
    if (ret < 0) {
        s->chunk = s->cluster_size;
    } else if (t->bytes >= s->chunk && s->chunk < COPY_CHUNK_MAX) {
        s->chunk *= 2;
    }
    return ret;
}

int co_copy_task_run(struct copy_task *t)
{
    t->is_read = false;
    switch (t->method) {
    case COPY_DATA:
        return co_copy_data(t);
    case COPY_ZEROES:
        return co_copy_zeroes(t);
    case COPY_NOTHING:
        break;
    }
    return 0;
}
