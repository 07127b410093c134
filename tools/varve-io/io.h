/*
 * What the files of varve-io share.
 */
#ifndef VARVE_TOOLS_VARVE_IO_IO_H
#define VARVE_TOOLS_VARVE_IO_IO_H

#include <stdbool.h>
#include "block/io_command.h"
#include "tools/common/image.h"

/* session->opaque. */
struct io_file {
    bool image_opts; /* names of files are lists of options */
};

/* open, close and what else is about the file or the program. */
extern const struct io_command *const file_commands[];

/* Gives the session a backend; prints what is wrong and returns false.
 * Suspends. */
bool co_file_open(struct io_session *s, const struct image_open *how);
/* True unless `text` is an argument that -t (cache), -d (discard) or -i (aio)
 * does not know. */
bool io_file_option_check(char letter, const char *text, GError **error);
/* Waits for what is in flight, and takes the backend away, if there is one.
 * Suspends. */
void co_file_close(struct io_session *s);

#endif
