/*
 * Snapshots within an image, beside what they have to show.
 */
#ifndef VARVE_TESTS_SHOTS_H
#define VARVE_TESTS_SHOTS_H

#include <glib.h>
#include <stdint.h>

struct shot {
    char *name;
    uint8_t *model; /* size bytes */
    int64_t size;
};

/* An array of struct shot, in the order of the image's table. */
GPtrArray *shots_new(void);
GPtrArray *shots_copy(const GPtrArray *shots);
/* Adds a snapshot with a copy of that name and model. */
void shots_add(GPtrArray *shots, const char *name, const uint8_t *model,
               int64_t size);
/* Asserts that the image that opens so, for reading, has these snapshots, and
 * that they show what they must. */
void co_verify_shots(const char *open, const GPtrArray *shots);

#endif
