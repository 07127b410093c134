/*
 * qmp/guest: the commands of the in-process guest, from a main loop to the
 * graph's loop on another thread and back.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "lib/guest_disk.h"
#include "qapi/codec.h"
#include "qmp/commands.h"
#include "qmp/monitor.h"

static struct loop *graph_loop;
static char vd0[] = "vd0", nobody[] = "nobody";

static void co_make(void *opaque)
{
    struct virtio_blk_props props = {.id = "vd0", .serial = "serial-1"};

    co_guest_disk_new(1 << 20, false);
    assert_non_null(co_virtio_blk_new(&props, disk.backend, NULL));
}

static void co_start_machine(void *opaque)
{
    co_vm_start();
}

static void co_fail_writes(void *opaque)
{
    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, EIO, 1);
}

static void co_unmake(void *opaque)
{
    co_hw_device_del_all();
    co_guest_disk_free();
}

static struct guest_request_result co_request(struct x_guest_request_args args,
                                              const char *expected_error)
{
    GError *error = NULL;
    qapi_auto(guest_request_result) r = qmp_x_guest_request(&args, &error);

    if (expected_error) {
        assert_null(r);
        assert_string_equal(error->message, expected_error);
        g_error_free(error);
        return (struct guest_request_result){0};
    }
    assert_non_null(r);
    if (args.op == GUEST_OP_GET_ID) {
        assert_string_equal(r->id, "serial-1");
    }
    return *r;
}

#define REQUEST(error, ...) \
    co_request((struct x_guest_request_args){.device = vd0, __VA_ARGS__}, error)
#define AT(o, l) \
    .has_offset = true, .offset = o, .has_length = true, .length = l

static void co_requests(void)
{
    REQUEST("The guest is not running", .op = GUEST_OP_FLUSH);
    co_call_on(graph_loop, co_start_machine, NULL);
    co_request((struct x_guest_request_args){.device = nobody},
               "Device 'nobody' not found");
    REQUEST("offset and length must be multiples of 512, and not negative",
            .op = GUEST_OP_READ, AT(100, 512));
    REQUEST("offset and length must be multiples of 512, and not negative",
            .op = GUEST_OP_READ, AT(0, -512));
    assert_int_equal(REQUEST(NULL, .op = GUEST_OP_WRITE, AT(4096, 8192),
                             .has_pattern = true, .pattern = 7)
                         .status,
                     GUEST_STATUS_OK);
    assert_int_equal(disk.data[4096], 7);
    struct guest_request_result r =
        REQUEST(NULL, .op = GUEST_OP_READ, AT(4096, 16384), .has_pattern = true,
                .pattern = 7, .has_verify = true, .verify = true);
    assert_int_equal(r.status, GUEST_STATUS_OK);
    assert_true(r.has_mismatch);
    assert_int_equal(r.mismatch, 4096 + 8192);
    assert_int_equal(
        REQUEST(NULL, .op = GUEST_OP_READ, AT(1 << 20, 512)).status,
        GUEST_STATUS_IOERR);
    REQUEST(NULL, .op = GUEST_OP_GET_ID);
}

static void co_workload(void)
{
    struct x_guest_workload_start_args o = {
        .device = vd0,
        .has_depth = true,
        .depth = 8,
        .has_max_ops = true,
        .max_ops = 500,
        .has_read_percent = true,
        .read_percent = 50,
        .has_verify = true,
        .verify = true,
    };
    struct x_guest_workload_query_args query = {.device = vd0};
    struct x_guest_workload_stop_args stop = {.device = vd0};
    bool active = true;

    assert_true(qmp_x_guest_workload_start(&o, NULL));
    while (active) {
        qapi_auto(guest_workload_info) i =
            qmp_x_guest_workload_query(&query, NULL);
        active = i->active;
    }
    qapi_auto(guest_workload_info) i = qmp_x_guest_workload_stop(&stop, NULL);
    assert_int_equal(i->reads + i->writes, 500);
    assert_int_equal(i->mismatches + i->errors, 0);
    assert_false(i->has_first_mismatch);
    assert_true(i->elapsed_ns > 0 && i->latency_p99_ns >= i->latency_p50_ns);
    o.read_percent = 101;
    GError *error = NULL;
    assert_false(qmp_x_guest_workload_start(&o, &error));
    assert_string_equal(error->message,
                        "The workload's percentages exceed 100");
    g_error_free(error);
}

static void co_violation(void)
{
    struct x_guest_inject_malformed_args bad = {
        .device = vd0, .what = GUEST_MALFORMATION_AVAIL_INDEX};
    struct x_guest_reset_args reset = {.device = vd0};

    assert_true(qmp_x_guest_inject_malformed(&bad, NULL));
    assert_int_equal(REQUEST(NULL, .op = GUEST_OP_FLUSH).status,
                     GUEST_STATUS_NEEDS_RESET);
    assert_true(qmp_x_guest_reset(&reset, NULL));
    assert_int_equal(REQUEST(NULL, .op = GUEST_OP_FLUSH).status,
                     GUEST_STATUS_OK);
}

/* The monitor is free for cont while a request is held. */
static void co_held(void)
{
    co_call_on(graph_loop, co_fail_writes, NULL);
    assert_int_equal(REQUEST(NULL, .op = GUEST_OP_WRITE, AT(0, 512),
                             .has_pattern = true, .pattern = 9)
                         .status,
                     GUEST_STATUS_HELD);
    co_call_on(graph_loop, co_start_machine, NULL);
    assert_int_equal(REQUEST(NULL, .op = GUEST_OP_READ, AT(0, 512)).status,
                     GUEST_STATUS_OK);
    assert_int_equal(disk.data[0], 9);
}

static void co_body(void *opaque)
{
    void (*co_test)(void) = opaque;

    co_call_on(graph_loop, co_make, NULL);
    if (co_test != co_requests) {
        co_call_on(graph_loop, co_start_machine, NULL);
    }
    co_test();
    co_call_on(graph_loop, co_unmake, NULL);
}

static void run(void (*co_test)(void))
{
    struct loop *loop = loop_new("main", LOOP_CLOCK_REAL);
    struct iothread *io = iothread_new("io");

    graph_loop = iothread_loop(io);
    monitors_begin(loop, graph_loop);
    loop_run_co(loop, co_body, co_test);
    assert_true(monitors_stop());
    monitors_end();
    iothread_free(io);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
}

static void single_requests_are_answered_as_the_guest_sees_them(void **state)
{
    run(co_requests);
}

static void workload_runs_beside_the_monitor(void **state)
{
    run(co_workload);
}

static void violation_shows_and_a_reset_heals(void **state)
{
    run(co_violation);
}

static void held_request_leaves_the_monitor_free(void **state)
{
    run(co_held);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(single_requests_are_answered_as_the_guest_sees_them),
        cmocka_unit_test(workload_runs_beside_the_monitor),
        cmocka_unit_test(violation_shows_and_a_reset_heals),
        cmocka_unit_test(held_request_leaves_the_monitor_free),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
