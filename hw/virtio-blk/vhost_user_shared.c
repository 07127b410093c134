/*
 * Mapping what a vhost-user front-end shares: guest memory, the region of
 * requests in flight, the log of dirty pages.
 *
 * The range is checked against the file's length when it comes; the guard
 * stands for what becomes of the file later. Runs on the device's loop, does
 * not suspend.
 */
#include "hw/virtio-blk/vhost_user_shared.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "util/error.h"
#include "util/range.h"

#define HUGETLBFS_MAGIC 0x958458f6

static size_t page_bytes_of(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) == 0 && (uint32_t)fs.f_type == HUGETLBFS_MAGIC) {
        return fs.f_bsize;
    }
    return sysconf(_SC_PAGESIZE);
}

bool vhost_user_shared_map(struct vhost_user_shared *s, int fd, uint64_t offset,
                           uint64_t bytes, const char *what, GError **error)
{
    struct stat st;
    int64_t end, whole;

    if (offset > INT64_MAX || bytes > INT64_MAX || !bytes ||
        !range_add(offset, bytes, &end)) {
        return error_set(
            error, "%s has an invalid size of %" PRIu64 " bytes at %" PRIu64,
            what, bytes, offset);
    }
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || end > st.st_size) {
        return error_set(error, "%s is not within its file", what);
    }
    size_t page = page_bytes_of(fd);

    /* The whole file up to the end: an offset need not be a page's. */
    if (!is_power_of_2(page) || !range_add(end, page - 1, &whole)) {
        return error_set(error, "%s is too large", what);
    }
    whole = align_down(whole, page);
    char *base = mmap(NULL, whole, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        return error_set_errno(error, errno, "%s cannot be mapped", what);
    }
    s->host = (uint8_t *)base + offset;
    s->guard =
        (struct sigbus_range){.base = base, .bytes = whole, .page_bytes = page};
    if (!sigbus_range_add(&s->guard)) {
        munmap(base, whole);
        memset(s, 0, sizeof(*s));
        return error_set(error, "%s is one too many in this process", what);
    }
    return true;
}

void vhost_user_shared_unmap(struct vhost_user_shared *s)
{
    if (s->guard.base) {
        sigbus_range_remove(&s->guard);
        munmap(s->guard.base, s->guard.bytes);
        memset(s, 0, sizeof(*s));
    }
}
