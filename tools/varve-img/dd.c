/*
 * varve-img dd: a part of an image into a new one, in blocks, with operands as
 * of dd(1).
 *
 * The result does not depend on the block size otherwise, so that larger pieces
 * are copied, several at once, and zeroes left out. As with qemu-img the blocks
 * of skip= are part of those of count=.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "aio/colock.h"
#include "block/create.h"
#include "block/request.h"
#include "util/error.h"
#include "util/keyval.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    TASKS = 8,
    DEFAULT_BLOCK = 512,
};

struct dd {
    struct image_open from, to;
    int64_t block, count, skip; /* count -1: all */
    struct backend *src, *dst;
    int64_t first, bytes; /* of the source */
    struct co_pool pool;
    bool failed;
};

struct dd_piece {
    struct dd *o;
    int64_t offset, bytes; /* in the target */
};

static int dd_error(struct dd *o, const char *what, int ret)
{
    if (!o->failed) {
        tool_error("error while %s image file: %s", what, g_strerror(-ret));
    }
    o->failed = true;
    return ret;
}

static int co_copy_piece(void *opaque)
{
    struct dd_piece *p = opaque;
    struct dd *o = p->o;
    struct iovec v;
    int ret = -ENOMEM;

    void *buf = io_buffer_try_alloc(o->src->node, p->bytes);
    if (buf) {
        ret =
            co_node_pread(o->src->node, o->first + p->offset, buf, p->bytes, 0);
    }
    if (ret < 0) {
        dd_error(o, "reading from input", ret);
    } else {
        struct iov iov = iov_buf(&v, buf, p->bytes);
        ret = co_backend_pwritev(o->dst, p->offset, &iov, 0);
        if (ret < 0) {
            dd_error(o, "writing to output", ret);
        }
    }
    io_buffer_free(buf);
    g_free(p);
    return ret;
}

static int co_copy_all(struct dd *o)
{
    int64_t end = min_i64(o->bytes, backend_length(o->src) - o->first);

    struct img_known known = {0};

    o->pool.limit = TASKS;
    for (int64_t at = 0; at < end && !o->failed;) {
        int64_t n = end - at;
        unsigned flags;
        int ret = co_img_status(&known, o->src->node, NULL, o->first + at, &n,
                                &flags);
        if (ret < 0) {
            dd_error(o, "reading from input", ret);
            break;
        }
        if (!(flags & BLOCK_ZERO)) {
            struct dd_piece *p = g_new(struct dd_piece, 1);
            n = min_i64(n, align_down(at, CHUNK) + CHUNK - at);
            *p = (struct dd_piece){o, at, n};
            co_pool_start(&o->pool, co_copy_piece, p);
        }
        at += n;
    }
    co_pool_wait(&o->pool);
    int ret = o->failed ? 0 : co_backend_flush(o->dst);
    return ret < 0 ? dd_error(o, "writing to output", ret) : 0;
}

/* Which part of the source it is. */
static void choose_range(struct dd *o)
{
    int64_t size = align_up(backend_length(o->src), BLOCK_SECTOR_SIZE), end;

    if (o->count >= 0 && range_mul(o->count, o->block, &end)) {
        size = min_i64(size, end);
    }
    if (!range_mul(o->skip, o->block, &o->first) || o->first > size) {
        tool_error("%s: cannot skip to specified offset", o->from.filename);
        o->first = size;
    }
    o->bytes = size - o->first;
}

static int co_make_and_copy(struct dd *o)
{
    g_autoptr(GError) error = NULL;
    const struct block_driver *driver = block_driver_find(o->to.format);

    if (!driver) {
        tool_error("Unknown file format");
        return 1;
    }
    if (!driver->co_create_file) {
        tool_error("Format driver '%s' does not support image creation",
                   o->to.format);
        return 1;
    }
    choose_range(o);
    struct create_params params = {.size = o->bytes};
    if (!co_image_create(o->to.filename, o->to.format, &params, &error)) {
        tool_error("%s: error while creating output image: %s", o->to.filename,
                   error->message);
        return 1;
    }
    o->dst = co_img_open(&o->to);
    if (!o->dst) {
        return 1;
    }
    co_copy_all(o);
    co_backend_unref(o->dst);
    return o->failed;
}

static int co_dd(void *opaque)
{
    struct dd *o = opaque;

    o->src = co_img_open(&o->from);
    if (!o->src) {
        return 1;
    }
    int status = co_make_and_copy(o);
    co_backend_unref(o->src);
    return status;
}

/* ---- operands ------------------------------------------------------------ */

static bool parse_number(const char *name, const char *text, int64_t low,
                         int64_t high, int64_t *value)
{
    uint64_t number;
    int ret = keyval_size(text, &number);

    if (ret == -ERANGE ||
        (ret == 0 && (number < (uint64_t)low || number > (uint64_t)high))) {
        tool_error("Invalid %s specified. Must be between %" PRId64
                   " and %" PRId64 ".",
                   name, low, high);
        return false;
    }
    if (ret < 0) {
        return tool_parse_size(name, text, value);
    }
    *value = number;
    return true;
}

static bool parse_operand(struct dd *o, char *operand)
{
    const struct {
        const char *name;
        int64_t *number, low, high;
        const char **text;
    } operands[] = {
        {"bs", &o->block, 1, INT32_MAX, NULL},
        {"count", &o->count, 0, INT64_MAX, NULL},
        {"skip", &o->skip, 0, INT64_MAX, NULL},
        {"if", NULL, 0, 0, &o->from.filename},
        {"of", NULL, 0, 0, &o->to.filename},
    };
    char *value = strchr(operand, '=');

    if (value) {
        *value++ = 0;
    }
    for (size_t i = 0; value && i < G_N_ELEMENTS(operands); i++) {
        if (strcmp(operand, operands[i].name)) {
            continue;
        }
        if (operands[i].text) {
            *operands[i].text = value;
            return true;
        }
        return parse_number(operand, value, operands[i].low, operands[i].high,
                            operands[i].number);
    }
    tool_error("unrecognized operand %s", operand);
    return false;
}

static int dd_run(int argc, char **argv)
{
    struct dd o = {.to = {.format = "raw", .writable = true},
                   .block = DEFAULT_BLOCK,
                   .count = -1};
    const struct tool_option rows[] = {
        {'f', NULL, .text = &o.from.format},
        {'O', NULL, .text = &o.to.format},
        {'U', "force-share", .flag = &o.from.force_share},
        {0, "image-opts", .flag = &o.from.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    for (int i = first; i < argc; i++) {
        if (!parse_operand(&o, argv[i])) {
            return 1;
        }
    }
    if (!o.from.filename || !o.to.filename) {
        tool_error("Must specify both input and output files");
        return 1;
    }
    return tool_run(co_dd, &o);
}

const struct subcommand cmd_dd = {
    .name = "dd",
    .usage = "[-f FMT] [-O FMT] [-U] [bs=SIZE] [count=N] [skip=N] if=FILE "
             "of=FILE",
    .what = "Copies a part of an image into a new one.",
    .help =
        "  if=FILE       what to copy from\n"
        "  of=FILE       the new image\n"
        "  bs=SIZE       size of a block in bytes (default 512)\n"
        "  count=N       copy up to the end of block N of the input\n"
        "  skip=N        leave the first N blocks out\n"
        "  -f FMT        format of the input; found out if not given\n"
        "  -O FMT        format of the new image: qcow2, raw (the default)\n"
        "  --image-opts  the input is a list of options, not a name\n"
        "  -U, --force-share\n"
        "                open an input that another process writes to\n"
        "\n"
        "example:\n"
        "  varve-img dd -f qcow2 -O raw bs=1M count=1 if=disk.qcow2 "
        "of=head.raw\n",
    .run = dd_run,
};
