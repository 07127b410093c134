/*
 * What the files of varved share.
 */
#ifndef VARVE_TOOLS_VARVED_DAEMON_H
#define VARVE_TOOLS_VARVED_DAEMON_H

#include <glib.h>
#include <stdbool.h>
#include "aio/coroutine.h"

struct loop;
struct iothread;
struct throttle_config;

/* Lives on the main thread; drives belong to the graph's loop. */
struct daemon {
    struct loop *loop; /* main */
    struct iothread *thread;
    GMainLoop *main_loop;

    GHashTable *chardevs; /* id -> struct chardev (chardev.c) */
    bool stdio_taken;
    const char *blame; /* NULL, or the option that a failure is about, when it
                          is not the one at hand */
    unsigned monitors; /* made so far, for generated ids */

    GPtrArray *drives;     /* struct backend: one reference each */
    unsigned auto_drives;  /* generated names so far */
    GPtrArray *disks;      /* names of drives with if=virtio */
    bool start_stopped;    /* -S */
    bool daemonize;        /* --daemonize */
    const char *pidfile;   /* --pidfile */
    char *pidfile_written; /* absolute, once it is there */
    int pidfile_fd;        /* holds the lock; -1: none */
    int parent_pipe;       /* --daemonize: tells the parent; -1: none */
};

/* ---- options.c ---- */

enum option_result {
    OPTION_FAILED, /* *error says why */
    OPTION_OK,
    OPTION_ANSWERED, /* it asked a question: end with status 0 */
};

/* When an option takes effect; within a stage, in the order given. */
enum option_stage {
    STAGE_FIRST,    /* while the command line is read */
    STAGE_ORDERED,  /* most */
    STAGE_MONITORS, /* needs all chardevs */
    STAGE_DEVICES,  /* needs all drives */
    STAGE_COUNT,
};

struct option_row {
    const char *name;     /* with one dash or two */
    const char *argument; /* as --help shows it; NULL: takes none */
    const char *help;     /* NULL: is not shown */
    enum option_stage stage;
    /* value NULL without argument. */
    enum option_result (*apply)(struct daemon *d, const char *value,
                                GError **error);
};

/* One option of the command line. */
struct given_option {
    const struct option_row *row;
    const char *value;
    char *text; /* as typed, for messages */
};

/* Reads the whole command line into *given (struct given_option) and carries
 * out the first stage. Prints what is wrong. */
enum option_result options_parse(struct daemon *d, int argc, char **argv,
                                 GPtrArray **given);
/* Carries out the other stages. Prints what is wrong. */
enum option_result options_apply(struct daemon *d, const GPtrArray *given);

/* ---- handlers ---- */

typedef enum option_result option_fn(struct daemon *d, const char *value,
                                     GError **error);
option_fn apply_chardev, apply_monitor, apply_mon, apply_qmp,
    apply_qmp_pretty;                                /* chardev.c */
option_fn apply_blockdev, apply_drive, apply_device; /* block.c */
option_fn apply_export;                              /* block.c */
void chardev_free(gpointer chardev);

/* Letters, digits, '-', '.', '_', a letter first; else *error. */
bool check_id(const char *id, GError **error);
/* A pair's value, or NULL; the last one counts. */
const char *pairs_find(const GPtrArray *pairs, const char *key);
/* "on", "off" and their like. */
bool pairs_bool(const GPtrArray *pairs, const char *key, bool absent,
                bool *value, GError **error);

/* Moves the limits of a drive out of its pairs. *group (g_free() it) stays as
 * it is if none is named. */
bool pairs_take_throttle(GPtrArray *pairs, struct throttle_config *config,
                         char **group, GError **error); /* throttle.c */

/* Runs fn on the graph's loop and blocks until it returned: while nothing else
 * needs the main loop. */
void daemon_call_graph(struct daemon *d, co_fn *fn, void *opaque);
/* Makes the devices of drives with if=virtio. */
bool daemon_add_disks(struct daemon *d, GError **error);
/* Closes all drives. On the graph's loop; suspends. */
void co_drives_close(struct daemon *d);

/* ---- process.c ---- */

/* Forks into the background; the parent waits for daemon_ready() and exits.
 * Before any thread is made. false: printed. */
bool daemon_fork(struct daemon *d);
bool daemon_write_pidfile(struct daemon *d, GError **error);
/* All is set up: lets the parent go, and standard streams. */
void daemon_ready(struct daemon *d);
void daemon_remove_pidfile(struct daemon *d);

#endif
