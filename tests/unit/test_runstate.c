/*
 * hw/runstate: who hears of starts and stops, in which order, and what stops
 * the machine.
 */
#include "hw/runstate.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/loop.h"
#include "block/backend.h"
#include "lib/guest_disk.h"

static GString *heard;

static void on_changed(void *opaque, bool running, enum run_state state)
{
    g_string_append_printf(heard, "%s%s:%s ", (const char *)opaque,
                           running ? "+" : "-", run_state_str(state));
}

static struct runstate_listener monitor = {
    .changed = on_changed, .opaque = "monitor", .order = RUNSTATE_MONITORS};
static struct runstate_listener device = {
    .changed = on_changed, .opaque = "device", .order = RUNSTATE_DEVICES};
static struct runstate_listener guest = {
    .changed = on_changed, .opaque = "guest", .order = RUNSTATE_GUESTS};

static void heard_is(const char *expected)
{
    assert_string_equal(heard->str, expected);
    g_string_truncate(heard, 0);
}

static void co_wrap(void *opaque)
{
    void (*co_test)(void) = opaque;

    co_guest_disk_new(1 << 20, false);
    runstate_listener_add(&guest);
    runstate_listener_add(&monitor);
    runstate_listener_add(&device);
    co_test();
    runstate_listener_remove(&device);
    runstate_listener_remove(&monitor);
    runstate_listener_remove(&guest);
    guest_disk_open_gate();
    co_guest_disk_free();
}

static void run(void (*co_test)(void))
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    heard = g_string_new(NULL);
    loop_run_co(loop, co_wrap, co_test);
    while (loop_pass(loop, false)) {
    }
    loop_free(loop);
    g_string_free(heard, TRUE);
}

static void co_order(void)
{
    assert_int_equal(vm_state(), RUN_STATE_PRELAUNCH);
    assert_false(vm_running());
    co_vm_start();
    assert_true(vm_running());
    heard_is("monitor+:running device+:running guest+:running ");
    co_vm_start();
    heard_is("");
    assert_int_equal(co_vm_stop(RUN_STATE_PAUSED), 0);
    heard_is("guest-:paused device-:paused monitor-:paused ");
    co_vm_stop(RUN_STATE_SHUTDOWN);
    heard_is("");
    assert_int_equal(vm_state(), RUN_STATE_PAUSED);
}

static void guest_starts_last_and_stops_first(void **state)
{
    run(co_order);
}

static void co_write(void *opaque)
{
    static uint8_t buf[512];
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, sizeof(buf));

    *(int *)opaque = co_backend_pwritev(disk.backend, 0, &iov, 0);
}

static void co_stop(void *opaque)
{
    *(int *)opaque = co_vm_stop(RUN_STATE_PAUSED);
}

static void settle(void)
{
    for (unsigned i = 0; i < 20; i++) {
        co_pause();
    }
}

static void co_wait(void)
{
    int written = 1, stopped = 1;

    co_vm_start();
    disk.gate = true;
    co_start(co_write, &written);
    co_pause();
    co_start(co_stop, &stopped);
    settle();
    /* Listeners know at once, but the stop waits for the write. */
    assert_false(vm_running());
    assert_int_equal(stopped, 1);
    guest_disk_open_gate();
    settle();
    assert_int_equal(written, 0);
    assert_int_equal(stopped, 0);
    assert_int_equal(disk.flushes, 1);
}

static void stop_waits_for_requests_and_flushes(void **state)
{
    run(co_wait);
}

static void co_flush_fails(void)
{
    int written = 1;

    co_vm_start();
    co_write(&written);
    guest_disk_fail(DISK_FLUSH, EIO, 1);
    assert_int_equal(co_vm_stop(RUN_STATE_PAUSED), -EIO);
    assert_int_equal(vm_state(), RUN_STATE_PAUSED);
}

static void failed_flush_is_returned_and_the_machine_stopped(void **state)
{
    run(co_flush_fails);
}

static void co_request(void)
{
    struct backend *b = disk.backend;

    /* A machine that does not run keeps its state. */
    backend_report_error(b, BLOCK_ERROR_ACTION_STOP, false, EIO);
    settle();
    assert_int_equal(vm_state(), RUN_STATE_PRELAUNCH);
    co_vm_start();
    heard_is("monitor+:running device+:running guest+:running ");
    /* Many failures, one stop. */
    for (unsigned i = 0; i < 3; i++) {
        backend_report_error(b, BLOCK_ERROR_ACTION_STOP, false, EIO);
    }
    backend_report_error(b, BLOCK_ERROR_ACTION_REPORT, true, EIO);
    settle();
    heard_is("guest-:io-error device-:io-error monitor-:io-error ");
    co_vm_start();
    heard_is("monitor+:running device+:running guest+:running ");
    backend_report_error(b, BLOCK_ERROR_ACTION_STOP, true, EIO);
    settle();
    assert_int_equal(vm_state(), RUN_STATE_IO_ERROR);
}

static void failed_request_stops_the_machine_once(void **state)
{
    run(co_request);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_starts_last_and_stops_first),
        cmocka_unit_test(stop_waits_for_requests_and_flushes),
        cmocka_unit_test(failed_flush_is_returned_and_the_machine_stopped),
        cmocka_unit_test(failed_request_stops_the_machine_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
