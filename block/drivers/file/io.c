/*
 * Which engine moves the bytes.
 *
 * An engine that the user named does everything. Otherwise, for a buffered
 * file: a read is first tried at once, on this thread, with "do not wait", so
 * that what the page cache holds costs no hand-over; what it does not hold goes
 * through io_uring, or workers where the kernel lacks it. After misses in a row
 * the try is made ever more seldom. A write copies into the page cache and is
 * fastest done at once too, until the kernel makes a writer wait for the disk:
 * then, for a while, workers do it. On file systems that live in memory nothing
 * waits, so everything but long copies is done at once. O_DIRECT goes through
 * libaio.
 *
 * A target of copies (node_expect_bulk()) is written by one worker while this
 * thread reads: the kernel lets one writer at a time into a file anyway, so
 * more would wait for one another. ext4 writes into blocks that it has been
 * told to allocate a quarter faster than into a hole, for which it reserves
 * them one by one. If a flush is to come, the disk begins with what was written
 * while more is, as nothing of it will be written again.
 *
 * Who does everything at once never suspends, and could keep the loop for ever:
 * a copying job would. So every so often a request that was done at once lets
 * the loop go on before it returns.
 *
 * When the kernel cannot write a dirty page it drops the data, tells one flush,
 * and calls the next one a success. A flush that failed is therefore final for
 * a buffered file: no later one may promise what was lost.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include "aio/loop.h"
#include "util/range.h"

enum {
    /* Longer copies hold the loop up; several workers do them side by side. */
    INLINE_MAX = 256 * 1024,
    /* Shorter ones are done before a worker has woken up. */
    BULK_MIN = 32 * 1024,
    /* Longer ones are worth the call that allocates. */
    ALLOCATE_MIN = 128 * 1024,
    /* Bulk writes are on their way to the disk in such portions. */
    WRITEBACK_BYTES = 8 * 1024 * 1024,
    MISSES_BEFORE_SKIPPING = 8,
    MAX_SKIP = 64,
    /* Done at once before the loop is let go on. */
    TURN_OPS = 256,
    TURN_BYTES = 1024 * 1024,
};

/* An inline write that took this long had waited for the disk, or this thread
 * for a CPU, which is no reason for workers. Only a thread that slept waited
 * for the disk; as asking costs a system call, it is asked for a while after a
 * slow write. The time with workers is short at first, and doubles when the
 * first inline writes after it are slow again. */
#define SLOW_WRITE_NS   (2 * 1000 * 1000)
#define WATCH_FOR_NS    (100 * 1000 * 1000)
#define SLOW_FOR_MIN_NS (5 * 1000 * 1000)
#define SLOW_FOR_MAX_NS (320 * 1000 * 1000)

typedef int engine_fn(int fd, enum file_io_op op, int64_t offset,
                      const struct iov *iov);

static engine_fn *engine_of(const struct file_state *s)
{
    switch (s->engine) {
    case FILE_ENGINE_THREADS:
        return co_threaded;
    case FILE_ENGINE_LIBAIO:
        return co_libaio;
    case FILE_ENGINE_URING:
        return co_uring;
    case FILE_ENGINE_AUTO:
        break;
    }
    if (s->direct) {
        return file_io_have_libaio() ? co_libaio : co_threaded;
    }
    return file_io_have_uring() ? co_uring : co_threaded;
}

/* Short and buffered, and the user leaves the engine to us. */
static bool may_do_at_once(const struct file_state *s, int64_t bytes)
{
    return s->engine == FILE_ENGINE_AUTO && !s->direct && bytes <= INLINE_MAX;
}

static int co_done_at_once(struct file_state *s, int64_t bytes, int ret)
{
    s->inline_bytes += bytes;
    if (G_UNLIKELY(++s->inline_ops >= TURN_OPS ||
                   s->inline_bytes >= TURN_BYTES)) {
        s->inline_ops = 0;
        s->inline_bytes = 0;
        co_pause();
    }
    return ret;
}

/* ---- reads ---- */

/* Tries a read at once; -EAGAIN if it must go to an engine. */
static int read_at_once(struct file_state *s, int64_t offset,
                        const struct iov *iov)
{
    if (s->in_memory) {
        return file_io_read_blocking(s->fd, offset, iov);
    }
    if (!s->nowait_reads) {
        return -EAGAIN;
    }
    if (s->reads_to_skip) {
        s->reads_to_skip--;
        return -EAGAIN;
    }
    int ret = file_io_read_inline(s->fd, offset, iov);
    if (ret == 0) {
        s->read_misses = 0;
    } else if (ret == -EAGAIN) {
        if (++s->read_misses >= MISSES_BEFORE_SKIPPING) {
            s->reads_to_skip = MIN(s->read_misses, MAX_SKIP);
        }
    } else if (ret == -EOPNOTSUPP || ret == -ENOSYS) {
        s->nowait_reads = false;
        ret = -EAGAIN;
    }
    return ret;
}

int co_file_preadv(struct node *node, int64_t offset, int64_t bytes,
                   const struct iov *iov, unsigned flags)
{
    struct file_state *s = node->state;

    if (may_do_at_once(s, bytes)) {
        int ret = read_at_once(s, offset, iov);
        if (ret != -EAGAIN) {
            return co_done_at_once(s, bytes, ret);
        }
    }
    return engine_of(s)(s->fd, FILE_IO_READ, offset, iov);
}

/* ---- writes and flushes ---- */

static int synced(struct file_state *s, int ret)
{
    if (ret < 0 && !s->direct) {
        s->flush_error = ret;
    }
    return ret;
}

static int co_write_fua(struct file_state *s, int64_t offset,
                        const struct iov *iov)
{
    /* io_uring hands a buffered write to kernel threads, which costs more than
     * our own workers do. */
    engine_fn *engine = s->engine == FILE_ENGINE_AUTO && !s->direct
                            ? co_threaded
                            : engine_of(s);
    int ret = engine(s->fd, FILE_IO_WRITE_FUA, offset, iov);

    /* It may have taken the news of another write's loss. No space, on the
     * other hand, is about this one, which can be made again. */
    return ret == -EIO ? synced(s, ret) : ret;
}

static void note_slow_write(struct file_state *s, int64_t start, int64_t end)
{
    bool again = start - s->slow_until_ns < s->slow_for_ns;

    s->slow_for_ns =
        again ? min_i64(s->slow_for_ns * 2, SLOW_FOR_MAX_NS) : SLOW_FOR_MIN_NS;
    s->slow_until_ns = end + s->slow_for_ns;
}

/* How often this thread gave the CPU away to wait for something. */
static long times_slept(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_THREAD, &usage) == 0 ? usage.ru_nvcsw : 0;
}

static int write_at_once(struct node *node, int64_t offset,
                         const struct iov *iov)
{
    struct file_state *s = node->state;

    if (s->in_memory) {
        return file_io_write_inline(s->fd, offset, iov, false);
    }
    int64_t start = loop_now_ns(node->loop);
    if (start < s->slow_until_ns) {
        return -EAGAIN;
    }
    bool watch = start < s->watch_until_ns;
    long slept = watch ? times_slept() : 0;
    int ret = file_io_write_inline(s->fd, offset, iov, false);
    int64_t end = loop_now_ns(node->loop);
    if (G_UNLIKELY(end - start > SLOW_WRITE_NS)) {
        if (watch && times_slept() != slept) {
            note_slow_write(s, start, end);
        }
        s->watch_until_ns = max_i64(end, s->slow_until_ns) + WATCH_FOR_NS;
    }
    return ret;
}

struct bulk_write {
    int fd;
    int64_t offset;
    const struct iov *iov;
    bool allocate;
    int64_t write_back; /* bytes from write_back_from on; or 0 */
    int64_t write_back_from;
};

static int bulk_write(void *opaque)
{
    struct bulk_write *w = opaque;

    if (w->allocate && fallocate(w->fd, FALLOC_FL_KEEP_SIZE, w->offset,
                                 (off_t)w->iov->bytes) < 0) {
        w->allocate = false;
    }
    int ret = file_io_write_inline(w->fd, w->offset, w->iov, false);
    if (w->write_back) {
        /* A flush will tell if it fails. */
        (void)sync_file_range(w->fd, w->write_back_from, w->write_back,
                              SYNC_FILE_RANGE_WRITE);
    }
    return ret;
}

/* What a flush will wait for the disk may begin with now. */
static void plan_write_back(struct file_state *s, struct bulk_write *w)
{
    int64_t end = w->offset + (int64_t)w->iov->bytes;

    s->bulk.from = s->bulk.bytes ? min_i64(s->bulk.from, w->offset) : w->offset;
    s->bulk.to = s->bulk.bytes ? max_i64(s->bulk.to, end) : end;
    s->bulk.bytes += (int64_t)w->iov->bytes;
    if (s->bulk.bytes >= WRITEBACK_BYTES) {
        w->write_back_from = s->bulk.from;
        w->write_back = s->bulk.to - s->bulk.from;
        s->bulk.bytes = 0;
    }
}

static int co_write_bulk(struct node *node, int64_t offset,
                         const struct iov *iov)
{
    struct file_state *s = node->state;
    bool allocate = s->allocate_first && iov->bytes >= ALLOCATE_MIN;
    struct bulk_write w = {
        .fd = s->fd, .offset = offset, .iov = iov, .allocate = allocate};

    if (!node->no_flush) {
        plan_write_back(s, &w);
    }
    int ret = co_worker_in(&s->bulk_writes, bulk_write, &w);

    if (allocate && !w.allocate) {
        s->allocate_first = false;
    }
    return ret;
}

int co_file_pwritev(struct node *node, int64_t offset, int64_t bytes,
                    const struct iov *iov, unsigned flags)
{
    struct file_state *s = node->state;

    if ((flags & REQ_FUA) && !s->in_memory) {
        return co_write_fua(s, offset, iov);
    }
    bool ours = s->engine == FILE_ENGINE_AUTO && !s->direct;
    if (node->bulk && ours && bytes >= BULK_MIN) {
        return co_write_bulk(node, offset, iov);
    }
    if (may_do_at_once(s, bytes)) {
        int ret = write_at_once(node, offset, iov);
        if (ret != -EAGAIN) {
            return co_done_at_once(s, bytes, ret);
        }
    }
    if (ours) {
        return co_threaded(s->fd, FILE_IO_WRITE, offset, iov);
    }
    return engine_of(s)(s->fd, FILE_IO_WRITE, offset, iov);
}

int co_file_flush(struct node *node)
{
    struct file_state *s = node->state;

    if (s->flush_error || s->in_memory) {
        return s->flush_error;
    }
    return synced(s, engine_of(s)(s->fd, FILE_IO_FLUSH, 0, NULL));
}

char *file_io_engine(struct node *node)
{
    struct file_state *s = node->state;

    switch (s->engine) {
    case FILE_ENGINE_THREADS:
        return g_strdup("threads");
    case FILE_ENGINE_LIBAIO:
        return g_strdup("native");
    case FILE_ENGINE_URING:
        return g_strdup("io_uring");
    case FILE_ENGINE_AUTO:
        break;
    }
    if (s->in_memory) {
        return g_strdup("auto: inline, file system in memory");
    }
    const char *engine = engine_of(s) == co_libaio  ? "native"
                         : engine_of(s) == co_uring ? "io_uring"
                                                    : "threads";
    if (s->direct) {
        return g_strdup_printf("auto: %s", engine);
    }
    bool slow = loop_now_ns(node->loop) < s->slow_until_ns;
    return g_strdup_printf("auto: reads %s%s, writes %s",
                           s->nowait_reads ? "inline if cached, else " : "",
                           engine, slow ? "threads" : "inline");
}
