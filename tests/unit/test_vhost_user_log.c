/*
 * Whatever the device writes to guest memory is marked in the front-end's log,
 * page by page, while it wants that.
 */
#include "lib/vhost_fixture.h"

#include <inttypes.h>

enum { PAGE = 4096, LOG = 8192 };

static int log_fd;
static uint8_t *pages;
static uint8_t *before; /* all of memory */

static int begin_log(void **state)
{
    log_fd = memfd_create("log", MFD_CLOEXEC);
    assert_int_equal(ftruncate(log_fd, LOG + 512), 0);
    return 0;
}

static void map_log(void)
{
    uint8_t *p =
        mmap(NULL, LOG + 512, PROT_READ | PROT_WRITE, MAP_SHARED, log_fd, 0);

    assert_true(p != MAP_FAILED);
    pages = p + 512;
}

static int end_log(void **state)
{
    munmap(pages - 512, LOG + 512);
    close(log_fd);
    g_clear_pointer(&before, g_free);
    return finish(state);
}

static bool set_log(uint64_t bytes)
{
    struct vhost_user_log_area area = {bytes, 512};
    struct vhost_user_message m;

    return vhost_client_send(&client, VHOST_USER_SET_LOG_BASE, 0, &area,
                             sizeof(area), &log_fd, 1) &&
           vhost_client_receive(&client, &m) &&
           m.header.request == VHOST_USER_SET_LOG_BASE && m.header.size == 0;
}

/* A queue runs before the guest begins to migrate. */
static void start_and_log(void)
{
    begin_log(NULL);
    map_log();
    assert_true(
        vhost_client_negotiate(&client, VIRTIO_BIT(VHOST_F_LOG_ALL), 0));
    assert_true(vhost_client_share_memory(&client, 2, QUEUE, false));
    assert_true(
        vhost_client_start_queue(&client, 0, vhost_client_base(&client, 0)));
    check_works();
    assert_true(set_log(LOG));
    client.features |= VIRTIO_BIT(VHOST_F_LOG_ALL);
    assert_true(vhost_client_set_u64(&client, VHOST_USER_SET_FEATURES,
                                     client.features, -1));
    client.log_rings = true;
    assert_true(vhost_client_set_addr(&client, 0));
    before = g_malloc(client.ram_bytes);
}

static bool marked(uint64_t gpa)
{
    uint64_t page = gpa / PAGE;

    return pages[page / 8] >> page % 8 & 1;
}

static bool any_mark(void)
{
    for (unsigned i = 0; i < LOG; i++) {
        if (pages[i]) {
            return true;
        }
    }
    return false;
}

static void remember(void)
{
    memcpy(before, client.ram, client.ram_bytes);
    memset(pages, 0, LOG);
}

/* Regions are apart in guest addresses, and one behind the other in memory. */
static uint64_t gpa_of(uint64_t at)
{
    return VHOST_CLIENT_GPA + at +
           at / client.region_bytes * client.region_bytes;
}

static void check_marks(void)
{
    for (uint64_t at = 0; at < client.ram_bytes; at += PAGE) {
        if (memcmp(before + at, client.ram + at, PAGE) && !marked(gpa_of(at))) {
            fail_msg("page at %#" PRIx64 " was not marked", gpa_of(at));
        }
    }
}

static struct guest_slot *do_request(uint32_t type, uint64_t sector, void *data,
                                     uint32_t bytes)
{
    int status;
    struct guest_slot *slot =
        vhost_client_submit(&client, 0, type, sector, data, bytes, &status);

    assert_non_null(slot);
    remember();
    vhost_client_kick(&client, 0);
    settle();
    vhost_client_reap(&client);
    assert_int_equal(status, 0);
    return slot;
}

static void every_page_that_changes_is_marked(void **state)
{
    start_and_log();
    memset(disk.data, 0x77, DISK_BYTES);
    for (unsigned i = 0; i < 20; i++) {
        struct guest_slot *slot =
            do_request(VIRTIO_BLK_T_IN, 5, NULL, PAGE * (1 + i % 3));
        check_marks();
        assert_true(marked(slot->data_gpa));
        assert_true(marked(slot->control_gpa));
        assert_true(marked(client.queues[0].ring.used_gpa));
        guest_queue_put(slot);
        slot = do_request(VIRTIO_BLK_T_OUT, 5, buf, PAGE);
        check_marks();
        assert_false(marked(slot->data_gpa));
        guest_queue_put(slot);
        guest_queue_put(do_request(VIRTIO_BLK_T_GET_ID, 0, NULL, 20));
        check_marks();
        guest_queue_put(do_request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0));
        check_marks();
    }
    assert_string_equal(logged->str, "");
}

static void nothing_is_marked_without_need(void **state)
{
    start_and_log();
    /* Only the data. */
    client.log_rings = false;
    assert_true(vhost_client_set_addr(&client, 0));
    struct guest_slot *slot = do_request(VIRTIO_BLK_T_IN, 0, NULL, PAGE);
    assert_true(marked(slot->data_gpa));
    assert_false(marked(client.queues[0].ring.used_gpa));
    /* The migration has ended. */
    assert_true(vhost_client_set_u64(
        &client, VHOST_USER_SET_FEATURES,
        client.features & ~VIRTIO_BIT(VHOST_F_LOG_ALL), -1));
    do_request(VIRTIO_BLK_T_IN, 0, NULL, PAGE);
    assert_false(any_mark());
    assert_ptr_not_equal(server->dev->queues[0].vq.format,
                         &tracked_ring_format);
}

static void the_used_ring_is_logged_where_the_front_end_says(void **state)
{
    start_and_log();
    client.log_shift = UINT64_C(0x8000000);
    assert_true(vhost_client_set_addr(&client, 0));
    do_request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
    assert_true(marked(client.queues[0].ring.used_gpa + UINT64_C(0x8000000)));
}

static void what_is_in_flight_is_logged_before_a_stop(void **state)
{
    int status;

    start_and_log();
    disk.gate = true;
    memset(disk.data, 0x66, DISK_BYTES);
    struct guest_slot *slot = vhost_client_submit(&client, 0, VIRTIO_BLK_T_IN,
                                                  0, NULL, PAGE, &status);
    vhost_client_kick(&client, 0);
    settle();
    remember();
    guest_disk_open_gate();
    assert_true(vhost_client_stop_queue(&client, 0) >= 0);
    check_marks();
    assert_true(marked(slot->data_gpa));
}

static void the_front_end_is_told_of_marks(void **state)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    eventfd_t count;

    start_and_log();
    assert_true(
        vhost_client_set(&client, VHOST_USER_SET_LOG_FD, NULL, 0, &fd, 1));
    do_request(VIRTIO_BLK_T_IN, 0, NULL, PAGE);
    assert_int_equal(eventfd_read(fd, &count), 0);
    close(fd);
}

static void a_log_that_is_too_small_breaks_the_device(void **state)
{
    int status;

    start_and_log();
    assert_true(set_log(VHOST_CLIENT_GPA / PAGE / 8));
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_IN, 0, NULL, PAGE, &status);
    vhost_client_kick(&client, 0);
    settle();
    assert_non_null(strstr(logged->str, "the log of dirty pages is too small"));
    reconnect();
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

static void a_log_that_shrinks_breaks_the_device(void **state)
{
    int status;

    start_and_log();
    assert_int_equal(ftruncate(log_fd, 0), 0);
    vhost_client_submit(&client, 0, VIRTIO_BLK_T_IN, 0, NULL, PAGE, &status);
    vhost_client_kick(&client, 0);
    settle();
    assert_non_null(
        strstr(logged->str, "the log of dirty pages has gone away"));
    reconnect();
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

#undef CASE
#undef PACKED
#define CASE(f) cmocka_unit_test_setup_teardown(f, begin, end_log)
#define PACKED(f)                                  \
    {                                              \
#f ", packed", f, begin_packed, end_log, 0 \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(every_page_that_changes_is_marked),
        BOTH(nothing_is_marked_without_need),
        BOTH(the_used_ring_is_logged_where_the_front_end_says),
        BOTH(what_is_in_flight_is_logged_before_a_stop),
        BOTH(the_front_end_is_told_of_marks),
        BOTH(a_log_that_is_too_small_breaks_the_device),
        BOTH(a_log_that_shrinks_breaks_the_device),
    };

    g_log_set_writer_func(on_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
