/*
 * blockdev-create: making an image as a job.
 */
#ifndef VARVE_BLOCK_CREATE_JOB_H
#define VARVE_BLOCK_CREATE_JOB_H

#include <glib.h>
#include "qapi/types.h"

struct job;

/* Copies options. The job is CREATED, finalizes itself, and stays CONCLUDED
 * until it is dismissed. NULL and *error for a driver that cannot create
 * anything, and as job_new(). On the graph's loop; does not suspend. */
struct job *create_job_new(const char *id,
                           const struct blockdev_create_options *options,
                           GError **error);

#endif
