/*
 * Windows over scattered memory.
 *
 * Invariants of every window made here: if bytes > 0 then skip is less than
 * vec[0].iov_len, and vec[0..count) is just what the window touches; only the
 * first and the last entry may be touched in part. A caller may build wider
 * windows by hand (a count that is too large is harmless, empty entries too).
 * Pure functions, any thread.
 */
#include "util/iov.h"

#include <assert.h>
#include <string.h>

/* Walks the pieces of a part of a window. */
struct iov_walk {
    const struct iovec *vec;
    size_t skip;
    size_t left;
};

static struct iov_walk walk_start(const struct iov *iov, size_t offset,
                                  size_t bytes)
{
    assert(offset <= iov->bytes && bytes <= iov->bytes - offset);

    struct iov_walk w = {iov->vec, iov->skip + offset, bytes};
    while (w.left && w.skip >= w.vec->iov_len) {
        w.skip -= w.vec->iov_len;
        w.vec++;
    }
    return w;
}

/* The next non-empty piece; false at the end. */
static inline bool walk_next(struct iov_walk *w, struct iovec *piece)
{
    while (w->left) {
        size_t len = w->vec->iov_len - w->skip;
        if (len > w->left) {
            len = w->left;
        }
        piece->iov_base = (char *)w->vec->iov_base + w->skip;
        piece->iov_len = len;
        w->vec++;
        w->skip = 0;
        w->left -= len;
        if (len) {
            return true;
        }
    }
    return false;
}

struct iov iov_of(const struct iovec *vec, unsigned count)
{
    struct iov iov = {.vec = vec, .count = count};
    for (unsigned i = 0; i < count; i++) {
        iov.bytes += vec[i].iov_len;
    }
    return iov;
}

struct iov iov_slice(const struct iov *iov, size_t offset, size_t bytes)
{
    if (offset == 0 && bytes == iov->bytes) {
        return *iov;
    }

    struct iov_walk w = walk_start(iov, offset, bytes);
    struct iov out = {.vec = w.vec, .skip = w.skip, .bytes = bytes};
    if (!bytes) {
        out.skip = 0;
        return out;
    }
    size_t end = w.skip + bytes;
    const struct iovec *v = w.vec;
    for (size_t sum = 0; sum < end; v++) {
        sum += v->iov_len;
    }
    out.count = v - w.vec;
    return out;
}

int iov_export(const struct iov *iov, struct iovec *out, unsigned max)
{
    struct iov_walk w = walk_start(iov, 0, iov->bytes);
    struct iovec piece;
    unsigned n = 0;

    while (walk_next(&w, &piece)) {
        if (n == max) {
            return -1;
        }
        out[n++] = piece;
    }
    return n;
}

bool iov_is_plain(const struct iov *iov)
{
    if (iov->skip) {
        return false;
    }
    size_t sum = 0;
    for (unsigned i = 0; i < iov->count; i++) {
        sum += iov->vec[i].iov_len;
    }
    return sum == iov->bytes;
}

size_t iov_to_buf(const struct iov *iov, size_t offset, void *buf, size_t n)
{
    size_t at = iov->skip + offset;

    /* Headers of requests: one piece of one entry. */
    if (n && offset + n <= iov->bytes && at + n <= iov->vec->iov_len) {
        memcpy(buf, (char *)iov->vec->iov_base + at, n);
        return n;
    }
    struct iov_walk w = walk_start(iov, offset, n);
    struct iovec piece;
    char *p = buf;

    while (walk_next(&w, &piece)) {
        memcpy(p, piece.iov_base, piece.iov_len);
        p += piece.iov_len;
    }
    return n;
}

size_t iov_from_buf(const struct iov *iov, size_t offset, const void *buf,
                    size_t n)
{
    struct iov_walk w = walk_start(iov, offset, n);
    struct iovec piece;
    const char *p = buf;

    while (walk_next(&w, &piece)) {
        memcpy(piece.iov_base, p, piece.iov_len);
        p += piece.iov_len;
    }
    return n;
}

void iov_set(const struct iov *iov, size_t offset, int byte, size_t n)
{
    struct iov_walk w = walk_start(iov, offset, n);
    struct iovec piece;

    while (walk_next(&w, &piece)) {
        memset(piece.iov_base, byte, piece.iov_len);
    }
}

void iov_copy(const struct iov *dst, const struct iov *src)
{
    assert(dst->bytes == src->bytes);

    struct iov_walk s = walk_start(src, 0, src->bytes);
    struct iov_walk d = walk_start(dst, 0, dst->bytes);
    struct iovec from = {0}, to = {0};

    for (size_t left = src->bytes; left;) {
        if (!from.iov_len) {
            walk_next(&s, &from);
        }
        if (!to.iov_len) {
            walk_next(&d, &to);
        }
        size_t n = from.iov_len < to.iov_len ? from.iov_len : to.iov_len;
        memcpy(to.iov_base, from.iov_base, n);
        from.iov_base = (char *)from.iov_base + n;
        from.iov_len -= n;
        to.iov_base = (char *)to.iov_base + n;
        to.iov_len -= n;
        left -= n;
    }
}

/* If the first 16 bytes are zero and each byte equals the one 16 before it, all
 * are zero: so libc's vectorised memcmp does the work, and data that starts
 * with anything else costs next to nothing. */
static bool buf_is_zero(const char *p, size_t n)
{
    size_t head = n < 16 ? n : 16;
    for (size_t i = 0; i < head; i++) {
        if (p[i]) {
            return false;
        }
    }
    return n <= 16 || memcmp(p, p + 16, n - 16) == 0;
}

bool iov_is_zero(const struct iov *iov)
{
    struct iov_walk w = walk_start(iov, 0, iov->bytes);
    struct iovec piece;

    while (walk_next(&w, &piece)) {
        if (!buf_is_zero(piece.iov_base, piece.iov_len)) {
            return false;
        }
    }
    return true;
}

bool iov_is_aligned(const struct iov *iov, size_t align)
{
    struct iov_walk w = walk_start(iov, 0, iov->bytes);
    struct iovec piece;
    uintptr_t bits = 0;

    while (walk_next(&w, &piece)) {
        bits |= (uintptr_t)piece.iov_base | piece.iov_len;
    }
    return !(bits & (align - 1));
}
