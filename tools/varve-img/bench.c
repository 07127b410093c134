/*
 * varve-img bench: a run of equal requests, some at once, and how long it took.
 *
 * Each slot is a coroutine that takes the next request until none is left. A
 * flush is due every so many requests; unless told otherwise, no request is
 * sent from then on until those before are done and flushed.
 */
#include "tools/varve-img/img.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "aio/colock.h"
#include "block/request.h"
#include "util/range.h"

struct bench {
    struct image_open how;
    int64_t count, depth, pattern, flush_interval;
    int64_t size, step, start;
    bool native, no_drain, write, quiet;
    struct backend *b;
    /* while running */
    int64_t sent, in_flight;
    int64_t next;            /* offset */
    bool flushing;           /* a drained flush is due, or under way */
    struct co_queue drained; /* who waits for the last request before it */
    struct co_queue flushed;
    int error; /* the first one */
};

static int co_one_request(struct bench *o, void *buf)
{
    int64_t offset = o->next;
    struct iovec v;
    struct iov iov = iov_buf(&v, buf, o->size);

    o->next = (o->next + o->step) % max_i64(backend_length(o->b), 1);
    return o->write ? co_backend_pwritev(o->b, offset, &iov, 0)
                    : co_backend_preadv(o->b, offset, &iov, 0);
}

static int co_flush_now(struct bench *o)
{
    if (o->no_drain) {
        return co_backend_flush(o->b);
    }
    o->flushing = true;
    while (o->in_flight) {
        co_queue_wait(&o->drained);
    }
    int ret = co_backend_flush(o->b);
    o->flushing = false;
    co_queue_wake_all(&o->flushed);
    return ret;
}

/* After request number n. */
static int co_after_request(struct bench *o, int64_t n)
{
    if (--o->in_flight == 0) {
        co_queue_wake_all(&o->drained);
    }
    return o->flush_interval && n % o->flush_interval == 0 && !o->error
               ? co_flush_now(o)
               : 0;
}

static int co_slot(void *opaque)
{
    struct bench *o = opaque;
    int ret = -ENOMEM;

    uint8_t *buf = io_buffer_try_alloc(o->b->node, max_i64(o->size, 1));
    if (buf) {
        memset(buf, o->write ? (int)o->pattern : 0, o->size);
        ret = 0;
    }
    while (ret == 0 && !o->error) {
        while (o->flushing) {
            co_queue_wait(&o->flushed);
        }
        if (o->sent == o->count) {
            break;
        }
        int64_t n = ++o->sent;
        o->in_flight++;
        ret = co_one_request(o, buf);
        int flush = co_after_request(o, n);
        ret = ret < 0 ? ret : flush;
    }
    io_buffer_free(buf);
    if (ret < 0 && !o->error) {
        o->error = ret;
    }
    return ret;
}

static int co_bench(void *opaque)
{
    struct bench *o = opaque;

    o->b = co_img_open(&o->how);
    if (!o->b) {
        return 1;
    }
    printf("Sending %" PRId64 " %s requests, %" PRId64 " bytes each, %" PRId64
           " in parallel (starting at offset %" PRId64 ", step size %" PRId64
           ")\n",
           o->count, o->write ? "write" : "read", o->size, o->depth, o->start,
           o->step);
    if (o->flush_interval) {
        printf("Sending flush every %" PRId64 " requests\n", o->flush_interval);
    }
    fflush(stdout);
    o->next = o->start;
    struct co_pool pool = {.limit = min_i64(o->depth, max_i64(o->count, 1))};
    int64_t begin = g_get_monotonic_time();
    for (unsigned i = 0; i < pool.limit && !o->error; i++) {
        co_pool_start(&pool, co_slot, o);
    }
    co_pool_wait(&pool);
    double seconds = (double)(g_get_monotonic_time() - begin) / 1e6;
    co_backend_unref(o->b);
    if (o->error) {
        tool_error("Failed request: %s", g_strerror(-o->error));
        return 1;
    }
    printf("Run completed in %3.3f seconds.\n", seconds);
    return 0;
}

/* ---- options ------------------------------------------------------------- */

struct number {
    const char *what;
    int64_t low, high;
    int64_t *value;
};

static bool take_number(const char *argument, void *opaque, int *status)
{
    const struct number *n = opaque;
    char *end;

    errno = 0;
    gint64 value = g_ascii_strtoll(argument, &end, 0);
    if (!*argument || *end || errno || value < n->low || value > n->high) {
        tool_error("Invalid %s specified", n->what);
        return false;
    }
    *n->value = value;
    return true;
}

static bool take_buffer_size(const char *argument, void *opaque, int *status)
{
    int64_t *size = opaque;

    if (!tool_parse_size("buffer size", argument, size)) {
        return false;
    }
    if (*size > INT32_MAX) {
        tool_error("Invalid buffer size specified. Must be between 0 and %d.",
                   INT32_MAX);
        return false;
    }
    return true;
}

static bool take_aio(const char *argument, void *opaque, int *status)
{
    struct bench *o = opaque;

    if (strcmp(argument, "threads") && strcmp(argument, "native") &&
        strcmp(argument, "io_uring")) {
        tool_error("Invalid aio option: %s", argument);
        return false;
    }
    o->how.aio = argument;
    return true;
}

static bool take_cache(const char *argument, void *opaque, int *status)
{
    struct bench *o = opaque;

    if (!cache_mode_find(argument)) {
        tool_error("Invalid cache mode");
        return false;
    }
    o->how.cache = argument;
    return true;
}

static bool check_options(struct bench *o)
{
    if (o->flush_interval && !o->write) {
        tool_error("--flush-interval is only available in write tests");
        return false;
    }
    if (o->flush_interval && o->flush_interval < o->depth) {
        tool_error("Flush interval can't be smaller than depth");
        return false;
    }
    o->how.aio = o->native && !o->how.aio ? "native" : o->how.aio;
    o->how.writable = o->write;
    o->step = o->step ? o->step : o->size;
    return true;
}

static int bench_run(int argc, char **argv)
{
    struct bench o = {.count = 75000, .depth = 64, .size = 4096};
    struct number count = {"request count", 0, INT32_MAX, &o.count};
    struct number depth = {"queue depth", 1, INT32_MAX, &o.depth};
    struct number pattern = {"pattern byte", 0, 0xff, &o.pattern};
    struct number interval = {"flush interval", 0, INT32_MAX,
                              &o.flush_interval};
    const struct tool_option rows[] = {
        {'c', NULL, .take = take_number, .opaque = &count},
        {'d', NULL, .take = take_number, .opaque = &depth},
        {'f', NULL, .text = &o.how.format},
        {'i', NULL, .take = take_aio, .opaque = &o},
        {'n', NULL, .flag = &o.native},
        {'o', NULL, .size = &o.start, .what = "offset"},
        {'q', NULL, .flag = &o.quiet},
        {'s', NULL, .take = take_buffer_size, .opaque = &o.size},
        {'S', NULL, .size = &o.step, .what = "step_size"},
        {'t', NULL, .take = take_cache, .opaque = &o},
        {'U', "force-share", .flag = &o.how.force_share},
        {'w', NULL, .flag = &o.write},
        {0, "flush-interval", .take = take_number, .opaque = &interval},
        {0, "pattern", .take = take_number, .opaque = &pattern},
        {0, "no-drain", .flag = &o.no_drain},
        {0, "image-opts", .flag = &o.how.image_opts},
        {0},
    };
    int status;

    if (!img_options(argc, argv, rows, &o.how, &status)) {
        return status;
    }
    return check_options(&o) ? tool_run(co_bench, &o) : 1;
}

const struct subcommand cmd_bench = {
    .name = "bench",
    .usage = "[-c COUNT] [-d DEPTH] [-f FMT] [--flush-interval=N] [-i AIO] "
             "[-n] [--no-drain] [-o OFFSET] [--pattern=BYTE] [-s SIZE] "
             "[-S STEP] [-t CACHE] [-w] [-U] FILE",
    .what = "Times a run of reads or writes; writes destroy what is there.",
    .help = "  -c COUNT      so many requests (default 75000)\n"
            "  -d DEPTH      so many at once (default 64)\n"
            "  -s SIZE       bytes of each (default 4k)\n"
            "  -o OFFSET     where the first one is\n"
            "  -S STEP       from one to the next (default: SIZE)\n"
            "  -w            write; without it, read\n"
            "  --pattern=BYTE\n"
            "                what is written (default 0)\n"
            "  --flush-interval=N\n"
            "                flush every N writes, when all before are done\n"
            "  --no-drain    flush without waiting for them\n"
            "  -f FMT        format of the image; found out if not given\n"
            "  -t CACHE      cache mode: none, writeback (the default), unsafe "
            "...\n"
            "  -i AIO        threads, native or io_uring; -n is -i native\n"
            "  --image-opts  FILE is a list of options, not a name\n"
            "  -U, --force-share\n"
            "                open an image that another process writes to\n"
            "\n"
            "example:\n"
            "  varve-img bench -w -c 10000 -s 64k -t none scratch.qcow2\n",
    .run = bench_run,
};
