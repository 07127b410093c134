/*
 * What an image says of itself, for people.
 */
#ifndef VARVE_TOOLS_COMMON_IMAGE_INFO_H
#define VARVE_TOOLS_COMMON_IMAGE_INFO_H

#include <stdio.h>
#include "qapi/types.h"

/* "Format specific information:" and a line for each; nothing for NULL. */
void tool_print_specific(FILE *out, const struct image_info_specific *specific);

#endif
