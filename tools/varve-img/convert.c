/*
 * varve-img convert: copies the guest data of an image into a new one.
 *
 * One coroutine walks the source by block status, and tasks copy what holds
 * data, several at once. The new image reads as zeroes, so ranges that are zero
 * in the source, and sectors of -S bytes that turn out to be zero, are not
 * written. The target is not flushed before the end (cache mode unsafe, as long
 * as -t does not say otherwise): an interrupted conversion is worthless anyway.
 *
 * With -c the pieces are whole clusters of the target, which compresses several
 * of them at once.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "aio/colock.h"
#include "block/request.h"
#include "tools/varve-img/bitmaps.h"
#include "util/error.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    DEFAULT_TASKS = 8,
    MAX_TASKS = 16, /* as qemu-img -m */
    DEFAULT_SPARSE = 4096,
    MAX_SPARSE = 16 * 1024 * 1024,
};

struct convert {
    struct image_open from, to;
    const char *format;
    const char *options; /* -o */
    const char *backing_file, *backing_format;
    bool existing; /* -n */
    bool compressed, quiet;
    bool bitmaps, skip_broken;
    int64_t unit;   /* pieces begin at multiples: the cluster with -c, else 1 */
    int64_t chunk;  /* a power of two, and a multiple of unit */
    int64_t sparse; /* zeroes of this length are not written; 0 = write all */
    struct backend *src, *dst;
    struct co_pool pool;
    struct progress progress;
    int64_t total, done;
    bool target_is_zero;
    bool failed;
};

struct convert_task {
    struct convert *c;
    int64_t offset, bytes;
};

static int convert_error(struct convert *c, const char *what, int64_t offset,
                         int ret)
{
    if (!c->failed) {
        tool_error("error while %s at byte %" PRId64 ": %s", what, offset,
                   g_strerror(-ret));
    }
    c->failed = true;
    return ret;
}

/* Length of the run at buf, in steps of `step`, that is all zero or all not. */
static int64_t zero_run(const uint8_t *buf, int64_t bytes, int64_t step,
                        bool *zero)
{
    int64_t run = 0;

    while (run < bytes) {
        int64_t n = min_i64(step, bytes - run);
        struct iovec v = {.iov_base = (void *)(buf + run), .iov_len = n};
        struct iov iov = iov_of(&v, 1);
        bool is_zero = iov_is_zero(&iov);
        if (run == 0) {
            *zero = is_zero;
        } else if (is_zero != *zero) {
            break;
        }
        run += n;
    }
    return run;
}

static int co_write_zero_range(struct convert *c, int64_t offset, int64_t bytes)
{
    if (c->target_is_zero) {
        return 0;
    }
    int ret = co_backend_pwrite_zeroes(c->dst, offset, bytes, REQ_MAY_UNMAP);
    return ret < 0 ? convert_error(c, "writing zeroes", offset, ret) : 0;
}

/* Only whole clusters can be compressed, of which the last one may end where
 * the target does. */
static int co_write_run(struct convert *c, int64_t offset, uint8_t *buf,
                        int64_t bytes)
{
    int64_t whole = 0;
    struct iovec v;
    int ret = 0;

    if (c->compressed) {
        whole = offset + bytes == backend_length(c->dst)
                    ? bytes
                    : align_down(bytes, c->unit);
    }
    if (whole) {
        struct iov iov = iov_buf(&v, buf, whole);
        ret = co_backend_pwritev(c->dst, offset, &iov, REQ_COMPRESSED);
    }
    if (ret == 0 && whole < bytes) {
        struct iov iov = iov_buf(&v, buf + whole, bytes - whole);
        ret = co_backend_pwritev(c->dst, offset + whole, &iov, 0);
    }
    return ret < 0 ? convert_error(c, "writing", offset, ret) : 0;
}

static int co_write_data(struct convert *c, int64_t offset, uint8_t *buf,
                         int64_t bytes)
{
    int64_t step = c->compressed ? c->unit : c->sparse;

    for (int64_t at = 0; at < bytes;) {
        bool zero = false;
        int64_t n =
            c->sparse ? zero_run(buf + at, bytes - at, step, &zero) : bytes;
        int ret;
        if (zero) {
            ret = co_write_zero_range(c, offset + at, n);
        } else {
            ret = co_write_run(c, offset + at, buf + at, n);
        }
        if (ret < 0) {
            return ret;
        }
        at += n;
    }
    return 0;
}

static int co_convert_chunk(void *opaque)
{
    struct convert_task *t = opaque;
    struct convert *c = t->c;
    struct iovec v;
    int ret;

    uint8_t *buf = io_buffer_try_alloc(c->src->node, t->bytes);
    if (!buf) {
        ret = convert_error(c, "reading", t->offset, -ENOMEM);
    } else {
        struct iov iov = iov_buf(&v, buf, t->bytes);
        ret = co_backend_preadv(c->src, t->offset, &iov, 0);
        ret = ret < 0 ? convert_error(c, "reading", t->offset, ret)
                      : co_write_data(c, t->offset, buf, t->bytes);
    }
    if (ret == 0) {
        c->done += t->bytes;
        progress_update(&c->progress, c->done, c->total);
    }
    io_buffer_free(buf);
    g_free(t);
    return ret;
}

static int co_copy_all(struct convert *c)
{
    int64_t offset = 0;

    c->total = backend_length(c->src);
    while (offset < c->total && !c->failed) {
        struct img_extent e;
        int ret = co_img_extent(c->src, offset, c->total - offset, &e);
        if (ret < 0) {
            convert_error(c, "reading block status", offset, ret);
            break;
        }
        bool skip = e.zero || (c->backing_file && !e.allocated);
        /* What is only in part to be skipped counts as data. */
        if (offset + e.bytes < c->total) {
            int64_t whole = align_down(e.bytes, c->unit);
            skip = skip && whole;
            e.bytes = skip ? whole : align_up(e.bytes, c->unit);
            e.bytes = min_i64(e.bytes, c->total - offset);
        }
        if (skip) {
            if (e.zero && co_write_zero_range(c, offset, e.bytes) < 0) {
                break;
            }
            offset += e.bytes;
            c->done += e.bytes;
            progress_update(&c->progress, c->done, c->total);
            continue;
        }
        struct convert_task *t = g_new(struct convert_task, 1);
        /* Ends on chunk borders, so that clusters are written whole. */
        int64_t end = align_up(offset + 1, c->chunk);
        *t = (struct convert_task){
            .c = c, .offset = offset, .bytes = min_i64(e.bytes, end - offset)};
        offset += t->bytes;
        co_pool_start(&c->pool, co_convert_chunk, t);
    }
    co_pool_wait(&c->pool);
    return c->failed ? 1 : 0;
}

static bool asks_for_preallocation(const char *options)
{
    const char *at = strstr(options, "preallocation=");

    return at && (at == options || at[-1] == ',') &&
           !g_str_has_prefix(at, "preallocation=off");
}

/* An image that was just made holds nothing; but a device still has what was on
 * it, which shows through a format without a map of its own. */
static bool new_reads_as_zeroes(const struct node *node)
{
    while (node->driver->writes_grow && node->file) {
        node = node->file->child;
    }
    return node->driver->kind != DRIVER_PROTOCOL ||
           node->driver->unmapped_reads_zero;
}

/* -c is refused before anything is made. */
static bool check_compression(const struct convert *c)
{
    const struct block_driver *driver = block_driver_find(c->format);

    if (c->compressed && driver && !driver->writes_compressed) {
        tool_error("Compression not supported for this file format");
        return false;
    }
    if (c->compressed && c->options && !c->existing &&
        asks_for_preallocation(c->options)) {
        tool_error("Compression and preallocation not supported at the same "
                   "time");
        return false;
    }
    return true;
}

static bool co_prepare_compression(struct convert *c)
{
    struct node_info info = {0};

    c->unit = 1;
    c->chunk = CHUNK;
    while (c->chunk < c->sparse) {
        c->chunk *= 2; /* a run that may be left out fits */
    }
    if (!c->compressed) {
        return true;
    }
    int ret = co_node_get_info(c->dst->node, &info);
    if (ret < 0 || !info.cluster_size) {
        tool_error("could not get block driver info");
        return false;
    }
    c->unit = info.cluster_size;
    c->chunk = max_i64(c->chunk, c->unit);
    return true;
}

static bool co_make_target(struct convert *c)
{
    g_autoptr(GError) error = NULL;
    struct create_params params = {.size = backend_length(c->src),
                                   .backing_file = c->backing_file,
                                   .backing_format = c->backing_format,
                                   .extra = c->options};

    if (!check_compression(c)) {
        return false;
    }
    if (!c->existing &&
        !co_image_create(c->to.filename, c->format, &params, &error)) {
        tool_error("%s: error while converting %s: %s", c->to.filename,
                   c->format, error->message);
        return false;
    }
    c->to.format = c->format;
    c->dst = co_img_open(&c->to);
    if (!c->dst) {
        return false;
    }
    if (c->bitmaps && !img_takes_bitmaps(c->dst->node)) {
        return false;
    }
    if (backend_length(c->dst) < backend_length(c->src)) {
        tool_error("%s: Output file is smaller than input file",
                   c->to.filename);
        return false;
    }
    c->target_is_zero =
        !c->existing && !c->backing_file && new_reads_as_zeroes(c->dst->node);
    return co_prepare_compression(c);
}

static int co_convert(void *opaque)
{
    struct convert *c = opaque;
    int status = 1;

    c->src = co_img_open(&c->from);
    if (!c->src) {
        return 1;
    }
    if (c->bitmaps && !img_check_bitmaps(c->src->node, c->skip_broken)) {
        co_backend_unref(c->src);
        return 1;
    }
    if (co_make_target(c)) {
        status = co_copy_all(c);
        if (status == 0 && c->bitmaps &&
            !co_img_copy_bitmaps(c->src->node, c->dst->node)) {
            status = 1;
        }
        int ret = status == 0 ? co_backend_flush(c->dst) : 0;
        if (ret < 0) {
            convert_error(c, "flushing", 0, ret);
            status = 1;
        }
        if (status == 0) {
            progress_end(&c->progress);
        }
    }
    if (c->dst) {
        co_backend_unref(c->dst);
    }
    co_backend_unref(c->src);
    return status;
}

static bool take_tasks(const char *text, void *opaque, int *status)
{
    unsigned *tasks = opaque;
    char *end;
    long n = strtol(text, &end, 10);

    if (*end || n < 1 || n > MAX_TASKS) {
        tool_error("Invalid number of coroutines. Allowed number of coroutines "
                   "is between 1 and %d",
                   MAX_TASKS);
        return false;
    }
    *tasks = n;
    return true;
}

static bool take_sparse(const char *text, void *opaque, int *status)
{
    int64_t *sparse = opaque;

    if (!tool_parse_size("buffer size for sparse output", text, sparse)) {
        return false;
    }
    if (*sparse &&
        (!is_aligned(*sparse, BLOCK_SECTOR_SIZE) || *sparse > MAX_SPARSE)) {
        tool_error("Invalid buffer size for sparse output specified. Valid "
                   "sizes are multiples of %d up to %d. Select 0 to disable "
                   "sparse detection (fully allocates output).",
                   BLOCK_SECTOR_SIZE, MAX_SPARSE);
        return false;
    }
    return true;
}

static int convert_run(int argc, char **argv)
{
    struct convert c = {.format = "raw",
                        .from.steady = true,
                        .to = {.writable = true, .cache = "unsafe"},
                        .pool.limit = DEFAULT_TASKS,
                        .sparse = DEFAULT_SPARSE};
    bool progress = false, any_order;
    const struct tool_option rows[] = {
        {'c', NULL, .flag = &c.compressed},
        {'f', NULL, .text = &c.from.format},
        {'O', NULL, .text = &c.format},
        {'B', NULL, .text = &c.backing_file},
        {'F', NULL, .text = &c.backing_format},
        {'o', NULL, .text = &c.options},
        {'m', NULL, .take = take_tasks, .opaque = &c.pool.limit},
        {'S', NULL, .take = take_sparse, .opaque = &c.sparse},
        {'t', NULL, .text = &c.to.cache},
        {'T', NULL, .text = &c.from.cache},
        {'n', NULL, .flag = &c.existing},
        {'p', NULL, .flag = &progress},
        {'q', NULL, .flag = &c.quiet},
        {'U', "force-share", .flag = &c.from.force_share},
        {'W', NULL, .flag = &any_order}, /* in which tasks write already */
        {0, "bitmaps", .flag = &c.bitmaps},
        {0, "skip-broken-bitmaps", .flag = &c.skip_broken},
        {0, "image-opts", .flag = &c.from.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (img_is_help(c.options)) {
        return img_print_create_options(c.format, first < argc);
    }
    if (c.skip_broken && !c.bitmaps) {
        tool_error("Use of --skip-broken-bitmaps requires --bitmaps");
        return 1;
    }
    if (argc - first != 2) {
        tool_error("Must specify image file name");
        return 1;
    }
    c.from.filename = argv[first];
    c.to.filename = argv[first + 1];
    progress_start(&c.progress, progress && !c.quiet);
    return tool_run(co_convert, &c);
}

const struct subcommand cmd_convert = {
    .name = "convert",
    .usage = "[-c] [-f FMT] [-O FMT] [-o OPTIONS] [-B BACKING -F FMT] [-n] "
             "[-m N] [-S SIZE] [-t CACHE] [-T CACHE] [-p] [-q] [-U] [-W] "
             "[--bitmaps [--skip-broken-bitmaps]] FROM TO",
    .what = "Copies an image into a new one, perhaps of another format.",
    .help =
        "  -c          compress the data; the new image must be qcow2\n"
        "  -f FMT      format of the source; found out if not given\n"
        "  -O FMT      format of the new image: qcow2, raw (the default)\n"
        "  -o OPTIONS  creation options of the new image; '-o help' lists "
        "them\n"
        "  -B BACKING  backing file of the new image: copy what differs from "
        "it\n"
        "  -F FMT      format of the backing file\n"
        "  -n          the target exists: write into it\n"
        "  -m N        copy N ranges at once, 1 to 16 (default 8)\n"
        "  -S SIZE     leave runs of SIZE zero bytes out (default 4k, 0: "
        "none)\n"
        "  -t, -T MODE cache modes of target (unsafe) and source (writeback)\n"
        "  -p          show progress\n"
        "  -U          open a source that another process writes to\n"
        "  --bitmaps   copy the source's persistent bitmaps, too\n"
        "  --skip-broken-bitmaps  leave out those that cannot be used\n"
        "  --image-opts  FROM is a list of options, not a name\n"
        "\n"
        "examples:\n"
        "  varve-img convert -p -O qcow2 disk.raw disk.qcow2\n"
        "  varve-img convert -c -O qcow2 -o compression_type=zstd disk.raw "
        "small.qcow2\n"
        "  varve-img convert -f qcow2 -O raw disk.qcow2 disk.raw\n",
    .run = convert_run,
};
