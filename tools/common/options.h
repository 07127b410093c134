/*
 * Options of a command-line program, or of one of its subcommands, as a table
 * of where each goes:
 *
 *     const struct tool_option rows[] = {
 *         {'f', "format", .text = &format},
 *         {'U', "force-share", .flag = &force_share},
 *         {'s', "start-offset", .size = &start, .what = "start offset"},
 *         {0},
 *     };
 *     int status, first = tool_options(argc, argv, rows, &status);
 *     if (!first) {
 *         return status;
 *     }
 *
 * Words may stand between options, as with getopt_long(3). What is wrong is
 * said in the words of qemu-img.
 */
#ifndef VARVE_TOOLS_COMMON_OPTIONS_H
#define VARVE_TOOLS_COMMON_OPTIONS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* One of the pointers tells what kind of option it is. All but flag take an
 * argument, which stays where it is in argv. */
struct tool_option {
    char letter;       /* 0: none */
    const char *name;  /* long, without dashes; NULL: none */
    bool *flag;        /* becomes true */
    const char **text; /* the last one counts */
    GPtrArray *list;   /* of texts, in order */
    GPtrArray *order;  /* beside one of these: gets `name` each time, so that
                          several rows tell in which order they came */
    bool *json;        /* "json" or "human" */
    int64_t *size;     /* in bytes; tool_parse_size() tells of `what` */
    const char *what;
    /* Anything else. false: it is over, with *status; what was wrong has been
     * said. */
    bool (*take)(const char *argument, void *opaque, int *status);
    void *opaque;
    /* For tool_options_help(); help NULL: the option is not shown. */
    const char *argument, *help;
};

/* Reads argv[1..argc), moving words behind options. Returns the index of the
 * first word, perhaps argc; or 0, if the program is to end with *status. rows
 * ends with an empty one, and is not longer than 63. */
int tool_options(int argc, char **argv, const struct tool_option *rows,
                 int *status);

/* Prints a line for each option that has help. */
void tool_options_help(const struct tool_option *rows);

/* The pairs of --image-opts; implied_key is for a first word alone. Of other
 * words alone it is said that they are out of date. */
GPtrArray *tool_split_image_opts(const char *text, const char *implied_key,
                                 GError **error);

/* For `take`: -T [[enable=]PATTERN][,events=FILE][,file=FILE]. There are no
 * trace events: says so for each that is named. */
bool tool_take_trace(const char *argument, void *opaque, int *status);
/* For `take`: --object TYPE,id=ID,..., made at once; `help` lists the types. A
 * tool has no use for I/O threads, and refuses them. */
bool tool_take_object(const char *argument, void *opaque, int *status);
/* Its halves; threads: there may be I/O threads. */
void tool_list_objects(bool threads);
bool tool_add_object(const char *argument, bool threads, GError **error);

#endif
