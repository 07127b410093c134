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

#define DEFAULT_EXTENT_HINT (1 << 20)

struct create_work {
    const char *filename;
    int64_t size;
    enum prealloc_mode prealloc;
    bool nocow;
    uint64_t extent_hint; /* bytes; 0: up to the file system */
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

/* Images grow here and there: without it, some file systems lay them out in
 * small pieces. The others know no such hint. */
static void set_extent_hint(int fd, uint64_t bytes)
{
    struct fsxattr attr;

    if (ioctl(fd, FS_IOC_FSGETXATTR, &attr) == 0) {
        attr.fsx_xflags |= FS_XFLAG_EXTSIZE;
        attr.fsx_extsize = (uint32_t)bytes;
        (void)!ioctl(fd, FS_IOC_FSSETXATTR, &attr);
    }
}

/* Opens the file and takes the locks of whoever writes it all anew; runs fn on
 * it, which says itself what is wrong. */
static int with_locked_file(struct create_work *w, int flags, const char *what,
                            int (*fn)(struct create_work *w, int fd))
{
    struct file_state locks = {.lock_fd = -1};
    int ret = -EIO;

    int fd = open(w->filename, O_RDWR | O_CLOEXEC | flags, 0644);
    if (fd < 0) {
        error_set_errno(w->error, errno, "Could not %s '%s'", what,
                        w->filename);
        return -EIO;
    }
    if (file_lock_open(&locks, fd, w->filename, w->error) &&
        file_lock_prepare(&locks, w->filename, PERM_WRITE | PERM_RESIZE,
                          PERM_ALL & ~PERM_RESIZE, w->error)) {
        file_lock_commit(&locks);
        ret = fn(w, fd);
    }
    file_lock_close(&locks);
    close(fd);
    return ret;
}

static int make_empty(struct create_work *w, int fd)
{
    const char *what;

    if (ftruncate(fd, 0) < 0) {
        error_set_errno(w->error, errno, "Could not clear '%s'", w->filename);
        return -EIO;
    }
    if (w->nocow) {
        set_nocow(fd);
    }
    if (w->extent_hint) {
        set_extent_hint(fd, w->extent_hint);
    }
    int ret = file_resize(fd, 0, w->size, w->prealloc, &what);
    if (ret < 0) {
        error_set_errno(w->error, ret, "%s", what);
    }
    return ret;
}

static int do_create(void *opaque)
{
    return with_locked_file(opaque, O_CREAT, "create", make_empty);
}

static bool co_create_with(struct create_work *w)
{
    if (w->prealloc == PREALLOC_MODE_METADATA) {
        return error_set(w->error, "Unsupported preallocation mode: %s",
                         prealloc_mode_str(w->prealloc));
    }
    if (w->extent_hint > UINT32_MAX) {
        return error_set(w->error, "Extent size hint is too large");
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
        .extent_hint =
            o->has_extent_size_hint ? o->extent_size_hint : DEFAULT_EXTENT_HINT,
        .error = error,
    };
    return co_create_with(&w);
}

/* ---- options as people type them ---- */

struct create_option {
    const char *name;
    bool (*take)(struct create_work *w, const char *value);
};

static bool take_preallocation(struct create_work *w, const char *value)
{
    int mode = qapi_enum_parse(&qapi_type_prealloc_mode, value);

    w->prealloc = mode;
    return mode >= 0 ||
           error_set(w->error, "invalid parameter value: %s", value);
}

static bool take_no_preallocation(struct create_work *w, const char *value)
{
    return !g_strcmp0(value, "off") ||
           error_set(w->error, "Unsupported preallocation mode '%s'", value);
}

static bool take_nocow(struct create_work *w, const char *value)
{
    return keyval_bool(value, &w->nocow) ||
           error_set(w->error, "Parameter 'nocow' expects 'on' or 'off'");
}

static bool take_hint(struct create_work *w, const char *value)
{
    return keyval_parse_size("extent_size_hint", value, &w->extent_hint,
                             w->error);
}

static bool take_option(struct create_work *w, const struct create_option *rows,
                        const struct keyval *kv)
{
    for (; rows->name; rows++) {
        if (!g_strcmp0(kv->key, rows->name)) {
            return rows->take(w, kv->value);
        }
    }
    return error_set(w->error, "Invalid parameter '%s'", kv->key);
}

static bool take_params(struct create_work *w, const char *driver,
                        const struct create_params *params,
                        const struct create_option *rows)
{
    g_autoptr(GPtrArray) extra = NULL;

    w->size = params->size;
    if (params->backing_file) {
        return error_set(w->error,
                         "Backing file not supported for file format '%s'",
                         driver);
    }
    if (!params->extra) {
        return true;
    }
    extra = keyval_split(params->extra, NULL, w->error);
    for (unsigned i = 0; extra && i < extra->len; i++) {
        if (!take_option(w, rows, g_ptr_array_index(extra, i))) {
            return false;
        }
    }
    return extra;
}

bool co_file_create_file(const char *filename,
                         const struct create_params *params, GError **error)
{
    static const struct create_option rows[] = {
        {"preallocation", take_preallocation},
        {"nocow", take_nocow},
        {"extent_size_hint", take_hint},
        {0},
    };
    struct create_work w = {.filename = filename,
                            .extent_hint = DEFAULT_EXTENT_HINT,
                            .error = error};

    if (!take_params(&w, "file", params, rows)) {
        return false;
    }
    /* Files from the image tools hold whole sectors. */
    w.size = align_up(w.size, BLOCK_SECTOR_SIZE);
    return co_create_with(&w);
}

static int do_delete(void *opaque)
{
    const char *filename = opaque;
    struct stat st;

    return lstat(filename, &st) == 0 && S_ISREG(st.st_mode) ? unlink(filename)
                                                            : 0;
}

void co_file_delete_file(const char *filename)
{
    /* It is but tidying up after a failure, which has been told. */
    (void)co_worker(do_delete, (char *)filename);
}

/* ---- devices ---- */

/* Zeroes the start, where probing would find what was there before. */
static int look_empty(struct create_work *w, int fd)
{
    static const char sector[BLOCK_SECTOR_SIZE];
    int64_t length = file_length(fd);

    if (length < 0) {
        error_set_errno(w->error, length, "Could not get the length of '%s'",
                        w->filename);
        return -EIO;
    }
    if (length < w->size) {
        error_set(w->error, "Cannot grow device files");
        return -EIO;
    }
    ssize_t bytes = min_i64(length, sizeof(sector));
    if (pwrite(fd, sector, bytes, 0) != bytes || fdatasync(fd) < 0) {
        error_set_errno(w->error, errno, "Could not clear '%s'", w->filename);
        return -EIO;
    }
    return 0;
}

static int do_reuse_device(void *opaque)
{
    return with_locked_file(opaque, 0, "open", look_empty);
}

bool co_device_create_file(const char *filename,
                           const struct create_params *params, GError **error)
{
    static const struct create_option rows[] = {
        {"preallocation", take_no_preallocation},
        {0},
    };
    struct create_work w = {.filename = filename, .error = error};

    return take_params(&w, "host_device", params, rows) &&
           co_worker(do_reuse_device, &w) == 0;
}
