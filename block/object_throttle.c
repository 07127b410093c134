/*
 * throttle-group objects: a name for limits, which hold a reference to their
 * group (aio/throttle.h) for as long as they are there.
 */
#include "block/object_int.h"
#include "block/throttle.h"
#include "util/error.h"

struct throttle_object {
    struct throttle_group *group;
};

static const struct qapi_type *const type =
    &qapi_type_throttle_group_properties;

static bool read_limits(struct throttle_config *config,
                        const struct throttle_limits *limits, GError **error)
{
    return !limits ||
           throttle_config_read(config, &qapi_type_throttle_limits, limits,
                                THROTTLE_NAMES_DASHED, error);
}

static void *throttle_make(const struct object_options *options, GError **error)
{
    const struct throttle_group_properties *p = &options->u.throttle_group;
    struct throttle_config config = throttle_config_none;

    if (!read_limits(&config, p->limits, error) ||
        !throttle_config_read(&config, type, p, THROTTLE_NAMES_X, error) ||
        !throttle_config_check(&config, error)) {
        return NULL;
    }
    struct throttle_group *group = throttle_group_new(options->id);
    if (!group) {
        error_set(error, "A group with this name already exists");
        return NULL;
    }
    throttle_group_set(group, &config);
    struct throttle_object *o = g_new(struct throttle_object, 1);
    o->group = group;
    return o;
}

static bool co_throttle_let_go(void *state)
{
    struct throttle_object *o = state;

    if (!throttle_group_unref_last(o->group)) {
        return false;
    }
    o->group = NULL;
    return true;
}

static void throttle_end(void *state)
{
    struct throttle_object *o = state;

    g_clear_pointer(&o->group, throttle_group_unref);
    g_free(o);
}

static void *throttle_get(const void *state)
{
    struct throttle_group_properties *p =
        g_new0(struct throttle_group_properties, 1);
    struct throttle_config config;

    throttle_group_get(((const struct throttle_object *)state)->group, &config);
    p->limits = g_new0(struct throttle_limits, 1);
    throttle_config_write(&config, &qapi_type_throttle_limits, p->limits,
                          THROTTLE_NAMES_DASHED);
    throttle_config_write(&config, type, p, THROTTLE_NAMES_X);
    return p;
}

static bool throttle_set(void *state, const void *properties, GError **error)
{
    const struct throttle_group_properties *p = properties;
    struct throttle_group *group = ((struct throttle_object *)state)->group;
    struct throttle_config config;

    if (!p->limits) {
        return error_set(error, "Property cannot be set after initialization");
    }
    throttle_group_get(group, &config);
    if (!read_limits(&config, p->limits, error) ||
        !throttle_config_check(&config, error)) {
        return false;
    }
    throttle_group_set(group, &config);
    return true;
}

const struct object_kind object_throttle_group = {
    .properties = &qapi_type_throttle_group_properties,
    .make = throttle_make,
    .co_let_go = co_throttle_let_go,
    .end = throttle_end,
    .get = throttle_get,
    .set = throttle_set,
};
