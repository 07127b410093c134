/*
 * hw/virtio-blk: the device as its in-process guest sees it, over the real
 * rings: requests and workloads, on the device's loop and beside it.
 */
#include "lib/guest_fixture.h"

#include <string.h>

#include "aio/iothread.h"
#include "aio/mailbox.h"

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
        cmocka_unit_test(guest_on_another_thread_misses_no_interrupt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
