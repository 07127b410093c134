/*
 * What the files of varve-io share.
 */
#ifndef VARVE_TOOLS_VARVE_IO_IO_H
#define VARVE_TOOLS_VARVE_IO_IO_H

#include <stdbool.h>
#include "block/io_command.h"
#include "tools/common/image.h"

/* open, close, info and what else is about the file or the program. */
extern const struct io_command *const file_commands[];

/* Gives the session a backend; prints what is wrong and returns false.
 * Suspends. */
bool co_file_open(struct io_session *s, const struct image_open *how);
/* Waits for what is in flight, and takes the backend away, if there is one.
 * Suspends. */
void co_file_close(struct io_session *s);

#endif
