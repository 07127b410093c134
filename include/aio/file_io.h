/*
 * Reading and writing descriptors from a coroutine: three engines.
 *
 * All take a view of memory and a byte offset, suspend until done, and return 0
 * (everything transferred) or a negative errno; a read past the end of the file
 * fills the rest with zeroes. Submissions of one loop pass share one system
 * call; libaio completions are read from the ring without one where the kernel
 * maps it. The caller keeps memory alive until the return, and has checked
 * alignment for O_DIRECT descriptors.
 */
#ifndef VARVE_AIO_FILE_IO_H
#define VARVE_AIO_FILE_IO_H

#include <stdbool.h>
#include <stdint.h>
#include "util/iov.h"

enum file_io_op {
    FILE_IO_READ,
    FILE_IO_WRITE,
    FILE_IO_WRITE_FUA, /* RWF_DSYNC: stable when it returns */
    FILE_IO_FLUSH,     /* fdatasync; offset and iov unused */
};

/* Linux native AIO (only O_DIRECT descriptors gain from it). FUA and FLUSH fall
 * back to a worker where the kernel refuses them. */
int co_libaio(int fd, enum file_io_op op, int64_t offset,
              const struct iov *iov);
/* io_uring. -ENOSYS if the kernel lacks it (check file_io_have_uring()). */
int co_uring(int fd, enum file_io_op op, int64_t offset, const struct iov *iov);
/* A worker thread doing preadv/pwritev/fdatasync. */
int co_threaded(int fd, enum file_io_op op, int64_t offset,
                const struct iov *iov);
/* preadv2(RWF_NOWAIT) at once, without suspending: 0, or -EAGAIN if not all of
 * it was in the page cache, -EOPNOTSUPP if the file system cannot say. */
int file_io_read_inline(int fd, int64_t offset, const struct iov *iov);
/* preadv at once, on this thread, however long it takes: for files in memory.
 */
int file_io_read_blocking(int fd, int64_t offset, const struct iov *iov);
/* pwritev (pwritev2 with RWF_DSYNC for FUA) at once, on this thread. */
int file_io_write_inline(int fd, int64_t offset, const struct iov *iov,
                         bool fua);

bool file_io_have_uring(void);
bool file_io_have_libaio(void);

/* Runs a blocking function on the worker pool and returns its result; workers
 * are shared by the process, made on demand and bounded. Suspends. */
int co_worker(int (*fn)(void *opaque), void *opaque);

/* Jobs that would only wait for one another, such as writes to one file: those
 * of a lane run one at a time and in order, and the worker that has done one
 * goes on with the next without being called. Zero is a lane; one without jobs
 * may go away. */
struct worker_job;
struct worker_lane {
    struct worker_job *first, *last; /* private: behind the one that runs */
    bool busy;                       /* private */
};
/* NULL is no lane. */
int co_worker_in(struct worker_lane *lane, int (*fn)(void *opaque),
                 void *opaque);

#endif
