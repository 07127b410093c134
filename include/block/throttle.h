/*
 * Limits of aio/throttle.h as people write them: one table of their names, for
 * objects, options of drives, a command, and queries.
 *
 * They have two kinds of names: "bps-total-max-length", alone or after a
 * prefix, and "bps_max_length". Pure functions, but for the groups' own locks.
 */
#ifndef VARVE_BLOCK_THROTTLE_H
#define VARVE_BLOCK_THROTTLE_H

#include <glib.h>
#include <stdbool.h>
#include "aio/throttle.h"
#include "qapi/types.h"

/* Can these limits be kept, all together? */
bool throttle_config_check(const struct throttle_config *config,
                           GError **error);

enum throttle_naming {
    THROTTLE_NAMES_DASHED, /* "bps-total-max" */
    THROTTLE_NAMES_X,      /* "x-bps-total-max" */
    THROTTLE_NAMES_SHORT,  /* "bps_max" */
};

/* The limit of that name, to read and write; NULL if there is none. */
int64_t *throttle_config_limit(struct throttle_config *config,
                               enum throttle_naming naming, const char *name);
/* The other name of a short one, or NULL. */
const char *throttle_dashed_name(const char *short_name);
/* Takes over what is present of `value`, a struct of that type. Checks numbers
 * alone: what QEMU checks for that naming. */
bool throttle_config_read(struct throttle_config *config,
                          const struct qapi_type *type, const void *value,
                          enum throttle_naming naming, GError **error);
/* Fills all such members; with short names, optional ones only if they have a
 * meaning. */
void throttle_config_write(const struct throttle_config *config,
                           const struct qapi_type *type, void *value,
                           enum throttle_naming naming);

/* Tells a query of the limits that a member of the group is under. */
void throttle_query(struct throttle_group *group,
                    struct block_device_info *info);

#endif
