/*
 * What the command-line programs share: errors, the coroutine world, progress.
 */
#ifndef VARVE_TOOLS_COMMON_TOOL_H
#define VARVE_TOOLS_COMMON_TOOL_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>

/* Remembers the program's name: basename of argv[0]. First thing in main(). The
 * exit status will be 1 if standard output could not be written. */
void tool_init(const char *argv0);
/* Prints "<program>: message" to standard error. */
void tool_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* Prints *error the same way, and frees it. Always returns 1. */
int tool_fail(GError **error);
/* As tool_fail() with "<prefix>: " before the message. */
int tool_fail_at(const char *prefix, GError **error);
/* As tool_error(), and prints "Try ... --help": after a wrong command line.
 * Always returns 1. */
int tool_usage_error(const char *fmt, ...) G_GNUC_PRINTF(1, 2);

/* Runs co_body(opaque) as a coroutine on a loop of its own and returns what it
 * returned, but 1 instead of 0 if an image could not be stored whole when it
 * was closed. Nodes that it opened must be closed by then. */
int tool_run(int (*co_body)(void *opaque), void *opaque);

/* A size as people type it; prints the error, in which `what` says what it is
 * of, and returns false. */
bool tool_parse_size(const char *what, const char *text, int64_t *bytes);

/* Prints tree, laid out for people as well, and frees it. */
void tool_print_json(struct json_object *tree);

/* "1.5 MiB", with three significant digits as qemu-img prints sizes. */
char *tool_size_text(int64_t bytes);

/* A line "    (12.34/100%)" on standard output, redrawn in place. Where it is
 * not enabled, each SIGUSR1 gets one on standard error. */
struct progress {
    bool enabled;
    int last; /* hundredths of a percent, as printed */
};
void progress_start(struct progress *p, bool enabled);
void progress_update(struct progress *p, int64_t done, int64_t total);
/* Ends the line; all of it is done only if ok. */
void progress_end(struct progress *p, bool ok);

#endif
