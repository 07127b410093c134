/*
 * Creating files. A file that exists is emptied only once its locks are had, so
 * that an image that somebody uses is never cut off. A device is there already:
 * an image on it is "created" by making it look empty. All on workers.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "aio/file_io.h"
#include "util/error.h"
#include "util/keyval.h"
#include "util/range.h"

struct create_work {
    const char *filename;
    int64_t size;
    enum prealloc_mode prealloc;
    bool nocow;
    GError **error;
};

static void set_nocow(int fd)
{
#ifdef FS_NOCOW_FL
    int attr;

    /* Only some file systems know it; on the others there is nothing to set. */
    if (ioctl(fd, FS_IOC_GETFLAGS, &attr) == 0) {
        attr |= FS_NOCOW_FL;
        (void)!ioctl(fd, FS_IOC_SETFLAGS, &attr);
    }
#endif
}

static int do_create(void *opaque)
{
    struct create_work *w = opaque;
    struct file_state locks = {.lock_fd = -1};
    const char *what;
    int ret = -EIO;

    int fd = open(w->filename, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd < 0) {
        error_set_errno(w->error, errno, "Could not create '%s'", w->filename);
        return -EIO;
    }
    if (!file_lock_open(&locks, fd, w->filename, w->error) ||
        !file_lock_prepare(&locks, w->filename, PERM_WRITE | PERM_RESIZE,
                           PERM_ALL & ~PERM_RESIZE, w->error)) {
        goto out;
    }
    file_lock_commit(&locks);
    if (ftruncate(fd, 0) < 0) {
        error_set_errno(w->error, errno, "Could not clear '%s'", w->filename);
        goto out;
    }
    if (w->nocow) {
        set_nocow(fd);
    }
    ret = file_resize(fd, 0, w->size, w->prealloc, &what);
    if (ret < 0) {
        error_set_errno(w->error, ret, "%s", what);
    }
out:
    file_lock_close(&locks);
    close(fd);
    return ret;
}

static bool co_create_with(struct create_work *w)
{
    if (w->prealloc == PREALLOC_MODE_METADATA) {
        return error_set(w->error, "Unsupported preallocation mode: %s",
                         prealloc_mode_str(w->prealloc));
    }
    return co_worker(do_create, w) == 0;
}

bool co_file_create(const struct blockdev_create_options *options,
                    GError **error)
{
    const struct blockdev_create_options_file *o = &options->u.file;

    if (o->size > BLOCK_MAX_LENGTH) {
        return error_set(error, "Parameter 'size' is too large");
    }
    struct create_work w = {
        .filename = o->filename,
        .size = o->size,
        .prealloc = o->has_preallocation ? o->preallocation : PREALLOC_MODE_OFF,
        .nocow = o->has_nocow && o->nocow,
        .error = error,
    };
    return co_create_with(&w);
}

bool co_file_create_file(const char *filename,
                         const struct create_params *params, GError **error)
{
    struct create_work w = {.filename = filename,
                            /* Files from the image tools hold whole sectors. */
                            .size = align_up(params->size, BLOCK_SECTOR_SIZE),
                            .error = error};

    if (params->backing_file) {
        return error_set(error, "Backing file not supported for file format "
                                "'file'");
    }
    g_autoptr(GPtrArray) extra = NULL;
    if (params->extra) {
        extra = keyval_split(params->extra, NULL, error);
        if (!extra) {
            return false;
        }
    }
    for (unsigned i = 0; extra && i < extra->len; i++) {
        const struct keyval *kv = g_ptr_array_index(extra, i);
        if (!g_strcmp0(kv->key, "preallocation")) {
            int mode = qapi_enum_parse(&qapi_type_prealloc_mode, kv->value);
            if (mode < 0) {
                return error_set(error, "invalid parameter value: %s",
                                 kv->value);
            }
            w.prealloc = mode;
        } else if (!g_strcmp0(kv->key, "nocow")) {
            w.nocow = !g_strcmp0(kv->value, "on");
            if (!w.nocow && g_strcmp0(kv->value, "off") != 0) {
                return error_set(error,
                                 "Parameter 'nocow' expects 'on' or 'off'");
            }
        } else if (g_strcmp0(kv->key, "extent_size_hint")) {
            return error_set(error, "Invalid parameter '%s'", kv->key);
        }
    }
    return co_create_with(&w);
}

/* ---- devices ---- */

/* Zeroes the start, where probing would find what was there before. */
static int do_reuse_device(void *opaque)
{
    static const char sector[BLOCK_SECTOR_SIZE];
    struct create_work *w = opaque;
    struct file_state locks = {.lock_fd = -1};
    int ret = -EIO;

    int fd = open(w->filename, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        error_set_errno(w->error, errno, "Could not open '%s'", w->filename);
        return -EIO;
    }
    int64_t length = file_length(fd);
    if (length < 0) {
        error_set_errno(w->error, length, "Could not get the length of '%s'",
                        w->filename);
        goto out;
    }
    if (length < w->size) {
        error_set(w->error, "Cannot grow device files");
        goto out;
    }
    if (!file_lock_open(&locks, fd, w->filename, w->error) ||
        !file_lock_prepare(&locks, w->filename, PERM_WRITE | PERM_RESIZE,
                           PERM_ALL & ~PERM_RESIZE, w->error)) {
        goto out;
    }
    file_lock_commit(&locks);
    ssize_t bytes = min_i64(length, sizeof(sector));
    if (pwrite(fd, sector, bytes, 0) != bytes || fdatasync(fd) < 0) {
        error_set_errno(w->error, errno, "Could not clear '%s'", w->filename);
        goto out;
    }
    ret = 0;
out:
    file_lock_close(&locks);
    close(fd);
    return ret;
}

bool co_device_create_file(const char *filename,
                           const struct create_params *params, GError **error)
{
    struct create_work w = {
        .filename = filename, .size = params->size, .error = error};

    if (params->backing_file) {
        return error_set(error, "Backing file not supported for file format "
                                "'host_device'");
    }
    g_autoptr(GPtrArray) extra = NULL;
    if (params->extra) {
        extra = keyval_split(params->extra, NULL, error);
        if (!extra) {
            return false;
        }
    }
    for (unsigned i = 0; extra && i < extra->len; i++) {
        const struct keyval *kv = g_ptr_array_index(extra, i);
        if (g_strcmp0(kv->key, "preallocation") != 0) {
            return error_set(error, "Invalid parameter '%s'", kv->key);
        }
        if (g_strcmp0(kv->value, "off") != 0) {
            return error_set(error, "Unsupported preallocation mode '%s'",
                             kv->value);
        }
    }
    return co_worker(do_reuse_device, &w) == 0;
}
