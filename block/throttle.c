/*
 * The names of limits, and which limits go together.
 *
 * Generated structs are read and filled through the tables of the schema, by
 * the names of their members, so that a limit stands here once.
 */
#include "block/throttle.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>
#include "util/error.h"

#define MAX_VALUE INT64_C(1000000000000000)

/* ---- names --------------------------------------------------------------- */

struct row {
    const char *dashed, *brief;
    size_t offset;   /* in struct throttle_config */
    size_t shown_if; /* offset of the limit without which this means nothing */
    bool is_length;
};

#define RATE(dashed_, brief_, rate)                               \
    {dashed_, brief_, offsetof(struct throttle_config, rate.avg), \
     offsetof(struct throttle_config, rate.avg), false},          \
        {dashed_ "-max", brief_ "_max",                           \
         offsetof(struct throttle_config, rate.max),              \
         offsetof(struct throttle_config, rate.max), false},      \
    {                                                             \
        dashed_ "-max-length", brief_ "_max_length",              \
            offsetof(struct throttle_config, rate.length),        \
            offsetof(struct throttle_config, rate.max), true      \
    }

static const struct row rows[] = {
    RATE("bps-total", "bps", bytes[THROTTLE_TOTAL]),
    RATE("bps-read", "bps_rd", bytes[THROTTLE_READS]),
    RATE("bps-write", "bps_wr", bytes[THROTTLE_WRITES]),
    RATE("iops-total", "iops", ops[THROTTLE_TOTAL]),
    RATE("iops-read", "iops_rd", ops[THROTTLE_READS]),
    RATE("iops-write", "iops_wr", ops[THROTTLE_WRITES]),
    {"iops-size", "iops_size", offsetof(struct throttle_config, op_bytes),
     offsetof(struct throttle_config, op_bytes), false},
};

static const struct row *find_row(enum throttle_naming naming, const char *name)
{
    if (naming == THROTTLE_NAMES_X) {
        if (strncmp(name, "x-", 2) != 0) {
            return NULL;
        }
        name += 2;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        if (!strcmp(name, naming == THROTTLE_NAMES_SHORT ? rows[i].brief
                                                         : rows[i].dashed)) {
            return &rows[i];
        }
    }
    return NULL;
}

static int64_t *at(struct throttle_config *config, size_t offset)
{
    return (int64_t *)((char *)config + offset);
}

int64_t *throttle_config_limit(struct throttle_config *config,
                               enum throttle_naming naming, const char *name)
{
    const struct row *row = find_row(naming, name);

    return row ? at(config, row->offset) : NULL;
}

const char *throttle_dashed_name(const char *short_name)
{
    const struct row *row = find_row(THROTTLE_NAMES_SHORT, short_name);

    return row ? row->dashed : NULL;
}

/* ---- structs of the schema ----------------------------------------------- */

static bool check_number(const struct row *row, const char *name, int64_t n,
                         enum throttle_naming naming, GError **error)
{
    if (naming == THROTTLE_NAMES_X && n < 0) {
        return error_set(error, "Property values cannot be negative");
    }
    return naming == THROTTLE_NAMES_SHORT || !row->is_length || n <= UINT_MAX ||
           error_set(error, "%s value must be in the range [0, %u]", name,
                     UINT_MAX);
}

bool throttle_config_read(struct throttle_config *config,
                          const struct qapi_type *type, const void *value,
                          enum throttle_naming naming, GError **error)
{
    const char *base = value;

    for (uint32_t i = 0; i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];
        const struct row *row = find_row(naming, m->name);
        if (!row || (m->has_flag && !*(const bool *)(base + m->has_offset))) {
            continue;
        }
        int64_t n = *(const int64_t *)(base + m->offset);
        if (!check_number(row, m->name, n, naming, error)) {
            return false;
        }
        *at(config, row->offset) = n;
    }
    return true;
}

void throttle_config_write(const struct throttle_config *config,
                           const struct qapi_type *type, void *value,
                           enum throttle_naming naming)
{
    struct throttle_config c = *config;
    char *base = value;

    for (uint32_t i = 0; i < type->n; i++) {
        const struct qapi_member *m = &type->members[i];
        const struct row *row = find_row(naming, m->name);
        if (!row) {
            continue;
        }
        *(int64_t *)(base + m->offset) = *at(&c, row->offset);
        if (m->has_flag) {
            *(bool *)(base + m->has_offset) =
                naming != THROTTLE_NAMES_SHORT || *at(&c, row->shown_if);
        }
    }
}

void throttle_query(struct throttle_group *group,
                    struct block_device_info *info)
{
    struct throttle_config config;

    throttle_group_get(group, &config);
    throttle_config_write(&config, &qapi_type_block_device_info, info,
                          THROTTLE_NAMES_SHORT);
    info->group = g_strdup(throttle_group_name(group));
}

/* ---- which go together --------------------------------------------------- */

static bool mixes(const struct throttle_rate *rates, bool max)
{
    bool total = max ? rates[THROTTLE_TOTAL].max : rates[THROTTLE_TOTAL].avg;
    bool part = max ? rates[THROTTLE_READS].max || rates[THROTTLE_WRITES].max
                    : rates[THROTTLE_READS].avg || rates[THROTTLE_WRITES].avg;

    return total && part;
}

static bool check_rate(const struct throttle_rate *r, GError **error)
{
    uint64_t length = (uint64_t)r->length;

    if (r->avg < 0 || r->max < 0 || r->avg > MAX_VALUE || r->max > MAX_VALUE) {
        return error_set(error,
                         "bps/iops/max values must be within [0, %" PRId64 "]",
                         MAX_VALUE);
    }
    if (!length) {
        return error_set(error, "the burst length cannot be 0");
    }
    if (length > 1 && !r->max) {
        return error_set(error, "burst length set without burst rate");
    }
    if (r->max && length > (uint64_t)(MAX_VALUE / r->max)) {
        return error_set(error, "burst length too high for this burst rate");
    }
    if (r->max && !r->avg) {
        return error_set(error, "bps_max/iops_max require corresponding "
                                "bps/iops values");
    }
    return !r->max || r->max >= r->avg ||
           error_set(error, "bps_max/iops_max cannot be lower than bps/iops");
}

bool throttle_config_check(const struct throttle_config *config, GError **error)
{
    bool any_ops = false;

    if (mixes(config->bytes, false) || mixes(config->ops, false) ||
        mixes(config->bytes, true) || mixes(config->ops, true)) {
        return error_set(error, "bps/iops/max total values and read/write "
                                "values cannot be used at the same time");
    }
    for (int i = 0; i < THROTTLE_SCOPES; i++) {
        any_ops |= config->ops[i].avg != 0;
    }
    if (config->op_bytes && !any_ops) {
        return error_set(error, "iops size requires an iops value to be set");
    }
    for (int i = 0; i < THROTTLE_SCOPES; i++) {
        if (!check_rate(&config->bytes[i], error) ||
            !check_rate(&config->ops[i], error)) {
            return false;
        }
    }
    return true;
}
