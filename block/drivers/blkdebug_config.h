/*
 * Rules of blkdebug in a file.
 */
#ifndef VARVE_BLOCK_BLKDEBUG_CONFIG_H
#define VARVE_BLOCK_BLKDEBUG_CONFIG_H

#include <glib.h>
#include <stdbool.h>
#include "qapi/types.h"

struct blkdebug_rules {
    struct blkdebug_inject_error_options_list errors;
    struct blkdebug_set_state_options_list states;
};

void blkdebug_rules_clear(struct blkdebug_rules *rules);
/* Appends what the text says. */
bool blkdebug_config_parse(const char *text, struct blkdebug_rules *rules,
                           GError **error);
/* The same of a file. Suspends. */
bool co_blkdebug_config_read(const char *path, struct blkdebug_rules *rules,
                             GError **error);

#endif
