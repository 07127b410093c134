/*
 * An image as people describe it on a command line: a file name or a list of
 * options, a format, and how to cache it.
 */
#ifndef VARVE_TOOLS_COMMON_IMAGE_H
#define VARVE_TOOLS_COMMON_IMAGE_H

#include <glib.h>
#include <stdbool.h>
#include "block/cache_mode.h"
#include "block/node.h"

/* One tree of options from `pairs`, an array of struct keyval:
 *
 *   file           a name; "json:{...}" too
 *   format         as driver; if neither is there, the file tells
 *   cache          a cache mode
 *   aio            of the file
 *   (any other)    an option of the node ("discard"), or below it ("file.aio")
 *
 * Sets *writethrough from cache. Reads the file where it has to find out the
 * format; *probed: it is taken for raw. NULL and *error; the caller owns the
 * result. On the graph's loop; suspends. */
struct blockdev_options *co_image_options(const GPtrArray *pairs, bool *probed,
                                          bool *writethrough, GError **error);

/* How a program opens an image. */
struct image_open {
    const char *filename;
    const char *format; /* NULL: probe */
    const char *cache, *aio, *discard;
    const char *internal; /* varve-img: a snapshot to show, as -l names it */
    bool writable, force_share;
    bool resize;     /* with writable: the size may change */
    bool check;      /* as it is, however damaged; see struct open_defaults */
    bool steady;     /* nobody else may write to it meanwhile */
    bool image_opts; /* filename is a list of options */
    const char *options; /* such a list beside the filename, or NULL */
    bool no_backing;     /* whatever the image names stays closed */
    bool no_data;        /* so does its data file */
    bool snapshot;       /* what is written goes to a file that vanishes */
    bool copy_on_read;
};
/* The caller owns the reference. writethrough may be NULL. Suspends. */
struct node *co_image_open(const struct image_open *how, bool *writethrough,
                           GError **error);

#endif
