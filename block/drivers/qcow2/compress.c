/*
 * Compressed clusters: writing (qcow2 specification, "Compressed Clusters
 * Descriptor").
 *
 * Each cluster is copied, so that a guest that changes its memory meanwhile
 * cannot break the stream, and compressed on a worker; several of one request,
 * and of many, at once. The number of compressors, and with it their memory, is
 * bounded for each node. What comes out is packed (pack.c), written, and only
 * then set in the L2 entry, as alloc.c does. Data that do not get shorter go
 * the way of normal writes. A failure gives the room back, and the mapping is
 * as before. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <endian.h>
#include <errno.h>
#include <string.h>
#include "aio/file_io.h"
#include "block/drivers/qcow2/codec.h"

#define COMPRESSORS_MAX 8

struct compressor {
    struct compressor *next;
    size_t bytes; /* of a cluster; out has one byte less to use */
    uint8_t *in, *out;
    struct cluster_packer *packer;
};

/* On a worker: the length of what is in out, 0 if it is too long. */
static int compress(void *opaque)
{
    struct compressor *c = opaque;

    return cluster_pack(c->packer, c->in, c->bytes, c->out, c->bytes - 1);
}

/* ---- compressors --------------------------------------------------------- */

static void compressor_free(struct compressor *c)
{
    if (c->packer) {
        cluster_packer_free(c->packer);
    }
    g_free(c->in);
    g_free(c->out);
    g_free(c);
}

/* NULL if memory is short. */
static struct compressor *compressor_new(const struct qcow2 *s)
{
    struct compressor *c = g_new0(struct compressor, 1);

    c->bytes = s->cluster_size;
    c->in = g_try_malloc(c->bytes);
    c->out = g_try_malloc(c->bytes);
    c->packer =
        cluster_packer_new(s->header.compression_type, s->compress_effort);
    if (!c->in || !c->out || !c->packer) {
        compressor_free(c);
        return NULL;
    }
    return c;
}

static struct compressor *co_compressor_get(struct qcow2 *s)
{
    while (s->compressors_busy >= COMPRESSORS_MAX) {
        co_queue_wait(&s->compressor_waiters);
    }
    struct compressor *c = s->compressors;
    if (c) {
        s->compressors = c->next;
    } else {
        c = compressor_new(s);
    }
    s->compressors_busy += c != NULL;
    return c;
}

static void compressor_put(struct qcow2 *s, struct compressor *c)
{
    c->next = s->compressors;
    s->compressors = c;
    s->compressors_busy--;
    co_queue_wake_one(&s->compressor_waiters);
}

void qcow2_free_compressors(struct qcow2 *s)
{
    while (s->compressors) {
        struct compressor *c = s->compressors;
        s->compressors = c->next;
        compressor_free(c);
    }
}

/* ---- one cluster --------------------------------------------------------- */

static int co_write_packed(struct qcow2 *s, int64_t host, const void *data,
                           int64_t bytes)
{
    int ret = co_qcow2_guard_data(s, host, bytes);

    if (ret < 0) {
        return ret;
    }
    co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_WRITE_COMPRESSED);
    return co_node_pwrite(qcow2_file(s), host, data, bytes, 0);
}

static int co_link_compressed(struct qcow2 *s, int64_t offset, uint64_t entry)
{
    struct meta_entry *slice;

    int ret = co_qcow2_slice_for_write(s, offset, &slice);
    if (ret < 0) {
        return ret;
    }
    meta_entry_change(&s->l2, slice);
    s->needs_order = true;
    uint64_t *old =
        qcow2_entry_at(s, slice->data, qcow2_slice_index(s, offset));
    qcow2_free_entry_later(s, be64toh(*old), FREE_OTHER);
    old[0] = htobe64(entry);
    if (s->extended) {
        old[1] = 0;
    }
    return 0;
}

/* Packs, writes and links data. -EFBIG: no entry can name a place so far out.
 */
static int co_store(struct qcow2 *s, int64_t offset, const void *data,
                    int64_t bytes)
{
    int64_t host = co_qcow2_alloc_packed(s, bytes);
    if (host < 0) {
        return host;
    }
    int ret = host + bytes > qcow2_compressed_limit(s) ? -EFBIG : 0;
    if (ret == 0) {
        ret = co_write_packed(s, host, data, bytes);
    }
    if (ret == 0) {
        ret = co_link_compressed(s, offset,
                                 qcow2_compressed_entry(s, host, bytes));
    }
    if (ret < 0) {
        int64_t start = align_down(host, s->cluster_size);
        co_qcow2_free_unused(s, start,
                             align_up(host + bytes, s->cluster_size) - start);
    }
    return ret;
}

/* The same as an allocation in flight. */
static int co_store_alone(struct qcow2 *s, int64_t offset, const void *data,
                          int64_t bytes)
{
    struct allocation a = {.offset = offset, .end = offset + s->cluster_size};
    struct meta_entry *slice;
    int ret;

    do {
        ret = s->broken ? -EIO : co_qcow2_slice_for_write(s, offset, &slice);
        if (ret < 0) {
            return ret;
        }
    } while (co_qcow2_wait_allocation(s, offset, s->cluster_size));
    qcow2_allocation_begin(s, &a);
    ret = co_store(s, offset, data, bytes);
    qcow2_allocation_end(s, &a);
    return ret;
}

static int co_compress_cluster(struct qcow2 *s, int64_t offset,
                               const struct iov *iov)
{
    struct compressor *c = co_compressor_get(s);

    if (!c) {
        return -ENOMEM;
    }
    iov_to_buf(iov, 0, c->in, iov->bytes);
    memset(c->in + iov->bytes, 0, c->bytes - iov->bytes);
    int n = co_worker(compress, c);
    int ret = n > 0 ? co_store_alone(s, offset, c->out, n) : n;
    compressor_put(s, c);
    if (n == 0 || ret == -EFBIG) {
        ret = co_qcow2_write_data(s, offset, iov->bytes, iov);
    }
    return ret;
}

/* ---- requests ------------------------------------------------------------ */

struct compressed_write {
    struct qcow2 *s;
    const struct iov *iov;
    int64_t offset, done;
    bool failed;
};

/* One of several that take cluster after cluster. */
static int co_compress_clusters(void *opaque)
{
    struct compressed_write *w = opaque;
    int ret = 0;

    while (ret == 0 && !w->failed && w->done < (int64_t)w->iov->bytes) {
        int64_t at = w->done;
        int64_t n = min_i64(w->s->cluster_size, (int64_t)w->iov->bytes - at);
        struct iov part = iov_slice(w->iov, at, n);
        w->done += n;
        ret = co_compress_cluster(w->s, w->offset + at, &part);
    }
    w->failed = w->failed || ret < 0;
    return ret;
}

int co_qcow2_write_compressed(struct qcow2 *s, int64_t offset,
                              const struct iov *iov)
{
    struct compressed_write w = {.s = s, .iov = iov, .offset = offset};
    struct co_pool pool = {.limit = COMPRESSORS_MAX};
    int64_t end = offset + iov->bytes;

    if (s->external) {
        return -ENOTSUP;
    }
    if (!is_aligned(offset, s->cluster_size) ||
        (!is_aligned(end, s->cluster_size) && end != s->node->length)) {
        return -EINVAL;
    }
    int64_t clusters = div_round_up(iov->bytes, s->cluster_size);
    if (clusters == 1) {
        return co_compress_cluster(s, offset, iov);
    }
    for (int64_t i = 0; i < min_i64(clusters, COMPRESSORS_MAX); i++) {
        co_pool_start(&pool, co_compress_clusters, &w);
    }
    return co_pool_wait(&pool);
}
