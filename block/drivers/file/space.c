/*
 * Space of a file: zeroes, discard, status, and copies inside the storage.
 *
 * All of it may wait: for the disk, for another operation that holds the file's
 * lock, or, with SEEK_HOLE on a file in memory, for a walk over every page. So
 * it runs on workers; but status at once where nobody else would have to wait,
 * as a hand-over takes longer than most answers. What the file system refuses
 * once it is not asked again.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "aio/file_io.h"
#include "util/range.h"

void file_forget_extent(struct file_state *s)
{
    s->data_start = s->data_end = 0;
    s->holes_made++;
}

struct space_work {
    int fd;
    bool may_grow;
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

/* ---- zeroes ---- */

/* By deallocating. A file that ends inside the range grows by allocating its
 * last byte: unlike ftruncate(), that cannot cut off what a concurrent write
 * has appended. */
static int zero_by_hole(void *opaque)
{
    struct space_work *w = opaque;

    int ret = punch_hole(w);
    if (ret < 0 || !w->may_grow) {
        return ret;
    }
    int64_t length = file_length(w->fd);
    if (length < 0) {
        return (int)length;
    }
    if (length < w->offset + w->bytes) {
        return do_fallocate(w->fd, 0, w->offset + w->bytes - 1, 1);
    }
    return 0;
}

static int zero_in_place(void *opaque)
{
    struct space_work *w = opaque;

    return do_fallocate(w->fd, FALLOC_FL_ZERO_RANGE, w->offset, w->bytes);
}

/* For file systems that cannot do it in place: away with it, and new. */
static int zero_anew(void *opaque)
{
    struct space_work *w = opaque;
    int ret = punch_hole(w);

    return ret < 0 ? ret : do_fallocate(w->fd, 0, w->offset, w->bytes);
}

/* One way of doing it, unless it is known not to work. */
static int co_try(bool *can, int (*fn)(void *opaque), struct space_work *w)
{
    if (!*can) {
        return -ENOTSUP;
    }
    int ret = co_worker(fn, w);
    if (ret == -ENOTSUP) {
        *can = false;
    }
    return ret;
}

/* Devices take whole blocks only. */
static bool is_whole(const struct node *node, int64_t offset, int64_t bytes)
{
    int64_t block = node->limits.pwrite_zeroes_align;

    return !block || is_aligned(offset | bytes, block);
}

int co_file_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags)
{
    struct file_state *s = node->state;
    struct space_work w = {.fd = s->fd,
                           .may_grow = !s->is_device,
                           .offset = offset,
                           .bytes = bytes};
    int ret = -ENOTSUP;

    if (!is_whole(node, offset, bytes)) {
        return -ENOTSUP;
    }
    if (flags & REQ_MAY_UNMAP) {
        ret = co_try(&s->can_punch_hole, zero_by_hole, &w);
    }
    if (ret == -ENOTSUP) {
        ret = co_try(&s->can_zero_range, zero_in_place, &w);
    }
    if (ret == -ENOTSUP) {
        ret = co_try(&s->can_allocate, zero_anew, &w);
    }
    file_forget_extent(s);
    /* The engine's own writes are on their way with the flag else. */
    if (ret == 0 && (flags & REQ_FUA)) {
        ret = co_file_flush(node);
    }
    return ret;
}

/* ---- discard ---- */

static int discard_blocks(void *opaque)
{
    struct space_work *w = opaque;
    uint64_t range[2] = {(uint64_t)w->offset, (uint64_t)w->bytes};
    int ret;

    do {
        ret = ioctl(w->fd, BLKDISCARD, range);
    } while (ret < 0 && errno == EINTR);
    if (ret == 0) {
        return 0;
    }
    return errno == ENOTTY || errno == EOPNOTSUPP ? -ENOTSUP : -errno;
}

int co_file_pdiscard(struct node *node, int64_t offset, int64_t bytes)
{
    struct file_state *s = node->state;
    struct space_work w = {.fd = s->fd, .offset = offset, .bytes = bytes};

    int ret =
        co_try(&s->can_discard, s->is_device ? discard_blocks : punch_hole, &w);
    file_forget_extent(s);
    if (ret == 0) {
        s->discards_ok++;
        s->discarded_bytes += bytes;
    } else {
        s->discards_failed++;
    }
    return ret;
}

struct block_stats_specific *file_query_stats(const struct node *node)
{
    const struct file_state *s = node->state;
    struct block_stats_specific *stats = g_new0(struct block_stats_specific, 1);
    const struct block_stats_specific_file counts = {
        .discard_nb_ok = s->discards_ok,
        .discard_nb_failed = s->discards_failed,
        .discard_bytes_ok = s->discarded_bytes,
    };

    stats->driver =
        s->is_device ? BLOCKDEV_DRIVER_HOST_DEVICE : BLOCKDEV_DRIVER_FILE;
    *(s->is_device ? &stats->u.host_device : &stats->u.file) = counts;
    return stats;
}

/* ---- status ---- */

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

struct status_work {
    int fd;
    int64_t offset, end;
};

static int ask_extent(void *opaque)
{
    struct status_work *w = opaque;

    return find_extent(w->fd, w->offset, w->end, &w->end);
}

int co_file_block_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *status)
{
    struct file_state *s = node->state;
    struct status_work w = {s->fd, offset, offset + bytes};
    int kind = 1;

    if (want_zero && offset >= s->data_start && offset < s->data_end) {
        w.end = s->data_end;
    } else if (want_zero) {
        uint64_t holes_made = s->holes_made;
        kind = node->bulk ? ask_extent(&w) : co_worker(ask_extent, &w);
        if (kind == 1 && holes_made == s->holes_made) {
            s->data_start = offset;
            s->data_end = w.end;
        }
    }
    status->map = offset;
    status->file = node;
    /* A file system that cannot tell holds data as far as anybody knows. */
    status->flags = BLOCK_OFFSET_VALID | BLOCK_ALLOCATED |
                    (kind == 0 ? BLOCK_ZERO : BLOCK_DATA);
    status->bytes = kind < 0 ? bytes : min_i64(w.end - offset, bytes);
    return 0;
}

/* ---- copies inside the storage ---- */

struct copy_work {
    int src, dst;
    int64_t src_offset, dst_offset, bytes;
};

/* Positive: the source ended early, which says nothing about the next time. */
enum { SOURCE_ENDED = 1 };

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
            return SOURCE_ENDED;
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
    /* Sharing blocks shares holes as well. */
    file_forget_extent(to);
    return ret == SOURCE_ENDED ? -ENOTSUP : ret;
}
