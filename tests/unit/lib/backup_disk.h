/*
 * One disk of a backup test: a source with a backend, a target, and the
 * source's content at the instant at which the last backup began.
 */
#ifndef VARVE_TESTS_BACKUP_DISK_H
#define VARVE_TESTS_BACKUP_DISK_H

#include "block/backup.h"
#include "fake_driver.h"

#define CLUSTER INT64_C(65536)
#define LENGTH  (37 * CLUSTER + 20480)

/* One disk: source, its backend, target. */
struct disk {
    struct node *source, *target;
    struct backend *backend;
    uint8_t *instant; /* content of the source when the last backup began */
};

uint8_t *data_of(struct node *node);
/* The source has data and zeroes, the target neither. */
void co_disk_open(struct disk *d, const char *backend, const char *source,
                  const char *target);
void co_disk_close(struct disk *d);
/* A full backup with four workers. */
struct backup_params params_of(const struct disk *d);
/* As a command does; NULL and *error. The job is referenced. */
struct job *co_start_backup(struct disk *d, const struct backup_params *p,
                            GError **error);
/* Moves the clock on until the job has ended; drops the reference. */
int co_until_ended(struct job *job);
/* The target is what the source was. */
void assert_copied(const struct disk *d);
/* No job, no filter, nobody holds the target. */
void assert_no_trace(const struct disk *d);

#endif
