/*
 * The limits in -drive: throttling.LIMIT, the older names of the same, and
 * throttling.group.
 */
#include "block/throttle.h"

#include <errno.h>
#include <string.h>

#include "tools/varved/daemon.h"
#include "util/error.h"
#include "util/keyval.h"

#define PREFIX "throttling."

/* "bps_rd" becomes "throttling.bps-read". */
static bool rename_old(const GPtrArray *pairs, struct keyval *pair,
                       GError **error)
{
    const char *dashed = throttle_dashed_name(pair->key);

    if (!dashed || g_str_has_suffix(pair->key, "_length")) {
        return true;
    }
    g_autofree char *key = g_strconcat(PREFIX, dashed, NULL);
    if (pairs_find(pairs, key)) {
        return error_set(error,
                         "'%s' and its alias '%s' can't be used at the same "
                         "time",
                         key, pair->key);
    }
    g_free(pair->key);
    pair->key = g_steal_pointer(&key);
    return true;
}

static bool take_number(const struct keyval *pair, int64_t *limit,
                        GError **error)
{
    char *end;

    errno = 0;
    *limit = (int64_t)g_ascii_strtoull(pair->value, &end, 0);
    return (*pair->value && !*end && !errno) ||
           error_set(error, "Parameter '%s' expects a number", pair->key);
}

bool pairs_take_throttle(GPtrArray *pairs, struct throttle_config *config,
                         char **group, GError **error)
{
    *config = throttle_config_none;
    for (guint i = 0; i < pairs->len; i++) {
        if (!rename_old(pairs, pairs->pdata[i], error)) {
            return false;
        }
    }
    for (guint i = 0; i < pairs->len;) {
        struct keyval *pair = pairs->pdata[i];
        const char *name = g_str_has_prefix(pair->key, PREFIX)
                               ? pair->key + strlen(PREFIX)
                               : "";
        int64_t *limit =
            throttle_config_limit(config, THROTTLE_NAMES_DASHED, name);
        if (limit ? !take_number(pair, limit, error) : false) {
            return false;
        }
        if (!strcmp(name, "group")) {
            g_free(*group);
            *group = g_strdup(pair->value);
        }
        if (limit || !strcmp(name, "group")) {
            g_ptr_array_remove_index(pairs, i);
        } else {
            i++;
        }
    }
    return throttle_config_check(config, error);
}
