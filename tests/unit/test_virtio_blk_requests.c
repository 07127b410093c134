/*
 * hw/virtio-blk: requests by the letter of virtio 1.1, 5.2.6, and violations of
 * it.
 */
#include "lib/driver_by_hand.h"

#include <errno.h>

/* ---- requests ---- */

static void co_layouts(struct fixture *f)
{
    /* 2.6.4: how a request is cut into buffers means nothing. */
    for (unsigned i = 0; i < 1024; i++) {
        f->ram[DATA + i] = i * 7;
    }
    header(f, VIRTIO_BLK_T_OUT, 5);
    memcpy(f->ram + DATA - 8, f->ram + HEADER + 8, 8);
    describe(f, 0, HEADER, 3, NEXT);
    describe(f, 1, HEADER + 3, 5, NEXT);
    describe(f, 2, DATA - 8, 8 + 100, NEXT); /* header's end and data */
    describe(f, 3, DATA + 100, 924, NEXT);
    describe(f, 4, STATUS, 1, WRITE);
    f->ram[STATUS] = 0xee;
    make_available(f, 0);
    settle();
    assert_int_equal(f->used->idx, 1);
    assert_int_equal(f->ram[STATUS], VIRTIO_BLK_S_OK);
    assert_memory_equal(disk.data + 5 * 512, f->ram + DATA, 1024);
    assert_int_equal(last_length(f), 1);

    /* Data and status in one buffer. */
    header(f, VIRTIO_BLK_T_IN, 5);
    describe(f, 0, HEADER, 16, NEXT);
    describe(f, 1, DATA + 0x1000, 1000, NEXT | WRITE);
    describe(f, 2, DATA + 0x1000 + 1000, 25, WRITE);
    f->ram[DATA + 0x1000 + 1024] = 0xee;
    make_available(f, 0);
    settle();
    assert_int_equal(f->used->idx, 2);
    assert_memory_equal(f->ram + DATA + 0x1000, f->ram + DATA, 1024);
    assert_int_equal(f->ram[DATA + 0x1000 + 1024], VIRTIO_BLK_S_OK);
    assert_int_equal(f->ram[DATA + 0x1000 + 1025], 0);
    assert_int_equal(last_length(f), 1025);
}

static void requests_may_be_cut_anywhere(void **state)
{
    run(co_layouts);
}

static void co_unknown(struct fixture *f)
{
    static const uint32_t types[] = {2,  3,  5,          9,         10,
                                     12, 14, 0x80000000, UINT32_MAX};

    for (unsigned i = 0; i < G_N_ELEMENTS(types); i++) {
        assert_int_equal(request(f, types[i], 0, 512, i & 1),
                         VIRTIO_BLK_S_UNSUPP);
    }
    assert_int_equal(disk.reads + disk.writes + disk.io_errors, 0);
}

static void unknown_types_are_unsupported(void **state)
{
    run(co_unknown);
}

static void co_read_only(struct fixture *f)
{
    assert_int_equal(request(f, VIRTIO_BLK_T_OUT, 0, 512, false),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512, true),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 16, false),
                     VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(disk.writes, 0);
    assert_int_equal(disk.io_errors, 0);
}

static void read_only_disk_fails_writes(void **state)
{
    run_fixture((struct fixture){.co_test = co_read_only, .read_only = true});
}

static void co_get_id(struct fixture *f)
{
    memset(f->ram + DATA, 0xff, 64);
    assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 20, true), 0);
    assert_memory_equal(f->ram + DATA, "exactly-twenty-bytes\xff", 21);
    assert_int_equal(last_length(f), 21);
    memset(f->ram + DATA, 0xff, 64);
    assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 7, true), 0);
    assert_memory_equal(f->ram + DATA, "exactly\xff", 8);
    assert_int_equal(request(f, VIRTIO_BLK_T_GET_ID, 0, 32, true), 0);
    assert_int_equal(f->ram[DATA + 20], 0);
    assert_int_equal(f->ram[DATA + 32], 0xff);
}

static void get_id_fills_what_there_is_room_for(void **state)
{
    run_fixture((struct fixture){.co_test = co_get_id,
                                 .props = {.serial = "exactly-twenty-bytes"}});
}

static void co_failed_read(struct fixture *f)
{
    memset(f->ram + DATA, 0xff, 512);
    guest_disk_fail(DISK_READ, EIO, 1);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512, true),
                     VIRTIO_BLK_S_IOERR);
    /* The used length promises that the buffer was written. */
    assert_int_equal(last_length(f), 513);
    assert_int_equal(f->ram[DATA] | f->ram[DATA + 511], 0);
}

static void failed_read_leaves_no_stale_data(void **state)
{
    run(co_failed_read);
}

static void put_segment(struct fixture *f, unsigned i, uint64_t sector,
                        uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_segment s = {sector, sectors, flags};

    memcpy(f->ram + DATA + i * sizeof(s), &s, sizeof(s));
}

static void co_segments(struct fixture *f)
{
    uint32_t max = config(f).max_discard_seg;

    memset(disk.data, 1, DISK_BYTES);
    put_segment(f, 0, 8, 8, 0);
    put_segment(f, 1, 32, 16, 0);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 32, false), 0);
    assert_int_equal(disk.discards, 2);
    assert_int_equal(disk.data[8 * 512 - 1], 1);
    assert_int_equal(disk.data[8 * 512], 0xdd);
    assert_int_equal(disk.data[16 * 512], 1);
    assert_int_equal(disk.data[48 * 512 - 1], 0xdd);
    assert_int_equal(request(f, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32, false), 0);
    assert_int_equal(disk.data[8 * 512], 0);
    assert_int_equal(disk.data[48 * 512 - 1], 0);

    static const struct {
        uint32_t type;
        struct virtio_blk_segment second;
        uint8_t status;
    } bad[] = {
        {VIRTIO_BLK_T_DISCARD, {64, 8, 1}, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_DISCARD, {64, 8, 2}, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_WRITE_ZEROES, {64, 8, 2}, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_WRITE_ZEROES, {64, 8, 0x80000001}, VIRTIO_BLK_S_UNSUPP},
        {VIRTIO_BLK_T_DISCARD, {64, 0, 0}, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_DISCARD, {64, 101, 0}, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_DISCARD, {2047, 2, 0}, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_WRITE_ZEROES, {64, UINT32_MAX, 0}, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_WRITE_ZEROES, {UINT64_MAX, 8, 0}, VIRTIO_BLK_S_IOERR},
        {VIRTIO_BLK_T_WRITE_ZEROES,
         {UINT64_C(1) << 55, 8, 0},
         VIRTIO_BLK_S_IOERR},
    };
    unsigned before = disk.discards + disk.zeroes;

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        memcpy(f->ram + DATA + 16, &bad[i].second, 16);
        uint8_t status = request(f, bad[i].type, 0, 32, false);
        if (status != bad[i].status) {
            fail_msg("segment %u: status %u", i, status);
        }
    }
    /* A bad segment keeps the good one before it from being carried out. */
    assert_int_equal(disk.discards + disk.zeroes, before);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 15, false),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, 0, false),
                     VIRTIO_BLK_S_IOERR);
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, (max + 1) * 16, false),
                     VIRTIO_BLK_S_IOERR);
    for (unsigned i = 0; i < max; i++) {
        put_segment(f, i, i * 8, 8, 0);
    }
    assert_int_equal(request(f, VIRTIO_BLK_T_DISCARD, 0, max * 16, false), 0);
}

static void segments_are_checked_before_any_is_done(void **state)
{
    run_fixture((struct fixture){.co_test = co_segments,
                                 .props = {.max_discard_sectors = 100}});
}

/* ---- violations at the level of requests ---- */

static void short_header(struct fixture *f)
{
    describe(f, 0, HEADER, 15, NEXT);
    describe(f, 1, STATUS, 1, WRITE);
}

static void no_readable_part(struct fixture *f)
{
    describe(f, 0, STATUS, 17, WRITE);
}

static void no_status(struct fixture *f)
{
    describe(f, 0, HEADER, 16, NEXT);
    describe(f, 1, DATA, 512, 0);
}

static void empty_data(struct fixture *f)
{
    describe(f, 0, HEADER, 16, NEXT);
    describe(f, 1, DATA, 0, NEXT);
    describe(f, 2, STATUS, 1, WRITE);
}

static void co_violations(struct fixture *f)
{
    static void (*const rows[])(struct fixture * f) = {
        short_header, no_readable_part, no_status, empty_data};

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        unsigned notified = f->config_notifications;

        /* One request is in flight, one good one comes with the bad one. */
        disk.gate = true;
        header(f, VIRTIO_BLK_T_IN, 0);
        describe(f, 8, HEADER, 16, NEXT);
        describe(f, 9, DATA, 512, NEXT | WRITE);
        describe(f, 10, STATUS, 1, WRITE);
        f->ram[STATUS] = 0xee;
        make_available(f, 8);
        settle();
        assert_int_equal(disk.inside, 1);
        rows[i](f);
        make_available(f, 0);
        settle();
        assert_int_equal(virtio_blk_status(f->dev) & VIRTIO_STATUS_NEEDS_RESET,
                         VIRTIO_STATUS_NEEDS_RESET);
        assert_int_equal(f->config_notifications, notified + 1);
        assert_int_equal(f->used->idx, 0);

        /* A reset waits for what is in flight, which leaves no trace. */
        virtio_blk_set_status(f->dev, 0);
        assert_int_not_equal(virtio_blk_status(f->dev), 0);
        virtio_blk_set_status(f->dev, 1);
        settle();
        assert_int_not_equal(virtio_blk_status(f->dev), 0);
        guest_disk_open_gate();
        settle();
        assert_int_equal(virtio_blk_status(f->dev), 0);
        assert_int_equal(f->used->idx, 0);
        assert_int_equal(f->ram[STATUS], 0xee);
        start(f);
        assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512, true), 0);
        virtio_blk_set_status(f->dev, 0);
        start(f);
    }
}

static void violation_needs_a_reset_that_waits_for_requests(void **state)
{
    run(co_violations);
}

static void co_bad_rings(struct fixture *f)
{
    struct virtqueue_setup bad = {
        .size = SIZE, .desc = BASE + MEMORY, .avail = BASE, .used = BASE};

    virtio_blk_set_status(f->dev, 0);
    virtio_blk_set_status(f->dev, 3);
    virtio_blk_ack(f->dev, VIRTIO_BIT(VIRTIO_F_VERSION_1));
    virtio_blk_set_status(f->dev, 11);
    virtio_blk_set_queue(f->dev, 0, &bad);
    virtio_blk_set_queue(f->dev, 1000, &bad);
    virtio_blk_set_status(f->dev, 15);
    assert_int_equal(virtio_blk_status(f->dev), 15 | VIRTIO_STATUS_NEEDS_RESET);
    virtio_blk_kick(f->dev, 0);
    virtio_blk_kick(f->dev, 1000);
    settle();
    virtio_blk_set_status(f->dev, 0);
    start(f);
    assert_int_equal(request(f, VIRTIO_BLK_T_IN, 0, 512, true), 0);
}

static void rings_outside_guest_memory_need_a_reset(void **state)
{
    run(co_bad_rings);
}

/* ---- completion ---- */

static void co_batch(struct fixture *f)
{
    header(f, VIRTIO_BLK_T_FLUSH, 0);
    for (unsigned i = 0; i < SIZE; i += 2) {
        describe(f, i, HEADER, 16, NEXT);
        describe(f, i + 1, STATUS + i, 1, WRITE);
        make_available(f, i);
    }
    settle();
    assert_int_equal(f->used->idx, SIZE / 2);
    assert_int_equal(f->queue_notifications, 1);
}

static void batch_is_completed_with_one_notification(void **state)
{
    run(co_batch);
    run_fixture((struct fixture){.co_test = co_batch,
                                 .drop = VIRTIO_BIT(VIRTIO_F_EVENT_IDX)});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_may_be_cut_anywhere),
        cmocka_unit_test(unknown_types_are_unsupported),
        cmocka_unit_test(read_only_disk_fails_writes),
        cmocka_unit_test(get_id_fills_what_there_is_room_for),
        cmocka_unit_test(failed_read_leaves_no_stale_data),
        cmocka_unit_test(segments_are_checked_before_any_is_done),
        cmocka_unit_test(violation_needs_a_reset_that_waits_for_requests),
        cmocka_unit_test(rings_outside_guest_memory_need_a_reset),
        cmocka_unit_test(batch_is_completed_with_one_notification),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
