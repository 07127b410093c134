/*
 * What a crash may leave of a disk whose writes were recorded (mem_disk.h).
 */
#ifndef VARVE_TESTS_CRASH_LOG_H
#define VARVE_TESTS_CRASH_LOG_H

#include <glib.h>
#include "mem_disk.h"

/* A disk as it was when recording began. */
struct crash_start {
    struct node *disk;
    uint8_t *image;
    int64_t bytes;
};

/* Copies the disk's content, which the caller frees. */
struct crash_start crash_start(struct node *file);
/* The same, and begins to record. */
struct crash_start crash_record(struct node *file);
/* When the last flush of the disk began that had ended by `point`: all events
 * of earlier times are stable. */
uint64_t crash_stable(const GArray *log, const struct node *disk, guint point);
/* Makes `disk` what the one of `start` is after a crash when `point` events of
 * log had been issued: all that its flushes cover got to it, and of the
 * later ones most, or a few, some of them in part. */
void crash_rebuild(struct node *disk, const struct crash_start *start,
                   const GArray *log, guint point, GRand *rand);

#endif
