/*
 * The vhost-user server, driven over its socket by a front-end of our own: what
 * a well-behaved one gets, and one whose memory or rings break.
 */
#include "lib/vhost_fixture.h"

/* After n requests of one descriptor each. */
static uint32_t base(unsigned n)
{
    return vhost_client_base(&client, n);
}

static bool start_queue(unsigned i, unsigned n)
{
    return vhost_client_start_queue(&client, i, base(n));
}

/* ---- a well-behaved front-end ---- */

static void serves_a_disk(void **state)
{
    struct virtio_blk_config config;
    char serial[21] = "";

    assert_true(vhost_client_start(&client, 2, QUEUE));
    assert_true(vhost_client_get_config(&client, &config));
    assert_int_equal(config.capacity, DISK_BYTES / 512);
    assert_int_equal(config.num_queues, 2);
    check_works();
    assert_int_equal(io(1, VIRTIO_BLK_T_IN, 8, back, 512), 0);
    assert_memory_equal(buf, back, 512);
    assert_int_equal(io(1, VIRTIO_BLK_T_GET_ID, 0, serial, 20), 0);
    assert_string_equal(serial, "varve-7");
    assert_int_equal(io(0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(disk.flushes, 1);
    struct virtio_blk_segment segment = {.sector = 8, .num_sectors = 8};
    assert_int_equal(io(0, VIRTIO_BLK_T_WRITE_ZEROES, 0, &segment, 16), 0);
    assert_int_equal(disk.data[4096], 0);
    assert_int_equal(io(0, VIRTIO_BLK_T_IN, DISK_BYTES / 512, back, 512),
                     VIRTIO_BLK_S_IOERR);
    assert_true(client.queues[0].calls > 0 && client.queues[1].calls > 0);
    assert_string_equal(logged->str, "");
}

static void serves_front_ends_without_protocol_features(void **state)
{
    uint64_t bit = VIRTIO_BIT(VHOST_USER_F_PROTOCOL_FEATURES);

    assert_true(vhost_client_negotiate(&client, bit, 0));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(start_queue(0, 0));
    check_works();
}

static void serves_rings_without_event_idx_or_indirect(void **state)
{
    uint64_t bits =
        VIRTIO_BIT(VIRTIO_F_EVENT_IDX) | VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);

    assert_true(vhost_client_negotiate(&client, bits, 0));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(start_queue(0, 0));
    check_works();
    check_works();
}

static void fills_its_queue_and_wraps(void **state)
{
    int status[QUEUE];
    struct guest_slot *slots[QUEUE];

    assert_true(vhost_client_start(&client, 1, QUEUE));
    for (unsigned round = 0; round < 9; round++) {
        for (unsigned i = 0; i < QUEUE - 3; i++) {
            buf[0] = round;
            slots[i] = vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, i, buf,
                                           512, &status[i]);
            assert_non_null(slots[i]);
        }
        vhost_client_kick(&client, 0);
        settle();
        vhost_client_reap(&client);
        for (unsigned i = 0; i < QUEUE - 3; i++) {
            assert_int_equal(status[i], 0);
            assert_int_equal(disk.data[i * 512], round);
            guest_queue_put(slots[i]);
        }
    }
    assert_int_equal(client.queues[0].ring.violations, 0);
}

static void a_disabled_queue_waits(void **state)
{
    int status;

    assert_true(vhost_client_start(&client, 1, QUEUE));
    assert_true(
        vhost_client_set_state(&client, VHOST_USER_SET_VRING_ENABLE, 0, 0));
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_IN, 0, NULL, 512, &status);
    vhost_client_kick(&client, 0);
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status, 0xff);
    assert_true(
        vhost_client_set_state(&client, VHOST_USER_SET_VRING_ENABLE, 0, 1));
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status, 0);
}

static void get_vring_base_waits_for_requests(void **state)
{
    struct vhost_user_vring_state q = {.index = 0};
    struct vhost_user_message m;
    int status[3];

    assert_true(vhost_client_start(&client, 1, QUEUE));
    disk.gate = true;
    for (unsigned i = 0; i < 3; i++) {
        vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, i, buf, 512,
                            &status[i]);
    }
    vhost_client_kick(&client, 0);
    settle();
    assert_int_equal(disk.inside, 3);
    assert_true(vhost_client_send(&client, VHOST_USER_GET_VRING_BASE, 0, &q,
                                  sizeof(q), NULL, 0));
    settle();
    assert_int_equal(recv(client.socket, &m, 1, MSG_DONTWAIT | MSG_PEEK), -1);
    guest_disk_open_gate();
    assert_true(vhost_client_receive(&client, &m));
    assert_int_equal(m.payload.state.num, base(3));
    vhost_client_reap(&client);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(status[i], 0);
    }
    /* It goes on where it stopped. */
    assert_true(start_queue(0, 3));
    check_works();
}

static void a_queue_is_reset_while_the_other_runs(void **state)
{
    struct vhost_user_vring_state q = {.index = 1};
    char id[20];
    int status[2];

    assert_true(vhost_client_start(&client, 2, QUEUE));
    assert_true(client.features & VIRTIO_BIT(VIRTIO_F_RING_RESET));
    for (unsigned i = 0; i < 5; i++) {
        assert_true(vhost_client_reset_queue(&client, 1));
        assert_int_equal(io(1, VIRTIO_BLK_T_IN, 0, back, 512), 0);
        check_works();
    }
    /* It waits for the requests of its queue, and for no others. */
    disk.gate = true;
    vhost_client_submit(&client, 1, VIRTIO_BLK_T_OUT, 0, buf, 512, &status[0]);
    vhost_client_kick(&client, 1);
    settle();
    assert_true(vhost_client_send(&client, VHOST_USER_GET_VRING_BASE, 0, &q,
                                  sizeof(q), NULL, 0));
    settle();
    assert_int_equal(io(0, VIRTIO_BLK_T_GET_ID, 0, id, 20), 0);
    vhost_client_submit(&client, 1, VIRTIO_BLK_T_OUT, 1, buf, 512, &status[1]);
    vhost_client_kick(&client, 1);
    settle();
    assert_int_equal(disk.inside, 1);
    guest_disk_open_gate();
    struct vhost_user_message m;
    assert_true(vhost_client_receive(&client, &m));
    assert_int_equal(m.payload.state.num, base(2));
    assert_int_equal(disk.writes, 5 + 1);
    assert_true(vhost_client_reset_queue(&client, 1));
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status[0], 0);
    assert_int_equal(status[1], 0);
    assert_int_equal(disk.writes, 5 + 2);
    assert_int_equal(client.queues[1].ring.violations, 0);
}

static void memory_changes_while_a_queue_runs(void **state)
{
    uint64_t slots;

    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_get(&client, VHOST_USER_GET_MAX_MEM_SLOTS, &slots,
                                 sizeof(slots)));
    assert_true(slots >= 32);
    assert_true(vhost_client_share_memory(&client, 2, QUEUE, true));
    assert_true(start_queue(0, 0));
    check_works();
    /* The region of queue 1 goes and comes, queue 0 does not notice. */
    struct vhost_user_mem_region r = {
        .region = {.gpa = VHOST_CLIENT_GPA + 2 * client.region_bytes,
                   .bytes = client.region_bytes,
                   .user = VHOST_CLIENT_USER + 3 * client.region_bytes,
                   .mmap_offset = client.region_bytes}};
    assert_true(vhost_client_set(&client, VHOST_USER_REM_MEM_REG, &r, sizeof(r),
                                 NULL, 0));
    check_works();
    assert_true(vhost_client_set(&client, VHOST_USER_ADD_MEM_REG, &r, sizeof(r),
                                 &client.ram_fd, 1));
    assert_true(start_queue(1, 0));
    assert_int_equal(io(1, VIRTIO_BLK_T_IN, 8, back, 512), 0);
    check_works();
}

static void a_memory_change_waits_for_requests(void **state)
{
    struct vhost_user_mem_region r = {0};
    struct vhost_user_message m;
    int status;

    assert_true(vhost_client_start(&client, 2, QUEUE));
    r.region = (struct vhost_user_region){
        .gpa = VHOST_CLIENT_GPA + 2 * client.region_bytes,
        .bytes = client.region_bytes,
        .user = VHOST_CLIENT_USER + 3 * client.region_bytes};
    assert_int_equal(vhost_client_stop_queue(&client, 1), base(0));
    disk.gate = true;
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, 0, buf, 512, &status);
    vhost_client_kick(&client, 0);
    settle();
    assert_true(vhost_client_send(&client, VHOST_USER_REM_MEM_REG,
                                  VHOST_USER_FLAG_NEED_REPLY, &r, sizeof(r),
                                  NULL, 0));
    settle();
    assert_int_equal(recv(client.socket, &m, 1, MSG_DONTWAIT | MSG_PEEK), -1);
    guest_disk_open_gate();
    assert_true(vhost_client_receive(&client, &m));
    assert_int_equal(m.payload.u64, 0);
    check_works();
}

static void a_read_only_disk_stays_as_it_is(void **state)
{
    assert_true(vhost_client_start(&client, 1, QUEUE));
    assert_true(client.features & VIRTIO_BIT(VIRTIO_BLK_F_RO));
    assert_int_equal(io(0, VIRTIO_BLK_T_OUT, 0, buf, 512), VIRTIO_BLK_S_IOERR);
    assert_int_equal(disk.writes, 0);
}

static void the_write_cache_is_switched_by_config(void **state)
{
    struct vhost_user_config c = {
        .offset = offsetof(struct virtio_blk_config, writeback), .size = 1};
    uint32_t bytes = offsetof(struct vhost_user_config, data) + 1;

    assert_true(vhost_client_start(&client, 1, QUEUE));
    assert_int_equal(io(0, VIRTIO_BLK_T_OUT, 0, buf, 512), 0);
    assert_false(disk.last_flags & REQ_FUA);
    assert_true(
        vhost_client_set(&client, VHOST_USER_SET_CONFIG, &c, bytes, NULL, 0));
    assert_int_equal(io(0, VIRTIO_BLK_T_OUT, 0, buf, 512), 0);
    assert_true(disk.last_flags & REQ_FUA);
    /* A driver that was not reset relies on it. */
    assert_int_equal(vhost_client_stop_queue(&client, 0), base(2));
    assert_true(start_queue(0, 2));
    assert_int_equal(io(0, VIRTIO_BLK_T_OUT, 0, buf, 512), 0);
    assert_true(disk.last_flags & REQ_FUA);
}

static void a_resize_is_told(void **state)
{
    struct vhost_user_header h;
    struct virtio_blk_config config;

    assert_true(vhost_client_start(&client, 1, QUEUE));
    assert_true(vhost_client_open_channel(&client));
    disk.node->length = DISK_BYTES / 2;
    disk.backend->device_ops->resized(disk.backend->device);
    settle();
    assert_int_equal(recv(client.backend_channel, &h, sizeof(h), MSG_DONTWAIT),
                     sizeof(h));
    assert_int_equal(h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
    assert_int_equal(h.flags, VHOST_USER_VERSION);
    assert_int_equal(h.size, 0);
    assert_true(vhost_client_get_config(&client, &config));
    assert_int_equal(config.capacity, DISK_BYTES / 1024);
    disk.node->length = DISK_BYTES;
}

static void a_reset_lets_it_start_anew(void **state)
{
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
    assert_true(
        vhost_client_set(&client, VHOST_USER_RESET_DEVICE, NULL, 0, NULL, 0));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(start_queue(0, 0));
    check_works();
}

/* ---- packed rings ---- */

static void packed_rings_have_any_size(void **state)
{
    for (unsigned size = 1; size <= QUEUE; size++) {
        assert_true(vhost_client_start(&client, 1, size));
        assert_true(client.features & VIRTIO_BIT(VIRTIO_F_RING_PACKED));
        for (unsigned i = 0; i < 2 * size + 1; i++) {
            check_works();
        }
        assert_int_equal(client.queues[0].ring.violations, 0);
        reconnect();
    }
}

static void packed_ring_goes_on_in_every_lap(void **state)
{
    assert_true(vhost_client_start(&client, 1, 5));
    for (unsigned n = 0; n < 22; n++) {
        assert_int_equal(vhost_client_stop_queue(&client, 0), base(n));
        assert_true(start_queue(0, n));
        assert_int_equal(io(0, VIRTIO_BLK_T_IN, 0, back, 512), 0);
    }
    /* A front-end may leave out what it was told. */
    assert_int_equal(vhost_client_stop_queue(&client, 0), base(22));
    struct vhost_user_vring_addr addr = {.index = 0};
    assert_true(vhost_client_set(&client, VHOST_USER_SET_VRING_ADDR, &addr,
                                 sizeof(addr), NULL, 0));
    assert_int_equal(vhost_client_stop_queue(&client, 0), base(22));
}

static void packed_base_beyond_the_ring_is_refused(void **state)
{
    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, 1, 5, false));
    assert_false(vhost_client_start_queue(&client, 0, 0x80058000));
    assert_non_null(strstr(logged->str, "position outside of the ring"));
    reconnect();
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

/* ---- coming and going ---- */

static void a_front_end_comes_back(void **state)
{
    int status;

    for (unsigned i = 0; i < 3; i++) {
        assert_true(vhost_client_start(&client, 1, QUEUE));
        check_works();
        /* One in flight when it leaves. */
        disk.gate = true;
        vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, 0, buf, 512, &status);
        vhost_client_kick(&client, 0);
        settle();
        assert_int_equal(disk.inside, 1);
        reconnect();
        settle();
        guest_disk_open_gate();
    }
    assert_string_equal(logged->str, "");
}

static void a_second_front_end_waits_for_its_turn(void **state)
{
    struct vhost_client first = client;

    assert_true(vhost_client_start(&first, 1, QUEUE));
    assert_true(vhost_client_connect(&client, path, pass, NULL));
    assert_true(vhost_client_send(&client, VHOST_USER_GET_FEATURES, 0, NULL, 0,
                                  NULL, 0));
    settle();
    assert_int_equal(recv(client.socket, back, 1, MSG_DONTWAIT), -1);
    vhost_client_close(&first);
    struct vhost_user_message m;
    assert_true(vhost_client_receive(&client, &m));
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

static void ends_while_requests_are_held(void **state)
{
    int status;

    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_STOP;
    guest_disk_fail(DISK_WRITE, ENOSPC, 1);
    assert_true(vhost_client_start(&client, 1, QUEUE));
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, 0, buf, 512, &status);
    vhost_client_kick(&client, 0);
    settle();
    assert_false(vm_running());
    /* finish() frees the server. */
}

static void co_cont(void *opaque)
{
    co_vm_start();
}

static void a_held_request_is_done_by_cont(void **state)
{
    int status;

    disk.backend->on_write_error = BLOCKDEV_ON_ERROR_ENOSPC;
    guest_disk_fail(DISK_WRITE, ENOSPC, 1);
    assert_true(vhost_client_start(&client, 1, QUEUE));
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, 0, buf, 512, &status);
    vhost_client_kick(&client, 0);
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status, 0xff);
    loop_bind(NULL);
    loop_run_co(loop, co_cont, NULL);
    loop_bind(loop);
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status, 0);
    assert_memory_equal(disk.data, buf, 512);
}

/* ---- memory that goes away ---- */

static void check_truncated(bool rings_too)
{
    uint64_t status;
    eventfd_t count;
    int ended;

    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
    struct guest_slot *slot =
        vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, 0, buf, 512, &ended);
    vhost_client_kick(&client, 0);
    assert_int_equal(
        ftruncate(client.ram_fd, rings_too ? 0 : slot->data - client.ram), 0);
    g_string_truncate(logged, 0);
    settle();
    if (!rings_too) {
        vhost_client_reap(&client);
    }
    assert_int_equal(ended, 0xff);
    assert_int_equal(eventfd_read(client.queues[0].err, &count), 0);
    assert_non_null(strstr(logged->str, "guest memory has gone away"));
    assert_true(vhost_client_get(&client, VHOST_USER_GET_STATUS, &status,
                                 sizeof(status)));
    assert_true(status & VIRTIO_STATUS_NEEDS_RESET);
    reconnect();
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

static void truncated_memory_breaks_the_device_only(void **state)
{
    check_truncated(true);
    reconnect();
    check_truncated(false);
}

static void a_broken_ring_works_after_a_stop(void **state)
{
    eventfd_t count;

    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
    guest_queue_add_raw(&client.queues[0].ring, QUEUE + 5);
    vhost_client_kick(&client, 0);
    settle();
    assert_int_equal(eventfd_read(client.queues[0].err, &count), 0);
    assert_non_null(strstr(logged->str, "head out of range"));
    assert_true(vhost_client_stop_queue(&client, 0) >= 0);
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(start_queue(0, 0));
    check_works();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(serves_a_disk),
        BOTH(serves_front_ends_without_protocol_features),
        BOTH(serves_rings_without_event_idx_or_indirect),
        BOTH(fills_its_queue_and_wraps),
        BOTH(a_disabled_queue_waits),
        BOTH(get_vring_base_waits_for_requests),
        BOTH(a_queue_is_reset_while_the_other_runs),
        BOTH(memory_changes_while_a_queue_runs),
        BOTH(a_memory_change_waits_for_requests),
        cmocka_unit_test_setup_teardown(a_read_only_disk_stays_as_it_is,
                                        begin_read_only, finish),
        BOTH(the_write_cache_is_switched_by_config),
        BOTH(a_resize_is_told),
        BOTH(a_reset_lets_it_start_anew),
        PACKED(packed_rings_have_any_size),
        PACKED(packed_ring_goes_on_in_every_lap),
        PACKED(packed_base_beyond_the_ring_is_refused),
        BOTH(a_front_end_comes_back),
        BOTH(a_second_front_end_waits_for_its_turn),
        BOTH(ends_while_requests_are_held),
        BOTH(a_held_request_is_done_by_cont),
        BOTH(truncated_memory_breaks_the_device_only),
        BOTH(a_broken_ring_works_after_a_stop),
    };

    g_log_set_writer_func(on_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
