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
 * waits, so everything is done at once. O_DIRECT goes through libaio.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include "aio/loop.h"
#include "util/range.h"

enum {
    /* Longer copies hold the loop up; several workers do them side by side. */
    INLINE_MAX = 256 * 1024,
    MISSES_BEFORE_SKIPPING = 8,
    MAX_SKIP = 64,
};

/* An inline write that took this long had waited for the disk. */
#define SLOW_WRITE_NS (2 * 1000 * 1000)
#define SLOW_FOR_NS   (200 * 1000 * 1000)

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

/* Tries a buffered read at once; -EAGAIN if it must go to an engine. */
static int read_at_once(struct file_state *s, int64_t offset,
                        const struct iov *iov)
{
    if (s->engine != FILE_ENGINE_AUTO || s->direct || iov->bytes > INLINE_MAX ||
        !s->nowait_reads) {
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
    } else if (ret == -EOPNOTSUPP) {
        s->nowait_reads = false;
        ret = -EAGAIN;
    }
    return ret;
}

int co_file_preadv(struct node *node, int64_t offset, int64_t bytes,
                   const struct iov *iov, unsigned flags)
{
    struct file_state *s = node->state;

    if (s->in_memory && s->engine == FILE_ENGINE_AUTO) {
        return file_io_read_blocking(s->fd, offset, iov);
    }
    int ret = read_at_once(s, offset, iov);
    if (ret != -EAGAIN) {
        return ret;
    }
    return engine_of(s)(s->fd, FILE_IO_READ, offset, iov);
}

int co_file_pwritev(struct node *node, int64_t offset, int64_t bytes,
                    const struct iov *iov, unsigned flags)
{
    struct file_state *s = node->state;
    bool fua = flags & REQ_FUA;
    enum file_io_op op = fua ? FILE_IO_WRITE_FUA : FILE_IO_WRITE;

    if (s->engine != FILE_ENGINE_AUTO || s->direct) {
        return engine_of(s)(s->fd, op, offset, iov);
    }
    if (s->in_memory) {
        return file_io_write_inline(s->fd, offset, iov, fua);
    }
    /* io_uring hands buffered writes to kernel threads, which costs more than
     * the write; our own workers cost less. */
    if (fua || bytes > INLINE_MAX) {
        return co_threaded(s->fd, op, offset, iov);
    }
    int64_t start = loop_now_ns(node->loop);
    if (start < s->slow_until_ns) {
        return co_threaded(s->fd, op, offset, iov);
    }
    int ret = file_io_write_inline(s->fd, offset, iov, false);
    int64_t end = loop_now_ns(node->loop);
    if (end - start > SLOW_WRITE_NS) {
        s->slow_until_ns = end + SLOW_FOR_NS;
    }
    return ret;
}

int co_file_flush(struct node *node)
{
    struct file_state *s = node->state;

    return engine_of(s)(s->fd, FILE_IO_FLUSH, 0, NULL);
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
