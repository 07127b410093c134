/*
 * Commands of the in-process guest (qapi/guest.json).
 *
 * The guest lives on its device's loop. A request may
 * wait long for storage, so none of these holds the graph's change lock.
 */
#include "hw/guest.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "qmp/commands.h"
#include "qmp/visit.h"
#include "util/error.h"

static struct guest *co_guest_of(const char *device, GError **error)
{
    struct virtio_blk *dev = virtio_blk_find(device, error);

    return dev ? co_virtio_blk_guest(dev, error) : NULL;
}

/* ---- single requests ---- */

static bool co_request(const void *data, void *out, GError **error)
{
    const struct x_guest_request_args *args = data;
    struct guest_request r = {
        .op = args->op,
        .offset = args->has_offset ? args->offset : 0,
        .bytes = args->has_length ? args->length : 0,
        .pattern = args->has_pattern ? args->pattern : 0,
        .verify = args->has_verify && args->verify,
        .unmap = args->has_unmap && args->unmap,
    };
    struct guest *g = co_guest_of(args->device, error);

    if (!g) {
        return false;
    }
    if (r.offset < 0 || r.bytes < 0 || r.offset % 512 || r.bytes % 512) {
        return error_set(error, "offset and length must be multiples of 512, "
                                "and not negative");
    }
    if (!vm_running()) {
        return error_set(error, "The guest is not running");
    }
    co_guest_request(g, &r, out);
    return true;
}

struct guest_request_result *qmp_x_guest_request(
    const struct x_guest_request_args *args, GError **errp)
{
    struct guest_result result;
    const struct place place = {.device = args->device};

    if (!co_visit(&place, co_request, args, &result, errp)) {
        return NULL;
    }
    struct guest_request_result *answer =
        g_new0(struct guest_request_result, 1);

    answer->status = result.status;
    answer->has_mismatch = result.mismatch >= 0;
    answer->mismatch = result.mismatch;
    if (args->op == GUEST_OP_GET_ID && result.status == GUEST_STATUS_OK) {
        answer->id = g_utf8_make_valid(result.id, -1);
    }
    return answer;
}

/* ---- workload ---- */

#define OR(args, member, otherwise) \
    ((args)->has_##member ? (args)->member : (otherwise))

static bool co_start_workload(const void *data, void *out, GError **error)
{
    const struct x_guest_workload_start_args *args = data;
    struct guest_workload_options o = {
        .offset = OR(args, offset, 0),
        .bytes = OR(args, length, 0),
        .block_bytes = OR(args, block_size, 4096),
        .depth = OR(args, depth, 1),
        .segments = OR(args, segments, 1),
        .read_percent = OR(args, read_percent, 0),
        .discard_percent = OR(args, discard_percent, 0),
        .zeroes_percent = OR(args, zeroes_percent, 0),
        .flush_every = OR(args, flush_every, 0),
        .rate = OR(args, rate, 0),
        .max_ops = OR(args, max_ops, 0),
        .seed = OR(args, seed, 0),
        .sequential = OR(args, sequential, false),
        .verify = OR(args, verify, false),
    };
    struct guest *g = co_guest_of(args->device, error);

    return g && guest_workload_start(g, &o, error);
}

bool qmp_x_guest_workload_start(const struct x_guest_workload_start_args *args,
                                GError **errp)
{
    const struct place place = {.device = args->device};

    return co_visit(&place, co_start_workload, args, NULL, errp);
}

static bool co_stop_workload(const void *device, void *out, GError **error)
{
    struct guest *g = co_guest_of(device, error);

    if (!g) {
        return false;
    }
    co_guest_workload_stop(g);
    guest_workload_query(g, out);
    return true;
}

static bool co_query_workload(const void *device, void *out, GError **error)
{
    struct guest *g = co_guest_of(device, error);

    if (!g) {
        return false;
    }
    guest_workload_query(g, out);
    return true;
}

static struct guest_workload_info *co_info(qmp_visit_fn *fn, const char *device,
                                           GError **errp)
{
    const struct place place = {.device = device};
    struct guest_workload_stats s;

    if (!co_visit(&place, fn, device, &s, errp)) {
        return NULL;
    }
    struct guest_workload_info *info = g_new0(struct guest_workload_info, 1);

    *info = (struct guest_workload_info){
        .active = s.active,
        .in_flight = s.in_flight,
        .reads = s.reads,
        .writes = s.writes,
        .flushes = s.flushes,
        .discards = s.discards,
        .write_zeroes = s.zeroes,
        .read_bytes = s.read_bytes,
        .written_bytes = s.written_bytes,
        .errors = s.errors,
        .mismatches = s.mismatches,
        .has_first_mismatch = s.first_mismatch >= 0,
        .first_mismatch = s.first_mismatch,
        .unverified = s.unverified,
        .kicks = s.kicks,
        .interrupts = s.interrupts,
        .elapsed_ns = s.elapsed_ns,
        .latency_avg_ns = s.latency_avg_ns,
        .latency_p50_ns = s.latency_p50_ns,
        .latency_p99_ns = s.latency_p99_ns,
        .latency_max_ns = s.latency_max_ns,
    };
    return info;
}

struct guest_workload_info *qmp_x_guest_workload_stop(
    const struct x_guest_workload_stop_args *args, GError **errp)
{
    return co_info(co_stop_workload, args->device, errp);
}

struct guest_workload_info *qmp_x_guest_workload_query(
    const struct x_guest_workload_query_args *args, GError **errp)
{
    return co_info(co_query_workload, args->device, errp);
}

/* ---- violations ---- */

static bool co_inject(const void *data, void *out, GError **error)
{
    const struct x_guest_inject_malformed_args *args = data;
    struct guest *g = co_guest_of(args->device, error);

    return g && guest_inject(g, args->what, error);
}

bool qmp_x_guest_inject_malformed(
    const struct x_guest_inject_malformed_args *args, GError **errp)
{
    const struct place place = {.device = args->device};

    return co_visit(&place, co_inject, args, NULL, errp);
}

static bool co_reset(const void *data, void *out, GError **error)
{
    const struct x_guest_reset_args *args = data;
    struct guest *g = co_guest_of(args->device, error);

    if (!g) {
        return false;
    }
    return args->has_queue ? co_guest_reset_queue(g, args->queue, error)
                           : co_guest_reset(g, error);
}

bool qmp_x_guest_reset(const struct x_guest_reset_args *args, GError **errp)
{
    const struct place place = {.device = args->device};

    return co_visit(&place, co_reset, args, NULL, errp);
}
