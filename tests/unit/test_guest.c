/*
 * hw/virtio-blk: the device as its in-process guest sees it, over the real
 * rings: requests, workloads, error policies, stop and cont, drain, resets.
 */
#include "hw/guest.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "lib/guest_disk.h"
#include "util/error.h"

#define KIB        INT64_C(1024)
#define DISK_BYTES (8 * 1024 * KIB)

/* Each test is one coroutine on a loop with simulated time. */
struct fixture {
    struct loop *loop;
    struct virtio_blk_props props;
    struct virtio_blk *dev;
    struct guest *g;
    void (*co_test)(struct fixture *f);
    bool yield;
};

static void co_set_up(struct fixture *f)
{
    g_autoptr(GError) error = NULL;

    f->props.id = "vd0";
    f->props.serial = "varve-0001";
    f->dev = co_virtio_blk_new(&f->props, disk.backend, &error);
    assert_non_null(f->dev);
    co_vm_start();
    f->g = co_virtio_blk_guest(f->dev, &error);
    assert_non_null(f->g);
    assert_int_equal(guest_disk_bytes(f->g), DISK_BYTES);
}

static void co_body(void *opaque)
{
    struct fixture *f = opaque;

    co_guest_disk_new(DISK_BYTES, false);
    co_set_up(f);
    f->co_test(f);
    guest_disk_open_gate();
    if (!vm_running()) {
        guest_disk_fail(0, 0, 0);
    }
    co_virtio_blk_free(f->dev);
    co_guest_disk_free();
}

static void run_with(struct virtio_blk_props props,
                     void (*co_test)(struct fixture *f))
{
    struct fixture f = {.props = props, .co_test = co_test};

    f.loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_run_co(f.loop, co_body, &f);
    while (loop_pass(f.loop, false)) {
    }
    loop_free(f.loop);
}

static void run(void (*co_test)(struct fixture *f))
{
    run_with((struct virtio_blk_props){0}, co_test);
}

static struct guest_result co_do(struct fixture *f, struct guest_request r)
{
    struct guest_result result;

    co_guest_request(f->g, &r, &result);
    return result;
}

#define DO(...) co_do(f, (struct guest_request){__VA_ARGS__})

/* ---- single requests ---- */

static void co_write_and_read(struct fixture *f)
{
    struct guest_result r = DO(.op = GUEST_OP_WRITE, .offset = 64 * KIB,
                               .bytes = 3 * 1024 * KIB + 512, .pattern = 0xa5);
    assert_int_equal(r.status, GUEST_STATUS_OK);
    assert_int_equal(disk.writes, 4); /* pieces of 1 MiB */
    assert_int_equal(disk.data[64 * KIB - 1], 0);
    assert_int_equal(disk.data[64 * KIB], 0xa5);
    assert_int_equal(disk.data[64 * KIB + 3 * 1024 * KIB + 511], 0xa5);
    assert_int_equal(disk.data[64 * KIB + 3 * 1024 * KIB + 512], 0);

    r = DO(.op = GUEST_OP_READ, .offset = 64 * KIB, .bytes = 3 * 1024 * KIB,
           .pattern = 0xa5, .verify = true);
    assert_int_equal(r.status, GUEST_STATUS_OK);
    assert_int_equal(r.mismatch, -1);
    disk.data[1 << 20] = 0;
    r = DO(.op = GUEST_OP_READ, .offset = 64 * KIB, .bytes = 3 * 1024 * KIB,
           .pattern = 0xa5, .verify = true);
    assert_int_equal(r.status, GUEST_STATUS_OK);
    assert_int_equal(r.mismatch, 1 << 20);
}

static void guest_reads_what_it_wrote(void **state)
{
    run(co_write_and_read);
    run_with((struct virtio_blk_props){.no_indirect = true}, co_write_and_read);
    run_with((struct virtio_blk_props){.no_event_idx = true},
             co_write_and_read);
    run_with((struct virtio_blk_props){.num_queues = 4, .queue_size = 4},
             co_write_and_read);
}

static void co_other_requests(struct fixture *f)
{
    memset(disk.data, 1, DISK_BYTES);
    disk.node->write_gen++; /* as if something had been written */
    assert_int_equal(DO(.op = GUEST_OP_FLUSH).status, GUEST_STATUS_OK);
    assert_int_equal(disk.flushes, 1);
    assert_string_equal(DO(.op = GUEST_OP_GET_ID).id, "varve-0001");
    assert_int_equal(
        DO(.op = GUEST_OP_DISCARD, .offset = 4096, .bytes = 8192).status,
        GUEST_STATUS_OK);
    assert_int_equal(disk.data[4096], 0xdd);
    assert_int_equal(disk.data[4096 + 8191], 0xdd);
    assert_int_equal(disk.data[4096 + 8192], 1);
    assert_int_equal(
        DO(.op = GUEST_OP_WRITE_ZEROES, .offset = 8192, .bytes = 512).status,
        GUEST_STATUS_OK);
    assert_int_equal(disk.data[8192], 0);
    assert_int_equal(disk.last_flags, 0);
    assert_int_equal(DO(.op = GUEST_OP_WRITE_ZEROES, .offset = 8192,
                        .bytes = 512, .unmap = true)
                         .status,
                     GUEST_STATUS_OK);
    assert_int_equal(disk.last_flags, REQ_MAY_UNMAP);
}

static void flush_id_discard_and_zeroes_reach_the_backend(void **state)
{
    run(co_other_requests);
}

static void co_refused(struct fixture *f)
{
    static const struct {
        enum guest_op op;
        int64_t offset, bytes;
    } bad[] = {
        {GUEST_OP_READ, DISK_BYTES, 512},
        {GUEST_OP_READ, DISK_BYTES - 512, 1024},
        {GUEST_OP_WRITE, DISK_BYTES, 512},
        {GUEST_OP_WRITE, INT64_MAX - 511, 512},
        {GUEST_OP_WRITE, 0, 100},
        {GUEST_OP_READ, 0, 513},
        {GUEST_OP_DISCARD, DISK_BYTES, 4096},
        {GUEST_OP_WRITE_ZEROES, DISK_BYTES - 4096, 8192},
        {GUEST_OP_WRITE_ZEROES, 0, 0},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        enum guest_status s =
            DO(.op = bad[i].op, .offset = bad[i].offset, .bytes = bad[i].bytes)
                .status;
        if (s != GUEST_STATUS_IOERR) {
            fail_msg("case %u: %s", i, guest_status_str(s));
        }
    }
    assert_int_equal(disk.reads + disk.writes + disk.discards + disk.zeroes, 0);
    assert_false(guest_broken(f->g));
}

static void requests_beyond_the_disk_fail_and_reach_nothing(void **state)
{
    run(co_refused);
}

static void co_without_features(struct fixture *f)
{
    assert_int_equal(
        DO(.op = GUEST_OP_DISCARD, .offset = 0, .bytes = 4096).status,
        GUEST_STATUS_UNSUPP);
    assert_int_equal(
        DO(.op = GUEST_OP_WRITE_ZEROES, .offset = 0, .bytes = 4096).status,
        GUEST_STATUS_UNSUPP);
}

static void missing_features_are_answered_unsupported(void **state)
{
    run_with(
        (struct virtio_blk_props){.no_discard = true, .no_write_zeroes = true},
        co_without_features);
}

/* ---- workload ---- */

static struct guest_workload_stats stats_of(struct fixture *f)
{
    struct guest_workload_stats s;

    guest_workload_query(f->g, &s);
    return s;
}

static void co_workload(struct fixture *f)
{
    struct guest_workload_options o = {
        .seed = 7,
        .block_bytes = 4096,
        .depth = 32,
        .segments = 3,
        .read_percent = 40,
        .discard_percent = 5,
        .zeroes_percent = 10,
        .flush_every = 50,
        .max_ops = 20000,
        .verify = true,
    };
    assert_true(guest_workload_start(f->g, &o, NULL));
    assert_false(guest_workload_start(f->g, &o, NULL));
    co_guest_workload_wait(f->g);
    struct guest_workload_stats s = stats_of(f);
    assert_false(s.active);
    assert_int_equal(s.in_flight, 0);
    assert_int_equal(s.reads + s.writes + s.flushes + s.discards + s.zeroes,
                     20000);
    assert_int_equal(s.errors, 0);
    assert_int_equal(s.mismatches, 0);
    assert_in_range(s.reads, 7000, 9000);
    assert_in_range(s.flushes, 300, 500);
    assert_in_range(s.zeroes, 1500, 2500);
    assert_in_range(s.discards, 700, 1300);
    assert_true(s.unverified < s.reads / 2);
    assert_int_equal(s.read_bytes, s.reads * 4096);
    assert_int_equal(disk.writes, s.writes);

    /* What it knows survives to the next one. */
    o.read_percent = 100;
    o.discard_percent = o.zeroes_percent = 0;
    o.seed = 8;
    o.max_ops = 3000;
    memset(disk.data, 0x11, DISK_BYTES);
    assert_true(guest_workload_start(f->g, &o, NULL));
    co_guest_workload_wait(f->g);
    s = stats_of(f);
    assert_true(s.mismatches > 2000);
    assert_true(s.first_mismatch >= 0);
}

static void co_workload_that_suspends(struct fixture *f)
{
    disk.yield = true;
    co_workload(f);
}

static void workload_verifies_every_read(void **state)
{
    run(co_workload);
    run(co_workload_that_suspends);
    run_with((struct virtio_blk_props){.num_queues = 3,
                                       .queue_size = 16,
                                       .no_event_idx = true},
             co_workload_that_suspends);
    run_with((struct virtio_blk_props){.no_indirect = true,
                                       .queue_size = 64,
                                       .logical_bytes = 4096},
             co_workload_that_suspends);
}

static void co_rate(struct fixture *f)
{
    struct guest_workload_options o = {
        .block_bytes = 512, .depth = 4, .rate = 1000};

    assert_true(guest_workload_start(f->g, &o, NULL));
    for (unsigned i = 0; i < 500; i++) {
        loop_clock_advance(f->loop, 1000000);
        co_pause();
        co_pause();
    }
    assert_in_range(stats_of(f).writes, 490, 510);
    co_guest_workload_stop(f->g);
    struct guest_workload_stats s = stats_of(f);
    assert_false(s.active);
    assert_int_equal(s.elapsed_ns, 500000000);
    loop_clock_advance(f->loop, 1000000000);
    co_pause();
    assert_int_equal(stats_of(f).writes, s.writes);
}

static void workload_keeps_its_rate_and_stops(void **state)
{
    run(co_rate);
}

static void co_bad_options(struct fixture *f)
{
    static const struct guest_workload_options bad[] = {
        {.block_bytes = 0, .depth = 1},
        {.block_bytes = 1000, .depth = 1},
        {.block_bytes = 2 << 20, .depth = 1},
        {.block_bytes = 4096, .depth = 0},
        {.block_bytes = 4096, .depth = 1, .offset = 100},
        {.block_bytes = 4096, .depth = 1, .offset = DISK_BYTES},
        {.block_bytes = 4096, .depth = 1, .offset = -512},
        {.block_bytes = 4096, .depth = 1, .bytes = DISK_BYTES + 4096},
        {.block_bytes = 4096, .depth = 1, .read_percent = 101},
        {.block_bytes = 4096,
         .depth = 1,
         .read_percent = 60,
         .zeroes_percent = 41},
        {.block_bytes = 4096, .depth = 1, .segments = 1000},
    };
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        assert_false(guest_workload_start(f->g, &bad[i], &error));
        assert_non_null(error);
    }
}

static void bad_workloads_are_refused(void **state)
{
    run(co_bad_options);
}

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

/* ---- on a thread of its own ---- */

struct remote {
    struct fixture *f;
    struct guest *g;
    struct guest_workload_options o;
    struct guest_workload_stats s;
};

static void co_remote_workload(void *opaque)
{
    struct remote *r = opaque;

    assert_true(guest_workload_start(r->g, &r->o, NULL));
    co_guest_workload_wait(r->g);
    guest_workload_query(r->g, &r->s);
}

static void co_threaded_body(void *opaque)
{
    struct fixture *f = opaque;
    struct iothread *t = iothread_new("guest");
    struct remote r = {
        .o = {.block_bytes = 512,
              .depth = 24,
              .read_percent = 50,
              .zeroes_percent = 5,
              .max_ops = 30000,
              .verify = true},
    };

    co_guest_disk_new(DISK_BYTES, false);
    disk.yield = f->yield;
    f->dev = co_virtio_blk_new(&f->props, disk.backend, NULL);
    co_vm_start();
    r.g = co_guest_new(f->dev, iothread_loop(t), NULL);
    assert_non_null(r.g);
    co_call_on(iothread_loop(t), co_remote_workload, &r);
    assert_int_equal(r.s.writes + r.s.reads + r.s.zeroes, 30000);
    assert_int_equal(r.s.errors + r.s.mismatches, 0);
    assert_true(co_guest_reset(r.g, NULL));
    r.o.max_ops = 1000;
    co_call_on(iothread_loop(t), co_remote_workload, &r);
    assert_int_equal(r.s.errors + r.s.mismatches, 0);
    co_virtio_blk_free(f->dev);
    co_guest_disk_free();
    iothread_free(t);
}

static void run_threaded(struct virtio_blk_props props, bool yield,
                         int64_t poll_max_ns)
{
    struct fixture f = {.props = props};

    f.loop = loop_new("test", LOOP_CLOCK_REAL);
    loop_set_poll_max(f.loop, poll_max_ns);
    f.yield = yield;
    loop_run_co(f.loop, co_threaded_body, &f);
    while (loop_pass(f.loop, false)) {
    }
    loop_free(f.loop);
}

static void guest_on_another_thread_misses_no_interrupt(void **state)
{
    run_threaded((struct virtio_blk_props){0}, false, 32000);
    run_threaded((struct virtio_blk_props){.num_queues = 2}, true, 0);
    run_threaded((struct virtio_blk_props){.no_event_idx = true}, true, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(guest_reads_what_it_wrote),
        cmocka_unit_test(flush_id_discard_and_zeroes_reach_the_backend),
        cmocka_unit_test(requests_beyond_the_disk_fail_and_reach_nothing),
        cmocka_unit_test(missing_features_are_answered_unsupported),
        cmocka_unit_test(workload_verifies_every_read),
        cmocka_unit_test(workload_keeps_its_rate_and_stops),
        cmocka_unit_test(bad_workloads_are_refused),
        cmocka_unit_test(failures_are_reported_or_ignored),
        cmocka_unit_test(stop_policy_holds_failed_requests_until_cont),
        cmocka_unit_test(requests_that_fail_again_are_held_again),
        cmocka_unit_test(stop_quiesces_and_flushes_and_cont_goes_on),
        cmocka_unit_test(drained_section_holds_a_loaded_device_off),
        cmocka_unit_test(malformed_requests_need_a_reset_which_heals),
        cmocka_unit_test(reset_drops_held_requests),
        cmocka_unit_test(device_goes_away_with_requests_held),
        cmocka_unit_test(guest_sees_the_disk_change_its_size),
        cmocka_unit_test(guest_on_another_thread_misses_no_interrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
