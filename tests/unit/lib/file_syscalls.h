/*
 * System calls of the file driver, on their way to the kernel: counted, and
 * made to fail or take time when a test says so. A program that includes this
 * header (once) replaces the C library's functions. Calls of a loop's thread
 * and of workers are told apart; a test has one call in flight when it looks.
 */
#ifndef VARVE_TESTS_FILE_SYSCALLS_H
#define VARVE_TESTS_FILE_SYSCALLS_H

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <glib/gstdio.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "aio/loop.h"
#include "block/node.h"
#include "block/request.h"
#include "qapi/options.h"
#include "util/range.h"

#define KIB INT64_C(1024)
#define MIB (KIB * KIB)

/* Errors are positive; 0 lets the call through. */
static struct {
    unsigned tries; /* of reads that must not wait */
    int try_errno;  /* what they get */
    unsigned inline_reads, worker_reads;
    unsigned inline_writes, worker_writes;
    int write_errno; /* of writes, after write_part bytes */
    size_t write_part;
    int64_t write_ns;  /* a write at once takes this long (simulated clock) */
    bool write_sleeps; /* and does not use the CPU meanwhile */
    long slept;        /* how often that was */
    int dsync_errno;   /* of writes with RWF_DSYNC */
    unsigned syncs, write_backs;
    int64_t written_back; /* bytes, by the last of these */
    int sync_errno;
    unsigned punches, zero_ranges, allocations;
    int punch_errno, zero_range_errno, allocate_errno;
    unsigned copies;
    int copy_errno;
    unsigned seeks;
    int seek_errno;
    int seek_pipe; /* SEEK_HOLE waits for a byte from here, if not 0 */
    bool seek_waits;
    int fstat_errno;
    int fstat_pipe; /* a worker's fstat() waits, too */
    bool fstat_waits;
} sys;

static bool refused(int err)
{
    errno = err;
    return err != 0;
}

ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    if (flags & RWF_NOWAIT) {
        sys.tries++;
        if (refused(sys.try_errno)) {
            return -1;
        }
    }
    if (loop_current()) {
        sys.inline_reads++;
    } else {
        sys.worker_reads++;
    }
    return syscall(SYS_preadv2, fd, iov, n, offset, 0, flags);
}

int getrusage(int who, struct rusage *usage)
{
    *usage = (struct rusage){.ru_nvcsw = sys.slept};
    return 0;
}

ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset,
                 int flags)
{
    if (loop_current()) {
        sys.inline_writes++;
        if (sys.write_ns) {
            loop_clock_advance(loop_current(), sys.write_ns);
            sys.slept += sys.write_sleeps;
        }
    } else {
        sys.worker_writes++;
    }
    if ((flags & RWF_DSYNC) && refused(sys.dsync_errno)) {
        return -1;
    }
    if (sys.write_errno && sys.write_part) {
        size_t part = MIN(sys.write_part, iov->iov_len);
        sys.write_part -= part;
        return syscall(SYS_pwrite64, fd, iov->iov_base, part, offset);
    }
    if (refused(sys.write_errno)) {
        return -1;
    }
    return syscall(SYS_pwritev2, fd, iov, n, offset, 0, flags);
}

int fdatasync(int fd)
{
    sys.syncs++;
    return refused(sys.sync_errno) ? -1 : (int)syscall(SYS_fdatasync, fd);
}

int sync_file_range(int fd, off_t offset, off_t bytes, unsigned flags)
{
    sys.write_backs++;
    sys.written_back = bytes;
    return (int)syscall(SYS_sync_file_range, fd, offset, bytes, flags);
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    int err = sys.allocate_errno;

    if (mode & FALLOC_FL_PUNCH_HOLE) {
        sys.punches++;
        err = sys.punch_errno;
    } else if (mode & FALLOC_FL_ZERO_RANGE) {
        sys.zero_ranges++;
        err = sys.zero_range_errno;
    } else {
        sys.allocations++;
    }
    return refused(err) ? -1
                        : (int)syscall(SYS_fallocate, fd, mode, offset, bytes);
}

ssize_t copy_file_range(int in, off64_t *in_offset, int out,
                        off64_t *out_offset, size_t bytes, unsigned flags)
{
    sys.copies++;
    return refused(sys.copy_errno) ? -1
                                   : syscall(SYS_copy_file_range, in, in_offset,
                                             out, out_offset, bytes, flags);
}

off_t lseek(int fd, off_t offset, int whence)
{
    sys.seeks += whence == SEEK_DATA;
    if (refused(sys.seek_errno)) {
        return -1;
    }
    off_t ret = syscall(SYS_lseek, fd, offset, whence);
    char byte;
    if (whence == SEEK_HOLE && sys.seek_pipe) {
        sys.seek_waits = true;
        (void)!read(sys.seek_pipe, &byte, 1);
    }
    return ret;
}

int fstat(int fd, struct stat *st)
{
    if (refused(sys.fstat_errno)) {
        return -1;
    }
    int ret = fstatat(fd, "", st, AT_EMPTY_PATH);
    char byte;
    if (sys.fstat_pipe && !loop_current()) {
        sys.fstat_waits = true;
        (void)!read(sys.fstat_pipe, &byte, 1);
    }
    return ret;
}

/* ---- nodes ---- */

static struct node *co_open_text(GError **error, const char *fmt, va_list ap)
{
    g_autofree char *text = g_strdup_vprintf(fmt, ap);
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, error);
    return o ? co_node_open(o, error) : NULL;
}

static G_GNUC_UNUSED G_GNUC_PRINTF(2,
                                   3) struct node *co_try_node(GError **error,
                                                               const char *fmt,
                                                               ...)
{
    va_list ap;
    va_start(ap, fmt);
    struct node *node = co_open_text(error, fmt, ap);
    va_end(ap);
    return node;
}

static G_GNUC_UNUSED G_GNUC_PRINTF(1, 2) struct node *co_node(const char *fmt,
                                                              ...)
{
    GError *error = NULL;
    va_list ap;
    va_start(ap, fmt);
    struct node *node = co_open_text(&error, fmt, ap);
    va_end(ap);
    if (!node) {
        fail_msg("%s", error->message);
    }
    return node;
}

static G_GNUC_UNUSED void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

/* ---- files ---- */

static char *on_disk;   /* a directory where files go through a disk */
static char *in_memory; /* one of a file system in memory */

static void make_file(const char *path, int64_t bytes, int byte)
{
    g_autofree char *data = g_malloc(bytes + 1);
    memset(data, byte, bytes);
    assert_true(g_file_set_contents(path, data, bytes, NULL));
}

/* A file of its own below dir. */
static char *new_file(const char *dir, int64_t bytes, int byte)
{
    static unsigned n;
    char *path = g_strdup_printf("%s/f%u", dir, n++);
    make_file(path, bytes, byte);
    return path;
}

static G_GNUC_UNUSED void assert_bytes(const char *path, int64_t offset,
                                       int64_t bytes, int byte)
{
    g_autofree char *data = NULL;
    gsize length;
    assert_true(g_file_get_contents(path, &data, &length, NULL));
    assert_true((int64_t)length >= offset + bytes);
    for (int64_t i = offset; i < offset + bytes; i++) {
        if ((unsigned char)data[i] != (unsigned char)byte) {
            fail_msg("%s: byte %ld is %d, not %d", path, (long)i,
                     (unsigned char)data[i], byte);
        }
    }
}

static G_GNUC_UNUSED int64_t size_on_disk(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return st.st_size;
}

static G_GNUC_UNUSED int64_t allocated(const char *path)
{
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    return (int64_t)st.st_blocks * 512;
}

static G_GNUC_UNUSED int co_fill(struct node *node, int64_t offset,
                                 int64_t bytes, int byte, unsigned flags)
{
    g_autofree char *data = g_malloc(bytes);
    memset(data, byte, bytes);
    return co_node_pwrite(node, offset, data, bytes, flags);
}

static int make_directories(void **state)
{
    on_disk = g_strdup("/var/tmp/varve-file-XXXXXX");
    in_memory = g_strdup("/dev/shm/varve-file-XXXXXX");
    return g_mkdtemp(on_disk) && g_mkdtemp(in_memory) ? 0 : -1;
}

static void remove_directory(char *path)
{
    GDir *dir = g_dir_open(path, 0, NULL);
    const char *name;
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *file = g_build_filename(path, name, NULL);
        umount2(file, MNT_DETACH);
        g_remove(file);
    }
    if (dir) {
        g_dir_close(dir);
    }
    g_rmdir(path);
    g_free(path);
}

static int remove_directories(void **state)
{
    remove_directory(on_disk);
    remove_directory(in_memory);
    return 0;
}

/* ---- the loop ---- */

static G_GNUC_UNUSED void co_settle(unsigned passes)
{
    while (passes--) {
        co_pause();
    }
}

static void in_loop(co_fn *co_body)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    memset(&sys, 0, sizeof(sys));
    loop_bind(loop);
    loop_run_co(loop, co_body, NULL);
    while (loop_pass(loop, false)) {
    }
    loop_bind(NULL);
    loop_free(loop);
}

#define FILE_TEST(name)            \
    static void name(void **state) \
    {                              \
        in_loop(co_##name);        \
    }

/* ---- mounts of our own ---- */

static bool tell_kernel(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return ok;
}

/* From now on this process sees its own mounts, which end with it. Without
 * root's rights it gets them in a namespace of users; then before there are
 * threads. */
static G_GNUC_UNUSED bool own_mounts(void)
{
    static int done; /* 1: yes, -1: not possible */
    uid_t uid = geteuid();
    g_autofree char *uids = g_strdup_printf("0 %u 1", uid);
    g_autofree char *gids = g_strdup_printf("0 %u 1", getegid());

    if (!done) {
        bool ok = unshare(CLONE_NEWNS | (uid ? CLONE_NEWUSER : 0)) == 0;
        if (ok && uid) {
            ok = tell_kernel("/proc/self/setgroups", "deny") &&
                 tell_kernel("/proc/self/uid_map", uids) &&
                 tell_kernel("/proc/self/gid_map", gids);
        }
        ok = ok && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
        done = ok ? 1 : -1;
    }
    return done > 0;
}

/* A directory with `size` bytes of memory behind it. */
static G_GNUC_UNUSED char *small_disk(const char *options, unsigned long flags)
{
    static unsigned n;
    char *path = g_strdup_printf("%s/m%u", in_memory, n++);
    assert_int_equal(g_mkdir(path, 0700), 0);
    assert_int_equal(mount("tmpfs", path, "tmpfs", flags, options), 0);
    return path;
}

#endif
