/*
 * file and host_device: a regular file, or a device, of the host.
 *
 * io.c decides which engine moves the bytes, space.c deals with zeroes, discard
 * and status, length.c with the length, lock.c keeps other processes off,
 * access.c opens for reading or writing, create.c makes files, reopen.c changes
 * how one is open. What can be learnt about the file system is learnt at open
 * or at the first refusal, and kept in the node's state. Every function runs on
 * the node's loop; what may block runs on workers. A device differs in that it
 * cannot grow, has blocks of its own size, and no holes to find.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
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

/* ---- opening, on a worker ---- */

struct open_work {
    struct node *node;
    const char *filename;
    bool locking;
    int64_t length;
    int64_t request_alignment, memory_alignment; /* 0: any */
    GError **error;
};

static bool open_data_fd(struct open_work *w)
{
    struct file_state *s = w->node->state;

    s->access_by_need = w->node->auto_read_only && !w->node->read_only;
    s->fd = file_open_data(s, w->filename,
                           !w->node->read_only && !s->access_by_need);
    if (s->fd >= 0) {
        return true;
    }
    if (s->fd == -EINVAL && s->direct) {
        return error_set(w->error,
                         "Could not open '%s': filesystem does not support "
                         "O_DIRECT",
                         w->filename);
    }
    return error_set_errno(w->error, s->fd, "Could not open '%s'", w->filename);
}

static bool check_kind(struct open_work *w)
{
    struct file_state *s = w->node->state;
    struct stat st;

    if (fstat(s->fd, &st) < 0) {
        return error_set_errno(w->error, errno, "Could not stat '%s'",
                               w->filename);
    }
    if (s->is_device) {
        return S_ISBLK(st.st_mode) || S_ISCHR(st.st_mode) ||
               error_set(w->error,
                         "'host_device' driver requires '%s' to be either a "
                         "character or block device",
                         w->filename);
    }
    return S_ISREG(st.st_mode) ||
           error_set(w->error,
                     "'file' driver requires '%s' to be a regular file",
                     w->filename);
}

/* What the kernel says about O_DIRECT, or false. */
static bool ask_direct_alignment(int fd, int64_t *request, int64_t *memory)
{
#ifdef STATX_DIOALIGN
    struct statx stx;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) == 0 &&
        (stx.stx_mask & STATX_DIOALIGN) && stx.stx_dio_offset_align &&
        stx.stx_dio_mem_align) {
        *request = stx.stx_dio_offset_align;
        *memory = MIN(stx.stx_dio_mem_align, stx.stx_dio_offset_align);
        return true;
    }
#endif
    return false;
}

/* The smallest alignment at which a read is not refused. An empty file refuses
 * nothing, and so says nothing. */
static int64_t probe_direct_alignment(int fd, int64_t length)
{
    void *buf;

    if (!length || posix_memalign(&buf, DIRECT_ALIGN_MAX, DIRECT_ALIGN_MAX)) {
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

void file_find_alignment(int fd, bool is_device, int64_t length,
                         int64_t *request, int64_t *memory)
{
    int block;

    if (ask_direct_alignment(fd, request, memory)) {
        return;
    }
    if (is_device && ioctl(fd, BLKSSZGET, &block) == 0 && block > 0) {
        *request = block;
    } else {
        *request = probe_direct_alignment(fd, length);
    }
    *memory = *request;
}

static bool open_and_look(struct open_work *w)
{
    struct file_state *s = w->node->state;
    struct statfs fs;

    if (!open_data_fd(w) || !check_kind(w)) {
        return false;
    }
    w->length = file_length(s->fd);
    if (w->length < 0) {
        return error_set_errno(w->error, w->length,
                               "Could not get the length of '%s'", w->filename);
    }
    /* A device file itself lies in a memory file system. */
    if (!s->is_device && fstatfs(s->fd, &fs) == 0) {
        s->in_memory = fs.f_type == TMPFS_MAGIC || fs.f_type == RAMFS_MAGIC;
        s->allocate_first = fs.f_type == EXT4_SUPER_MAGIC;
    }
    if (s->direct) {
        file_find_alignment(s->fd, s->is_device, w->length,
                            &w->request_alignment, &w->memory_alignment);
    }
    return !w->locking || file_lock_open(s, s->fd, w->filename, w->error);
}

static int do_close(void *opaque)
{
    struct file_state *s = opaque;

    file_lock_close(s);
    if (s->fd >= 0) {
        close(s->fd);
        s->fd = -1;
    }
    return 0;
}

static int do_open(void *opaque)
{
    struct open_work *w = opaque;

    if (open_and_look(w)) {
        return 0;
    }
    do_close(w->node->state);
    return -EIO;
}

/* ---- the node ---- */

static void set_limits(struct node *node, const struct open_work *w)
{
    struct file_state *s = node->state;
    int block;

    node->limits.request_alignment = w->request_alignment;
    node->limits.memory_alignment = w->memory_alignment;
    if (s->is_device && ioctl(s->fd, BLKSSZGET, &block) == 0 && block > 0) {
        node->limits.pwrite_zeroes_align = block;
        node->limits.pdiscard_align = block;
    }
}

static bool co_open_any(struct node *node,
                        const struct blockdev_options_file *o, GError **error)
{
    struct file_state *s = node->state;
    struct open_work w = {
        .node = node,
        .filename = o->filename,
        .locking = !(o->has_locking && o->locking == ON_OFF_AUTO_OFF),
        .error = error,
    };

    s->fd = s->lock_fd = s->next.fd = s->access_fd = -1;
    s->direct = node->cache_direct;
    s->nowait_reads = true;
    s->can_punch_hole = s->can_zero_range = s->can_discard = true;
    s->can_allocate = s->can_copy_range = !s->is_device;
    if (!parse_engine(s, o, error) || co_worker(do_open, &w) < 0) {
        return false;
    }
    g_free(node->filename);
    node->filename = g_strdup(o->filename);
    node->length = w.length;
    set_limits(node, &w);
    return true;
}

static bool co_file_open(struct node *node,
                         const struct blockdev_options *options, GError **error)
{
    return co_open_any(node, &options->u.file, error);
}

static bool co_device_open(struct node *node,
                           const struct blockdev_options *options,
                           GError **error)
{
    struct file_state *s = node->state;

    s->is_device = true;
    return co_open_any(node, &options->u.host_device, error);
}

static void co_file_close(struct node *node)
{
    co_worker(do_close, node->state);
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
    /* Whoever forces sharing still shows that he is there. */
    if (!file_lock_prepare(node->state, node->filename, perm,
                           node->force_share ? PERM_ALL : shared, error)) {
        return false;
    }
    if (file_access_prepare(node, perm, error)) {
        return true;
    }
    file_lock_abort(node->state);
    return false;
}

static void file_perm_commit(struct node *node)
{
    file_access_commit(node->state);
    file_lock_commit(node->state);
}

static void file_perm_abort(struct node *node)
{
    file_access_abort(node->state);
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
    .reopen = &file_reopen_ops,
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
    .query_stats = file_query_stats,
    .co_get_info = co_file_get_info,
    .strong_options = file_strong_options,
    .perm_prepare = file_perm_prepare,
    .perm_commit = file_perm_commit,
    .perm_abort = file_perm_abort,
    .co_create = co_file_create,
    .co_create_file = co_file_create_file,
    .co_delete_file = co_file_delete_file,
};

const struct block_driver driver_host_device = {
    .name = "host_device",
    .kind = DRIVER_PROTOCOL,
    .state_size = sizeof(struct file_state),
    .writes_fua = true,
    .zeroes_unmap = true,
    .co_open = co_device_open,
    .co_close = co_file_close,
    .reopen = &file_reopen_ops,
    .co_preadv = co_file_preadv,
    .co_pwritev = co_file_pwritev,
    .co_pwrite_zeroes = co_file_pwrite_zeroes,
    .co_pdiscard = co_file_pdiscard,
    .co_flush = co_file_flush,
    .co_getlength = co_file_getlength,
    .co_truncate = co_file_truncate,
    .co_allocated_size = co_file_allocated_size,
    .io_engine = file_io_engine,
    .query_stats = file_query_stats,
    .co_get_info = co_file_get_info,
    .strong_options = file_strong_options,
    .perm_prepare = file_perm_prepare,
    .perm_commit = file_perm_commit,
    .perm_abort = file_perm_abort,
    .co_create_file = co_device_create_file,
};
