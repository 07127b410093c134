/*
 * What the files of the backend share.
 */
#ifndef VARVE_BLOCK_BACKEND_INT_H
#define VARVE_BLOCK_BACKEND_INT_H

#include "block/backend.h"

extern const struct root_ops backend_root_ops;
extern const struct root_move_ops backend_move_ops;

#endif
