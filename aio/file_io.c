/*
 * Transfers in parts, on this thread or through an engine.
 *
 * A view of memory becomes one array of iovecs after another: the caller's own
 * array where the view covers whole entries, a copy on the stack where not.
 * Short transfers are gone on with. The end of the file is where a read returns
 * 0; an O_DIRECT read that stops short of a sector cannot be gone on with
 * (EINVAL), and there the file's size tells. Everything but the co_ functions
 * runs on any thread.
 */
#include "aio/file_io_internal.h"

#include <errno.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* Entries of a copied array; a longer view takes several parts. */
enum { PART_VECS = 64 };

/* The head of rest that one system call takes: in place if the view covers
 * whole entries, else copied to storage. */
static size_t head_of(const struct iov *rest, struct iovec *storage,
                      const struct iovec **vec, unsigned *count)
{
    const struct iovec *v = rest->vec;
    size_t skip = rest->skip;
    size_t left = rest->bytes;
    unsigned n = 0;

    while (skip && skip >= v->iov_len) {
        skip -= v->iov_len;
        v++;
    }
    const struct iovec *start = v;
    if (!skip) {
        while (left && n < IOV_MAX && v->iov_len <= left) {
            left -= v->iov_len;
            v++;
            n++;
        }
        if (!left || n > PART_VECS) {
            *vec = start;
            *count = n;
            return rest->bytes - left;
        }
    }
    left = rest->bytes;
    for (v = start, n = 0; left && n < PART_VECS; v++) {
        size_t len = v->iov_len - skip < left ? v->iov_len - skip : left;
        if (len) {
            storage[n].iov_base = (char *)v->iov_base + skip;
            storage[n].iov_len = len;
            n++;
        }
        left -= len;
        skip = 0;
    }
    *vec = storage;
    *count = n;
    return rest->bytes - left;
}

/* After EINVAL: the read had come to the end of a plain file. */
static bool at_end_of_file(int fd, int64_t offset)
{
    struct stat st;

    return fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= offset;
}

struct progress {
    enum file_io_op op;
    int fd;
    int64_t offset;
    struct iov rest;
    bool moved; /* some part went through */
};

/* Takes in what a part returned: 1 to go on, 0 when all is done, or a negative
 * errno. */
static int advance(struct progress *p, ssize_t ret)
{
    if (ret == -EINTR) {
        return 1;
    }
    if (ret == -EINVAL && p->moved && p->op == FILE_IO_READ &&
        at_end_of_file(p->fd, p->offset)) {
        ret = 0;
    }
    if (ret < 0) {
        return (int)ret;
    }
    if (ret == 0) {
        if (p->op != FILE_IO_READ) {
            return -ENOSPC;
        }
        iov_set(&p->rest, 0, 0, p->rest.bytes);
        return 0;
    }
    p->moved = true;
    if ((size_t)ret >= p->rest.bytes) {
        return 0;
    }
    p->offset += ret;
    p->rest = iov_slice(&p->rest, (size_t)ret, p->rest.bytes - (size_t)ret);
    return 1;
}

/* ---- on this thread ---- */

static ssize_t sync_part(const struct io_part *part, int flags)
{
    ssize_t ret = part->op == FILE_IO_READ
                      ? preadv2(part->fd, part->vec, (int)part->count,
                                part->offset, flags)
                      : pwritev2(part->fd, part->vec, (int)part->count,
                                 part->offset, flags);
    return ret < 0 ? -errno : ret;
}

static int sync_transfer(int fd, enum file_io_op op, int64_t offset,
                         const struct iov *iov, int flags)
{
    struct progress p = {.op = op, .fd = fd, .offset = offset, .rest = *iov};
    struct iovec storage[PART_VECS];
    int ret = iov->bytes ? 1 : 0;

    while (ret > 0) {
        struct io_part part = {.fd = fd, .op = op, .offset = p.offset};
        head_of(&p.rest, storage, &part.vec, &part.count);
        ret = advance(&p, sync_part(&part, flags));
    }
    return ret;
}

static int sync_flush(int fd)
{
    int ret;

    do {
        ret = fdatasync(fd);
    } while (ret < 0 && errno == EINTR);
    return ret < 0 ? -errno : 0;
}

int file_io_read_inline(int fd, int64_t offset, const struct iov *iov)
{
    return sync_transfer(fd, FILE_IO_READ, offset, iov, RWF_NOWAIT);
}

int file_io_read_blocking(int fd, int64_t offset, const struct iov *iov)
{
    return sync_transfer(fd, FILE_IO_READ, offset, iov, 0);
}

int file_io_write_inline(int fd, int64_t offset, const struct iov *iov,
                         bool fua)
{
    int ret =
        sync_transfer(fd, FILE_IO_WRITE, offset, iov, fua ? RWF_DSYNC : 0);
    if (fua && ret == -EOPNOTSUPP) {
        ret = sync_transfer(fd, FILE_IO_WRITE, offset, iov, 0);
        ret = ret < 0 ? ret : sync_flush(fd);
    }
    return ret;
}

/* ---- on a worker ---- */

struct threaded {
    int fd;
    enum file_io_op op;
    int64_t offset;
    const struct iov *iov;
};

static int threaded_run(void *opaque)
{
    struct threaded *t = opaque;

    switch (t->op) {
    case FILE_IO_READ:
        return sync_transfer(t->fd, t->op, t->offset, t->iov, 0);
    case FILE_IO_WRITE:
    case FILE_IO_WRITE_FUA:
        return file_io_write_inline(t->fd, t->offset, t->iov,
                                    t->op == FILE_IO_WRITE_FUA);
    case FILE_IO_FLUSH:
        return sync_flush(t->fd);
    }
    return -EINVAL;
}

int co_threaded(int fd, enum file_io_op op, int64_t offset,
                const struct iov *iov)
{
    struct threaded t = {.fd = fd, .op = op, .offset = offset, .iov = iov};

    return co_worker(threaded_run, &t);
}

/* ---- through an engine ---- */

static int co_transfer_flush(co_part_fn *engine, int fd)
{
    struct io_part part = {.fd = fd, .op = FILE_IO_FLUSH};
    ssize_t ret;

    do {
        ret = engine(&part);
    } while (ret == -EINTR);
    if (ret == -EINVAL || ret == -EOPNOTSUPP || ret == -EAGAIN) {
        return co_threaded(fd, FILE_IO_FLUSH, 0, NULL);
    }
    return (int)ret;
}

int co_transfer(co_part_fn *engine, int fd, enum file_io_op op, int64_t offset,
                const struct iov *iov)
{
    struct progress p = {.op = op, .fd = fd, .offset = offset};
    struct iovec storage[PART_VECS];
    int ret = 1;

    if (op == FILE_IO_FLUSH) {
        return co_transfer_flush(engine, fd);
    }
    p.rest = *iov;
    if (!iov->bytes) {
        return 0;
    }
    while (ret > 0) {
        struct io_part part = {.fd = fd, .op = op, .offset = p.offset};
        head_of(&p.rest, storage, &part.vec, &part.count);
        ssize_t moved = engine(&part);
        /* What the kernel would not do without blocking, a worker may; so too
         * what this engine does not know: some character devices, RWF_DSYNC.
         * A request that is really wrong is told so there. */
        if (moved == -EAGAIN || moved == -EOPNOTSUPP ||
            (moved == -EINVAL && !p.moved)) {
            return co_threaded(fd, op, p.offset, &p.rest);
        }
        ret = advance(&p, moved);
    }
    return ret;
}
