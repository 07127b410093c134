/*
 * A thread that runs one loop. Made and ended by the main thread.
 */
#ifndef VARVE_AIO_IOTHREAD_H
#define VARVE_AIO_IOTHREAD_H

struct loop;
struct iothread;

struct iothread *iothread_new(const char *name);
/* Lets the loop finish its pass, joins the thread, frees the loop. What lives
 * on the loop must be gone. */
void iothread_free(struct iothread *t);
struct loop *iothread_loop(struct iothread *t);
/* The thread's kernel id, as query-iothreads reports it. */
int iothread_tid(const struct iothread *t);

#endif
