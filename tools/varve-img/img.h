/*
 * What the subcommands of varve-img share.
 */
#ifndef VARVE_TOOLS_VARVE_IMG_IMG_H
#define VARVE_TOOLS_VARVE_IMG_IMG_H

#include <stdbool.h>
#include <stdint.h>
#include <json-c/json.h>
#include "block/backend.h"
#include "block/node.h"
#include "tools/common/image.h"
#include "tools/common/options.h"
#include "tools/common/tool.h"

/* One row of the table in main.c. run() gets argv[0] = the subcommand's name
 * and returns the exit status. */
struct subcommand {
    const char *name;
    const char *usage; /* one line, without the name */
    const char *what;  /* one sentence for the list of subcommands */
    const char *help;  /* options, then examples */
    int (*run)(int argc, char **argv);
};

extern const struct subcommand cmd_amend, cmd_bench, cmd_bitmap, cmd_check,
    cmd_commit, cmd_compare, cmd_convert, cmd_create, cmd_dd, cmd_info, cmd_map,
    cmd_measure, cmd_rebase, cmd_resize, cmd_snapshot;

/* Prints the subcommand's help to standard output; returns 0. */
int img_help(const struct subcommand *cmd);

/* The one word after the options, argv[first], as the image's name. */
bool img_one_filename(int argc, char **argv, int first, struct image_open *how);
/* The options, and after them the image's name alone. False: the program ends
 * with *status, and what was wrong has been said. */
bool img_options(int argc, char **argv, const struct tool_option *rows,
                 struct image_open *how, int *status);
/* False, and an error printed, if there is no such cache mode. */
bool img_check_cache(const struct image_open *how);
/* Opens the image, lets co_act() do its work on it, and closes it. Returns the
 * exit status: 1 if it cannot be opened, else that of co_act(). */
int img_run(const struct image_open *how,
            int (*co_act)(void *opaque, struct node *node), void *opaque);
/* Opens the image and a backend on it; prints the error and returns NULL.
 * Suspends. */
struct backend *co_img_open(const struct image_open *how);

/* For `take` of an option -l; opaque: the struct image_open whose `internal` is
 * set. */
bool img_take_snapshot(const char *argument, void *opaque, int *status);
/* Shows that snapshot in place of the node's disk; false after saying why not.
 * Suspends. */
bool co_img_load_snapshot(struct node *node, const char *text);

/* What a name in the image `filename` means from here: a relative one is
 * relative to the image. Caller frees. */
char *img_backing_path(const char *filename, const char *backing);

/* ---- chains, opened again (chain.c) ---- */

/* The node of top's chain, below top, that a user calls `name`; NULL. */
struct node *img_find_in_chain(struct node *top, const char *name);
/* Options that open the layers from top down to, and without, base, with
 * nothing behind the last; only top is writable, if asked. Caller owns it. */
struct json_object *img_layers_tree(struct node *top, struct node *base,
                                    bool writable);
/* Options that open node, with all that is behind it, for writing. */
struct json_object *img_writable_tree(struct node *node);
/* A backend on such options, which are freed; NULL and *error. Suspends. */
struct backend *co_img_open_tree(struct json_object *tree, unsigned perm,
                                 GError **error);

/* What was last said about a part of an image, whose extents may be long and
 * dear to find: asked again within it, the answer is at hand. Zeroed to begin
 * with; for a node that nobody writes to meanwhile. */
struct img_known {
    int64_t start, end;
    unsigned flags; /* enum block_status_flag */
};
/* The layers from node down to, and without, base (NULL: all). *bytes is cut to
 * what is the same. 0 or -errno. Suspends. */
int co_img_status(struct img_known *known, struct node *node, struct node *base,
                  int64_t offset, int64_t *bytes, unsigned *flags);
/* Length of the run at buf, in steps of `step`, that is all zero or all not;
 * bytes > 0. */
int64_t img_zero_run(const uint8_t *buf, int64_t bytes, int64_t step,
                     bool *zero);

/* ---- options of new images (create_options.c) ---- */

bool img_has_create_options(const char *format);
/* For `take`: -o; opaque: an array, with g_free(), of such lists, in which
 * every name gets a value. */
bool img_take_create_options(const char *argument, void *strings, int *status);
/* Whether one of the texts behind -o asks for it: "help", "size=1G,help". */
bool img_is_help(const GPtrArray *texts);
/* Several -o are one list. Caller frees. */
char *img_join_options(GPtrArray *texts);
/* Prints what amend -o takes; returns 0. The format has such options. */
int img_print_amend_options(const char *format);
/* Prints what -o takes; with_file: also what the file takes that the image lies
 * in. Returns the exit status. */
int img_print_create_options(const char *format, bool with_file);
/* Refuses names that the format does not know, and values of the wrong type. */
bool img_check_create_options(const char *format, const char *text,
                              GError **error);
/* The value of one option, the last one counting; NULL. text may be NULL. */
char *img_create_option(const char *text, const char *name);
/* "fmt=qcow2 cluster_size=65536 ...": the options in force for a new image. */
char *img_create_summary(const char *format,
                         const struct create_params *params);

#endif
