/*
 * Which access the data descriptor has.
 *
 * It is that of the node's options; but with auto-read-only, that which the
 * node's parents need: the file is opened for reading, again for writing when
 * the first writer comes, and for reading when the last one has gone. Changes
 * are prepared and committed with the permissions. The descriptor keeps its
 * number, so that requests in flight on workers and rings do not notice.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "util/error.h"

int file_open_data(const struct file_state *s, const char *filename,
                   bool writable)
{
    /* Not to wait for the other end of a FIFO, which is no regular file. */
    int flags = O_CLOEXEC | O_NONBLOCK | (s->direct ? O_DIRECT : 0);
    int fd = open(filename, flags | (writable ? O_RDWR : O_RDONLY));

    if (fd < 0) {
        return -errno;
    }
    /* io_uring would take the flag as "fail rather than wait". */
    int now = fcntl(fd, F_GETFL);
    if (now < 0 || fcntl(fd, F_SETFL, now & ~O_NONBLOCK) < 0) {
        int ret = -errno;
        close(fd);
        return ret;
    }
    return fd;
}

bool file_is_same(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev &&
           x.st_ino == y.st_ino;
}

bool file_is_writable(int fd)
{
    return (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
}

static int reopen(const struct file_state *s, const char *filename,
                  bool writable, GError **error)
{
    int fd = file_open_data(s, filename, writable);

    if (fd < 0) {
        error_set_errno(error, fd, "Could not open '%s'", filename);
    } else if (!file_is_same(fd, s->fd)) {
        error_set(error, "'%s' was replaced while it was open", filename);
        close(fd);
        fd = -1;
    }
    return fd;
}

bool file_access_prepare(struct node *node, unsigned perm, GError **error)
{
    struct file_state *s = node->state;
    bool writers = perm & (PERM_WRITE | PERM_WRITE_UNCHANGED | PERM_RESIZE);

    s->access_fd = -1;
    s->access_writable = writers;
    if (!s->access_by_need || writers == s->writable) {
        return true;
    }
    if (writers) {
        s->access_fd = reopen(s, node->filename, true, error);
        return s->access_fd >= 0;
    }
    /* The kernel tells of lost writes those who were there when it happened. */
    if (node->write_gen == node->flush_gen) {
        s->access_fd = reopen(s, node->filename, false, NULL);
    }
    return true;
}

void file_access_commit(struct file_state *s)
{
    int ret;

    if (s->access_fd < 0) {
        return;
    }
    do {
        ret = dup3(s->access_fd, s->fd, O_CLOEXEC);
    } while (ret < 0 && (errno == EINTR || errno == EBUSY));
    if (ret < 0) {
        g_warning("Cannot replace a file descriptor: %s", g_strerror(errno));
    } else {
        s->writable = s->access_writable;
    }
    file_access_abort(s);
}

void file_access_abort(struct file_state *s)
{
    if (s->access_fd >= 0) {
        close(s->access_fd);
        s->access_fd = -1;
    }
}
