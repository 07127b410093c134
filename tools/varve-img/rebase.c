/*
 * varve-img rebase: another backing file for an image.
 *
 * The safe way keeps what the image shows: where it has no data of its own, the
 * old and the new backing file are compared, and what differs is written into
 * the image before the name changes. Several ranges are compared at once. Only
 * the name changes with -u.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "aio/colock.h"
#include "block/request.h"
#include "util/error.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    TASKS = 8,
    STEP = 4096, /* what differs is written in multiples of this, or less */
};

struct rebase {
    struct image_open how;
    const char *new_base, *new_format, *source_cache;
    bool unsafe, quiet, share_bases;
    struct progress progress;
    struct backend *image, *base; /* base NULL: none, or "" */
    struct node *old;             /* NULL: none */
    struct node *common;          /* in old's chain: the new one; or NULL */
    struct img_known own, above, side[2]; /* of image, old, old and base */
    struct co_pool pool;
    int64_t unit; /* the image takes space in pieces of this */
    int64_t done;
    bool failed;
};

struct rebase_task {
    struct rebase *o;
    int64_t offset, bytes;
    bool zero[2]; /* the old and the new one read as zeroes here */
};

static int rebase_error(struct rebase *o, const char *what, int ret)
{
    if (!o->failed) {
        tool_error("error while %s: %s", what, g_strerror(-ret));
    }
    o->failed = true;
    return ret;
}

/* ---- one range ----------------------------------------------------------- */

/* Length of the run at offset `at` that differs, or does not. */
static int64_t next_run(const struct rebase_task *t, const uint8_t *a,
                        const uint8_t *b, int64_t at, bool *differs)
{
    int64_t step = min_i64(STEP, t->o->unit), run = 0;

    while (at + run < t->bytes) {
        int64_t n = min_i64(step, t->bytes - at - run);
        bool other = memcmp(a + at + run, b + at + run, n);
        if (run == 0) {
            *differs = other;
        } else if (other != *differs) {
            break;
        }
        run += n;
    }
    return run;
}

/* Length of the run at buf that is all zero or all not, in pieces that end
 * where those of the image do. */
static int64_t next_zero_run(const struct rebase *o, int64_t offset,
                             const uint8_t *buf, int64_t bytes, bool *zero)
{
    int64_t head = align_up(offset + 1, o->unit) - offset;
    bool more = false;

    if (head >= bytes) {
        return img_zero_run(buf, bytes, bytes, zero);
    }
    img_zero_run(buf, head, head, zero);
    int64_t n = img_zero_run(buf + head, bytes - head, o->unit, &more);
    return more == *zero ? head + n : head;
}

static int co_write_run(struct rebase *o, int64_t offset, const uint8_t *buf,
                        int64_t bytes)
{
    int ret = 0;

    for (int64_t at = 0, n; at < bytes && ret == 0; at += n) {
        bool zero = false;
        n = next_zero_run(o, offset + at, buf + at, bytes - at, &zero);
        if (zero) {
            ret = co_backend_pwrite_zeroes(o->image, offset + at, n, 0);
        } else {
            struct iovec v;
            struct iov iov = iov_buf(&v, (void *)(buf + at), n);
            ret = co_backend_pwritev(o->image, offset + at, &iov, 0);
        }
    }
    return ret < 0 ? rebase_error(o, "writing to the image", ret) : 0;
}

static int co_write_differences(struct rebase_task *t, const uint8_t *old,
                                const uint8_t *new)
{
    int ret = 0;

    for (int64_t at = 0, n; at < t->bytes && ret == 0; at += n) {
        bool differs = false;
        n = next_run(t, old, new, at, &differs);
        if (differs) {
            ret = co_write_run(t->o, t->offset + at, old + at, n);
        }
    }
    return ret;
}

static int co_read_side(struct rebase_task *t, int side, void *buf)
{
    struct node *node = side ? t->o->base->node : t->o->old;
    int64_t n = min_i64(t->bytes, node->length - t->offset);

    memset((uint8_t *)buf + n, 0, t->bytes - n);
    int ret = co_node_pread(node, t->offset, buf, n, 0);
    return ret < 0 ? rebase_error(t->o,
                                  side ? "reading from new backing file"
                                       : "reading from old backing file",
                                  ret)
                   : 0;
}

static int co_rebase_range(void *opaque)
{
    struct rebase_task *t = opaque;
    struct rebase *o = t->o;
    uint8_t *buf[2] = {NULL, NULL};
    int ret = 0;

    for (int side = 0; side < 2 && ret == 0; side++) {
        buf[side] = io_buffer_try_alloc(o->image->node, t->bytes);
        if (!buf[side]) {
            ret = rebase_error(o, "reading", -ENOMEM);
        } else if (t->zero[side]) {
            memset(buf[side], 0, t->bytes);
        } else {
            ret = co_read_side(t, side, buf[side]);
        }
    }
    if (ret == 0) {
        ret = co_write_differences(t, buf[0], buf[1]);
    }
    o->done += t->bytes;
    progress_update(&o->progress, o->done, o->image->node->length);
    io_buffer_free(buf[0]);
    io_buffer_free(buf[1]);
    g_free(t);
    return ret;
}

/* ---- the walk ------------------------------------------------------------ */

/* Cuts *bytes to where one backing file says the same. */
static int co_side_is_zero(struct img_known *known, struct node *node,
                           int64_t offset, int64_t *bytes, bool *zero)
{
    unsigned flags = BLOCK_ZERO;
    int ret = 0;

    if (node && offset < node->length) {
        ret = co_img_status(known, node, NULL, offset, bytes, &flags);
    }
    *zero = flags & BLOCK_ZERO;
    return ret;
}

/* What the image has itself, or shares with the new one, stays as it is. */
static int co_skip(struct rebase *o, int64_t offset, int64_t *bytes, bool *skip)
{
    unsigned flags;
    int ret =
        co_img_status(&o->own, o->image->node, o->old, offset, bytes, &flags);

    *skip = ret == 0 && (flags & BLOCK_ALLOCATED);
    if (ret == 0 && !*skip && o->common && offset < o->old->length) {
        ret =
            co_img_status(&o->above, o->old, o->common, offset, bytes, &flags);
        *skip = ret == 0 && !(flags & BLOCK_ALLOCATED);
    }
    return ret;
}

static int co_plan_range(struct rebase *o, int64_t offset, int64_t *bytes)
{
    struct rebase_task t = {.o = o, .offset = offset};
    bool skip = false;
    int ret = co_skip(o, offset, bytes, &skip);

    for (int side = 0; side < 2 && ret == 0 && !skip; side++) {
        struct node *node = o->old;
        if (side) {
            node = o->base ? o->base->node : NULL;
        }
        ret =
            co_side_is_zero(&o->side[side], node, offset, bytes, &t.zero[side]);
    }
    if (ret < 0) {
        return rebase_error(o, "reading image metadata", ret);
    }
    if (skip || (t.zero[0] && t.zero[1])) {
        o->done += *bytes;
        progress_update(&o->progress, o->done, o->image->node->length);
        return 0;
    }
    *bytes = min_i64(*bytes, align_down(offset, CHUNK) + CHUNK - offset);
    t.bytes = *bytes;
    co_pool_start(&o->pool, co_rebase_range, g_memdup2(&t, sizeof(t)));
    return 0;
}

static int co_keep_content(struct rebase *o)
{
    int64_t length = o->image->node->length;

    node_expect_bulk(o->image->node);
    o->unit =
        max_i64(o->image->node->limits.pwrite_zeroes_align, BLOCK_SECTOR_SIZE);
    o->pool.limit = TASKS;
    for (int64_t at = 0, n; at < length && !o->failed; at += n) {
        n = length - at;
        if (co_plan_range(o, at, &n) < 0) {
            break;
        }
    }
    co_pool_wait(&o->pool);
    return o->failed ? -EIO : 0;
}

/* ---- all of it ----------------------------------------------------------- */

static bool co_open_new_base(struct rebase *o)
{
    g_autoptr(GError) error = NULL;

    if (!o->new_base || !*o->new_base) {
        return true;
    }
    g_autofree char *path = img_backing_path(o->how.filename, o->new_base);
    struct image_open how = {.filename = path,
                             .format = o->new_format,
                             .cache = o->source_cache,
                             .force_share = o->share_bases};
    struct node *node = co_image_open(&how, NULL, &error);
    if (node) {
        o->base =
            co_backend_new(NULL, node, PERM_CONSISTENT_READ, PERM_ALL, &error);
        co_node_unref(node);
    }
    if (!o->base) {
        tool_error("Could not open new backing file '%s': %s", path,
                   error->message);
    }
    return o->base;
}

static int co_rebase_image(struct rebase *o)
{
    g_autoptr(GError) error = NULL;
    struct node *node = o->image->node;

    o->old = node_backing_chain_next(node);
    if (o->new_format && !block_driver_find(o->new_format)) {
        tool_error("Invalid format name: '%s'", o->new_format);
        return 1;
    }
    if (!o->unsafe && !co_open_new_base(o)) {
        return 1;
    }
    if (!o->unsafe && o->base) {
        struct node *in_chain =
            img_find_in_chain(node, o->base->node->filename);
        o->common = in_chain && in_chain->driver == o->base->node->driver
                        ? in_chain
                        : NULL;
    }
    bool same = o->common ? o->common == o->old : !o->old && !o->base;
    if (!o->unsafe && !same && co_keep_content(o) < 0) {
        return 1;
    }
    bool named = o->new_base && *o->new_base;
    bool ok =
        named && !o->new_format && node->driver->co_change_backing
            ? error_set(&error, "backing format must be specified")
            : co_node_change_backing(node, o->new_base, o->new_format, &error);
    if (!ok) {
        tool_error("Could not change the backing file to '%s': %s",
                   o->new_base ? o->new_base : "", error->message);
        return 1;
    }
    int ret = co_backend_flush(o->image);
    if (ret < 0) {
        rebase_error(o, "flushing the image", ret);
    }
    return ret < 0;
}

static int co_rebase(void *opaque)
{
    struct rebase *o = opaque;

    int status = 1;

    o->image = co_img_open(&o->how);
    if (o->image) {
        status = co_rebase_image(o);
        co_backend_unref(o->image);
    }
    if (o->base) {
        co_backend_unref(o->base);
    }
    progress_end(&o->progress, status == 0);
    return status;
}

static int rebase_run(int argc, char **argv)
{
    struct rebase o = {.how = {.writable = true, .cache = "writeback"},
                       .source_cache = "writeback"};
    bool progress = false;
    const struct tool_option rows[] = {
        {'b', NULL, .text = &o.new_base},
        {'f', NULL, .text = &o.how.format},
        {'F', NULL, .text = &o.new_format},
        {'p', NULL, .flag = &progress},
        {'q', NULL, .flag = &o.quiet},
        {'t', NULL, .text = &o.how.cache},
        {'T', NULL, .text = &o.source_cache},
        {'u', NULL, .flag = &o.unsafe},
        {'U', "force-share", .flag = &o.share_bases},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0, "object", .take = tool_take_object},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    if (!o.unsafe && !o.new_base) {
        return tool_usage_error(
            "Must specify backing file (-b) or use unsafe mode (-u)");
    }
    struct image_open source = {.cache = o.source_cache};
    if (!img_check_cache(&o.how) || !img_check_cache(&source)) {
        return 1;
    }
    o.how.no_backing = o.unsafe;
    progress_start(&o.progress, progress && !o.quiet);
    return tool_run(co_rebase, &o);
}

const struct subcommand cmd_rebase = {
    .name = "rebase",
    .usage = "[-f FMT] [-t CACHE] [-T CACHE] [-p] [-q] [-u] [-U] "
             "-b BACKING [-F FMT] FILE",
    .what = "Gives an image another backing file.",
    .help =
        "  -b BACKING    the new backing file; \"\" for none\n"
        "  -F FMT        its format\n"
        "  -f FMT        format of the image; found out if not given\n"
        "  -u            only change the name: the old and the new one have to "
        "hold the\n"
        "                same data\n"
        "  -t, -T CACHE  cache modes of the image and of the backing files\n"
        "  --image-opts  FILE is a list of options, not a name\n"
        "  -p            show progress\n"
        "  -q            print nothing\n"
        "  -U            open images that another process writes to\n"
        "\n"
        "examples:\n"
        "  varve-img rebase -b base.qcow2 -F qcow2 overlay.qcow2\n"
        "  varve-img rebase -u -b moved/base.qcow2 -F qcow2 overlay.qcow2\n"
        "  varve-img rebase -b \"\" overlay.qcow2\n",
    .run = rebase_run,
};
