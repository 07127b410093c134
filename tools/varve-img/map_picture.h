/*
 * A picture of an image: equal cells, each in the state that most of it has.
 */
#ifndef VARVE_TOOLS_VARVE_IMG_MAP_PICTURE_H
#define VARVE_TOOLS_VARVE_IMG_MAP_PICTURE_H

#include <stdbool.h>
#include <stdint.h>

enum picture_state {
    PICTURE_NOTHING, /* no image of the chain has it */
    PICTURE_DATA,    /* the image's own */
    PICTURE_ZERO,    /* the image's own zeroes */
    PICTURE_BACKING, /* data or zeroes of a backing file */
    PICTURE_STATES,
};

struct picture;

/* Of [start, start + length), in bytes. */
struct picture *picture_new(int64_t start, int64_t length);
void picture_free(struct picture *p);
/* Ranges in any order, within the picture, that do not overlap. */
void picture_add(struct picture *p, int64_t offset, int64_t bytes,
                 enum picture_state state);
/* On standard output: characters, or SVG. title stands above. */
void picture_print(const struct picture *p, const char *title, bool svg);

#endif
