/*
 * What the ground costs: coroutines, mail, and bare engine loops.
 *
 *   bench_aio FILE [SECONDS]
 *
 * Prints a JSON line a row: operations a second (median, min and max of the
 * runs) and the CPU time of the process that one takes, in ns. FILE is read in
 * 4 KiB blocks with 32 requests in flight; the bare rows do the same with
 * system calls alone, which is what the engines are held against.
 */
#include <fcntl.h>
#include <libaio.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>
#include "aio/coroutine.h"
#include "aio/file_io.h"
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"

enum { RUNS = 5, BLOCK = 4096, DEPTH = 32 };

static struct loop *loop;
static double seconds = 0.5;
static int fd;
static int64_t blocks;
static char *buffers;

static double clock_s(clockid_t id)
{
    struct timespec ts;

    clock_gettime(id, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* fn makes about n operations and returns how many; n grows until a run lasts
 * long enough. */
static void row(const char *name, int64_t (*fn)(int64_t n))
{
    double rate[RUNS], cpu[RUNS];
    int64_t n = 1000;

    for (;;) {
        double start = clock_s(CLOCK_MONOTONIC);
        fn(n);
        double took = clock_s(CLOCK_MONOTONIC) - start;
        if (took > seconds / 4) {
            n = (int64_t)((double)n * seconds / took);
            break;
        }
        n *= 4;
    }
    for (int i = 0; i < RUNS; i++) {
        double start = clock_s(CLOCK_MONOTONIC);
        double cpu_start = clock_s(CLOCK_PROCESS_CPUTIME_ID);
        double done = (double)fn(n);
        cpu[i] = (clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu_start) / done * 1e9;
        rate[i] = done / (clock_s(CLOCK_MONOTONIC) - start);
    }
    qsort(rate, RUNS, sizeof(double), by_value);
    qsort(cpu, RUNS, sizeof(double), by_value);
    printf("{\"bench\":\"aio\",\"row\":\"%s\",\"per_s\":%.0f,\"min\":%.0f,"
           "\"max\":%.0f,\"cpu_ns\":%.1f,\"cpu_ns_min\":%.1f,"
           "\"cpu_ns_max\":%.1f}\n",
           name, rate[RUNS / 2], rate[0], rate[RUNS - 1], cpu[RUNS / 2], cpu[0],
           cpu[RUNS - 1]);
    fflush(stdout);
}

static void die(const char *what)
{
    fprintf(stderr, "bench_aio: %s failed\n", what);
    exit(1);
}

/* ---- coroutines ---- */

static void nothing(void *opaque)
{
}

static int64_t create_run_end(int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        co_enter(co_create(nothing, NULL));
    }
    return n;
}

static void yield_until(void *opaque)
{
    const bool *stop = opaque;

    while (!*stop) {
        co_yield ();
    }
}

/* One operation is one switch: into the coroutine, or back. */
static int64_t switches(int64_t n)
{
    bool stop = false;
    struct coroutine *co = co_create(yield_until, &stop);

    for (int64_t i = 0; i < n / 2; i++) {
        co_enter(co);
    }
    stop = true;
    co_enter(co);
    return n;
}

static int64_t start_by_wake(int64_t n)
{
    for (int64_t i = 0; i < n; i += DEPTH) {
        for (int j = 0; j < DEPTH; j++) {
            co_start(nothing, NULL);
        }
        loop_pass(loop, false);
    }
    return n / DEPTH * DEPTH;
}

static int64_t idle_pass(int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        loop_pass(loop, false);
    }
    return n;
}

/* ---- mail ---- */

static struct loop *there;

static void co_round_trips(void *opaque)
{
    for (int64_t n = *(int64_t *)opaque; n > 0; n--) {
        co_call_on(there, nothing, NULL);
    }
}

static int64_t round_trips(int64_t n)
{
    loop_run_co(loop, co_round_trips, &n);
    return n;
}

static int work_nothing(void *opaque)
{
    return 0;
}

static void co_worker_trips(void *opaque)
{
    for (int64_t n = *(int64_t *)opaque; n > 0; n--) {
        co_worker(work_nothing, NULL);
    }
}

static int64_t worker_trips(int64_t n)
{
    loop_run_co(loop, co_worker_trips, &n);
    return n;
}

/* ---- engines ---- */

typedef int engine_fn(int fd, enum file_io_op op, int64_t offset,
                      const struct iov *iov);

struct reader {
    engine_fn *engine;
    struct coroutine *parent;
    int64_t left;
    int running;
};

static uint64_t rng = 88172645463325252u;

static int64_t random_offset(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (int64_t)(rng % (uint64_t)blocks) * BLOCK;
}

static void read_on(void *opaque)
{
    struct reader *r = opaque;
    struct iovec v;
    struct iov iov = iov_buf(&v, buffers + r->running++ * BLOCK, BLOCK);

    while (r->left-- > 0) {
        if (r->engine(fd, FILE_IO_READ, random_offset(), &iov) < 0) {
            die("an engine's read");
        }
    }
    if (--r->running == 0) {
        co_wake(r->parent);
    }
}

static void read_all(void *opaque)
{
    struct reader *r = opaque;

    r->parent = co_self();
    for (int i = 0; i < DEPTH; i++) {
        co_start(read_on, r);
    }
    co_yield ();
}

static int64_t engine_reads(engine_fn *engine, int64_t n)
{
    struct reader r = {.engine = engine, .left = n};

    loop_run_co(loop, read_all, &r);
    return n;
}

static int64_t libaio_reads(int64_t n)
{
    return engine_reads(co_libaio, n);
}

static int64_t uring_reads(int64_t n)
{
    return engine_reads(co_uring, n);
}

static int64_t threaded_reads(int64_t n)
{
    return engine_reads(co_threaded, n);
}

static int64_t inline_reads(int64_t n)
{
    struct iovec v;
    struct iov iov = iov_buf(&v, buffers, BLOCK);

    for (int64_t i = 0; i < n; i++) {
        int ret = file_io_read_inline(fd, random_offset(), &iov);
        if (ret < 0 && pread(fd, buffers, BLOCK, random_offset()) != BLOCK) {
            die("an inline read");
        }
    }
    return n;
}

/* ---- the same with system calls alone ---- */

static int64_t bare_libaio(int64_t n)
{
    static io_context_t context; /* kept: ending one takes milliseconds */
    struct iocb iocbs[DEPTH], *list[DEPTH];
    struct io_event events[DEPTH];
    int64_t done = 0;
    int in_flight = 0, idle = DEPTH;

    if (!context && io_setup(DEPTH, &context) < 0) {
        die("io_setup");
    }
    for (int i = 0; i < DEPTH; i++) {
        list[i] = &iocbs[i];
    }
    for (;;) {
        for (int i = 0; i < idle; i++) {
            long slot = (list[i] - iocbs) * BLOCK;
            io_prep_pread(list[i], fd, buffers + slot, BLOCK, random_offset());
        }
        if (idle && io_submit(context, idle, list) != idle) {
            die("io_submit");
        }
        in_flight += idle;
        int got = io_getevents(context, 1, DEPTH, events, NULL);
        for (int i = 0; i < got; i++) {
            list[i] = events[i].obj;
        }
        done += got;
        in_flight -= got;
        if (!in_flight && done >= n) {
            return done;
        }
        idle = done < n ? got : 0;
    }
}

static int64_t bare_uring(int64_t n)
{
    struct io_uring ring;
    struct io_uring_cqe *cqes[DEPTH];
    int slots[DEPTH];
    unsigned free_slots = DEPTH;
    int64_t done = 0;

    if (io_uring_queue_init(DEPTH, &ring, 0) < 0) {
        die("io_uring_queue_init");
    }
    for (int i = 0; i < DEPTH; i++) {
        slots[i] = i;
    }
    while (done < n) {
        for (unsigned i = 0; i < free_slots; i++) {
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_read(sqe, fd, buffers + slots[i] * BLOCK, BLOCK,
                               (uint64_t)random_offset());
            io_uring_sqe_set_data(sqe, (void *)(intptr_t)slots[i]);
        }
        io_uring_submit_and_wait(&ring, 1);
        free_slots = io_uring_peek_batch_cqe(&ring, cqes, DEPTH);
        for (unsigned i = 0; i < free_slots; i++) {
            slots[i] = (int)(intptr_t)io_uring_cqe_get_data(cqes[i]);
        }
        io_uring_cq_advance(&ring, free_slots);
        done += free_slots;
    }
    io_uring_queue_exit(&ring);
    return done;
}

static int64_t bare_inline(int64_t n)
{
    struct iovec v = {buffers, BLOCK};

    for (int64_t i = 0; i < n; i++) {
        if (preadv2(fd, &v, 1, random_offset(), RWF_NOWAIT) != BLOCK &&
            pread(fd, buffers, BLOCK, random_offset()) != BLOCK) {
            die("preadv2");
        }
    }
    return n;
}

static void warm_up(void)
{
    for (int64_t i = 0; i < blocks; i++) {
        if (pread(fd, buffers, BLOCK, i * BLOCK) != BLOCK) {
            die("reading the file");
        }
    }
}

static void file_rows(const char *path, int flags, const char *kind)
{
    char name[64];
    struct stat st;
    static const struct {
        const char *name;
        int64_t (*fn)(int64_t n);
        int buffered_only;
    } rows[] = {
        {"libaio", libaio_reads, 0},     {"libaio bare", bare_libaio, 0},
        {"io_uring", uring_reads, 0},    {"io_uring bare", bare_uring, 0},
        {"threads", threaded_reads, 0},  {"inline", inline_reads, 1},
        {"inline bare", bare_inline, 1},
    };

    fd = open(path, O_RDONLY | flags);
    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < BLOCK) {
        fprintf(stderr, "bench_aio: %s: no %s reads\n", path, kind);
        return;
    }
    blocks = st.st_size / BLOCK;
    if (!flags) {
        warm_up();
    }
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (flags && rows[i].buffered_only) {
            continue;
        }
        snprintf(name, sizeof(name), "%s read 4k %s", kind, rows[i].name);
        row(name, rows[i].fn);
    }
    close(fd);
}

int main(int argc, char **argv)
{
    if (argc > 2) {
        seconds = strtod(argv[2], NULL);
    }
    if (posix_memalign((void **)&buffers, BLOCK, DEPTH * BLOCK)) {
        die("allocation");
    }
    loop = loop_new("bench", LOOP_CLOCK_REAL);
    loop_bind(loop);
    row("coroutine create, run, end", create_run_end);
    row("coroutine switch", switches);
    row("coroutine start from ready list", start_by_wake);
    row("idle pass", idle_pass);
    struct iothread *t = iothread_new("there");
    there = iothread_loop(t);
    row("call to another loop and back", round_trips);
    iothread_free(t);
    row("worker round trip", worker_trips);
    if (argc > 1) {
        file_rows(argv[1], 0, "buffered");
        file_rows(argv[1], O_DIRECT, "direct");
    }
    loop_bind(NULL);
    loop_free(loop);
    free(buffers);
    return 0;
}
