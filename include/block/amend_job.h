/*
 * x-blockdev-amend: changing the options of an image as a job.
 */
#ifndef VARVE_BLOCK_AMEND_JOB_H
#define VARVE_BLOCK_AMEND_JOB_H

#include <glib.h>
#include "qapi/types.h"

struct job;
struct node;

/* Copies options. The job is CREATED, holds the node against other writers,
 * finalizes itself, and stays CONCLUDED until it is dismissed. NULL and *error
 * for another driver than the node's, or one that cannot amend, and as
 * job_new(). On the graph's loop with the change lock held; suspends. */
struct job *co_amend_job_new(const char *id, struct node *node,
                             const struct blockdev_amend_options *options,
                             GError **error);

#endif
