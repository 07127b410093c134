/*
 * Space of a file: zeroes, discard, status, length and copies inside the
 * storage. All of it may wait for the disk, so it runs on workers; only
 * SEEK_DATA, which reads cached metadata, is asked at once.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "aio/file_io.h"
#include "util/error.h"
#include "util/range.h"

static void forget_data_extent(struct file_state *s)
{
    s->data_start = s->data_end = 0;
}

struct space_work {
    int fd;
    int mode;
    int64_t offset, bytes;
};

static int do_fallocate(int fd, int mode, int64_t offset, int64_t bytes)
{
    int ret;

    do {
        ret = fallocate(fd, mode, offset, bytes);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        return 0;
    }
    return errno == ENOSYS || errno == EOPNOTSUPP ? -ENOTSUP : -errno;
}

static int punch_hole(void *opaque)
{
    struct space_work *w = opaque;

    return do_fallocate(w->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        w->offset, w->bytes);
}

/* Zeroes by deallocating. A file that ends inside the range grows by allocating
 * its last byte: unlike ftruncate(), that cannot cut off what a concurrent
 * write has appended. */
static int zero_by_hole(void *opaque)
{
    struct space_work *w = opaque;
    struct stat st;

    int ret = punch_hole(w);
    if (ret < 0) {
        return ret;
    }
    if (fstat(w->fd, &st) < 0) {
        return -errno;
    }
    if (st.st_size < w->offset + w->bytes) {
        return do_fallocate(w->fd, 0, w->offset + w->bytes - 1, 1);
    }
    return 0;
}

static int zero_in_place(void *opaque)
{
    struct space_work *w = opaque;

    return do_fallocate(w->fd, FALLOC_FL_ZERO_RANGE, w->offset, w->bytes);
}

int co_file_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    struct file_state *s = node->state;
    struct space_work w = {.fd = s->fd, .offset = offset, .bytes = bytes};
    int ret = -ENOTSUP;

    forget_data_extent(s);
    if ((flags & REQ_MAY_UNMAP) && s->can_punch_hole) {
        ret = co_worker(zero_by_hole, &w);
        s->can_punch_hole = ret != -ENOTSUP;
    }
    if (ret == -ENOTSUP && s->can_zero_range) {
        ret = co_worker(zero_in_place, &w);
        s->can_zero_range = ret != -ENOTSUP;
    }
    /* The extent may have been looked up again meanwhile. */
    forget_data_extent(s);
    return ret;
}

int co_file_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct file_state *s = node->state;
    struct space_work w = {.fd = s->fd, .offset = offset, .bytes = bytes};

    if (!s->can_punch_hole) {
        return -ENOTSUP;
    }
    forget_data_extent(s);
    int ret = co_worker(punch_hole, &w);
    s->can_punch_hole = ret != -ENOTSUP;
    forget_data_extent(s);
    return ret;
}

/* Finds the extent at offset. 1: data up to *end; 0: a hole up to *end (which
 * is `limit` at most); negative errno if the file system cannot tell. */
static int find_extent(int fd, int64_t offset, int64_t limit, int64_t *end)
{
    off_t data = lseek(fd, offset, SEEK_DATA);

    if (data < 0 && errno == ENXIO) {
        *end = limit; /* a hole up to the end of the file */
        return 0;
    }
    if (data < 0) {
        return -errno;
    }
    if (data > offset) {
        *end = data;
        return 0;
    }
    off_t hole = lseek(fd, offset, SEEK_HOLE);
    if (hole < 0) {
        return -errno;
    }
    /* Truncated meanwhile: whatever is left counts as data. */
    *end = hole > offset ? hole : limit;
    return 1;
}

int co_file_block_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *status)
{
    struct file_state *s = node->state;
    int64_t end = offset + bytes;
    int kind = 1;

    status->map = offset;
    status->file = node;
    if (want_zero) {
        if (offset >= s->data_start && offset < s->data_end) {
            end = s->data_end;
        } else {
            kind = find_extent(s->fd, offset, end, &end);
            if (kind == 1) {
                s->data_start = offset;
                s->data_end = end;
            }
        }
    }
    /* A file system that cannot tell holds data as far as anybody knows. */
    status->flags = BLOCK_OFFSET_VALID | BLOCK_ALLOCATED |
                    (kind == 0 ? BLOCK_ZERO : BLOCK_DATA);
    if (kind < 0) {
        end = offset + bytes;
    }
    status->bytes = min_i64(end - offset, bytes);
    return 0;
}

/* ---- length ---- */

static int write_zeroes_to(int fd, int64_t offset, int64_t end)
{
    static const char zeroes[64 * 1024];

    while (offset < end) {
        ssize_t n = pwrite(fd, zeroes,
                           MIN((int64_t)sizeof(zeroes), end - offset), offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? -errno : -ENOSPC;
        }
        offset += n;
    }
    return fdatasync(fd) < 0 ? -errno : 0;
}

int file_resize(int fd, int64_t old_size, int64_t size,
                enum prealloc_mode prealloc, const char **what)
{
    int ret = 0;

    *what = "Could not resize file";
    if (size <= old_size || prealloc != PREALLOC_MODE_FALLOC) {
        if (ftruncate(fd, size) < 0) {
            return -errno;
        }
    }
    if (size <= old_size) {
        return 0;
    }
    if (prealloc == PREALLOC_MODE_FALLOC) {
        *what = "Could not preallocate data for the new file";
        ret = -posix_fallocate(fd, old_size, size - old_size);
    } else if (prealloc == PREALLOC_MODE_FULL) {
        *what = "Could not write zeros for preallocation";
        ret = write_zeroes_to(fd, old_size, size);
    }
    if (ret < 0 && ftruncate(fd, old_size) < 0) {
        /* The first error says more; the file is merely too long. */
        return ret;
    }
    return ret;
}

struct resize_work {
    int fd;
    int64_t old_size, size;
    enum prealloc_mode prealloc;
    const char *what;
};

static int do_resize(void *opaque)
{
    struct resize_work *w = opaque;

    return file_resize(w->fd, w->old_size, w->size, w->prealloc, &w->what);
}

bool co_file_truncate(struct node *node, int64_t size, bool exact,
                      enum prealloc_mode prealloc, unsigned flags,
                      GError **error)
{
    struct file_state *s = node->state;
    struct stat st;

    if (prealloc == PREALLOC_MODE_METADATA) {
        return error_set(error, "Unsupported preallocation mode '%s'",
                         prealloc_mode_str(prealloc));
    }
    if (fstat(s->fd, &st) < 0) {
        return error_set_errno(error, errno, "Could not stat '%s'",
                               node->filename);
    }
    if (size < st.st_size && prealloc != PREALLOC_MODE_OFF) {
        return error_set(error,
                         "Preallocation can't be used for shrinking files");
    }
    struct resize_work w = {.fd = s->fd,
                            .old_size = st.st_size,
                            .size = size,
                            .prealloc = prealloc};
    int ret = co_worker(do_resize, &w);
    forget_data_extent(s);
    if (ret < 0) {
        return error_set_errno(error, ret, "%s", w.what);
    }
    return true;
}

/* ---- copies inside the storage ---- */

struct copy_work {
    int src, dst;
    int64_t src_offset, dst_offset, bytes;
};

static int do_copy(void *opaque)
{
    struct copy_work *w = opaque;
    off_t from = w->src_offset, to = w->dst_offset;
    int64_t left = w->bytes;

    while (left > 0) {
        ssize_t n = copy_file_range(w->src, &from, w->dst, &to, left, 0);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == ENOSYS || errno == EXDEV || errno == EINVAL ||
                           errno == EOPNOTSUPP
                       ? -ENOTSUP
                       : -errno;
        }
        if (n == 0) {
            return -ENOTSUP; /* the source ended: the caller reads zeroes */
        }
        left -= n;
    }
    return 0;
}

int co_file_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                       int64_t dst_offset, int64_t bytes, unsigned flags)
{
    struct file_state *from = src->state, *to = dst->state;
    struct copy_work w = {from->fd, to->fd, src_offset, dst_offset, bytes};

    if (!from->can_copy_range || (flags & REQ_FUA)) {
        return -ENOTSUP;
    }
    int ret = co_worker(do_copy, &w);
    if (ret == -ENOTSUP) {
        from->can_copy_range = false;
    }
    return ret;
}
