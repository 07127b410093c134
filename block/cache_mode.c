/*
 * The table of cache modes, and the words for discards. Pure.
 */
#include "block/cache_mode.h"

#include <stddef.h>
#include <string.h>

static const struct cache_mode cache_modes[] = {
    {.name = "none", .direct = true},
    {.name = "off", .direct = true},
    {.name = "directsync", .direct = true, .writethrough = true},
    {.name = "writeback"},
    {.name = "writethrough", .writethrough = true},
    {.name = "unsafe", .no_flush = true},
};

const struct cache_mode *cache_mode_find(const char *name)
{
    for (size_t i = 0; i < sizeof(cache_modes) / sizeof(cache_modes[0]); i++) {
        if (!strcmp(cache_modes[i].name, name)) {
            return &cache_modes[i];
        }
    }
    return NULL;
}

const char *discard_mode_find(const char *name)
{
    if (!strcmp(name, "unmap") || !strcmp(name, "on")) {
        return "unmap";
    }
    return !strcmp(name, "ignore") || !strcmp(name, "off") ? "ignore" : NULL;
}
