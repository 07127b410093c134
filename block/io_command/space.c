/*
 * Lengths, allocation, discards and flushes.
 */
#include "block/io_command/io_command_int.h"

#include <inttypes.h>
#include <stdlib.h>

#include "aio/timer.h"
#include "block/backend.h"
#include "block/request.h"
#include "block/types.h"
#include "util/error.h"
#include "util/range.h"

static bool co_flush(struct io_session *s, const struct io_args *args)
{
    return io_waited(s, "flush", co_backend_flush(s->backend));
}

const struct io_command io_command_flush = {
    .name = "flush",
    .alias = "f",
    .max = 0,
    .usage = "",
    .what = "makes all that was written stable",
    .co_run = co_flush,
};

static bool co_discard(struct io_session *s, const struct io_args *args)
{
    int64_t offset, bytes;

    if (args->n != 2) {
        return io_usage(s, args);
    }
    if (!io_parse_number(s, args->word[0], &offset) ||
        !io_parse_length(s, args->word[1], "", &bytes)) {
        return false;
    }
    int64_t since = io_now_ns();
    int ret = co_backend_pdiscard(s->backend, offset, bytes);
    if (!io_waited(s, "discard", ret)) {
        return false;
    }
    io_report(s, args, "discard", since, offset, bytes);
    return true;
}

const struct io_command io_command_discard = {
    .name = "discard",
    .alias = "d",
    .options = "Cq",
    .min = 2,
    .max = -1,
    .usage = "[-Cq] off len",
    .what = "discards a number of bytes at a specified offset",
    .help = " -q, print no statistics\n"
            " -C, print them for programs\n"
            "\n"
            " 'discard 512 1k' gives up the two sectors behind the first",
    .perm = PERM_WRITE,
    .co_run = co_discard,
};

static bool co_length(struct io_session *s, const struct io_args *args)
{
    g_autofree char *size = io_size_text(backend_length(s->backend));
    fprintf(s->out, "%s\n", size);
    return true;
}

const struct io_command io_command_length = {
    .name = "length",
    .alias = "l",
    .max = 0,
    .usage = "",
    .what = "prints the length of the file",
    .co_run = co_length,
};

static bool check_truncate(struct io_session *s, unsigned char letter,
                           const char *text)
{
    g_autoptr(GError) error = NULL;
    enum prealloc_mode mode;

    return prealloc_mode_parse(text, &mode) ||
           error_set(&error, "Invalid preallocation mode '%s'", text) ||
           io_fail(s, &error);
}

static bool co_truncate(struct io_session *s, const struct io_args *args)
{
    g_autoptr(GError) error = NULL;
    enum prealloc_mode mode = PREALLOC_MODE_OFF;
    int64_t size;

    if (args->n != 1) {
        return io_usage(s, args);
    }
    if (args->given['m']) {
        prealloc_mode_parse(args->option['m'], &mode);
    }
    if (!io_parse_number(s, args->word[0], &size)) {
        return false;
    }
    return co_node_truncate(s->backend->node, size, false, mode, 0, &error) ||
           io_fail(s, &error);
}

const struct io_command io_command_truncate = {
    .name = "truncate",
    .alias = "t",
    .options = "m:",
    .min = 1,
    .max = 3,
    .usage = "[-m prealloc_mode] off",
    .what = "sets the length of the file",
    .help = " -m, preallocation of what is new: off, metadata, falloc, full",
    .perm = PERM_WRITE | PERM_RESIZE,
    .check = check_truncate,
    .co_run = co_truncate,
};

/* ---- what is allocated in this layer ---- */

/* Bytes from offset on, `bytes` at most, of one kind; 0 at the end. */
static int co_run_at(struct io_session *s, int64_t offset, int64_t bytes,
                     int64_t *run, bool *allocated)
{
    struct block_status status;
    int64_t left = backend_length(s->backend) - offset;

    *run = 0;
    *allocated = false;
    if (left <= 0) {
        return 0;
    }
    int ret = co_node_block_status(s->backend->node, false, offset,
                                   min_i64(bytes, left), &status);
    if (ret < 0) {
        return ret;
    }
    *run = status.bytes;
    *allocated = status.flags & BLOCK_ALLOCATED;
    return 0;
}

static bool co_alloc(struct io_session *s, const struct io_args *args)
{
    int64_t offset, bytes = BLOCK_SECTOR_SIZE, seen = 0, sum = 0, run;
    bool allocated;

    if (!io_parse_number(s, args->word[0], &offset) ||
        (args->n == 2 && !io_parse_number(s, args->word[1], &bytes))) {
        return false;
    }
    for (; seen < bytes; seen += run) {
        int ret = co_run_at(s, offset + seen, bytes - seen, &run, &allocated);
        if (ret < 0) {
            return io_failed(s, "is_allocated", ret);
        }
        if (run == 0) {
            break;
        }
        sum += allocated ? run : 0;
    }
    g_autofree char *where = io_size_text(offset);
    fprintf(s->out, "%" PRId64 "/%" PRId64 " bytes allocated at offset %s\n",
            sum, seen, where);
    return true;
}

const struct io_command io_command_alloc = {
    .name = "alloc",
    .alias = "a",
    .min = 1,
    .max = 2,
    .usage = "offset [count]",
    .what = "counts the bytes that are allocated in the file",
    .co_run = co_alloc,
};

static bool co_map(struct io_session *s, const struct io_args *args)
{
    int64_t length = backend_length(s->backend), run;

    for (int64_t offset = 0; offset < length; offset += run) {
        bool allocated, more_allocated;
        int64_t more;
        int ret = co_run_at(s, offset, length - offset, &run, &allocated);
        while (ret == 0 && offset + run < length) {
            ret = co_run_at(s, offset + run, length - offset - run, &more,
                            &more_allocated);
            if (ret < 0 || more_allocated != allocated) {
                break;
            }
            run += more;
        }
        if (ret < 0) {
            io_complain(s, "Failed to get allocation status: %s",
                        g_strerror(-ret));
            return false;
        }
        g_autofree char *size = io_size_text(run);
        g_autofree char *where = io_size_text(offset);
        fprintf(s->out,
                "%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64
                ")\n",
                size, run, allocated ? "   " : "not", where, offset);
    }
    return true;
}

const struct io_command io_command_map = {
    .name = "map",
    .max = 0,
    .usage = "",
    .what = "prints the allocated areas of the file",
    .co_run = co_map,
};

/* ---- time ---- */

static bool co_sleep(struct io_session *s, const struct io_args *args)
{
    char *end;
    int64_t ms = g_ascii_strtoll(args->word[0], &end, 0);

    if (end == args->word[0] || *end || ms < 0 || ms > INT64_MAX / 1000000) {
        fprintf(s->out, "%s is not a valid number\n", args->word[0]);
        return false;
    }
    co_sleep_ns(ms * 1000000);
    return true;
}

const struct io_command io_command_sleep = {
    .name = "sleep",
    .min = 1,
    .max = 1,
    .usage = "ms",
    .what = "waits for so many milliseconds",
    .no_file = true,
    .co_run = co_sleep,
};
