/*
 * What the files of the file and host_device drivers share; see file.c for the
 * design.
 */
#ifndef VARVE_BLOCK_DRIVERS_FILE_H
#define VARVE_BLOCK_DRIVERS_FILE_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include "aio/file_io.h"
#include "block/node.h"

/* Which engine an option asked for. */
enum file_engine {
    FILE_ENGINE_AUTO,
    FILE_ENGINE_THREADS,
    FILE_ENGINE_LIBAIO,
    FILE_ENGINE_URING,
};

struct file_state {
    int fd;
    enum file_engine engine;
    bool direct;       /* O_DIRECT */
    bool is_device;    /* a block or character device: it cannot grow */
    bool in_memory;    /* tmpfs and the like: nothing ever waits */
    bool nowait_reads; /* the file system can say "not cached" */

    /* Learnt while running, for FILE_ENGINE_AUTO on a buffered file. */
    unsigned read_misses;   /* inline reads in a row that were not cached */
    unsigned reads_to_skip; /* reads that do not try inline before the next */
    int64_t watch_until_ns; /* an inline write was slow: see what the next do */
    int64_t slow_until_ns;  /* inline writes blocked: workers until then */
    int64_t slow_for_ns;    /* how long that is */
    struct worker_lane bulk_writes;
    bool allocate_first; /* bulk writes gain by it */
    struct {
        int64_t from, to, bytes; /* since some were sent to the disk */
    } bulk;
    unsigned inline_ops; /* done at once since the loop was last let go on */
    int64_t inline_bytes;

    /* The page cache lost writes, a flush was told so, and the kernel tells
     * once: every later flush is this -errno. */
    int flush_error;

    /* Cleared when the file system refuses an operation for good. */
    bool can_punch_hole, can_zero_range, can_allocate, can_discard;
    bool can_copy_range;

    /* The last extent that SEEK_DATA found: repeated status questions inside it
     * cost no system call. "Data" is never wrong, only coarse. */
    int64_t data_start, data_end;
    uint64_t discards_ok, discards_failed, discarded_bytes; /* for queries */
    /* Counts what may have deallocated: an answer found before is not kept. */
    uint64_t holes_made;

    /* By a reopen in progress: what takes fd's place; -1: nothing does. */
    struct {
        int fd;
        bool direct;
        int64_t request_alignment, memory_alignment;
        bool was_by_need; /* access_by_need, to put back */
    } next;

    /* Access: see access.c. */
    bool access_by_need; /* auto-read-only */
    bool writable;       /* fd is, with access_by_need */
    int access_fd;       /* between prepare and commit, or -1 */
    bool access_writable;

    /* Locks: see lock.c. */
    int lock_fd; /* -1: locking is off */
    unsigned held_perm, held_unshared;
    unsigned next_perm, next_unshared; /* between prepare and commit */
    bool preparing;
};

/* ---- file.c ---- */
/* What O_DIRECT demands of requests and memory; blocking, for a worker. */
void file_find_alignment(int fd, bool is_device, int64_t length,
                         int64_t *request, int64_t *memory);

/* ---- reopen.c ---- */
extern const struct reopen_ops file_reopen_ops;

/* ---- io.c ---- */
int co_file_preadv(struct node *node, int64_t offset, int64_t bytes,
                   const struct iov *iov, unsigned flags);
int co_file_pwritev(struct node *node, int64_t offset, int64_t bytes,
                    const struct iov *iov, unsigned flags);
int co_file_flush(struct node *node);
/* Text for people; caller frees. */
char *file_io_engine(struct node *node);

/* ---- space.c ---- */
int co_file_pwrite_zeroes(struct node *node, int64_t offset, int64_t bytes,
                          unsigned flags);
int co_file_pdiscard(struct node *node, int64_t offset, int64_t bytes);
struct block_stats_specific *file_query_stats(const struct node *node);
int co_file_block_status(struct node *node, bool want_zero, int64_t offset,
                         int64_t bytes, struct block_status *status);
int co_file_copy_range(struct node *src, int64_t src_offset, struct node *dst,
                       int64_t dst_offset, int64_t bytes, unsigned flags);
/* After anything that may have deallocated. */
void file_forget_extent(struct file_state *s);

/* ---- length.c ---- */
/* Of an open file or device; or -errno. */
int64_t file_length(int fd);
int64_t co_file_getlength(struct node *node);
bool co_file_truncate(struct node *node, int64_t size, bool exact,
                      enum prealloc_mode prealloc, unsigned flags,
                      GError **error);
/* Sets the length of an open file from old_size; blocking, for a worker.
 * 0 or -errno, and *what names the step that failed. */
int file_resize(int fd, int64_t old_size, int64_t size,
                enum prealloc_mode prealloc, const char **what);

/* ---- access.c ---- */
/* A descriptor for data, or -errno. Blocks. */
int file_open_data(const struct file_state *s, const char *filename,
                   bool writable);
bool file_is_writable(int fd);
/* True if both are the same file of the same file system. */
bool file_is_same(int a, int b);
/* Opens what parents with these permissions need. */
bool file_access_prepare(struct node *node, unsigned perm, GError **error);
void file_access_commit(struct file_state *s);
void file_access_abort(struct file_state *s);

/* ---- lock.c ---- */
/* Opens the descriptor that holds the locks of the file that fd is, by name;
 * false and *error. */
bool file_lock_open(struct file_state *s, int fd, const char *filename,
                    GError **error);
void file_lock_close(struct file_state *s);
/* Takes what (perm, shared) needs on top of what is held, and checks that no
 * other process objects; the message names the permission and the file. */
bool file_lock_prepare(struct file_state *s, const char *filename,
                       unsigned perm, unsigned shared, GError **error);
void file_lock_commit(struct file_state *s);
void file_lock_abort(struct file_state *s);

/* ---- create.c ---- */
bool co_file_create(const struct blockdev_create_options *options,
                    GError **error);
bool co_file_create_file(const char *filename,
                         const struct create_params *params, GError **error);
/* Removes a regular file. Suspends. */
void co_file_delete_file(const char *filename);
/* "Creates" on a device: what is there must be large enough. */
bool co_device_create_file(const char *filename,
                           const struct create_params *params, GError **error);

#endif
