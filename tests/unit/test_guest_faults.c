/*
 * hw/virtio-blk: error policies, stop and cont, drained sections, violations
 * and resets, as the in-process guest sees them.
 */
#include "lib/guest_fixture.h"

#include <errno.h>

#include "block/graph.h"

/* ---- error policies, stop and cont ---- */

static void co_report_and_ignore(struct fixture *f)
{
    uint8_t data[512];

    memset(data, 0x77, sizeof(data));
    guest_disk_fail(DISK_ALL, EIO, 2);
    assert_int_equal(DO(.op = GUEST_OP_WRITE, .bytes = 512).status,
                     GUEST_STATUS_IOERR);
    assert_int_equal(
        DO(.op = GUEST_OP_READ, .bytes = 512, .buffer = data).status,
        GUEST_STATUS_IOERR);
    assert_int_equal(disk.io_errors, 2);
    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_IGNORE;
    guest_disk_fail(DISK_WRITE, EIO, 1);
    assert_int_equal(DO(.op = GUEST_OP_WRITE, .bytes = 512).status,
                     GUEST_STATUS_OK);
    assert_int_equal(disk.io_errors, 3);
    assert_true(vm_running());
}

static void failures_are_reported_or_ignored(void **state)
{
    run(co_report_and_ignore);
}

static void co_hold(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 8, .max_ops = 40, .sequential = true};

    guest_disk_fail(DISK_WRITE, ENOSPC, 5);
    disk.yield = true;
    assert_true(guest_workload_start(f->g, &o, NULL));
    while (vm_running()) {
        co_pause();
    }
    for (unsigned i = 0; i < 10; i++) {
        co_pause();
    }
    assert_int_equal(vm_state(), RUN_STATE_IO_ERROR);
    /* The failed ones are held: the guest has seen no error. */
    struct guest_workload_stats s = stats_of(f);
    assert_int_equal(s.errors, 0);
    assert_int_equal(s.in_flight, 5);
    assert_int_equal(disk.io_errors, 5);
    unsigned before = disk.orders;
    assert_int_equal(DO(.op = GUEST_OP_WRITE, .bytes = 512).status,
                     GUEST_STATUS_HELD);
    for (unsigned i = 0; i < 10; i++) {
        co_pause();
    }
    assert_int_equal(disk.orders, before);

    co_vm_start();
    assert_int_equal(disk.backend->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    co_guest_workload_wait(f->g);
    s = stats_of(f);
    assert_int_equal(s.errors, 0);
    assert_int_equal(s.writes, 40);
    /* Issued again in the order in which they had come. */
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(disk.order[before + i], i * 4096);
    }
}

static void stop_policy_holds_failed_requests_until_cont(void **state)
{
    run(co_hold);
}

static void co_fail_again(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 4, .max_ops = 4, .sequential = true};

    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, EIO, 12);
    assert_true(guest_workload_start(f->g, &o, NULL));
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < 20; i++) {
            co_pause();
        }
        assert_false(vm_running());
        assert_int_equal(stats_of(f).writes, 0);
        co_vm_start();
    }
    co_guest_workload_wait(f->g);
    assert_int_equal(stats_of(f).writes, 4);
    assert_int_equal(stats_of(f).errors, 0);
    assert_int_equal(disk.io_errors, 12);
}

static void requests_that_fail_again_are_held_again(void **state)
{
    run(co_fail_again);
}

static void co_stop_cont(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 16, .read_percent = 50, .verify = true};

    disk.yield = true;
    assert_true(guest_workload_start(f->g, &o, NULL));
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 10; i++) {
            co_pause();
        }
        unsigned flushes = disk.flushes;
        assert_int_equal(co_vm_stop(RUN_STATE_PAUSED), 0);
        assert_int_equal(disk.flushes, flushes + 1);
        assert_int_equal(disk.backend->in_flight, 0);
        unsigned ops = disk.reads + disk.writes;
        for (unsigned i = 0; i < 5; i++) {
            co_pause();
        }
        assert_int_equal(disk.reads + disk.writes, ops);
        assert_int_equal(vm_state(), RUN_STATE_PAUSED);
        /* Stopping what is stopped changes nothing. */
        co_vm_stop(RUN_STATE_IO_ERROR);
        assert_int_equal(vm_state(), RUN_STATE_PAUSED);
        co_vm_start();
        co_vm_start();
    }
    co_guest_workload_stop(f->g);
    struct guest_workload_stats s = stats_of(f);
    assert_true(s.reads + s.writes > 2000);
    assert_int_equal(s.mismatches + s.errors, 0);
}

static void stop_quiesces_and_flushes_and_cont_goes_on(void **state)
{
    run(co_stop_cont);
}

static void co_drain(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 32, .read_percent = 50, .verify = true};

    disk.yield = true;
    assert_true(guest_workload_start(f->g, &o, NULL));
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < round % 7; i++) {
            co_pause();
        }
        co_drain_all_begin();
        co_drain_all_begin();
        unsigned ops = disk.reads + disk.writes;
        co_pause();
        co_drain_all_end();
        co_pause();
        co_pause();
        assert_int_equal(disk.reads + disk.writes, ops);
        co_drain_all_end();
    }
    co_guest_workload_stop(f->g);
    assert_int_equal(stats_of(f).mismatches + stats_of(f).errors, 0);
    assert_true(stats_of(f).reads > 1000);
}

static void drained_section_holds_a_loaded_device_off(void **state)
{
    run(co_drain);
}

/* ---- violations and resets ---- */

static void co_malformed(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 8, .read_percent = 50, .verify = true};

    for (unsigned bad = GUEST_MALFORMATION_LOOP;
         bad <= GUEST_MALFORMATION_INDIRECT; bad++) {
        g_autoptr(GError) error = NULL;

        disk.gate = true;
        assert_true(guest_workload_start(f->g, &o, &error));
        co_pause();
        assert_int_equal(disk.backend->in_flight, 8);
        assert_true(guest_inject(f->g, bad, &error));
        for (unsigned i = 0; i < 5; i++) {
            co_pause();
        }
        if (!guest_broken(f->g)) {
            fail_msg("malformation %u went unnoticed", bad);
        }
        struct guest_workload_stats s = stats_of(f);
        assert_false(s.active);
        assert_int_equal(s.errors, 8);
        assert_int_equal(DO(.op = GUEST_OP_FLUSH).status,
                         GUEST_STATUS_NEEDS_RESET);
        assert_false(guest_inject(f->g, bad, NULL));

        /* The reset is over only when what was in flight has ended. */
        guest_disk_open_gate();
        assert_true(co_guest_reset(f->g, &error));
        assert_int_equal(disk.backend->in_flight, 0);
        assert_false(guest_broken(f->g));
        assert_int_equal(
            DO(.op = GUEST_OP_WRITE, .bytes = 4096, .pattern = bad + 1).status,
            GUEST_STATUS_OK);
        assert_int_equal(disk.data[0], bad + 1);
    }
    o.max_ops = 1000;
    assert_true(guest_workload_start(f->g, &o, NULL));
    co_guest_workload_wait(f->g);
    assert_int_equal(stats_of(f).mismatches, 0);
}

static void malformed_requests_need_a_reset_which_heals(void **state)
{
    run(co_malformed);
    run_with((struct virtio_blk_props){.no_event_idx = true}, co_malformed);
}

static void co_reset_queue(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 4096, .depth = 30, .read_percent = 50, .verify = true};

    assert_false(co_guest_reset_queue(f->g, 2, NULL));
    disk.yield = true;
    assert_true(guest_workload_start(f->g, &o, NULL));
    for (unsigned i = 0; i < 200; i++) {
        for (unsigned n = i % 7; n; n--) {
            co_pause();
        }
        struct guest_workload_stats before = stats_of(f);

        assert_true(co_guest_reset_queue(f->g, i % 3 / 2, NULL));
        assert_true(stats_of(f).active);
        if (i % 7 > 2) {
            assert_true(stats_of(f).reads > before.reads);
        }
    }
    /* Both queues still carry requests. */
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(DO(.op = GUEST_OP_GET_ID, .bytes = 20).status,
                         GUEST_STATUS_OK);
    }
    co_guest_workload_stop(f->g);
    assert_int_equal(stats_of(f).mismatches + stats_of(f).errors, 0);
    assert_int_equal(stats_of(f).in_flight, 0);
}

static void queue_is_reset_under_load(void **state)
{
    run_with((struct virtio_blk_props){.num_queues = 2, .queue_size = 64},
             co_reset_queue);
    run_with((struct virtio_blk_props){.num_queues = 2,
                                       .queue_size = 64,
                                       .no_indirect = true},
             co_reset_queue);
}

struct queue_reset {
    struct fixture *f;
    bool ended, ok;
};

static void co_reset_first_queue(void *opaque)
{
    struct queue_reset *r = opaque;

    r->ok = co_guest_reset_queue(r->f->g, 0, NULL);
    r->ended = true;
}

static void pauses(unsigned n)
{
    while (n--) {
        co_pause();
    }
}

/* The other queue goes on, and so does this one when the machine was stopped.
 */
static void co_reset_queue_waits(struct fixture *f)
{
    struct guest_workload_options o = {.block_bytes = 4096, .depth = 6};
    struct queue_reset r = {.f = f};

    disk.gate = true;
    assert_true(guest_workload_start(f->g, &o, NULL));
    co_pause();
    assert_int_equal(disk.inside, 6);
    co_enter(co_create(co_reset_first_queue, &r));
    pauses(10);
    assert_false(r.ended);
    assert_int_equal(DO(.op = GUEST_OP_GET_ID, .bytes = 20).status,
                     GUEST_STATUS_OK);
    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, EIO, 1);
    guest_disk_open_gate();
    pauses(10);
    assert_false(vm_running());
    assert_true(r.ended && !r.ok);
    co_vm_start();
    pauses(10);
    assert_true(co_guest_reset_queue(f->g, 0, NULL));
    co_guest_workload_stop(f->g);
    assert_int_equal(stats_of(f).errors + stats_of(f).in_flight, 0);
}

static void reset_of_a_queue_waits_but_for_what_is_held(void **state)
{
    run_with((struct virtio_blk_props){.num_queues = 2, .queue_size = 64},
             co_reset_queue_waits);
}

static void co_reset_queue_refused(struct fixture *f)
{
    assert_false(co_guest_reset_queue(f->g, 0, NULL));
    assert_int_equal(DO(.op = GUEST_OP_FLUSH).status, GUEST_STATUS_OK);
}

static void reset_of_a_queue_needs_the_feature(void **state)
{
    run_with((struct virtio_blk_props){.no_ring_reset = true},
             co_reset_queue_refused);
}

static void co_reset_while_held(struct fixture *f)
{
    struct guest_workload_options o = {.block_bytes = 4096, .depth = 4};

    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, EIO, 100);
    assert_true(guest_workload_start(f->g, &o, NULL));
    while (vm_running()) {
        co_pause();
    }
    co_pause();
    assert_true(co_guest_reset(f->g, NULL));
    guest_disk_fail(0, 0, 0);
    co_vm_start();
    unsigned writes = disk.writes;
    assert_int_equal(DO(.op = GUEST_OP_FLUSH).status, GUEST_STATUS_OK);
    /* What was held went with the reset. */
    assert_int_equal(disk.writes, writes);
}

static void reset_drops_held_requests(void **state)
{
    run(co_reset_while_held);
}

static void co_held_at_the_end(struct fixture *f)
{
    struct guest_workload_options o = {.block_bytes = 4096, .depth = 4};

    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, EIO, 100);
    assert_true(guest_workload_start(f->g, &o, NULL));
    while (vm_running()) {
        co_pause();
    }
}

static void device_goes_away_with_requests_held(void **state)
{
    run(co_held_at_the_end);
}

static void co_resize(struct fixture *f)
{
    disk.node->length = DISK_BYTES / 2;
    disk.backend->device_ops->resized(disk.backend->device);
    co_pause();
    assert_int_equal(guest_disk_bytes(f->g), DISK_BYTES / 2);
    assert_int_equal(
        DO(.op = GUEST_OP_READ, .offset = DISK_BYTES / 2, .bytes = 512).status,
        GUEST_STATUS_IOERR);
    disk.node->length = DISK_BYTES;
    disk.backend->device_ops->resized(disk.backend->device);
    assert_int_equal(
        DO(.op = GUEST_OP_READ, .offset = DISK_BYTES / 2, .bytes = 512).status,
        GUEST_STATUS_OK);
}

static void guest_sees_the_disk_change_its_size(void **state)
{
    run(co_resize);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_reported_or_ignored),
        cmocka_unit_test(stop_policy_holds_failed_requests_until_cont),
        cmocka_unit_test(requests_that_fail_again_are_held_again),
        cmocka_unit_test(stop_quiesces_and_flushes_and_cont_goes_on),
        cmocka_unit_test(drained_section_holds_a_loaded_device_off),
        cmocka_unit_test(malformed_requests_need_a_reset_which_heals),
        cmocka_unit_test(queue_is_reset_under_load),
        cmocka_unit_test(reset_of_a_queue_waits_but_for_what_is_held),
        cmocka_unit_test(reset_of_a_queue_needs_the_feature),
        cmocka_unit_test(reset_drops_held_requests),
        cmocka_unit_test(device_goes_away_with_requests_held),
        cmocka_unit_test(guest_sees_the_disk_change_its_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
