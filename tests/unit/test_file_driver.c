/*
 * The file driver: opening, engines, reads, writes, flushes, and a full disk.
 */
#include "tests/unit/lib/file_syscalls.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "block/backend.h"
#include "block/drivers/file/file.h"
#include "block/graph.h"

/* ---- every engine against a model ---- */

static const char *const engines[] = {
    "",
    "aio=threads",
    "aio=io_uring",
    "cache.direct=on",
    "cache.direct=on,aio=threads",
    "cache.direct=on,aio=native",
    "cache.direct=on,aio=io_uring",
};

enum { MODEL_BYTES = 256 * 1024 };

struct model {
    struct node *node;
    uint8_t bytes[MODEL_BYTES];
    int64_t length;
};

/* Memory in pieces at odd places. */
static struct iov pieces(struct iovec *vec, uint8_t *buf, int64_t bytes)
{
    int64_t a = bytes / 3, b = bytes / 2;

    vec[0] = (struct iovec){buf, a};
    vec[1] = (struct iovec){buf + a, b - a};
    vec[2] = (struct iovec){buf + b, bytes - b};
    return (struct iov){.vec = vec, .count = 3, .bytes = bytes};
}

static void co_one_op(struct model *m, GRand *rand, int64_t grain)
{
    int64_t offset = g_rand_int_range(rand, 0, MODEL_BYTES / grain) * grain;
    int64_t bytes = grain * g_rand_int_range(rand, 1, 40 * 1024 / grain);
    g_autofree uint8_t *buf = g_malloc(MODEL_BYTES + 1);
    struct iovec vec[3];

    bytes = min_i64(bytes, MODEL_BYTES - offset);
    struct iov iov = pieces(vec, buf + 1, bytes);
    if (g_rand_boolean(rand)) {
        memset(buf, 0xee, MODEL_BYTES + 1);
        assert_int_equal(co_node_preadv(m->node, offset, &iov, 0), 0);
        assert_memory_equal(buf + 1, m->bytes + offset, bytes);
        return;
    }
    for (int64_t i = 0; i < bytes; i++) {
        buf[1 + i] = g_rand_int(rand);
    }
    unsigned flags = g_rand_int_range(rand, 0, 8) ? 0 : REQ_FUA;
    assert_int_equal(co_node_pwritev(m->node, offset, &iov, flags), 0);
    memcpy(m->bytes + offset, buf + 1, bytes);
    m->length = max_i64(m->length, offset + bytes);
}

static void co_check_engine(const char *dir, const char *options, bool bulk)
{
    g_autofree char *path = new_file(dir, 10000, 0);
    GRand *rand = g_rand_new_with_seed(7);
    struct model *m = g_new0(struct model, 1);

    m->length = 10000;
    m->node = co_node("driver=file,filename=%s,%s", path, options);
    if (bulk) {
        node_expect_bulk(m->node);
    }
    for (int i = 0; i < 150; i++) {
        co_one_op(m, rand, i % 3 ? 512 : 1);
    }
    assert_int_equal(co_node_flush(m->node), 0);
    /* A direct write at the end fills its block. */
    assert_in_range(m->node->length, m->length, m->length + 4095);
    assert_int_equal(m->node->length, size_on_disk(path));
    co_node_unref(m->node);

    g_autofree char *data = NULL;
    gsize length;
    assert_true(g_file_get_contents(path, &data, &length, NULL));
    assert_memory_equal(data, m->bytes, MIN(length, MODEL_BYTES));
    g_rand_free(rand);
    g_free(m);
}

static void co_every_engine_keeps_the_data(void *opaque)
{
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        co_check_engine(on_disk, engines[i], false);
        co_check_engine(on_disk, engines[i], true);
        if (!strstr(engines[i], "direct")) {
            co_check_engine(in_memory, engines[i], false);
        }
    }
}

static void co_long_copies_allocate_what_they_write(void *opaque)
{
    g_autofree char *path = new_file(on_disk, 0, 0);
    g_autofree char *data = g_malloc(MIB);
    struct node *n = co_node("driver=file,filename=%s", path);
    struct file_state *s = n->state;

    memset(data, 7, MIB);
    node_expect_bulk(n);
    s->allocate_first = true; /* on any file system */
    assert_int_equal(co_node_pwrite(n, MIB, data, MIB / 4, 0), 0);
    assert_int_equal(sys.allocations, 1);
    assert_int_equal(co_node_pwrite(n, 3 * MIB, data, 64 * KIB, 0), 0);
    assert_int_equal(sys.allocations, 1);
    assert_int_equal(size_on_disk(path), 3 * MIB + 64 * KIB);
    assert_int_equal(co_node_flush(n), 0);
    assert_in_range(allocated(path), 320 * KIB, 352 * KIB);
    /* Where it cannot be it is tried once. */
    sys.allocate_errno = EOPNOTSUPP;
    for (int i = 4; i < 6; i++) {
        assert_int_equal(co_node_pwrite(n, i * MIB, data, MIB / 4, 0), 0);
        assert_int_equal(sys.allocations, 2);
        assert_bytes(path, i * MIB, MIB / 4, 7);
    }
    co_node_unref(n);
}

static void co_copy_long(const char *options)
{
    g_autofree char *path = new_file(on_disk, 0, 0);
    g_autofree char *data = g_malloc0(MIB / 4);
    struct node *n = co_node("driver=file,filename=%s%s", path, options);

    node_expect_bulk(n);
    for (int64_t i = 0; i < 79; i++) {
        assert_int_equal(
            co_node_pwrite(n, (64 - i % 64) * MIB / 4, data, MIB / 4, 0), 0);
    }
    co_node_unref(n);
}

static void co_long_copies_go_to_the_disk_meanwhile(void *opaque)
{
    co_copy_long("");
    assert_int_equal(sys.write_backs, 2);
    assert_int_equal(sys.written_back, 8 * MIB);
    co_copy_long(",cache.no-flush=on");
    assert_int_equal(sys.write_backs, 2);
}

static void co_engine_names(void *opaque)
{
    static const char *const expected[] = {
        "auto: reads inline if cached, else io_uring, writes inline",
        "threads",
        "io_uring",
        "auto: native",
        "threads",
        "native",
        "io_uring",
    };
    g_autofree char *path = new_file(on_disk, 4096, 0);
    GError *error = NULL;

    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        struct node *n =
            co_node("driver=file,filename=%s,%s", path, engines[i]);
        g_autofree char *name = n->driver->io_engine(n);
        assert_string_equal(name, expected[i]);
        co_node_unref(n);
    }
    assert_null(
        co_try_node(&error, "driver=file,filename=%s,aio=native", path));
    assert_error(&error, "aio=native was specified, but it requires "
                         "cache.direct=on, which was not specified.");
    g_autofree char *quick = new_file(in_memory, 4096, 0);
    struct node *n = co_node("driver=file,filename=%s", quick);
    g_autofree char *name = n->driver->io_engine(n);
    assert_string_equal(name, "auto: inline, file system in memory");
    co_node_unref(n);
}

/* ---- learning ---- */

#define MS (INT64_C(1000) * 1000)

static void co_read_4k(struct node *node, int64_t i, int byte)
{
    char buf[4096];
    memset(buf, byte + 1, sizeof(buf));
    assert_int_equal(co_node_pread(node, i * 4096 % node->length, buf, 4096, 0),
                     0);
    assert_int_equal(buf[0], byte);
    assert_int_equal(buf[4095], byte);
}

static void co_reads_learn_about_the_cache(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    for (int i = 0; i < 100; i++) {
        co_read_4k(n, i, 5);
    }
    assert_int_equal(sys.tries, 100);
    assert_int_equal(sys.inline_reads, 100);
    /* Nothing is cached: ever fewer tries, the engine reads. */
    sys.try_errno = EAGAIN;
    for (int i = 0; i < 1000; i++) {
        co_read_4k(n, i, 5);
    }
    assert_in_range(sys.tries, 110, 160);
    assert_int_equal(sys.inline_reads, 100);
    /* It is again: found out after a while, and then all are inline. */
    sys.try_errno = 0;
    for (int i = 0; i < 1000; i++) {
        co_read_4k(n, i, 5);
    }
    assert_in_range(sys.inline_reads, 1100 - 64, 1100);
    /* The misses of long ago do not count. */
    sys.try_errno = EAGAIN;
    co_read_4k(n, 0, 5);
    sys.try_errno = 0;
    sys.inline_reads = 0;
    for (int i = 0; i < 100; i++) {
        co_read_4k(n, i, 5);
    }
    assert_int_equal(sys.inline_reads, 100);
    co_node_unref(n);
}

static void co_a_file_system_that_cannot_tell_is_asked_once(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    sys.try_errno = EOPNOTSUPP;
    for (int i = 0; i < 100; i++) {
        co_read_4k(n, i, 5);
    }
    assert_int_equal(sys.tries, 1);
    co_node_unref(n);
}

static void co_slow_writes_go_to_workers_for_a_while(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    /* Preempted: nothing that workers would do better. */
    sys.write_ns = 5 * MS;
    for (int i = 0; i < 5; i++) {
        assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
    }
    assert_int_equal(sys.inline_writes, 5);
    sys.write_sleeps = true;
    assert_int_equal(co_fill(n, 0, 4096, 2, 0), 0);
    assert_int_equal(sys.inline_writes, 6);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(co_fill(n, i * 4096, 4096, 3, 0), 0);
    }
    assert_int_equal(sys.inline_writes, 6);
    assert_int_equal(sys.worker_writes, 10);
    g_autofree char *name = n->driver->io_engine(n);
    assert_true(g_str_has_suffix(name, "writes threads"));
    /* Still slow: the workers get twice the time, again and again. */
    for (int i = 0; i < 10; i++) {
        loop_clock_advance(n->loop, MIN(5 << i, 320) * MS);
        assert_int_equal(co_fill(n, 0, 4096, 3, 0), 0);
        loop_clock_advance(n->loop, MIN(5 << i, 320) * MS);
        assert_int_equal(co_fill(n, 0, 4096, 3, 0), 0);
    }
    assert_in_range(sys.inline_writes, 16, 20);
    unsigned at_once = sys.inline_writes;
    loop_clock_advance(n->loop, 1000 * MS);
    /* The first slow one in a while is only a reason to watch. */
    assert_int_equal(co_fill(n, 0, 4096, 4, 0), 0);
    sys.write_ns = 0;
    assert_int_equal(co_fill(n, 0, 4096, 4, 0), 0);
    assert_int_equal(co_fill(n, 0, 4096, 4, 0), 0);
    assert_int_equal(sys.inline_writes, at_once + 3);
    unsigned by_workers = sys.worker_writes;
    /* Long ones always. */
    assert_int_equal(co_fill(n, 0, 512 * KIB, 4, 0), 0);
    assert_int_equal(sys.worker_writes, by_workers + 1);
    co_node_unref(n);
}

struct bystander {
    bool stop, stopped;
    unsigned turns;
};

static void co_bystander(void *opaque)
{
    struct bystander *b = opaque;

    while (!b->stop) {
        b->turns++;
        co_pause();
    }
    b->stopped = true;
}

static void co_turns_of_others(const char *dir)
{
    g_autofree char *path = new_file(dir, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);
    struct bystander b = {0};

    co_start(co_bystander, &b);
    for (int i = 0; i < 1000; i++) {
        co_read_4k(n, i, 5);
    }
    assert_in_range(b.turns, 3, 1000);
    unsigned turns = b.turns;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(co_fill(n, 0, 128 * KIB, 5, 0), 0);
    }
    assert_in_range(b.turns - turns, 10, 1000);
    assert_int_equal(sys.worker_reads + sys.worker_writes, 0);
    b.stop = true;
    while (!b.stopped) {
        co_pause();
    }
    co_node_unref(n);
}

static void co_work_done_at_once_lets_others_run(void *opaque)
{
    co_turns_of_others(on_disk);
    co_turns_of_others(in_memory);
}

/* ---- errors ---- */

static void co_a_failed_flush_is_final(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s,aio=threads", path);

    assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
    sys.sync_errno = EIO;
    assert_int_equal(co_node_flush(n), -EIO);
    sys.sync_errno = 0;
    assert_int_equal(co_node_flush(n), -EIO);
    assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
    assert_int_equal(co_node_flush(n), -EIO);
    assert_int_equal(sys.syncs, 1);
    co_node_unref(n);

    /* No cache, nothing lost: it may be tried again. */
    n = co_node("driver=file,filename=%s,aio=threads,cache.direct=on", path);
    assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
    sys.sync_errno = EIO;
    assert_int_equal(co_node_flush(n), -EIO);
    sys.sync_errno = 0;
    assert_int_equal(co_node_flush(n), 0);
    co_node_unref(n);
}

static void co_a_stable_write_may_take_the_news_of_a_loss(void *opaque)
{
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    sys.dsync_errno = ENOSPC;
    assert_int_equal(co_fill(n, 0, 4096, 1, REQ_FUA), -ENOSPC);
    sys.dsync_errno = 0;
    assert_int_equal(co_fill(n, 0, 4096, 1, REQ_FUA), 0);
    assert_int_equal(co_node_flush(n), 0);
    sys.dsync_errno = EIO;
    assert_int_equal(co_fill(n, 0, 4096, 1, REQ_FUA), -EIO);
    sys.dsync_errno = 0;
    assert_int_equal(co_fill(n, 0, 4096, 1, 0), 0);
    assert_int_equal(co_node_flush(n), -EIO);
    co_node_unref(n);
}

static void co_an_error_after_a_part_is_an_error(void *opaque)
{
    static const char *const options[] = {"", "aio=threads"};
    g_autofree char *path = new_file(on_disk, MIB, 5);

    for (size_t i = 0; i < G_N_ELEMENTS(options); i++) {
        struct node *n =
            co_node("driver=file,filename=%s,%s", path, options[i]);
        sys.write_errno = ENOSPC;
        sys.write_part = 1000;
        assert_int_equal(co_fill(n, 0, 4096, 1, 0), -ENOSPC);
        assert_bytes(path, 0, 1000, 1);
        assert_bytes(path, 1000, 3096, 5);
        sys.write_errno = 0;
        make_file(path, MIB, 5);
        co_node_unref(n);
    }
}

static void co_no_status_of_the_file(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    sys.fstat_errno = EIO;
    assert_int_equal(co_node_refresh_length(n), -EIO);
    assert_int_equal(co_node_allocated_size(n), -EIO);
    assert_false(co_node_truncate(n, 4096, true, PREALLOC_MODE_OFF, 0, &error));
    g_autofree char *expected =
        g_strdup_printf("Could not stat '%s': Input/output error", path);
    assert_error(&error, expected);
    assert_int_equal(n->length, MIB);
    assert_null(co_try_node(&error, "driver=file,filename=%s", path));
    assert_error(&error, expected);
    sys.fstat_errno = 0;
    assert_int_equal(co_node_refresh_length(n), 0);
    co_node_unref(n);
}

static void co_somebody_else_cuts_the_file(void *opaque)
{
    char buf[4096];
    struct block_status st;
    g_autofree char *path = new_file(on_disk, MIB, 5);

    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        make_file(path, MIB, 5);
        struct node *n =
            co_node("driver=file,filename=%s,%s", path, engines[i]);
        assert_int_equal(truncate(path, 512 * KIB + 100), 0);
        memset(buf, 1, sizeof(buf));
        assert_int_equal(co_node_pread(n, 600 * KIB, buf, 4096, 0), 0);
        assert_int_equal(buf[0] | buf[4095], 0);
        assert_int_equal(co_node_pread(n, 512 * KIB, buf, 4096, 0), 0);
        assert_int_equal(buf[99], 5);
        assert_int_equal(buf[100] | buf[4095], 0);
        assert_int_equal(co_node_block_status(n, true, 600 * KIB, 4096, &st),
                         0);
        assert_true(st.flags & BLOCK_ZERO);
        assert_int_equal(co_fill(n, 700 * KIB, 4096, 7, 0), 0);
        assert_int_equal(size_on_disk(path), 704 * KIB);
        assert_int_equal(co_node_refresh_length(n), 0);
        assert_int_equal(n->length, 704 * KIB);
        co_node_unref(n);
    }
}

/* ---- a full disk ---- */

static void co_full_disk(const char *dir, const char *options)
{
    g_autofree char *path = new_file(dir, 0, 0);
    g_autofree char *other = new_file(dir, 1024 * KIB, 1);
    GError *error = NULL;
    struct node *n =
        co_try_node(&error, "driver=file,filename=%s,%s", path, options);

    if (!n) {
        /* An older kernel's file system in memory. */
        assert_non_null(strstr(error->message, "O_DIRECT"));
        g_clear_error(&error);
        g_remove(other);
        return;
    }
    /* In one long write, and in short ones. */
    assert_int_equal(co_fill(n, 0, 4 * MIB, 1, 0), -ENOSPC);
    int ret = 0;
    for (int64_t i = 0; i < 1024 && ret == 0; i++) {
        ret = co_fill(n, i * 4096, 4096, 2, 0);
    }
    assert_int_equal(ret, -ENOSPC);
    assert_int_equal(co_fill(n, 3 * MIB, 4096, 2, REQ_FUA), -ENOSPC);
    /* What was refused is possible as soon as there is space. */
    g_remove(other);
    assert_int_equal(co_fill(n, 3 * MIB, 4096, 3, 0), 0);
    assert_int_equal(co_fill(n, 3 * MIB + 4096, 4096, 3, REQ_FUA), 0);
    assert_int_equal(co_node_flush(n), 0);
    assert_bytes(path, 3 * MIB, 8192, 3);
    co_node_unref(n);
    g_remove(path);
}

static void co_no_space_is_told_by_every_engine(void *opaque)
{
    if (!own_mounts()) {
        print_message("no mounts: errors of writes are simulated only\n");
        return;
    }
    g_autofree char *dir = small_disk("size=2m", 0);
    for (size_t i = 0; i < G_N_ELEMENTS(engines); i++) {
        co_full_disk(dir, engines[i]);
    }
    umount2(dir, MNT_DETACH);
}

/* ---- opening ---- */

static void co_only_for_reading(void *opaque)
{
    GError *error = NULL;
    struct node *n;
    g_autofree char *path = NULL;
    const char *why = "Permission denied";

    if (own_mounts()) {
        g_autofree char *dir = small_disk("size=1m", 0);
        path = new_file(dir, 4096, 5);
        assert_int_equal(mount(NULL, dir, NULL, MS_REMOUNT | MS_RDONLY, NULL),
                         0);
        why = "Read-only file system";
    } else {
        path = new_file(on_disk, 4096, 5);
        g_chmod(path, 0400);
    }
    g_autofree char *expected =
        g_strdup_printf("Could not open '%s': %s", path, why);
    assert_null(co_try_node(&error, "driver=file,filename=%s", path));
    assert_error(&error, expected);
    /* As long as nobody writes. */
    n = co_node("driver=file,filename=%s,auto-read-only=on", path);
    assert_false(n->read_only);
    co_read_4k(n, 0, 5);
    assert_null(co_backend_new(NULL, n, PERM_WRITE, PERM_ALL, &error));
    assert_error(&error, expected);
    co_read_4k(n, 0, 5);
    co_node_unref(n);
    n = co_node("driver=file,filename=%s,read-only=on", path);
    co_read_4k(n, 0, 5);
    co_node_unref(n);
    /* It is no way around what is wrong otherwise. */
    assert_null(co_try_node(
        &error, "driver=file,filename=/nosuch/x,auto-read-only=on"));
    assert_error(&error,
                 "Could not open '/nosuch/x': No such file or directory");
}

static void co_what_is_no_regular_file(void *opaque)
{
    GError *error = NULL;
    g_autofree char *fifo = g_strdup_printf("%s/fifo", on_disk);
    static const char *const read_only[] = {"on", "off"};

    assert_int_equal(mkfifo(fifo, 0600), 0);
    g_autofree char *expected = g_strdup_printf(
        "'file' driver requires '%s' to be a regular file", fifo);
    for (int i = 0; i < 2; i++) {
        assert_null(co_try_node(&error, "driver=file,filename=%s,read-only=%s",
                                fifo, read_only[i]));
        assert_error(&error, expected);
    }
    assert_null(co_try_node(&error, "driver=file,filename=/tmp"));
    assert_error(&error, "Could not open '/tmp': Is a directory");
    assert_null(co_try_node(&error, "driver=file,filename=/tmp,read-only=on"));
    assert_error(&error, "'file' driver requires '/tmp' to be a regular file");
    assert_null(co_try_node(&error, "driver=file,filename=/dev/null"));
    assert_error(&error,
                 "'file' driver requires '/dev/null' to be a regular file");
    assert_null(co_try_node(&error, "driver=file,filename=/proc/version,"
                                    "read-only=on,cache.direct=on"));
    assert_error(&error, "Could not open '/proc/version': filesystem does not "
                         "support O_DIRECT");
}

static void co_alignment_for_direct_io(void *opaque)
{
    int64_t lengths[] = {0, 100, MIB};

    for (size_t i = 0; i < G_N_ELEMENTS(lengths); i++) {
        g_autofree char *path = new_file(on_disk, lengths[i], 0);
        struct node *n =
            co_node("driver=file,filename=%s,cache.direct=on", path);
        assert_in_range(n->limits.request_alignment, 512, 4096);
        assert_in_range(n->limits.memory_alignment, 1,
                        n->limits.request_alignment);
        /* The flag of the opening is gone, which io_uring would see. */
        struct file_state *s = n->state;
        assert_int_equal(fcntl(s->fd, F_GETFL) & (O_NONBLOCK | O_DIRECT),
                         O_DIRECT);
        co_node_unref(n);
    }
}

/* ---- without io_uring ---- */

static void co_without_uring(void *opaque)
{
    GError *error = NULL;
    g_autofree char *path = new_file(on_disk, MIB, 5);
    struct node *n = co_node("driver=file,filename=%s", path);

    g_autofree char *name = n->driver->io_engine(n);
    assert_string_equal(
        name, "auto: reads inline if cached, else threads, writes inline");
    sys.try_errno = EAGAIN;
    co_read_4k(n, 3, 5);
    assert_int_equal(sys.worker_reads, 1);
    assert_int_equal(co_fill(n, 0, 4096, 6, 0), 0);
    assert_int_equal(co_node_flush(n), 0);
    assert_int_equal(sys.syncs, 1);
    co_node_unref(n);
    assert_null(
        co_try_node(&error, "driver=file,filename=%s,aio=io_uring", path));
    assert_error(&error, "aio=io_uring is not supported by this kernel");
}

static bool forbid_uring(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {G_N_ELEMENTS(code), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* First of all, while the process has one thread and has asked for no ring. */
static void workers_stand_in_for_io_uring(void **state)
{
    int status;
    pid_t child = fork();

    assert_true(child >= 0);
    if (!child) {
        if (forbid_uring()) {
            in_loop(co_without_uring);
            _exit(0);
        }
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

FILE_TEST(every_engine_keeps_the_data)
FILE_TEST(long_copies_allocate_what_they_write)
FILE_TEST(long_copies_go_to_the_disk_meanwhile)
FILE_TEST(engine_names)
FILE_TEST(reads_learn_about_the_cache)
FILE_TEST(a_file_system_that_cannot_tell_is_asked_once)
FILE_TEST(slow_writes_go_to_workers_for_a_while)
FILE_TEST(work_done_at_once_lets_others_run)
FILE_TEST(a_failed_flush_is_final)
FILE_TEST(a_stable_write_may_take_the_news_of_a_loss)
FILE_TEST(an_error_after_a_part_is_an_error)
FILE_TEST(no_status_of_the_file)
FILE_TEST(somebody_else_cuts_the_file)
FILE_TEST(no_space_is_told_by_every_engine)
FILE_TEST(only_for_reading)
FILE_TEST(what_is_no_regular_file)
FILE_TEST(alignment_for_direct_io)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workers_stand_in_for_io_uring),
        /* These may make namespaces: before there are threads. */
        cmocka_unit_test(only_for_reading),
        cmocka_unit_test(no_space_is_told_by_every_engine),
        cmocka_unit_test(every_engine_keeps_the_data),
        cmocka_unit_test(long_copies_allocate_what_they_write),
        cmocka_unit_test(long_copies_go_to_the_disk_meanwhile),
        cmocka_unit_test(engine_names),
        cmocka_unit_test(reads_learn_about_the_cache),
        cmocka_unit_test(a_file_system_that_cannot_tell_is_asked_once),
        cmocka_unit_test(slow_writes_go_to_workers_for_a_while),
        cmocka_unit_test(work_done_at_once_lets_others_run),
        cmocka_unit_test(a_failed_flush_is_final),
        cmocka_unit_test(a_stable_write_may_take_the_news_of_a_loss),
        cmocka_unit_test(an_error_after_a_part_is_an_error),
        cmocka_unit_test(no_status_of_the_file),
        cmocka_unit_test(somebody_else_cuts_the_file),
        cmocka_unit_test(what_is_no_regular_file),
        cmocka_unit_test(alignment_for_direct_io),
    };
    return cmocka_run_group_tests(tests, make_directories, remove_directories);
}
