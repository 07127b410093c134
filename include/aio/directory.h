/*
 * The directory: which names there are in the process, on which loop each
 * thing lives, and which loops there are that things can live on.
 *
 * Names of one kind are unique over all loops. The entry of a thing is made,
 * changed and taken away on the loop where it lives, so an entry that says
 * "here" is true until that loop does something else. Any thread; nothing here
 * suspends.
 */
#ifndef VARVE_AIO_DIRECTORY_H
#define VARVE_AIO_DIRECTORY_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;

enum directory_kind {
    DIRECTORY_NODE,
    DIRECTORY_BACKEND,
    DIRECTORY_DEVICE,
    DIRECTORY_JOB,
    DIRECTORY_EXPORT,
    DIRECTORY_KIND_COUNT,
};

/* Takes the name for a thing on the current loop; false if it is taken. */
bool directory_add(enum directory_kind kind, const char *name);
void directory_remove(enum directory_kind kind, const char *name);
/* The thing leaves for another loop: it is nowhere... */
void directory_leave(enum directory_kind kind, const char *name);
/* ...until it has arrived on this one. */
void directory_arrive(enum directory_kind kind, const char *name);
/* False if there is none. *loop (may be NULL) is NULL while it is on its way.
 */
bool directory_find(enum directory_kind kind, const char *name,
                    struct loop **loop);

/* 1, 2, 3 ...: never twice in the process; the order in which things came. */
uint64_t directory_number(void);

/* Loops that things live on, in order of entry. */
void directory_loop_enter(struct loop *loop);
void directory_loop_leave(struct loop *loop);
/* An array of struct loop *, for the caller to unref. */
GPtrArray *directory_loops(void);

#endif
