/*
 * Limits on the requests of a backend: its place in a throttle group.
 *
 * A backend that is not limited is in no group, so that its requests look at
 * one pointer. On the backend's loop.
 */
#include "aio/throttle.h"
#include "block/backend.h"

static void join(struct backend *b, const char *name)
{
    struct throttle_group *group = throttle_group_find_or_new(name);

    g_clear_pointer(&b->throttle, throttle_leave);
    b->throttle = throttle_join(group);
    /* The end of the drained section will be told to this one. */
    if (b->quiesced) {
        throttle_bypass_begin(b->throttle);
    }
    throttle_group_unref(group);
}

void backend_set_throttle(struct backend *b, const char *group,
                          const struct throttle_config *config)
{
    if (!throttle_config_limits(config)) {
        g_clear_pointer(&b->throttle, throttle_leave);
        return;
    }
    if (!b->throttle || group) {
        join(b, group ? group : b->name ? b->name : b->device_id);
    }
    throttle_group_set(throttle_member_group(b->throttle), config);
}
