/*
 * How the host caches an image, by the names that -t, -T and cache= know.
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

#endif
