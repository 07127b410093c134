/*
 * Views of scattered memory.
 *
 * A struct iov is a window over an array of struct iovec that somebody else
 * owns. Cutting a window never allocates and never writes to the array, so a
 * request can be split as often as the path needs. Pure, any thread.
 */
#ifndef VARVE_UTIL_IOV_H
#define VARVE_UTIL_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct iov {
    const struct iovec *vec; /* first entry that the window touches */
    unsigned count;          /* entries that it may touch */
    size_t skip;             /* bytes of vec[0] before the window */
    size_t bytes;            /* length of the window */
};

/* The window over all of vec[0..count). */
struct iov iov_of(const struct iovec *vec, unsigned count);

/* The window over one flat buffer; *storage must live as long as the view. */
static inline struct iov iov_buf(struct iovec *storage, void *buf, size_t bytes)
{
    storage->iov_base = buf;
    storage->iov_len = bytes;
    return (struct iov){.vec = storage, .count = 1, .skip = 0, .bytes = bytes};
}

/* The part [offset, offset + bytes) of a window; must lie within it. */
struct iov iov_slice(const struct iov *iov, size_t offset, size_t bytes);

/* Writes the window as plain iovecs into out[0..max); returns how many, or -1
 * if max is too small. */
int iov_export(const struct iov *iov, struct iovec *out, unsigned max);

/* True if iov->vec[0..iov->count) can go to a system call as it is. */
bool iov_is_plain(const struct iov *iov);

/* Copy or fill n bytes from offset on, which must lie within the window;
 * return n. */
size_t iov_to_buf(const struct iov *iov, size_t offset, void *buf, size_t n);
size_t iov_from_buf(const struct iov *iov, size_t offset, const void *buf,
                    size_t n);
void iov_set(const struct iov *iov, size_t offset, int byte, size_t n);
/* Copies dst.bytes bytes; both windows must be equally long. */
void iov_copy(const struct iov *dst, const struct iov *src);
bool iov_is_zero(const struct iov *iov);
/* True if every base address and length is a multiple of align (power of 2). */
bool iov_is_aligned(const struct iov *iov, size_t align);

#endif
