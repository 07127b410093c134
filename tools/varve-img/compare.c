/*
 * varve-img compare: whether two images show the same guest data.
 *
 * Ranges that read as zeroes in both are not read, and several ranges are read
 * at once. An image that is longer counts as equal if the rest is zero, but for
 * -s. Exit status: 0 equal, 1 different, 2 an image cannot be opened, 3 status
 * or 4 data cannot be read.
 */
#include "tools/varve-img/img.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "aio/colock.h"
#include "block/request.h"
#include "util/range.h"

enum {
    CHUNK = 256 * 1024, /* what the file driver copies without a hand-over */
    TASKS = 8,
};

struct compare {
    struct image_open how[2];
    struct backend *image[2];
    struct img_known known[2];
    bool strict, quiet;
    struct progress progress;
    struct co_pool pool;
    int64_t mismatch;        /* lowest offset found, or INT64_MAX */
    int64_t status_mismatch; /* with strict; or -1 */
    int64_t total, done;
    int status;
};

struct compare_task {
    struct compare *c;
    int64_t offset, bytes;
    bool read[2]; /* else that side is zero here */
};

static int co_read_side(struct compare *c, int side, int64_t offset, void *buf,
                        int64_t bytes)
{
    struct iovec v;
    struct iov iov = iov_buf(&v, buf, bytes);

    int ret = co_backend_preadv(c->image[side], offset, &iov, 0);
    if (ret < 0) {
        tool_error("Error while reading offset %" PRId64 " of %s: %s", offset,
                   c->how[side].filename, g_strerror(-ret));
        c->status = 4;
    }
    return ret;
}

static int64_t first_difference(const uint8_t *a, const uint8_t *b, int64_t n)
{
    for (int64_t at = 0; at < n; at += 4096) {
        int64_t part = min_i64(4096, n - at);
        if (memcmp(a + at, b + at, part)) {
            while (a[at] == b[at]) {
                at++;
            }
            return at;
        }
    }
    return -1;
}

static int co_compare_chunk(void *opaque)
{
    struct compare_task *t = opaque;
    struct compare *c = t->c;
    uint8_t *buf[2] = {NULL, NULL};
    int ret = 0;

    for (int side = 0; side < 2 && ret == 0; side++) {
        buf[side] = io_buffer_try_alloc(c->image[side]->node, t->bytes);
        if (!buf[side]) {
            tool_error("Not enough memory");
            c->status = 4;
            ret = -ENOMEM;
        } else if (t->read[side]) {
            ret = co_read_side(c, side, t->offset, buf[side], t->bytes);
        } else {
            memset(buf[side], 0, t->bytes);
        }
    }
    if (ret == 0) {
        int64_t at = first_difference(buf[0], buf[1], t->bytes);
        if (at >= 0) {
            /* As qemu-img: the sector in which the difference lies. */
            int64_t where = align_down(t->offset + at, BLOCK_SECTOR_SIZE);
            c->mismatch = min_i64(c->mismatch, where);
            ret = -EIO; /* stops the rest */
        }
        c->done += t->bytes;
        progress_update(&c->progress, c->done, c->total);
    }
    io_buffer_free(buf[0]);
    io_buffer_free(buf[1]);
    g_free(t);
    return ret;
}

/* What -s compares. Whether the run goes up to the end of the image counts:
 * that is how qemu-img has it. */
static unsigned strict_status(const struct backend *b,
                              const struct img_known *known)
{
    return (known->flags &
            (BLOCK_DATA | BLOCK_ZERO | BLOCK_ALLOCATED | BLOCK_COMPRESSED)) |
           (known->end == backend_length(b) ? BLOCK_EOF : 0);
}

/* Compares [offset, end) where both images exist; side < 0 for both, else only
 * that image, with zeroes. */
static void co_compare_range(struct compare *c, int64_t offset, int64_t end,
                             int only)
{
    while (offset < end && c->pool.result == 0) {
        bool zero[2] = {true, true};
        unsigned strict[2];
        int64_t bytes = end - offset;

        for (int side = 0; side < 2; side++) {
            unsigned flags;
            if (only >= 0 && side != only) {
                continue;
            }
            int ret = co_img_status(&c->known[side], c->image[side]->node, NULL,
                                    offset, &bytes, &flags);
            if (ret < 0) {
                tool_error("Could not read the block status of %s at %" PRId64
                           ": %s",
                           c->how[side].filename, offset, g_strerror(-ret));
                c->status = 3;
                return;
            }
            zero[side] = flags & BLOCK_ZERO;
            strict[side] = strict_status(c->image[side], &c->known[side]);
        }
        if (c->strict && strict[0] != strict[1]) {
            c->status_mismatch = offset;
            return;
        }
        if (zero[0] && zero[1]) {
            offset += bytes;
            c->done += bytes;
            progress_update(&c->progress, c->done, c->total);
            continue;
        }
        struct compare_task *t = g_new(struct compare_task, 1);
        *t = (struct compare_task){.c = c,
                                   .offset = offset,
                                   .bytes = min_i64(bytes, CHUNK),
                                   .read = {!zero[0], !zero[1]}};
        offset += t->bytes;
        co_pool_start(&c->pool, co_compare_chunk, t);
    }
}

static void co_compare_images(struct compare *c)
{
    int64_t size[2] = {backend_length(c->image[0]),
                       backend_length(c->image[1])};
    int64_t common = min_i64(size[0], size[1]);

    c->total = max_i64(size[0], size[1]);
    if (size[0] != size[1] && c->strict) {
        printf("%s", c->quiet ? "" : "Strict mode: Image size mismatch!\n");
        c->status = 1;
        return;
    }
    co_compare_range(c, 0, common, -1);
    if (size[0] != size[1] && !c->status && co_pool_wait(&c->pool) == 0) {
        printf("%s", c->quiet ? "" : "Warning: Image size mismatch!\n");
        co_compare_range(c, common, c->total, size[0] < size[1]);
    }
    co_pool_wait(&c->pool);
    if (c->status) {
        return;
    }
    c->status = c->mismatch != INT64_MAX || c->status_mismatch >= 0;
    if (!c->quiet && c->status && c->mismatch == INT64_MAX) {
        printf("Strict mode: Offset %" PRId64 " block status mismatch!\n",
               c->status_mismatch);
    } else if (!c->quiet && c->status) {
        printf("Content mismatch at offset %" PRId64 "!\n", c->mismatch);
    } else if (!c->quiet) {
        printf("Images are identical.\n");
    }
}

static int co_compare(void *opaque)
{
    struct compare *c = opaque;

    for (int i = 0; i < 2; i++) {
        c->image[i] = co_img_open(&c->how[i]);
        if (!c->image[i]) {
            c->status = 2;
            break;
        }
        node_expect_bulk(c->image[i]->node);
    }
    if (c->image[1]) {
        co_compare_images(c);
    }
    progress_end(&c->progress, c->status == 0);
    for (int i = 0; i < 2; i++) {
        if (c->image[i]) {
            co_backend_unref(c->image[i]);
        }
    }
    return c->status;
}

/* Here 1 means that the images differ. */
static bool take_object(const char *argument, void *opaque, int *status)
{
    bool go_on = tool_take_object(argument, NULL, status);

    *status = *status ? 2 : 0;
    return go_on;
}

static int compare_run(int argc, char **argv)
{
    struct compare c = {
        .pool.limit = TASKS, .mismatch = INT64_MAX, .status_mismatch = -1};
    const char *cache = NULL;
    bool progress = false, force_share = false, image_opts = false;
    const struct tool_option rows[] = {
        {'f', NULL, .text = &c.how[0].format},
        {'F', NULL, .text = &c.how[1].format},
        {'T', NULL, .text = &cache},
        {'p', NULL, .flag = &progress},
        {'q', NULL, .flag = &c.quiet},
        {'s', NULL, .flag = &c.strict},
        {'U', "force-share", .flag = &force_share},
        {0, "image-opts", .flag = &image_opts},
        {0, "object", .take = take_object},
        {0},
    };
    int status, first = tool_options(argc, argv, rows, &status);

    if (!first) {
        return status;
    }
    if (argc - first != 2) {
        return tool_usage_error("Expecting two image file names");
    }
    for (int i = 0; i < 2; i++) {
        c.how[i].filename = argv[first + i];
        c.how[i].cache = cache;
        c.how[i].force_share = force_share;
        c.how[i].image_opts = image_opts;
    }
    progress_start(&c.progress, progress && !c.quiet);
    return tool_run(co_compare, &c);
}

const struct subcommand cmd_compare = {
    .name = "compare",
    .usage = "[-f FMT] [-F FMT] [-T CACHE] [-p] [-q] [-s] [-U] FILE1 FILE2",
    .what = "Tells whether two images hold the same guest data.",
    .help =
        "  -f, -F FMT  formats of the first and the second image\n"
        "  -T CACHE    cache mode: none, writeback (the default), unsafe ...\n"
        "  -s          strict: sizes, and what is allocated or zero, have to "
        "be "
        "the same\n"
        "  -p          show progress\n"
        "  -q          print nothing\n"
        "  --image-opts  FILE1 and FILE2 are lists of options\n"
        "  -U          open images that another process writes to\n"
        "\n"
        "exit status: 0 equal, 1 different, 2 to 4 errors.\n"
        "\n"
        "example:\n"
        "  varve-img compare -f qcow2 -F raw disk.qcow2 restored.raw\n",
    .run = compare_run,
};
