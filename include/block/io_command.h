/*
 * Single requests as people type them: "write -P 0xaa 0 64k".
 *
 * One table of commands that a program's prompt and a monitor share. All run on
 * the graph's loop, on a backend, and suspend; what they say goes to two
 * streams. The lines are those that qemu-io prints, because scripts read them.
 */
#ifndef VARVE_BLOCK_IO_COMMAND_H
#define VARVE_BLOCK_IO_COMMAND_H

#include <glib.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "aio/colock.h"

struct backend;
struct io_command;
struct io_done;

/* Who types. Members stay as they are from command to command. */
struct io_session {
    struct backend *backend; /* NULL: no file is open */
    struct node *node;       /* what info shows: not always the backend's, whose
                                filters nobody asked for; without a backend, for
                                commands that look at the node alone; or NULL */
    FILE *out, *err;
    const char *program; /* stands before error messages; may be NULL */
    FILE *breaks_out;    /* where breakpoints tell of requests, as long as they
                            exist; may be NULL */
    size_t misalign;     /* memory of requests is off by so many bytes */
    const struct io_command *const *more; /* rows of the program, ended by
                                             NULL; may be NULL */
    void *opaque;                         /* of the program's rows */
    bool ended;                           /* somebody said quit */
    unsigned kept_perm; /* enum perm: what the backend is to have when the
                           session is over; for who gives back the rest */
    struct co_count in_flight; /* of aio_read and aio_write */
    struct io_done *done;      /* of these, what is still to be told */
};

/* The words after a command's name, options taken out. */
struct io_args {
    const struct io_command *command;
    const char *name; /* of the command, as typed */
    int n;
    char **word;
    unsigned given[128];     /* by letter: how often */
    const char *option[128]; /* its argument */
};

struct io_command {
    const char *name;
    const char *alias;   /* or NULL */
    const char *options; /* letters as for getopt(3); NULL: words may begin with
                            a dash */
    int min, max;        /* words, with options; max -1: any number */
    const char *usage;
    const char *what; /* in half a sentence */
    const char *help; /* or NULL */
    unsigned perm;    /* enum perm: what it needs beyond reading */
    bool no_file;     /* works without one */
    bool graph_as_is; /* looks at the node alone, and may run beside commands
                         that change the graph */
    /* Says what is wrong with an option's argument, and returns false, before
     * anybody looks at the rest of the line; or NULL. */
    bool (*check)(struct io_session *s, unsigned char letter, const char *text);
    /* false: it failed, and has said why. */
    bool (*co_run)(struct io_session *s, const struct io_args *args);
};

/* Runs one line; an empty one is nothing. false: it failed, and session->out or
 * ->err says why. Adds to the backend's permissions what the command needs. */
bool co_io_command(struct io_session *s, const char *line);
/* True if the line's command is of kind graph_as_is. */
bool io_command_leaves_graph(const char *line);
/* Waits for what aio_read and aio_write started: before the backend goes. */
void co_io_session_drain(struct io_session *s);

/* ---- for rows of a program ---- */

/* Prints how the command is used; returns false. */
bool io_usage(struct io_session *s, const struct io_args *args);
/* Prints "<program>: message" and ends the line. */
void io_complain(struct io_session *s, const char *format, ...)
    G_GNUC_PRINTF(2, 3);
/* The same, and frees the error; returns false. */
bool io_fail(struct io_session *s, GError **error);
/* A size as people type it, not negative; prints what is wrong and returns
 * false. */
bool io_parse_number(struct io_session *s, const char *text, int64_t *number);
/* "1.500 KiB"; caller frees. */
char *io_size_text(double bytes);

#endif
