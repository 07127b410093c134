/*
 * What a crash may leave of a disk whose writes were recorded (mem_disk.h).
 */
#ifndef VARVE_TESTS_CRASH_LOG_H
#define VARVE_TESTS_CRASH_LOG_H

#include <glib.h>
#include "mem_disk.h"

/* A disk as it was when recording began. */
struct crash_start {
    uint8_t *image;
    int64_t bytes;
};

/* Copies the disk's content, which the caller frees, and begins to record. */
struct crash_start crash_record(struct node *file);
/* Makes `disk` what it is after a crash when `point` events of log had been
 * issued: all writes before the last flush got to it, and of the later ones
 * most, or a few. */
void crash_rebuild(struct node *disk, const struct crash_start *start,
                   const GArray *log, guint point, GRand *rand);

#endif
