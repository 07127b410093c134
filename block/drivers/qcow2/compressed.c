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
#include <zlib.h>
#include <zstd.h>
#include "aio/file_io.h"

struct expansion {
    const uint8_t *in;
    uint8_t *out;
    size_t in_bytes, out_bytes;
};

static int expand_zlib(void *opaque)
{
    const struct expansion *x = opaque;
    z_stream z = {
        .next_in = (uint8_t *)x->in,
        .avail_in = x->in_bytes,
        .next_out = x->out,
        .avail_out = x->out_bytes,
    };

    if (inflateInit2(&z, -12) != Z_OK) {
        return -ENOMEM;
    }
    int ret = inflate(&z, Z_FINISH);
    /* The length in the entry is in sectors, so the input may go on, and some
     * writers leave out the end of the stream. */
    bool ok = (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
    inflateEnd(&z);
    return ok ? 0 : -EIO;
}

static int expand_zstd(void *opaque)
{
    const struct expansion *x = opaque;
    ZSTD_inBuffer in = {x->in, x->in_bytes, 0};
    ZSTD_outBuffer out = {x->out, x->out_bytes, 0};
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    int ret = 0;

    if (!ctx) {
        return -ENOMEM;
    }
    while (ret == 0 && out.pos < out.size) {
        size_t in_before = in.pos, out_before = out.pos;
        size_t n = ZSTD_decompressStream(ctx, &out, &in);
        if (ZSTD_isError(n) || (in.pos == in_before && out.pos == out_before)) {
            ret = -EIO;
        }
    }
    ZSTD_freeDCtx(ctx);
    return ret;
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

static int co_expand(struct qcow2 *s, struct expansion *x)
{
    return co_worker(s->header.compression_type == QCOW2_COMPRESSION_TYPE_ZSTD
                         ? expand_zstd
                         : expand_zlib,
                     x);
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
        struct expansion x = {in, out, bytes, s->cluster_size};
        ret = co_expand(s, &x);
    }
    if (ret == 0) {
        iov_from_buf(iov, 0, out + skip, iov->bytes);
    }
    io_buffer_free(in);
    g_free(out);
    return ret;
}
