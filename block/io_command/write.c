/*
 * write and writev.
 */
#include "block/io_command/io_command_int.h"

#include <errno.h>
#include <string.h>

#include "block/backend.h"
#include "block/types.h"
#include "util/range.h"

/* What is written without -P. */
#define WRITE_FILL 0xcd

struct write {
    int64_t offset, bytes;
    int pattern;
    unsigned flags;
};

/* ---- checks that write and aio_write share ---- */

static bool requires_z(struct io_session *s, const struct io_args *args,
                       char letter)
{
    if (args->given[(unsigned char)letter] && !args->given['z']) {
        fprintf(s->out, "-%c requires -z to be specified\n", letter);
        return false;
    }
    return true;
}

static bool parse_source(struct io_session *s, const struct io_args *args,
                         struct write *w)
{
    w->pattern = args->given['z'] ? 0 : WRITE_FILL;
    w->flags = (args->given['f'] ? REQ_FUA : 0) |
               (args->given['u'] ? REQ_MAY_UNMAP : 0) |
               (args->given['n'] ? REQ_NO_FALLBACK : 0) |
               (args->given['c'] ? REQ_COMPRESSED : 0);
    if (args->given['P'] &&
        !io_parse_pattern(s, args->option['P'], &w->pattern)) {
        return false;
    }
    return true;
}

/* ---- write ---- */

static bool parse_write(struct io_session *s, const struct io_args *args,
                        struct write *w)
{
    if (args->n != 2) {
        return io_usage(s, args);
    }
    if (args->given['b'] && args->given['z']) {
        fprintf(s->out, "-b and -z cannot be specified at the same time\n");
        return false;
    }
    if (args->given['f'] && (args->given['b'] || args->given['c'])) {
        fprintf(s->out, "-f and -b or -c cannot be specified at the same "
                        "time\n");
        return false;
    }
    if (!requires_z(s, args, 'n') || !requires_z(s, args, 'u')) {
        return false;
    }
    if (!!args->given['z'] + !!args->given['P'] + !!args->given['s'] > 1) {
        fprintf(s->out, "Only one of -z, -P, and -s can be specified at the "
                        "same time\n");
        return false;
    }
    if (!parse_source(s, args, w) ||
        !io_parse_number(s, args->word[0], &w->offset)) {
        return false;
    }
    bool any_length = args->given['n'];
    if (any_length
            ? !io_parse_number(s, args->word[1], &w->bytes)
            : !io_parse_length(s, args->word[1], " without -n", &w->bytes)) {
        return false;
    }
    if (args->given['b'] || args->given['c']) {
        return io_check_sector(s, "offset", w->offset) &&
               io_check_sector(s, "count", w->bytes);
    }
    return true;
}

/* The file's bytes over and over. */
static bool fill_from_file(struct io_session *s, const char *name,
                           struct io_memory *m)
{
    FILE *f = fopen(name, "rb");
    if (!f) {
        fprintf(s->err, "%s: %s\n", name, g_strerror(errno));
        return false;
    }
    size_t got = fread(m->data, 1, m->bytes, f);
    bool empty = got == 0 && m->bytes > 0;
    bool failed = ferror(f);
    fclose(f);
    if (failed || empty) {
        fprintf(s->err, "%s: %s\n", name,
                failed ? "cannot be read" : "file is empty");
        return false;
    }
    for (size_t at = got; at < m->bytes; at += got) {
        memcpy(m->data + at, m->data, MIN(got, m->bytes - at));
    }
    return true;
}

static int co_pwritev(struct backend *b, int64_t offset, const struct iov *iov,
                      unsigned flags)
{
    bool within = range_within(offset, (int64_t)iov->bytes, backend_length(b));

    if (within && flags & REQ_COMPRESSED &&
        !b->node->driver->writes_compressed) {
        return -ENOTSUP;
    }
    return co_backend_pwritev(b, offset, iov, flags);
}

static bool co_write_data(struct io_session *s, const struct io_args *args,
                          const struct write *w)
{
    struct io_memory m;

    if (!io_memory_alloc(s, w->bytes, w->pattern, &m)) {
        return false;
    }
    if (args->given['s'] && !fill_from_file(s, args->option['s'], &m)) {
        io_memory_free(&m);
        return false;
    }
    struct iovec v;
    struct iov iov = iov_buf(&v, m.data, m.bytes);
    int64_t since = io_now_ns();
    int ret = args->given['b']
                  ? co_backend_save_vmstate(s->backend, w->offset, &iov)
                  : co_pwritev(s->backend, w->offset, &iov, w->flags);
    io_memory_free(&m);
    if (!io_waited(s, "write", ret)) {
        return false;
    }
    io_report(s, args, "wrote", since, w->offset, w->bytes);
    return true;
}

static bool co_write(struct io_session *s, const struct io_args *args)
{
    struct write w = {0};

    if (!parse_write(s, args, &w)) {
        return false;
    }
    if (!args->given['z']) {
        return co_write_data(s, args, &w);
    }
    int64_t since = io_now_ns();
    int ret = co_backend_pwrite_zeroes(s->backend, w.offset, w.bytes,
                                       w.flags & ~REQ_COMPRESSED);
    if (!io_waited(s, "write", ret)) {
        return false;
    }
    io_report(s, args, "wrote", since, w.offset, w.bytes);
    return true;
}

const struct io_command io_command_write = {
    .name = "write",
    .alias = "w",
    .options = "bcCfnpP:qs:uz",
    .min = 2,
    .max = -1,
    .usage = "[-bcCfnquz] [-P pattern | -s source_file] off len",
    .what = "writes a number of bytes at a specified offset",
    .help = " Without -P, -s and -z each byte is 0xcd.\n"
            "\n"
            " -P, write this byte\n"
            " -s, write the contents of this file, over and over\n"
            " -z, write zeroes, without data where the format can\n"
            " -u, with -z: may give space back\n"
            " -n, with -z: fail rather than write buffers of zeroes\n"
            " -f, stable before it completes (force unit access)\n"
            " -c, compressed\n"
            " -b, the state of a virtual machine instead of the disk\n"
            " -q, print no statistics\n"
            " -C, print them for programs\n"
            " -p, ignored\n"
            "\n"
            " 'write -z -u 1M 64k' deallocates 64 KiB behind the first "
            "mebibyte",
    .perm = PERM_WRITE,
    .check = io_check_pattern,
    .co_run = co_write,
};

static bool co_writev(struct io_session *s, const struct io_args *args)
{
    struct write w = {0};
    struct io_memory m;
    g_autofree struct iovec *v = NULL;

    if (!parse_source(s, args, &w)) {
        return false;
    }
    if (args->n < 2) {
        return io_usage(s, args);
    }
    if (!io_parse_number(s, args->word[0], &w.offset) ||
        !io_vector(s, args, 1, w.pattern, &m, &v)) {
        return false;
    }
    struct iov iov = iov_of(v, (unsigned)args->n - 1);
    int64_t since = io_now_ns();
    int ret = co_backend_pwritev(s->backend, w.offset, &iov, w.flags);
    io_memory_free(&m);
    io_done_tell(s);
    if (!io_waited(s, "writev", ret)) {
        return false;
    }
    io_report(s, args, "wrote", since, w.offset, (int64_t)m.bytes);
    return true;
}

const struct io_command io_command_writev = {
    .name = "writev",
    .options = "CfP:q",
    .min = 2,
    .max = -1,
    .usage = "[-Cfq] [-P pattern] off len [len..]",
    .what = "writes from several buffers with one request",
    .help = " -P, write this byte (default: 0xcd)\n"
            " -f, stable before it completes\n"
            " -q, print no statistics\n"
            " -C, print them for programs\n"
            "\n"
            " 'writev 0 512 1k' writes 1536 bytes from two buffers",
    .perm = PERM_WRITE,
    .check = io_check_pattern,
    .co_run = co_writev,
};

/* ---- in the background ---- */

struct aio_write {
    struct io_done done;
    struct io_session *s;
    struct io_args args; /* for its letters only */
    struct write w;
    struct io_memory m;
    struct iovec *v; /* NULL: zeroes */
    unsigned n;
    int64_t since;
    int ret;
};

static void aio_write_tell(struct io_done *done)
{
    struct aio_write *a = (struct aio_write *)done;

    if (a->ret < 0) {
        io_failed(a->s, "aio_write", a->ret);
    } else {
        io_report(a->s, &a->args, "wrote", a->since, a->w.offset, a->w.bytes);
    }
    io_memory_free(&a->m);
    g_free(a->v);
    g_free(a);
}

static void co_aio_write_entry(void *opaque)
{
    struct aio_write *a = opaque;
    struct backend *b = a->s->backend;
    struct write *w = &a->w;

    a->since = io_now_ns();
    if (a->v) {
        struct iov iov = iov_of(a->v, a->n);
        a->ret = co_backend_pwritev(b, w->offset, &iov, w->flags);
    } else {
        a->ret = co_backend_pwrite_zeroes(b, w->offset, w->bytes, w->flags);
    }
    io_done_add(a->s, &a->done);
}

static bool co_aio_write(struct io_session *s, const struct io_args *args)
{
    g_autofree struct aio_write *a = g_new0(struct aio_write, 1);

    a->done.tell = aio_write_tell;
    a->s = s;
    a->args = *args;
    if (args->given['i']) {
        fprintf(s->out, "injecting invalid write request\n");
        s->backend->acct[ACCT_WRITE].invalid++;
        return true;
    }
    if (args->n < 2) {
        return io_usage(s, args);
    }
    if (args->given['z'] && args->n != 2) {
        fprintf(s->out, "-z supports only a single length parameter\n");
        return false;
    }
    if (!requires_z(s, args, 'u') || !parse_source(s, args, &a->w) ||
        !io_parse_number(s, args->word[0], &a->w.offset)) {
        return false;
    }
    if (args->given['z']) {
        if (!io_parse_number(s, args->word[1], &a->w.bytes)) {
            return false;
        }
    } else {
        if (!io_vector(s, args, 1, a->w.pattern, &a->m, &a->v)) {
            return false;
        }
        a->n = (unsigned)args->n - 1;
        a->w.bytes = (int64_t)a->m.bytes;
    }
    co_count_inc(&s->in_flight);
    co_enter(co_create(co_aio_write_entry, g_steal_pointer(&a)));
    return true;
}

const struct io_command io_command_aio_write = {
    .name = "aio_write",
    .options = "CfiP:quz",
    .min = 2,
    .max = -1,
    .usage = "[-Cfiquz] [-P pattern] off len [len..]",
    .what = "starts a write and does not wait for it",
    .help =
        " Success means that the write was started; aio_flush waits for it.\n"
        "\n"
        " -P, write this byte (default: 0xcd)\n"
        " -z, write zeroes\n"
        " -u, with -z: may give space back\n"
        " -f, stable before it completes\n"
        " -i, only count it as an invalid request\n"
        " -q, print no statistics\n"
        " -C, print them for programs",
    .perm = PERM_WRITE,
    .check = io_check_pattern,
    .co_run = co_aio_write,
};
