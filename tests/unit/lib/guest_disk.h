/*
 * A disk in memory behind a real backend, for tests of devices.
 *
 * The test turns the knobs of the one `disk` and reads its counters.
 */
#ifndef VARVE_TESTS_GUEST_DISK_H
#define VARVE_TESTS_GUEST_DISK_H

#include "block/backend.h"
#include "block/node.h"

enum disk_op {
    DISK_READ = 1,
    DISK_WRITE = 2,
    DISK_FLUSH = 4,
    DISK_DISCARD = 8,
    DISK_ZEROES = 16,
    DISK_ALL = 31,
};

struct guest_disk {
    uint8_t *data;
    int64_t bytes;
    struct node *node;
    struct backend *backend; /* "drive0" */
    /* knobs */
    unsigned fail_ops; /* enum disk_op */
    int fail_errno, fail_count;
    bool gate;  /* closed: requests wait for guest_disk_open_gate() */
    bool yield; /* each request lets others run first */
    struct co_queue at_gate;
    /* counters */
    unsigned reads, writes, flushes, discards, zeroes;
    unsigned inside; /* requests in the driver now */
    unsigned last_flags;
    int64_t order[64]; /* offsets of writes as they were carried out */
    unsigned orders;
    unsigned io_errors, stop_requests; /* announced by the backend */
};

extern struct guest_disk disk;

/* Resets everything and makes `bytes` of zeroes; read_only is the backend's. */
void co_guest_disk_new(int64_t bytes, bool read_only);
/* No device is left on the backend. */
void co_guest_disk_free(void);
void guest_disk_fail(unsigned ops, int errnum, int count);
void guest_disk_open_gate(void);

#endif
