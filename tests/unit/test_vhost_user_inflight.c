/*
 * Requests in flight survive the end of a connection: they are done again, in
 * order, by the next back-end that gets the region.
 */
#include "lib/vhost_fixture.h"

/* A driver's requests: writes of 512 bytes of their number to that sector. */
static int status[QUEUE];
static struct guest_slot *slots[QUEUE];

static void submit(unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i++) {
        memset(buf, i + 1, 512);
        slots[i] = vhost_client_submit(&client, 0, VIRTIO_BLK_T_OUT, i, buf,
                                       512, &status[i]);
        assert_non_null(slots[i]);
    }
    vhost_client_kick(&client, 0);
    settle();
}

static unsigned ended(unsigned n)
{
    unsigned count = 0;

    settle();
    vhost_client_reap(&client);
    for (unsigned i = 0; i < n; i++) {
        count += status[i] == 0;
    }
    assert_int_equal(client.queues[0].ring.violations, 0);
    return count;
}

static void start_with_region(unsigned num_queues)
{
    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, num_queues, QUEUE, false));
    assert_true(vhost_client_get_inflight(&client, num_queues, QUEUE));
    for (unsigned i = 0; i < num_queues; i++) {
        assert_true(vhost_client_start_queue(&client, i,
                                             vhost_client_base(&client, 0)));
    }
}

/* The connection ends; nothing that ends after it is shown. */
static void lose_while_in_flight(void)
{
    vhost_client_lose(&client);
    settle();
    guest_disk_open_gate();
    settle();
    assert_null(server->session);
    disk.orders = 0;
    memset(disk.data, 0, DISK_BYTES);
}

static void requests_in_flight_are_done_again_in_order(void **state)
{
    start_with_region(2);
    check_works();
    disk.gate = true;
    submit(0, 5);
    lose_while_in_flight();
    assert_int_equal(ended(5), 0);

    assert_true(vhost_client_return(&client, path));
    assert_int_equal(ended(5), 5);
    assert_int_equal(disk.orders, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(disk.order[i], i * 512);
        assert_int_equal(disk.data[i * 512], i + 1);
        guest_queue_put(slots[i]);
    }
    check_works();
    assert_string_equal(logged->str, "");
}

static void what_was_acknowledged_is_not_done_again(void **state)
{
    start_with_region(1);
    submit(0, 3);
    assert_int_equal(ended(3), 3);
    disk.gate = true;
    submit(3, 6);
    lose_while_in_flight();
    assert_true(vhost_client_return(&client, path));
    assert_int_equal(ended(6), 6);
    assert_int_equal(disk.orders, 3);
    assert_int_equal(disk.order[0], 3 * 512);
}

static void what_was_added_meanwhile_comes_after(void **state)
{
    start_with_region(1);
    disk.gate = true;
    submit(0, 2);
    lose_while_in_flight();
    submit(2, 5);
    assert_true(vhost_client_return(&client, path));
    assert_int_equal(ended(5), 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(disk.order[i], i * 512);
    }
}

static void several_ends_lose_nothing(void **state)
{
    start_with_region(1);
    disk.gate = true;
    submit(0, 4);
    for (unsigned i = 0; i < 3; i++) {
        lose_while_in_flight();
        disk.gate = true;
        assert_true(vhost_client_return(&client, path));
        settle();
        assert_int_equal(disk.inside, 4);
    }
    guest_disk_open_gate();
    assert_int_equal(ended(4), 4);
    assert_int_equal(disk.order[0], 0);
    assert_int_equal(disk.order[3], 3 * 512);
}

static void a_stop_waits_for_what_is_done_again(void **state)
{
    struct vhost_user_vring_state q = {.index = 0};
    struct vhost_user_message m;

    start_with_region(1);
    disk.gate = true;
    submit(0, 3);
    lose_while_in_flight();
    disk.gate = true;
    assert_true(vhost_client_return(&client, path));
    assert_true(vhost_client_send(&client, VHOST_USER_GET_VRING_BASE, 0, &q,
                                  sizeof(q), NULL, 0));
    settle();
    assert_int_equal(recv(client.socket, &m, 1, MSG_DONTWAIT | MSG_PEEK), -1);
    guest_disk_open_gate();
    assert_true(vhost_client_receive(&client, &m));
    assert_int_equal(m.payload.state.num, vhost_client_base(&client, 3));
    assert_int_equal(ended(3), 3);
    /* And it goes on with the same region. */
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 3)));
    check_works();
}

static void a_reset_forgets_what_was_in_flight(void **state)
{
    start_with_region(1);
    submit(0, 3);
    disk.gate = true;
    submit(3, 6);
    lose_while_in_flight();
    disk.gate = true;
    assert_true(vhost_client_return(&client, path));
    /* The queue runs, and its requests are inside; the driver gives up. */
    assert_true(vhost_client_send(&client, VHOST_USER_RESET_DEVICE, 0, NULL, 0,
                                  NULL, 0));
    settle();
    guest_disk_open_gate();
    settle();
    assert_int_equal(vhost_client_stop_queue(&client, 0),
                     vhost_client_base(&client, 0));
    uint16_t version;
    memcpy(&version, client.inflight_region + 8, sizeof(version));
    assert_int_equal(version, 0);
}

/* ---- regions that are wrong ---- */

/* Places in a region, as the specification has them. */
enum {
    VERSION = 8,
    DESC_NUM = 10,
    /* split */
    LAST_BATCH_HEAD = 12,
    USED_IDX = 14,
    DESC = 16,
    ENTRY = 16,
    NEXT = 6,
    COUNTER = 8,
    /* packed */
    FREE_HEAD = 12,
    OLD_FREE_HEAD = 14,
    PACKED_USED_IDX = 16,
    OLD_USED_IDX = 18,
    WRAPS = 20,
    PACKED_DESC = 32,
    PACKED_ENTRY = 32,
    PACKED_NEXT = 2,
    LAST = 4,
    NUM = 6,
    ID = 16,
    FLAGS = 18,
    ADDR = 24,
};

struct wrong {
    const char *error;
    struct {
        unsigned at;
        uint16_t value;
    } pokes[3];
};

/* Heads 3 to 5 are in flight; 0 to 2 have ended in one batch. */
static const struct wrong split_wrongs[] = {
    {"in-flight region of an unknown version", {{VERSION, 2}}},
    {"in-flight region of an unknown version", {{0, 1}}},
    {"in-flight region of another size", {{DESC_NUM, QUEUE / 2}}},
    {"in-flight region has an invalid mark", {{DESC + 3 * ENTRY, 2}}},
    {"in-flight region has two requests with one number",
     {{DESC + 3 * ENTRY + COUNTER, 7}, {DESC + 4 * ENTRY + COUNTER, 7}}},
    {"in-flight region belongs to another ring", {{USED_IDX, 100}}},
    {"in-flight region has a head out of range in its last batch",
     {{USED_IDX, 1}, {LAST_BATCH_HEAD, QUEUE}}},
    {"in-flight region has a head out of range in its last batch",
     {{USED_IDX, 1}, {LAST_BATCH_HEAD, 2}, {DESC + 2 * ENTRY + NEXT, 0xffff}}},
    {"in-flight region has a loop in its last batch",
     {{USED_IDX, 0}, {LAST_BATCH_HEAD, 2}, {DESC + 2 * ENTRY + NEXT, 2}}},
    {"in-flight region has more requests than were made available",
     {{DESC + 9 * ENTRY, 1}, {DESC + 9 * ENTRY + COUNTER, 99}}},
};

/* Entries 0 to 2 are in flight; the list of free ones begins with 3. */
static const struct wrong packed_wrongs[] = {
    {"in-flight region of an unknown version", {{VERSION, 0xffff}}},
    {"in-flight region of another size", {{DESC_NUM, 0}}},
    {"in-flight region has a position outside of the ring",
     {{PACKED_USED_IDX, QUEUE}}},
    {"in-flight region has a position outside of the ring",
     {{OLD_USED_IDX, 0xffff}}},
    {"in-flight region has a position outside of the ring", {{WRAPS, 0x0201}}},
    {"in-flight region has a free entry out of range",
     {{OLD_FREE_HEAD, QUEUE + 1}}},
    {"in-flight region has a free entry out of range",
     {{PACKED_DESC + 3 * PACKED_ENTRY + PACKED_NEXT, 0x7fff}}},
    {"in-flight region has a loop in its free list",
     {{PACKED_DESC + 5 * PACKED_ENTRY + PACKED_NEXT, 3}}},
    {"in-flight region has an invalid mark", {{PACKED_DESC, 3}}},
    {"in-flight region has a chain of entries that are not its own",
     {{PACKED_DESC + NUM, 2}, {PACKED_DESC + PACKED_NEXT, 4}}},
    {"in-flight region has a chain of entries that are not its own",
     {{PACKED_DESC + NUM, 2}, {PACKED_DESC + PACKED_NEXT, 0}}},
    {"in-flight region has a chain of entries that are not its own",
     {{PACKED_DESC + NUM, 2}, {PACKED_DESC + PACKED_NEXT, QUEUE}}},
    {"in-flight region has an invalid chain", {{PACKED_DESC + NUM, 0}}},
    {"in-flight region has an invalid chain", {{PACKED_DESC + LAST, 1}}},
    {"in-flight region has an invalid chain", {{PACKED_DESC + ID, QUEUE}}},
    {"in-flight region has entries that belong to nothing",
     {{PACKED_DESC + PACKED_ENTRY, 0}}},
    {"in-flight region has two requests with one number",
     {{PACKED_DESC + COUNTER, 7}, {PACKED_DESC + PACKED_ENTRY + COUNTER, 7}}},
    {"head made available twice",
     {{PACKED_DESC + ID, 5}, {PACKED_DESC + PACKED_ENTRY + ID, 5}}},
    {"outside guest memory", {{PACKED_DESC + ADDR + 6, 0x7777}}},
};

static void try_region(const struct wrong *w)
{
    start_with_region(1);
    submit(0, 3);
    disk.gate = true;
    submit(3, 6);
    lose_while_in_flight();
    for (unsigned k = 0; k < 3 && (w->pokes[k].at || w->pokes[k].value); k++) {
        memcpy(client.inflight_region + w->pokes[k].at, &w->pokes[k].value, 2);
    }
    g_string_truncate(logged, 0);
    vhost_client_return(&client, path);
    settle();
    if (!strstr(logged->str, w->error)) {
        fail_msg("'%s' is not in '%s'", w->error, logged->str);
    }
    reconnect();
    settle();
    start_with_region(1);
    check_works();
    reconnect();
}

static void wrong_regions_are_named_and_end_the_connection(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(split_wrongs); i++) {
        try_region(&split_wrongs[i]);
    }
}

static void wrong_packed_regions_are_named_and_end_the_connection(void **state)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(packed_wrongs); i++) {
        try_region(&packed_wrongs[i]);
    }
}

static void a_region_that_shrinks_breaks_the_device(void **state)
{
    int fd = memfd_create("short", MFD_CLOEXEC);

    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(vhost_client_get_inflight(&client, 1, QUEUE));
    assert_int_equal(ftruncate(client.inflight_fd, 0), -1);
    /* Ours is sealed; another one need not be. */
    assert_int_equal(ftruncate(fd, 4096), 0);
    close(client.inflight_fd);
    client.inflight_fd = fd;
    assert_true(vhost_client_set_inflight(&client));
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    check_works();
    assert_int_equal(ftruncate(fd, 0), 0);
    submit(0, 1);
    assert_int_equal(ended(1), 0);
    assert_non_null(strstr(logged->str, "the in-flight region has gone away"));
    reconnect();
    start_with_region(1);
    check_works();
}

static void any_place_and_size_of_a_region_will_do(void **state)
{
    int fd = memfd_create("elsewhere", MFD_CLOEXEC);

    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, 2, QUEUE, false));
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    client.inflight_fd = fd;
    client.inflight = (struct vhost_user_inflight_area){.mmap_size = 1 << 19,
                                                        .mmap_offset = 4032,
                                                        .num_queues = 2,
                                                        .queue_size = QUEUE};
    assert_true(vhost_client_set_inflight(&client));
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    check_works();
    uint16_t version;
    assert_int_equal(pread(fd, &version, 2, 4032 + VERSION), 2);
    assert_int_equal(version, 1);
}

static void a_queue_without_a_part_does_not_start(void **state)
{
    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, 2, QUEUE, false));
    assert_true(vhost_client_get_inflight(&client, 1, QUEUE));
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    assert_false(
        vhost_client_start_queue(&client, 1, vhost_client_base(&client, 0)));
    assert_non_null(
        strstr(logged->str, "queue 1 has no part of the in-flight region"));
}

static void a_ring_larger_than_its_part_does_not_start(void **state)
{
    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(vhost_client_get_inflight(&client, 1, QUEUE / 2));
    assert_false(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    assert_non_null(
        strstr(logged->str, "ring larger than its in-flight region"));
}

static void a_front_end_without_the_feature_is_served(void **state)
{
    uint64_t bit = VIRTIO_BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);

    assert_true(vhost_client_negotiate(&client, 0, bit));
    assert_true(vhost_client_share_memory(&client, 1, QUEUE, false));
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    assert_ptr_not_equal(server->dev->queues[0].vq.format,
                         &tracked_ring_format);
    check_works();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(requests_in_flight_are_done_again_in_order),
        BOTH(what_was_acknowledged_is_not_done_again),
        BOTH(what_was_added_meanwhile_comes_after),
        BOTH(several_ends_lose_nothing),
        BOTH(a_stop_waits_for_what_is_done_again),
        BOTH(a_reset_forgets_what_was_in_flight),
        CASE(wrong_regions_are_named_and_end_the_connection),
        PACKED(wrong_packed_regions_are_named_and_end_the_connection),
        BOTH(a_region_that_shrinks_breaks_the_device),
        BOTH(any_place_and_size_of_a_region_will_do),
        BOTH(a_queue_without_a_part_does_not_start),
        BOTH(a_ring_larger_than_its_part_does_not_start),
        BOTH(a_front_end_without_the_feature_is_served),
    };

    g_log_set_writer_func(on_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
