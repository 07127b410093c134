/*
 * Compressed clusters: their entries, and reading (qcow2 specification,
 * "Compressed Clusters Descriptor").
 *
 * The data are a raw deflate stream with a window of 4 KiB, or a zstd frame.
 * They are read as they are, expanded on a worker, and must fill the cluster;
 * anything else is -EIO. Runs on the node's loop.
 */
#include "block/drivers/qcow2/qcow2.h"

#include <errno.h>
#include "aio/file_io.h"
#include "block/drivers/qcow2/codec.h"

struct expansion {
    enum qcow2_compression_type type;
    const uint8_t *in;
    uint8_t *out;
    size_t in_bytes, out_bytes;
};

static int expand(void *opaque)
{
    const struct expansion *x = opaque;

    return cluster_unpack(x->type, x->in, x->in_bytes, x->out, x->out_bytes);
}

/* Bits of an entry that are an offset; those above, up to bit 61, count the
 * sectors of 512 bytes after the first one. */
static unsigned offset_bits(const struct qcow2 *s)
{
    return 62 - (s->cluster_bits - 8);
}

int64_t qcow2_compressed_limit(const struct qcow2 *s)
{
    /* Offsets beyond 56 bits are no more possible here than elsewhere. */
    return INT64_C(1) << MIN(offset_bits(s), 56);
}

uint64_t qcow2_compressed_entry(const struct qcow2 *s, int64_t host,
                                int64_t bytes)
{
    uint64_t sectors = (host + bytes - 1) / 512 - host / 512;

    return QCOW2_COMPRESSED | sectors << offset_bits(s) | (uint64_t)host;
}

void qcow2_compressed_extent(const struct qcow2 *s, uint64_t entry,
                             int64_t *host, int64_t *bytes)
{
    uint64_t sectors =
        (entry & ~(QCOW2_COPIED | QCOW2_COMPRESSED)) >> offset_bits(s);

    *host = entry & (uint64_t)(qcow2_compressed_limit(s) - 1);
    *bytes = (sectors + 1) * 512 - (*host & 511);
}

int co_qcow2_read_compressed(struct qcow2 *s, uint64_t entry, int64_t skip,
                             const struct iov *iov)
{
    int64_t host, bytes;

    qcow2_compressed_extent(s, entry, &host, &bytes);
    uint8_t *in = io_buffer_try_alloc(qcow2_file(s), bytes);
    uint8_t *out = g_try_malloc(s->cluster_size);
    int ret = in && out ? 0 : -ENOMEM;
    if (ret == 0) {
        co_node_debug_event(qcow2_file(s), BLKDEBUG_EVENT_READ_COMPRESSED);
        ret = co_node_pread(qcow2_file(s), host, in, bytes, 0);
    }
    if (ret == 0) {
        struct expansion x = {s->header.compression_type, in, out, bytes,
                              s->cluster_size};
        ret = co_worker(expand, &x);
    }
    if (ret == 0) {
        iov_from_buf(iov, 0, out + skip, iov->bytes);
    }
    io_buffer_free(in);
    g_free(out);
    return ret;
}
