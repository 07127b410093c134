/*
 * The engines, on a temporary file: each test runs with all of them.
 */
#include "aio/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/colock.h"
#include "aio/loop.h"

typedef int engine_fn(int fd, enum file_io_op op, int64_t offset,
                      const struct iov *iov);

static int co_inline(int fd, enum file_io_op op, int64_t offset,
                     const struct iov *iov)
{
    switch (op) {
    case FILE_IO_READ: {
        int ret = file_io_read_inline(fd, offset, iov);
        return ret == -EAGAIN || ret == -EOPNOTSUPP
                   ? co_threaded(fd, op, offset, iov)
                   : ret;
    }
    case FILE_IO_WRITE:
    case FILE_IO_WRITE_FUA:
        return file_io_write_inline(fd, offset, iov, op == FILE_IO_WRITE_FUA);
    case FILE_IO_FLUSH:
        break;
    }
    return co_threaded(fd, op, offset, iov);
}

static const struct {
    const char *name;
    engine_fn *fn;
    bool (*have)(void);
} engines[] = {
    {"libaio", co_libaio, file_io_have_libaio},
    {"io_uring", co_uring, file_io_have_uring},
    {"threads", co_threaded, NULL},
    {"inline", co_inline, NULL},
};

struct fixture {
    struct loop *loop;
    engine_fn *engine;
    int fd;
    char path[64];
};

static struct fixture f;

static void open_file(int flags)
{
    strcpy(f.path, "/var/tmp/test_file_io.XXXXXX");
    int fd = mkstemp(f.path);
    assert_true(fd >= 0);
    if (flags) {
        close(fd);
        fd = open(f.path, O_RDWR | flags);
    }
    unlink(f.path);
    f.fd = fd;
}

/* Runs a test body as a coroutine with every engine that this kernel has. */
static void with_each_engine(co_fn *body, int open_flags)
{
    for (size_t i = 0; i < sizeof(engines) / sizeof(engines[0]); i++) {
        if (engines[i].have && !engines[i].have()) {
            print_message("[  NOTE    ] no %s here\n", engines[i].name);
            continue;
        }
        print_message("[  ENGINE  ] %s\n", engines[i].name);
        open_file(open_flags);
        if (f.fd < 0) {
            print_message("[  NOTE    ] no O_DIRECT here\n");
            return;
        }
        f.engine = engines[i].fn;
        f.loop = loop_new("test", LOOP_CLOCK_REAL);
        loop_run_co(f.loop, body, NULL);
        loop_free(f.loop);
        close(f.fd);
    }
}

static int co_io(enum file_io_op op, int64_t offset, void *buf, size_t bytes)
{
    struct iovec v;
    struct iov iov = iov_buf(&v, buf, bytes);

    return f.engine(f.fd, op, offset, &iov);
}

static void fill(void *buf, size_t bytes, unsigned seed)
{
    unsigned char *p = buf;

    for (size_t i = 0; i < bytes; i++) {
        p[i] = (unsigned char)(seed + i * 7 + i / 251);
    }
}

/* ---- */

static void write_then_read(void *opaque)
{
    char out[10000], in[10000];

    fill(out, sizeof(out), 1);
    assert_int_equal(co_io(FILE_IO_WRITE, 12345, out, sizeof(out)), 0);
    assert_int_equal(co_io(FILE_IO_READ, 12345, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    fill(out, sizeof(out), 2);
    assert_int_equal(co_io(FILE_IO_WRITE_FUA, 12345, out, sizeof(out)), 0);
    assert_int_equal(f.engine(f.fd, FILE_IO_FLUSH, 0, NULL), 0);
    assert_int_equal(pread(f.fd, in, sizeof(in), 12345), sizeof(in));
    assert_memory_equal(in, out, sizeof(in));
}

static void what_is_written_is_read(void **state)
{
    with_each_engine(write_then_read, 0);
}

static void read_over_the_end(void *opaque)
{
    char in[4096], expected[4096] = {0};

    fill(expected, 1000, 3);
    assert_int_equal(pwrite(f.fd, expected, 1000, 0), 1000);
    memset(in, 0xee, sizeof(in));
    assert_int_equal(co_io(FILE_IO_READ, 0, in, sizeof(in)), 0);
    assert_memory_equal(in, expected, sizeof(in));
    memset(in, 0xee, sizeof(in));
    assert_int_equal(co_io(FILE_IO_READ, 1 << 20, in, sizeof(in)), 0);
    memset(expected, 0, sizeof(expected));
    assert_memory_equal(in, expected, sizeof(in));
    assert_int_equal(co_io(FILE_IO_READ, 0, in, 0), 0);
}

static void past_the_end_there_are_zeroes(void **state)
{
    with_each_engine(read_over_the_end, 0);
}

static void direct_read_over_the_end(void *opaque)
{
    char *in = NULL;

    assert_int_equal(posix_memalign((void **)&in, 4096, 16384), 0);
    memset(in, 0x55, 16384);
    assert_int_equal(co_io(FILE_IO_WRITE, 0, in, 8192), 0);
    assert_int_equal(ftruncate(f.fd, 5001), 0);
    memset(in, 0xee, 16384);
    assert_int_equal(co_io(FILE_IO_READ, 0, in, 16384), 0);
    for (int i = 0; i < 16384; i++) {
        assert_int_equal(in[i], i < 5001 ? 0x55 : 0);
    }
    assert_int_equal(co_io(FILE_IO_READ, 4096, in + 1, 4096), -EINVAL);
    free(in);
}

static void direct_reads_end_at_any_byte(void **state)
{
    with_each_engine(direct_read_over_the_end, O_DIRECT);
}

static void scattered(void *opaque)
{
    enum { N = 300, TOTAL = N * 100 };
    static char memory[N][128], flat[TOTAL];
    struct iovec vec[N];

    for (int i = 0; i < N; i++) {
        vec[i] = (struct iovec){memory[i], 100};
        fill(memory[i], 100, (unsigned)i);
    }
    struct iov all = iov_of(vec, N);
    /* A window that begins and ends inside of entries, one that does not. */
    static const struct {
        size_t offset, bytes;
    } windows[] = {{0, TOTAL}, {33, TOTAL - 77}, {250, 10}, {100, 200}};
    for (int i = 0; i < 4; i++) {
        size_t n = windows[i].bytes;
        struct iov w = iov_slice(&all, windows[i].offset, n);
        assert_int_equal(f.engine(f.fd, FILE_IO_WRITE, 7, &w), 0);
        assert_int_equal(pread(f.fd, flat, n, 7), n);
        for (size_t j = 0; j < n; j++) {
            size_t at = windows[i].offset + j;
            assert_int_equal(flat[j], memory[at / 100][at % 100]);
        }
        fill(flat, n, 99);
        assert_int_equal(pwrite(f.fd, flat, n, 7), n);
        assert_int_equal(f.engine(f.fd, FILE_IO_READ, 7, &w), 0);
        for (size_t j = 0; j < n; j++) {
            size_t at = windows[i].offset + j;
            assert_int_equal(flat[j], memory[at / 100][at % 100]);
        }
        for (int k = 0; k < N; k++) {
            fill(memory[k], 100, (unsigned)k);
        }
    }
}

static void scattered_memory_is_moved_whole(void **state)
{
    with_each_engine(scattered, 0);
}

static void bad_descriptors(void *opaque)
{
    char buf[512] = {0};
    int good = f.fd;

    f.fd = open("/dev/null", O_RDONLY);
    assert_int_equal(co_io(FILE_IO_WRITE, 0, buf, sizeof(buf)), -EBADF);
    assert_int_equal(co_io(FILE_IO_WRITE_FUA, 0, buf, sizeof(buf)), -EBADF);
    close(f.fd);
    f.fd = -1;
    assert_int_equal(co_io(FILE_IO_READ, 0, buf, sizeof(buf)), -EBADF);
    assert_int_equal(f.engine(f.fd, FILE_IO_FLUSH, 0, NULL), -EBADF);
    f.fd = good;
    assert_int_equal(co_io(FILE_IO_WRITE, 0, buf, sizeof(buf)), 0);
}

static void errors_are_those_of_the_kernel(void **state)
{
    with_each_engine(bad_descriptors, 0);
}

static void run_out_of_space(void *opaque)
{
    char buf[8192];
    int good = f.fd;

    memset(buf, 1, sizeof(buf));
    f.fd = open("/dev/full", O_RDWR);
    assert_int_equal(co_io(FILE_IO_WRITE, 0, buf, sizeof(buf)), -ENOSPC);
    close(f.fd);
    f.fd = good;
}

static void a_full_device_says_so(void **state)
{
    with_each_engine(run_out_of_space, 0);
}

static void exceed_limit(void *opaque)
{
    char buf[8192];
    struct rlimit old, limit;

    memset(buf, 1, sizeof(buf));
    getrlimit(RLIMIT_FSIZE, &old);
    limit = old;
    limit.rlim_cur = 4096 + 512;
    setrlimit(RLIMIT_FSIZE, &limit);
    int ret = co_io(FILE_IO_WRITE, 0, buf, sizeof(buf));
    setrlimit(RLIMIT_FSIZE, &old);
    /* The kernel writes what fits, and refuses when we go on. */
    assert_int_equal(ret, -EFBIG);
    struct stat st;
    assert_int_equal(fstat(f.fd, &st), 0);
    assert_int_equal(st.st_size, 4096 + 512);
}

static void short_writes_are_gone_on_with(void **state)
{
    with_each_engine(exceed_limit, 0);
}

/* ---- many at once ---- */

enum { REQUESTS = 2000, BLOCK = 512 };
static char blocks[REQUESTS][BLOCK];

struct one {
    int number;
    bool write;
};

static int one_request(void *opaque)
{
    struct one *one = opaque;

    return co_io(one->write ? FILE_IO_WRITE : FILE_IO_READ,
                 (int64_t)one->number * BLOCK, blocks[one->number], BLOCK);
}

static void flood(void *opaque)
{
    static struct one ones[REQUESTS];
    static char expected[BLOCK];

    for (int round = 0; round < 2; round++) {
        struct co_pool pool = {.limit = REQUESTS};
        for (int i = 0; i < REQUESTS; i++) {
            if (round == 0) {
                fill(blocks[i], BLOCK, (unsigned)i);
            } else {
                memset(blocks[i], 0, BLOCK);
            }
            ones[i] = (struct one){.number = i, .write = round == 0};
            co_pool_start(&pool, one_request, &ones[i]);
        }
        assert_int_equal(co_pool_wait(&pool), 0);
    }
    for (int i = 0; i < REQUESTS; i++) {
        fill(expected, BLOCK, (unsigned)i);
        assert_memory_equal(blocks[i], expected, BLOCK);
    }
}

static void more_requests_than_the_queue_is_deep(void **state)
{
    with_each_engine(flood, 0);
}

static int mixed_request(void *opaque)
{
    struct one *one = opaque;
    int good = f.fd;

    if (one->number % 3 == 0) {
        struct iovec v;
        struct iov iov = iov_buf(&v, blocks[one->number], BLOCK);
        int ret = f.engine(-1, FILE_IO_READ, 0, &iov);
        assert_int_equal(ret, -EBADF);
        return 0;
    }
    assert_int_equal(good, f.fd);
    return one_request(opaque);
}

static void flood_with_errors(void *opaque)
{
    static struct one ones[600];
    struct co_pool pool = {.limit = 600};

    for (int i = 0; i < 600; i++) {
        ones[i] = (struct one){.number = i, .write = true};
        co_pool_start(&pool, mixed_request, &ones[i]);
    }
    assert_int_equal(co_pool_wait(&pool), 0);
}

static void one_bad_request_does_not_hurt_its_neighbours(void **state)
{
    with_each_engine(flood_with_errors, 0);
}

static void wait_for_the_disk(void *opaque)
{
    char *buf = NULL;

    assert_int_equal(posix_memalign((void **)&buf, 4096, 4096), 0);
    fill(buf, 4096, 5);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(co_io(FILE_IO_WRITE, i * 4096, buf, 4096), 0);
        assert_int_equal(f.engine(f.fd, FILE_IO_FLUSH, 0, NULL), 0);
    }
    free(buf);
}

static void completions_end_a_sleep(void **state)
{
    with_each_engine(wait_for_the_disk, O_DIRECT);
}

/* ---- inline ---- */

static void inline_reads_never_wait(void **state)
{
    char buf[4096] = {0};
    struct iovec v;
    struct iov iov = iov_buf(&v, buf, sizeof(buf));

    open_file(0);
    assert_int_equal(pwrite(f.fd, buf, sizeof(buf), 0), sizeof(buf));
    assert_int_equal(fdatasync(f.fd), 0);
    posix_fadvise(f.fd, 0, 0, POSIX_FADV_DONTNEED);
    int cold = file_io_read_inline(f.fd, 0, &iov);
    assert_true(cold == -EAGAIN || cold == -EOPNOTSUPP || cold == 0);
    if (cold != -EOPNOTSUPP) {
        assert_int_equal(pread(f.fd, buf, sizeof(buf), 0), sizeof(buf));
        assert_int_equal(file_io_read_inline(f.fd, 0, &iov), 0);
    }
    close(f.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(past_the_end_there_are_zeroes),
        cmocka_unit_test(direct_reads_end_at_any_byte),
        cmocka_unit_test(scattered_memory_is_moved_whole),
        cmocka_unit_test(errors_are_those_of_the_kernel),
        cmocka_unit_test(a_full_device_says_so),
        cmocka_unit_test(short_writes_are_gone_on_with),
        cmocka_unit_test(more_requests_than_the_queue_is_deep),
        cmocka_unit_test(one_bad_request_does_not_hurt_its_neighbours),
        cmocka_unit_test(completions_end_a_sleep),
        cmocka_unit_test(inline_reads_never_wait),
    };
    signal(SIGXFSZ, SIG_IGN); /* a write past RLIMIT_FSIZE shall return */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
