/*
 * Image locking between processes, by bytes of the image file.
 *
 * Byte 100 + i is locked by whoever uses permission i, byte 200 + i by whoever
 * does not share it; QEMU's programs use the same bytes, so that each side
 * keeps the other off. The locks are shared (read) open-file-description locks,
 * which the kernel drops with the descriptor; a conflict is found by asking
 * whether an exclusive lock on the opposite byte could be had. They have a
 * descriptor of their own, so that data descriptors may come and go.
 */
#include "block/drivers/file/file.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "util/error.h"

enum {
    PERM_BASE = 100,
    UNSHARED_BASE = 200,
};

static const char *const perm_names[] = {
    "consistent read",
    "write",
    "write unchanged",
    "resize",
};

#define PERM_COUNT G_N_ELEMENTS(perm_names)

bool file_lock_open(struct file_state *s, int fd, const char *filename,
                    GError **error)
{
    s->lock_fd = open(filename, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (s->lock_fd < 0) {
        return error_set_errno(error, errno, "Could not open '%s' for locking",
                               filename);
    }
    if (file_is_same(fd, s->lock_fd)) {
        return true;
    }
    file_lock_close(s);
    return error_set(error, "'%s' was replaced while it was opened", filename);
}

void file_lock_close(struct file_state *s)
{
    if (s->lock_fd >= 0) {
        close(s->lock_fd);
        s->lock_fd = -1;
    }
}

static int set_lock(int fd, off_t byte, short type)
{
    struct flock fl = {
        .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

/* True if another open file holds a lock on the byte. */
static bool held_elsewhere(int fd, off_t byte)
{
    struct flock fl = {
        .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* The first of `bits` that another open file has locked, or -1. */
static int find_held(int fd, off_t base, unsigned bits)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        if ((bits & (1u << i)) && held_elsewhere(fd, base + i)) {
            return (int)i;
        }
    }
    return -1;
}

/* Locks the bytes of `add`; on failure none of them stays locked. */
static int lock_bits(int fd, off_t base, unsigned add)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        int ret = add & (1u << i) ? set_lock(fd, base + i, F_RDLCK) : 0;
        if (ret < 0) {
            while (i-- > 0) {
                if (add & (1u << i)) {
                    set_lock(fd, base + i, F_UNLCK);
                }
            }
            return ret;
        }
    }
    return 0;
}

static void unlock_bits(int fd, off_t base, unsigned drop)
{
    for (unsigned i = 0; i < PERM_COUNT; i++) {
        if (drop & (1u << i)) {
            set_lock(fd, base + i, F_UNLCK);
        }
    }
}

static bool refuse(const char *prefix, int perm, const char *filename,
                   GError **error)
{
    error_set(error, "Failed to get %s\"%s\" lock", prefix, perm_names[perm]);
    error_add_hint(error, "Is another process using the image [%s]?", filename);
    return false;
}

bool file_lock_prepare(struct file_state *s, const char *filename,
                       unsigned perm, unsigned shared, GError **error)
{
    unsigned unshared = ~shared & PERM_ALL;

    s->preparing = false;
    if (s->lock_fd < 0) {
        return true;
    }
    int ret = lock_bits(s->lock_fd, PERM_BASE, perm & ~s->held_perm);
    if (ret < 0) {
        return error_set_errno(error, ret, "Could not lock '%s'", filename);
    }
    ret = lock_bits(s->lock_fd, UNSHARED_BASE, unshared & ~s->held_unshared);
    if (ret < 0) {
        unlock_bits(s->lock_fd, PERM_BASE, perm & ~s->held_perm);
        return error_set_errno(error, ret, "Could not lock '%s'", filename);
    }
    s->next_perm = perm;
    s->next_unshared = unshared;
    s->preparing = true;
    /* Lock first, look second: of two processes that start at once, at least
     * one sees the other. */
    int i = find_held(s->lock_fd, UNSHARED_BASE, perm);
    if (i >= 0) {
        file_lock_abort(s);
        return refuse("", i, filename, error);
    }
    i = find_held(s->lock_fd, PERM_BASE, unshared);
    if (i >= 0) {
        file_lock_abort(s);
        return refuse("shared ", i, filename, error);
    }
    return true;
}

void file_lock_commit(struct file_state *s)
{
    if (!s->preparing) {
        return;
    }
    unlock_bits(s->lock_fd, PERM_BASE, s->held_perm & ~s->next_perm);
    unlock_bits(s->lock_fd, UNSHARED_BASE,
                s->held_unshared & ~s->next_unshared);
    s->held_perm = s->next_perm;
    s->held_unshared = s->next_unshared;
    s->preparing = false;
}

void file_lock_abort(struct file_state *s)
{
    if (!s->preparing) {
        return;
    }
    unlock_bits(s->lock_fd, PERM_BASE, s->next_perm & ~s->held_perm);
    unlock_bits(s->lock_fd, UNSHARED_BASE,
                s->next_unshared & ~s->held_unshared);
    s->preparing = false;
}
