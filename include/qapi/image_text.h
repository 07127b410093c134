/*
 * What only a format knows of an image, as people are told.
 */
#ifndef VARVE_QAPI_IMAGE_TEXT_H
#define VARVE_QAPI_IMAGE_TEXT_H

#include <stdio.h>
#include "qapi/types.h"

/* The lines of "Format specific information" of qemu-img; nothing for NULL and
 * for formats that have none. */
void qapi_print_image_specific(FILE *out,
                               const struct image_info_specific *specific);

#endif
