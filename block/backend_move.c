/*
 * Backends that move to another loop, with their device and their export.
 *
 * Who uses a backend decides whether it may: one that nobody uses but by its
 * name may, an export's as its options say, any other stays. Each function runs
 * on the loop that has the backend at that time.
 */
#include "block/backend_int.h"

#include "aio/directory.h"
#include "block/export.h"
#include "util/error.h"

static const struct backend_device_move_ops *device_move(
    const struct backend *b)
{
    return b->device_ops ? b->device_ops->move : NULL;
}

static void co_quiet(struct edge *edge)
{
    struct backend *b = edge->opaque;

    if (device_move(b)) {
        device_move(b)->co_quiet(b->device);
    }
}

static void resume(struct edge *edge)
{
    struct backend *b = edge->opaque;

    if (device_move(b)) {
        device_move(b)->resume(b->device);
    }
}

static bool may_leave(const struct edge *edge, bool drained, GError **error)
{
    const struct backend *b = edge->opaque;
    bool idle = b->name && !b->device;

    if (!idle && (!b->may_move || (b->device && !device_move(b)))) {
        return error_set(error,
                         "Cannot change iothread of active block backend");
    }
    if (b->device && !device_move(b)->may_leave(b->device, drained, error)) {
        return false;
    }
    /* Its coroutine cannot go along. */
    return !drained || co_queue_empty(&b->held) ||
           error_set(error, "Node '%s' has requests that wait", b->node->name);
}

static void leave(struct edge *edge)
{
    struct backend *b = edge->opaque;

    if (b->device) {
        device_move(b)->leave(b->device);
    }
    if (b->name) {
        directory_leave(DIRECTORY_BACKEND, b->name);
    }
    if (b->device_id) {
        directory_leave(DIRECTORY_DEVICE, b->device_id);
    }
    if (b->exported_by) {
        directory_leave(DIRECTORY_EXPORT, b->exported_by->id);
        TAILQ_REMOVE(&b->graph->exports, b->exported_by, link);
    }
    TAILQ_REMOVE(&b->graph->backends, b, link);
}

static void arrive(struct edge *edge)
{
    struct backend *b = edge->opaque;

    b->graph = edge->child->graph;
    TAILQ_INSERT_TAIL(&b->graph->backends, b, link);
    if (b->exported_by) {
        TAILQ_INSERT_HEAD(&b->graph->exports, b->exported_by, link);
        directory_arrive(DIRECTORY_EXPORT, b->exported_by->id);
    }
    if (b->device_id) {
        directory_arrive(DIRECTORY_DEVICE, b->device_id);
    }
    if (b->name) {
        directory_arrive(DIRECTORY_BACKEND, b->name);
    }
    if (b->device) {
        device_move(b)->arrive(b->device);
    }
}

const struct root_move_ops backend_move_ops = {
    .co_quiet = co_quiet,
    .resume = resume,
    .may_leave = may_leave,
    .leave = leave,
    .arrive = arrive,
};

bool backend_asks_for_loop(const struct edge *root)
{
    const struct backend *b = root->opaque;

    return root->ops == &backend_root_ops && b->wants_loop &&
           b->wants_loop == b->graph->loop;
}
