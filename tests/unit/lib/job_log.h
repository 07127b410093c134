/*
 * What jobs announce, as text: "created j, running j, COMPLETED j 5/5".
 */
#ifndef VARVE_TESTS_JOB_LOG_H
#define VARVE_TESTS_JOB_LOG_H

#include "block/job.h"

/* Starts to listen (an empty log), and stops. */
void job_log_start(void);
void job_log_stop(void);
/* Asserts that the log since the last look is `expected`; forgets it. */
void job_log_is(const char *expected);
void job_log_forget(void);

#endif
