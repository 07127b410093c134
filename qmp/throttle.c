/*
 * block_set_io_throttle: limits of a device, which belong to its backend.
 */
#include "block/throttle.h"

#include "block/backend.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

static struct backend *find(const struct block_set_io_throttle_args *args,
                            GError **error)
{
    struct backend *b;

    if (args->device) {
        return backend_find(args->device, error);
    }
    TAILQ_FOREACH (b, &graph_current()->backends, link) {
        if (!g_strcmp0(b->device_id, args->id)) {
            return b;
        }
    }
    error_set_class(error, ERROR_DEVICE_NOT_FOUND, "Device '%s' not found",
                    args->id);
    return NULL;
}

static bool throttle_visit(const void *opaque, void *result, GError **error)
{
    const struct block_set_io_throttle_args *args = opaque;
    struct throttle_config config = throttle_config_none;
    struct backend *b = find(args, error);

    if (!b) {
        return false;
    }
    if (!b->node) {
        return error_set(error, "Device has no medium");
    }
    if (!throttle_config_read(&config, &qapi_type_block_set_io_throttle_args,
                              args, THROTTLE_NAMES_SHORT, error) ||
        !throttle_config_check(&config, error)) {
        return false;
    }
    struct node *node = node_ref(b->node);
    co_drain_begin(node);
    backend_set_throttle(b, args->group, &config);
    co_drain_end(node);
    co_node_unref(node);
    return true;
}

bool qmp_block_set_io_throttle(const struct block_set_io_throttle_args *args,
                               GError **errp)
{
    const struct place place = {
        .device = args->device ? args->device : args->id,
    };

    if (!args->device == !args->id) {
        return error_set(errp, "Need exactly one of 'device' and 'id'");
    }
    return co_visit_change(&place, throttle_visit, args, NULL, errp);
}
