/*
 * Compression of single clusters: raw deflate with a window of 4 KiB, or zstd
 * (qcow2 specification, "Compressed Clusters Descriptor" and "compression
 * type").
 *
 * Deflate has two makers. ISA-L, where the build has it, is some fifteen times
 * as fast as zlib, and its data a tenth longer, so zlib remains for those who
 * ask for density. What either writes, both read, within the 4 KiB that other
 * readers of the format have. Stateless between clusters; any thread.
 */
#include "block/drivers/qcow2/codec.h"

#include <errno.h>
#include <glib.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>
#ifdef CONFIG_ISAL
#include <isa-l.h>
#endif

#define WINDOW_BITS      12
/* Text gets as short as at 3, in two thirds of the time. */
#define ZSTD_LEVEL_FAST  2
#define ZSTD_LEVEL_DENSE 12

struct cluster_packer {
    int (*pack)(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                uint8_t *out, size_t out_bytes);
    z_stream zlib;
    bool has_zlib;
    ZSTD_CCtx *zstd;
    int zstd_level;
    uint8_t *isal_buffer;
};

/* ---- deflate ------------------------------------------------------------- */

static int pack_zlib(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                     uint8_t *out, size_t out_bytes)
{
    z_stream *z = &p->zlib;

    if (deflateReset(z) != Z_OK) {
        return -EIO;
    }
    z->next_in = (uint8_t *)in;
    z->avail_in = bytes;
    z->next_out = out;
    z->avail_out = out_bytes;
    int ret = deflate(z, Z_FINISH);
    if (ret == Z_STREAM_END) {
        return (int)(out_bytes - z->avail_out);
    }
    return ret == Z_OK || ret == Z_BUF_ERROR ? 0 : -EIO;
}

static bool begin_zlib(struct cluster_packer *p)
{
    p->pack = pack_zlib;
    p->has_zlib = deflateInit2(&p->zlib, Z_DEFAULT_COMPRESSION, Z_DEFLATED,
                               -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY) == Z_OK;
    return p->has_zlib;
}

#ifdef CONFIG_ISAL

static int pack_isal(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                     uint8_t *out, size_t out_bytes)
{
    struct isal_zstream z;

    isal_deflate_stateless_init(&z);
    z.end_of_stream = 1;
    z.flush = NO_FLUSH;
    z.gzip_flag = IGZIP_DEFLATE;
    z.hist_bits = WINDOW_BITS;
    z.level = 1;
    z.level_buf = p->isal_buffer;
    z.level_buf_size = ISAL_DEF_LVL1_DEFAULT;
    z.next_in = (uint8_t *)in;
    z.avail_in = bytes;
    z.next_out = out;
    z.avail_out = out_bytes;
    int ret = isal_deflate_stateless(&z);
    if (ret == COMP_OK) {
        return (int)z.total_out;
    }
    return ret == STATELESS_OVERFLOW ? 0 : -EIO;
}

static bool begin_fast_deflate(struct cluster_packer *p)
{
    p->pack = pack_isal;
    p->isal_buffer = g_try_malloc(ISAL_DEF_LVL1_DEFAULT);
    return p->isal_buffer;
}

static int unpack_deflate(const uint8_t *in, size_t bytes, uint8_t *out,
                          size_t out_bytes)
{
    struct inflate_state *z = g_try_malloc(sizeof(*z));

    if (!z) {
        return -ENOMEM;
    }
    isal_inflate_init(z);
    z->next_in = (uint8_t *)in;
    z->avail_in = bytes;
    z->next_out = out;
    z->avail_out = out_bytes;
    int ret = isal_inflate_stateless(z);
    /* The length in the entry is in sectors, so the input may go on, and some
     * writers leave out the end of the stream. */
    bool ok =
        !z->avail_out && (ret == ISAL_DECOMP_OK || ret == ISAL_END_INPUT ||
                          ret == ISAL_OUT_OVERFLOW);
    g_free(z);
    return ok ? 0 : -EIO;
}

#else

static bool begin_fast_deflate(struct cluster_packer *p)
{
    return begin_zlib(p);
}

static int unpack_deflate(const uint8_t *in, size_t bytes, uint8_t *out,
                          size_t out_bytes)
{
    z_stream z = {
        .next_in = (uint8_t *)in,
        .avail_in = bytes,
        .next_out = out,
        .avail_out = out_bytes,
    };

    if (inflateInit2(&z, -WINDOW_BITS) != Z_OK) {
        return -ENOMEM;
    }
    int ret = inflate(&z, Z_FINISH);
    /* As above: more input, or no end of the stream, is no damage. */
    bool ok = (ret == Z_STREAM_END || ret == Z_BUF_ERROR) && !z.avail_out;
    inflateEnd(&z);
    return ok ? 0 : -EIO;
}

#endif

/* ---- zstd ---------------------------------------------------------------- */

static int pack_zstd(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                     uint8_t *out, size_t out_bytes)
{
    size_t n =
        ZSTD_compressCCtx(p->zstd, out, out_bytes, in, bytes, p->zstd_level);

    if (!ZSTD_isError(n)) {
        return (int)n;
    }
    return ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall ? 0 : -EIO;
}

static bool begin_zstd(struct cluster_packer *p, bool dense)
{
    p->pack = pack_zstd;
    p->zstd_level = dense ? ZSTD_LEVEL_DENSE : ZSTD_LEVEL_FAST;
    p->zstd = ZSTD_createCCtx();
    return p->zstd;
}

static int unpack_zstd(const uint8_t *in, size_t bytes, uint8_t *out,
                       size_t out_bytes)
{
    ZSTD_inBuffer from = {in, bytes, 0};
    ZSTD_outBuffer to = {out, out_bytes, 0};
    ZSTD_DCtx *ctx = ZSTD_createDCtx();
    int ret = 0;

    if (!ctx) {
        return -ENOMEM;
    }
    while (ret == 0 && to.pos < to.size) {
        size_t in_before = from.pos, out_before = to.pos;
        size_t n = ZSTD_decompressStream(ctx, &to, &from);
        if (ZSTD_isError(n) ||
            (from.pos == in_before && to.pos == out_before)) {
            ret = -EIO;
        }
    }
    ZSTD_freeDCtx(ctx);
    return ret;
}

/* ---- both ---------------------------------------------------------------- */

struct cluster_packer *cluster_packer_new(enum qcow2_compression_type type,
                                          enum qcow2_compress_effort effort)
{
    struct cluster_packer *p = g_new0(struct cluster_packer, 1);
    bool dense = effort == QCOW2_COMPRESS_EFFORT_DENSE;
    bool ok;

    if (type == QCOW2_COMPRESSION_TYPE_ZSTD) {
        ok = begin_zstd(p, dense);
    } else {
        ok = dense ? begin_zlib(p) : begin_fast_deflate(p);
    }
    if (!ok) {
        cluster_packer_free(p);
        return NULL;
    }
    return p;
}

void cluster_packer_free(struct cluster_packer *p)
{
    if (p->has_zlib) {
        deflateEnd(&p->zlib);
    }
    ZSTD_freeCCtx(p->zstd);
    g_free(p->isal_buffer);
    g_free(p);
}

int cluster_pack(struct cluster_packer *p, const uint8_t *in, size_t bytes,
                 uint8_t *out, size_t out_bytes)
{
    return p->pack(p, in, bytes, out, out_bytes);
}

int cluster_unpack(enum qcow2_compression_type type, const uint8_t *in,
                   size_t bytes, uint8_t *out, size_t out_bytes)
{
    return type == QCOW2_COMPRESSION_TYPE_ZSTD
               ? unpack_zstd(in, bytes, out, out_bytes)
               : unpack_deflate(in, bytes, out, out_bytes);
}
