/*
 * Which node a command means.
 */
#ifndef VARVE_QMP_LOOKUP_H
#define VARVE_QMP_LOOKUP_H

struct node;

/* The node that people mean by a backend or its root: below the filters that
 * jobs put there for their own time (their names are generated, and what hangs
 * on them is gone with the job). On the graph's loop. */
struct node *lookup_below_job_filters(struct node *node);

#endif
