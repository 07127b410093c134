/*
 * read and readv.
 */
#include "block/io_command/io_command_int.h"

#include <errno.h>

#include "block/backend.h"
#include "block/types.h"

/* What the memory holds before a read without -P; not a byte of any image. */
#define READ_FILL 0xab

struct read {
    int64_t offset, bytes;
    int pattern; /* -1: do not verify */
    int64_t verify_from, verify_bytes;
};

static bool check_read(struct io_session *s, unsigned char letter,
                       const char *text)
{
    int64_t size;
    return letter == 'P' ? io_check_pattern(s, letter, text)
                         : io_parse_number(s, text, &size);
}

static bool parse_read(struct io_session *s, const struct io_args *args,
                       struct read *r)
{
    const char *from = args->option['s'], *length = args->option['l'];

    *r = (struct read){.pattern = -1};
    if (args->n != 2) {
        return io_usage(s, args);
    }
    if (!io_parse_number(s, args->word[0], &r->offset) ||
        !io_parse_length(s, args->word[1], "", &r->bytes)) {
        return false;
    }
    if (!args->given['P'] && (from || length)) {
        return io_usage(s, args);
    }
    if ((args->given['P'] &&
         !io_parse_pattern(s, args->option['P'], &r->pattern)) ||
        (from && !io_parse_number(s, from, &r->verify_from)) ||
        (length && !io_parse_number(s, length, &r->verify_bytes))) {
        return false;
    }
    if (r->verify_from > r->bytes ||
        r->verify_bytes > r->bytes - r->verify_from) {
        fprintf(s->out, "pattern verification range exceeds end of read "
                        "data\n");
        return false;
    }
    if (!length) {
        r->verify_bytes = r->bytes - r->verify_from;
    }
    return !args->given['b'] || (io_check_sector(s, "offset", r->offset) &&
                                 io_check_sector(s, "count", r->bytes));
}

/* What comes after the data: checks, dump and report. */
static bool finish(struct io_session *s, const struct io_args *args,
                   const struct io_memory *m, const struct read *r,
                   int64_t since)
{
    bool ok =
        r->pattern < 0 || io_memory_verify(s, m, r->pattern, r->verify_from,
                                           r->verify_bytes, r->offset);
    if (!args->given['q'] && args->given['v']) {
        io_memory_dump(s, m, r->offset);
    }
    io_report(s, args, "read", since, r->offset, r->bytes);
    return ok;
}

static bool co_read(struct io_session *s, const struct io_args *args)
{
    struct read r;
    struct io_memory m;

    if (!parse_read(s, args, &r) ||
        !io_memory_alloc(s, r.bytes, READ_FILL, &m)) {
        return false;
    }
    struct iovec v;
    struct iov iov = iov_buf(&v, m.data, m.bytes);
    int64_t since = io_now_ns();
    int ret = args->given['b']
                  ? co_backend_load_vmstate(s->backend, r.offset, &iov)
                  : co_backend_preadv(s->backend, r.offset, &iov, 0);
    bool ok = io_waited(s, "read", ret) && finish(s, args, &m, &r, since);
    io_memory_free(&m);
    return ok;
}

const struct io_command io_command_read = {
    .name = "read",
    .alias = "r",
    .options = "bCl:pP:qs:v",
    .min = 2,
    .max = -1,
    .usage = "[-bCqv] [-P pattern [-s off] [-l len]] off len",
    .what = "reads a number of bytes at a specified offset",
    .help =
        " -P, the byte that each byte read must be\n"
        " -s, where in the data that check begins\n"
        " -l, how many bytes it looks at\n"
        " -v, print the data\n"
        " -q, print no statistics\n"
        " -C, print them for programs: bytes,requests,time,bytes/s,requests/s\n"
        " -b, the state of a virtual machine instead of the disk\n"
        " -p, ignored\n"
        "\n"
        " 'read -P 0xaa 512 1k' checks one kilobyte behind the first sector",
    .check = check_read,
    .co_run = co_read,
};

static bool co_readv(struct io_session *s, const struct io_args *args)
{
    struct read r = {.pattern = -1};
    struct io_memory m;
    g_autofree struct iovec *v = NULL;

    if (args->given['P'] &&
        !io_parse_pattern(s, args->option['P'], &r.pattern)) {
        return false;
    }
    if (args->n < 2) {
        return io_usage(s, args);
    }
    if (!io_parse_number(s, args->word[0], &r.offset) ||
        !io_vector(s, args, 1, READ_FILL, &m, &v)) {
        return false;
    }
    struct iov iov = iov_of(v, (unsigned)args->n - 1);
    int64_t since = io_now_ns();
    int ret = co_backend_preadv(s->backend, r.offset, &iov, 0);
    r.bytes = r.verify_bytes = (int64_t)m.bytes;
    io_done_tell(s);
    bool ok = io_waited(s, "readv", ret) && finish(s, args, &m, &r, since);
    io_memory_free(&m);
    return ok;
}

const struct io_command io_command_readv = {
    .name = "readv",
    .options = "CP:qv",
    .min = 2,
    .max = -1,
    .usage = "[-Cqv] [-P pattern] off len [len..]",
    .what = "reads into several buffers with one request",
    .help = " -P, the byte that each byte read must be\n"
            " -v, print the data\n"
            " -q, print no statistics\n"
            " -C, print them for programs\n"
            "\n"
            " 'readv 0 512 1k' reads 1536 bytes into two buffers",
    .check = io_check_pattern,
    .co_run = co_readv,
};

/* ---- in the background ---- */

struct aio_read {
    struct io_done done;
    struct io_session *s;
    struct io_args args; /* for its letters only */
    struct read r;
    struct io_memory m;
    struct iovec *v;
    unsigned n;
    int64_t since;
    int ret;
};

static void aio_read_tell(struct io_done *done)
{
    struct aio_read *a = (struct aio_read *)done;

    if (a->ret < 0) {
        io_failed(a->s, "readv", a->ret);
    } else {
        finish(a->s, &a->args, &a->m, &a->r, a->since);
    }
    io_memory_free(&a->m);
    g_free(a->v);
    g_free(a);
}

static void co_aio_read_entry(void *opaque)
{
    struct aio_read *a = opaque;
    struct iov iov = iov_of(a->v, a->n);

    a->since = io_now_ns();
    a->ret = co_backend_preadv(a->s->backend, a->r.offset, &iov, 0);
    io_done_add(a->s, &a->done);
}

static bool co_aio_read(struct io_session *s, const struct io_args *args)
{
    g_autofree struct aio_read *a = g_new0(struct aio_read, 1);

    a->done.tell = aio_read_tell;
    a->s = s;
    a->args = *args;
    a->r.pattern = -1;
    if (args->given['P'] &&
        !io_parse_pattern(s, args->option['P'], &a->r.pattern)) {
        return false;
    }
    if (args->given['i']) {
        fprintf(s->out, "injecting invalid read request\n");
        s->backend->acct[ACCT_READ].invalid++;
        return true;
    }
    if (args->n < 2) {
        return io_usage(s, args);
    }
    if (!io_parse_number(s, args->word[0], &a->r.offset) ||
        !io_vector(s, args, 1, READ_FILL, &a->m, &a->v)) {
        return false;
    }
    a->n = (unsigned)args->n - 1;
    a->r.bytes = a->r.verify_bytes = (int64_t)a->m.bytes;
    co_count_inc(&s->in_flight);
    co_enter(co_create(co_aio_read_entry, g_steal_pointer(&a)));
    return true;
}

const struct io_command io_command_aio_read = {
    .name = "aio_read",
    .options = "CiP:qv",
    .min = 2,
    .max = -1,
    .usage = "[-Ciqv] [-P pattern] off len [len..]",
    .what = "starts a read and does not wait for it",
    .help =
        " Success means that the read was started; aio_flush waits for it.\n"
        "\n"
        " -P, the byte that each byte read must be\n"
        " -i, only count it as an invalid request\n"
        " -v, print the data\n"
        " -q, print no statistics\n"
        " -C, print them for programs",
    .check = io_check_pattern,
    .co_run = co_aio_read,
};
