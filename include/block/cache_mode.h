/*
 * How the host keeps an image, by the names that people have for it: those of
 * -t, -T and cache=, and those of -d and discard=.
 */
#ifndef VARVE_BLOCK_CACHE_MODE_H
#define VARVE_BLOCK_CACHE_MODE_H

#include <stdbool.h>

struct cache_mode {
    const char *name;
    bool direct, no_flush, writethrough;
};
/* NULL: there is no such mode. */
const struct cache_mode *cache_mode_find(const char *name);
/* "unmap" or "ignore", for which "on" and "off" may stand as well; NULL: it is
 * none of these. */
const char *discard_mode_find(const char *name);

#endif
