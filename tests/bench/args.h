/*
 * Arguments of the benchmark programs: KEY=VALUE, all numbers.
 */
#ifndef VARVE_BENCH_ARGS_H
#define VARVE_BENCH_ARGS_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "util/keyval.h"

struct bench_arg {
    const char *name;
    uint64_t *value;
};

/* Sets what argv[first...] names; sizes may have a suffix. False if a name or a
 * number is bad. */
static inline bool bench_args(int argc, char **argv, int first,
                              const struct bench_arg *args, unsigned n)
{
    for (int i = first; i < argc; i++) {
        char *equals = strchr(argv[i], '=');
        bool known = false;

        for (unsigned a = 0; equals && a < n; a++) {
            if (strncmp(argv[i], args[a].name, equals - argv[i]) == 0 &&
                !args[a].name[equals - argv[i]]) {
                known = keyval_size(equals + 1, args[a].value) == 0;
            }
        }
        if (!known) {
            return false;
        }
    }
    return true;
}

#endif
