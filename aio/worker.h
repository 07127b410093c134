/*
 * What tests need of the threads for blocking work; the rest of it is in
 * aio/file_io.h.
 */
#ifndef AIO_WORKER_H
#define AIO_WORKER_H

/* How long a thread stays that has nothing to do. Set before the first job. */
extern int worker_idle_seconds;

#endif
