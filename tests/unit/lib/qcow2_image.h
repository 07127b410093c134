/*
 * qcow2 images in memory disks, and random requests against a model of bytes.
 */
#ifndef VARVE_TESTS_QCOW2_IMAGE_H
#define VARVE_TESTS_QCOW2_IMAGE_H

#include <glib.h>
#include "mem_disk.h"

/* A directory of its own for each test program: setup and teardown. */
int enter_directory(void **state);
int leave_directory(void **state);

/* Opens "driver=...,..." or JSON; NULL and *error. */
struct node *co_try_open(GError **error, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
/* The same, and asserts that it opens. */
struct node *co_open(const char *format, ...) G_GNUC_PRINTF(1, 2);
/* blockdev-create of an image in node `file`; `more` is JSON members. */
void co_make(const char *file, int64_t size, const char *more);
/* A big-endian field of 1 to 8 bytes in the memory disk. */
void put_be(struct node *file, int64_t offset, unsigned bytes, uint64_t value);
uint64_t get_be(struct node *file, int64_t offset, unsigned bytes);
/* Asserts that qemu-img finds nothing wrong with the content of the disk. */
void co_check(struct node *file, bool leaks_allowed);

/* Random reads, writes, zeroes, discards and flushes, of which those in flight
 * do not overlap. */
struct stress {
    struct node *node;
    uint8_t *model;     /* what a read must give */
    uint8_t *unknown;   /* units whose last change failed */
    uint8_t *touched;   /* units that were changed; the test clears it */
    uint8_t *busy;      /* private: units of requests in flight */
    int64_t size, unit; /* requests begin and end at multiples of unit */
    GRand *rand;
    unsigned left;   /* private: requests to start */
    unsigned failed; /* requests that failed */
    bool failures;   /* they may */
    bool small;      /* few units each */
    bool no_flush;
    int64_t cluster; /* half of the writes are compressed ones of whole
                        clusters of this size; 0: none is */
};
void stress_init(struct stress *t, struct node *node, unsigned seed);
void stress_free(struct stress *t);
void co_stress(struct stress *t, unsigned requests, unsigned depth);
/* A kind of image for them. */
struct shape {
    const char *create; /* JSON members of blockdev-create */
    const char *open;   /* ",option=value..." */
    int64_t size;
    int64_t cluster; /* as in struct stress */
};
/* Rounds of that many requests match the model, also when the image is opened
 * again, and qemu-img finds it clean. */
void co_stress_shape(const struct shape *shape, unsigned seed,
                     unsigned requests);
/* The same while writes and flushes fail now and then: the node goes on, and
 * nothing is lost or leaked. */
void co_stress_failures(const struct shape *shape, unsigned seed,
                        unsigned requests);
/* Asserts that the range reads as the model says; where that is unknown, as
 * zeroes or something that was written there. */
void co_verify(struct stress *t, int64_t offset, int64_t bytes);

#endif
