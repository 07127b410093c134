/*
 * What the engines of file_io.h share. Private to aio/.
 */
#ifndef VARVE_AIO_FILE_IO_INTERNAL_H
#define VARVE_AIO_FILE_IO_INTERNAL_H

#include <sys/types.h>
#include "aio/file_io.h"

/* One transfer as the kernel takes it. */
struct io_part {
    int fd;
    enum file_io_op op;
    int64_t offset;
    const struct iovec *vec;
    unsigned count;
};

/* Hands one part to an engine; suspends; the bytes moved or a negative
 * errno. */
typedef ssize_t co_part_fn(const struct io_part *part);

/* Moves all of iov through an engine, going on after short transfers. What the
 * engine refuses as such (a flush, RWF_DSYNC) goes to a worker. */
int co_transfer(co_part_fn *engine, int fd, enum file_io_op op, int64_t offset,
                const struct iov *iov);

/* A request of an engine, on the stack of its coroutine; an engine's own record
 * begins with it. */
struct io_request {
    struct coroutine *co;
    ssize_t result;
    struct io_request *next;
};

struct io_list {
    struct io_request *first, **last;
};

static inline void io_list_init(struct io_list *q)
{
    q->first = (struct io_request *)0;
    q->last = &q->first;
}

static inline void io_list_append(struct io_list *q, struct io_request *r)
{
    r->next = (struct io_request *)0;
    *q->last = r;
    q->last = &r->next;
}

static inline struct io_request *io_list_pop(struct io_list *q)
{
    struct io_request *r = q->first;
    q->first = r->next;
    if (!q->first) {
        q->last = &q->first;
    }
    return r;
}

#endif
