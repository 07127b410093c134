/*
 * The length of a file: asking, and changing it.
 *
 * A device has the length that it has; a smaller one may be asked of it, for an
 * image that shall not use all of it. A regular file grows sparse, or with its
 * blocks allocated, or with zeroes written. What may wait for the disk runs on
 * workers.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"
#include "util/range.h"

int64_t file_length(int fd)
{
    struct stat st;
    uint64_t bytes;

    if (fstat(fd, &st) < 0) {
        return -errno;
    }
    if (S_ISBLK(st.st_mode)) {
        return ioctl(fd, BLKGETSIZE64, &bytes) < 0
                   ? -errno
                   : (int64_t)MIN(bytes, (uint64_t)BLOCK_MAX_LENGTH);
    }
    if (S_ISCHR(st.st_mode)) {
        off_t end = lseek(fd, 0, SEEK_END);
        return end < 0 ? -errno : end;
    }
    return st.st_size;
}

int64_t co_file_getlength(struct node *node)
{
    struct file_state *s = node->state;

    return file_length(s->fd);
}

/* ---- growing ---- */

enum { WRITE_ALIGN = 4096 }; /* good for O_DIRECT everywhere */

/* In .bss, and only read. */
static char zeroes[64 * 1024] __attribute__((aligned(WRITE_ALIGN)));

/* Writes whole blocks, as O_DIRECT asks for: what an unaligned old end shares a
 * block with is there already, and too much at the new end is cut off. */
static int write_zeroes_to(int fd, int64_t offset, int64_t size)
{
    int64_t end = align_up(size, WRITE_ALIGN);

    offset = align_up(offset, WRITE_ALIGN);
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
    if (end > size && ftruncate(fd, size) < 0) {
        return -errno;
    }
    return fdatasync(fd) < 0 ? -errno : 0;
}

static int allocate_to(int fd, int64_t offset, int64_t size)
{
    int ret;

    do {
        ret = posix_fallocate(fd, offset, size - offset);
    } while (ret == EINTR);
    return -ret;
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
        *what = "Could not preallocate new data";
        ret = allocate_to(fd, old_size, size);
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

static bool truncate_device(int64_t length, int64_t size, bool exact,
                            enum prealloc_mode prealloc, GError **error)
{
    if (prealloc != PREALLOC_MODE_OFF) {
        return error_set(error,
                         "Preallocation mode '%s' unsupported for this "
                         "non-regular file",
                         prealloc_mode_str(prealloc));
    }
    if (exact && size != length) {
        return error_set(error, "Cannot resize device files");
    }
    return size <= length || error_set(error, "Cannot grow device files");
}

bool co_file_truncate(struct node *node, int64_t size, bool exact,
                      enum prealloc_mode prealloc, unsigned flags,
                      GError **error)
{
    struct file_state *s = node->state;
    int64_t length = file_length(s->fd);

    if (length < 0) {
        return error_set_errno(error, length, "Could not stat '%s'",
                               node->filename);
    }
    if (s->is_device) {
        return truncate_device(length, size, exact, prealloc, error);
    }
    if (size < length && prealloc != PREALLOC_MODE_OFF) {
        return error_set(error, "Cannot use preallocation for shrinking files");
    }
    if (prealloc == PREALLOC_MODE_METADATA) {
        return error_set(error, "Unsupported preallocation mode: %s",
                         prealloc_mode_str(prealloc));
    }
    struct resize_work w = {
        .fd = s->fd, .old_size = length, .size = size, .prealloc = prealloc};
    int ret = co_worker(do_resize, &w);
    file_forget_extent(s);
    if (ret < 0) {
        return error_set_errno(error, ret, "%s", w.what);
    }
    return true;
}
