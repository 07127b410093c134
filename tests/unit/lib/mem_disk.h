/*
 * A protocol node over memory that behaves like a disk with a volatile cache:
 * it grows, finishes requests late and out of order, fails some, and can record
 * all writes and flushes, so that a test can play back what a crash might
 * leave.
 */
#ifndef VARVE_TESTS_MEM_DISK_H
#define VARVE_TESTS_MEM_DISK_H

#include <glib.h>
#include "block/graph.h"
#include "block/node.h"
#include "block/request.h"

#define MEM_DISK_MAX (INT64_C(256) << 20)

struct mem_event {
    struct node *disk; /* whose */
    bool flush;
    bool resize; /* to `offset` bytes */
    /* A write with REQ_FUA has ended: with it what it wrote is stable, and each
     * resize before event number `began`. */
    bool fua;
    guint began;
    /* On one clock for all disks: a flush makes stable what had ended when it
     * began. */
    uint64_t time; /* a flush: began; a write: ended, UINT64_MAX if not yet */
    int64_t offset, bytes;
    uint8_t *data;
};

struct mem_disk {
    uint8_t *data;        /* MEM_DISK_MAX bytes of address space */
    unsigned pauses;      /* passes that a request takes, at random up to */
    unsigned slow_one_in; /* such requests take hundreds; 0 = none */
    unsigned rng;
    unsigned fail_at;     /* the n-th write or flush from now on fails, once */
    unsigned fail_one_in; /* writes and flushes fail at random; 0 = never */
    int fail_errno;       /* positive */
    unsigned reads, writes, flushes, fua_writes;
    int64_t discarded; /* bytes */
    GArray *log;       /* struct mem_event, or NULL */
    bool shares_log;
};

/* The caller owns the reference. */
struct node *co_mem_disk(const char *name);
struct mem_disk *mem_disk_of(struct node *node);
void mem_disk_record(struct node *node);
/* The same into the log of another disk, which outlives this one. */
void mem_disk_record_beside(struct node *node, struct node *other);
/* Does to the disk what was recorded, once more; of a write just some sectors
 * if `torn` is there, which picks them. */
void mem_disk_replay(struct node *node, const struct mem_event *e, GRand *torn);
/* Asserts that the last event was a flush. */
void assert_all_stable(struct node *node);
/* Ends it; the log is gone. */
void mem_disk_forget(struct node *node);
/* Copies the content to a file of the host. */
void mem_disk_save(struct node *node, const char *path);
void mem_disk_load(struct node *node, const char *path);

/* Runs qemu-img with arguments; its exit status, and *output (may be NULL,
 * g_free() it) what it printed. */
int run_qemu_img(char **output, const char *const *args);
/* Asserts that `qemu-img check` finds neither errors nor (unless allowed)
 * leaks in the file. */
void assert_image_clean(const char *path, bool leaks_allowed);

#endif
