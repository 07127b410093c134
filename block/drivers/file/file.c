/*
 * file: a regular file of the host.
 *
 * io.c decides which engine moves the bytes, space.c deals with zeroes,
 * discard, status and length, lock.c keeps other processes off, create.c makes
 * files. What can be learnt about the file system is learnt at open or at the
 * first refusal, and kept in the node's state. Every function runs on the
 * node's loop; what may block runs on workers.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "qapi/types.h"
#include "util/error.h"
#include "util/range.h"

#define DIRECT_ALIGN_MAX 4096

static bool parse_engine(struct file_state *s,
                         const struct blockdev_options_file *o, GError **error)
{
    if (!o->has_aio) {
        s->engine = FILE_ENGINE_AUTO;
        return true;
    }
    switch (o->aio) {
    case BLOCKDEV_AIO_OPTIONS_NATIVE:
        if (!s->direct) {
            return error_set(error,
                             "aio=native was specified, but it requires "
                             "cache.direct=on, which was not specified.");
        }
        s->engine = FILE_ENGINE_LIBAIO;
        return true;
    case BLOCKDEV_AIO_OPTIONS_IO_URING:
        if (!file_io_have_uring()) {
            return error_set(error, "aio=io_uring is not supported by this "
                                    "kernel");
        }
        s->engine = FILE_ENGINE_URING;
        return true;
    default:
        s->engine = FILE_ENGINE_THREADS;
        return true;
    }
}

/* Opens the file as the node's options ask; -errno. A file that may not be
 * written falls back to reading with auto-read-only. */
static int open_data_fd(struct node *node, const char *filename)
{
    struct file_state *s = node->state;
    int flags = O_CLOEXEC | (s->direct ? O_DIRECT : 0);

    int fd = open(filename, flags | (node->read_only ? O_RDONLY : O_RDWR));
    if (fd < 0 && !node->read_only && node->auto_read_only &&
        (errno == EACCES || errno == EROFS || errno == EPERM)) {
        fd = open(filename, flags | O_RDONLY);
        if (fd >= 0) {
            node->read_only = true;
        }
    }
    return fd < 0 ? -errno : fd;
}

/* The alignment that O_DIRECT demands of offsets and memory here: the smallest
 * at which a read is not refused. */
static int64_t probe_direct_alignment(int fd)
{
    void *buf;

    if (posix_memalign(&buf, DIRECT_ALIGN_MAX, DIRECT_ALIGN_MAX)) {
        return DIRECT_ALIGN_MAX;
    }
    int64_t align = BLOCK_SECTOR_SIZE;
    while (align < DIRECT_ALIGN_MAX && pread(fd, buf, align, 0) < 0 &&
           errno == EINVAL) {
        align *= 2;
    }
    free(buf);
    return align;
}

static void probe_file_system(struct node *node)
{
    struct file_state *s = node->state;
    struct statfs fs;

    s->in_memory = fstatfs(s->fd, &fs) == 0 &&
                   (fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC);
    s->nowait_reads = true;
    s->can_punch_hole = s->can_zero_range = s->can_copy_range = true;
    if (s->direct) {
        int64_t align = probe_direct_alignment(s->fd);
        node->limits.request_alignment = align;
        node->limits.memory_alignment = align;
    }
}

static bool co_file_open(struct node *node,
                         const struct blockdev_options *options, GError **error)
{
    struct file_state *s = node->state;
    const struct blockdev_options_file *o = &options->u.file;
    struct stat st;

    s->fd = s->lock_fd = -1;
    s->direct = node->cache_direct;
    if (!parse_engine(s, o, error)) {
        return false;
    }
    s->fd = open_data_fd(node, o->filename);
    if (s->fd < 0) {
        return error_set_errno(error, s->fd, "Could not open '%s'",
                               o->filename);
    }
    if (fstat(s->fd, &st) < 0) {
        error_set_errno(error, errno, "Could not stat '%s'", o->filename);
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        if (S_ISDIR(st.st_mode)) {
            error_set_errno(error, EISDIR, "Could not open '%s'", o->filename);
        } else {
            error_set(error, "'file' driver requires '%s' to be a regular file",
                      o->filename);
        }
        goto fail;
    }
    if (!(o->has_locking && o->locking == ON_OFF_AUTO_OFF) &&
        !node->force_share && !file_lock_open(s, o->filename, error)) {
        goto fail;
    }
    g_free(node->filename);
    node->filename = g_strdup(o->filename);
    node->length = st.st_size;
    probe_file_system(node);
    return true;

fail:
    close(s->fd);
    return false;
}

static void co_file_close(struct node *node)
{
    struct file_state *s = node->state;

    file_lock_close(s);
    close(s->fd);
}

static int64_t co_file_getlength(struct node *node)
{
    struct file_state *s = node->state;
    struct stat st;

    return fstat(s->fd, &st) < 0 ? -errno : st.st_size;
}

static int64_t co_file_allocated_size(struct node *node)
{
    struct file_state *s = node->state;
    struct stat st;

    return fstat(s->fd, &st) < 0 ? -errno : (int64_t)st.st_blocks * 512;
}

/* No clusters, and never unclean. */
static int co_file_get_info(struct node *node, struct node_info *info)
{
    return 0;
}

static const char *const file_strong_options[] = {"filename", NULL};

static bool file_perm_prepare(struct node *node, unsigned perm, unsigned shared,
                              GError **error)
{
    return file_lock_prepare(node->state, node->filename, perm, shared, error);
}

static void file_perm_commit(struct node *node)
{
    file_lock_commit(node->state);
}

static void file_perm_abort(struct node *node)
{
    file_lock_abort(node->state);
}

const struct block_driver driver_file = {
    .name = "file",
    .kind = DRIVER_PROTOCOL,
    .state_size = sizeof(struct file_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .unmapped_reads_zero = true,
    .co_open = co_file_open,
    .co_close = co_file_close,
    .co_preadv = co_file_preadv,
    .co_pwritev = co_file_pwritev,
    .co_pwrite_zeroes = co_file_pwrite_zeroes,
    .co_pdiscard = co_file_pdiscard,
    .co_flush = co_file_flush,
    .co_block_status = co_file_block_status,
    .co_getlength = co_file_getlength,
    .co_truncate = co_file_truncate,
    .co_copy_range = co_file_copy_range,
    .co_allocated_size = co_file_allocated_size,
    .io_engine = file_io_engine,
    .co_get_info = co_file_get_info,
    .strong_options = file_strong_options,
    .perm_prepare = file_perm_prepare,
    .perm_commit = file_perm_commit,
    .perm_abort = file_perm_abort,
    .co_create = co_file_create,
    .co_create_file = co_file_create_file,
};
