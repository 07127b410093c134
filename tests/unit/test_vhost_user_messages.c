/*
 * Messages of vhost-user that are wrong: each is named in the log and ends the
 * connection, and the next front-end is served.
 */
#include "lib/vhost_fixture.h"

enum { NONE, MEMFD, EVENT, NINE };

static const struct wrong {
    const char *error; /* what is logged */
    uint32_t request, bytes;
    uint64_t payload[6];
    int fds;
    uint32_t flags;
    bool started; /* queue 0 runs before */
} wrongs[] = {
    {.error = "message 0 is not known", .request = 0, .bytes = 0},
    {.error = "message 99 is not known", .request = 99, .bytes = 0},
    {.error = "message 4294967295 is not known",
     .request = UINT32_MAX,
     .bytes = 0},
    {.error = "message 2: payload of 4294967295 bytes",
     .request = 2,
     .bytes = UINT32_MAX},
    {.error = "GET_FEATURES: payload of 8 bytes",
     .request = VHOST_USER_GET_FEATURES,
     .bytes = 8},
    {.error = "GET_FEATURES: flags 0x5",
     .request = VHOST_USER_GET_FEATURES,
     .bytes = 0,
     .flags = 4},
    {.error = "GET_FEATURES: flags 0x3",
     .request = VHOST_USER_GET_FEATURES,
     .bytes = 0,
     .flags = 2},
    {.error = "GET_FEATURES: 1 file descriptors, expected 0",
     .request = VHOST_USER_GET_FEATURES,
     .bytes = 0,
     .fds = EVENT},
    {.error = "more than 8 file descriptors",
     .request = VHOST_USER_GET_FEATURES,
     .bytes = 0,
     .fds = NINE},
    {.error = "SET_FEATURES: payload of 4 bytes",
     .request = VHOST_USER_SET_FEATURES,
     .bytes = 4},
    {.error = "SET_FEATURES: features 0x1 were not offered",
     .request = VHOST_USER_SET_FEATURES,
     .bytes = 8,
     .payload = {1}},
    {.error = "SET_FEATURES: a queue is running",
     .request = VHOST_USER_SET_FEATURES,
     .bytes = 8,
     .payload = {0},
     .started = true},
    {.error = "SET_PROTOCOL_FEATURES: features 0x4",
     .request = VHOST_USER_SET_PROTOCOL_FEATURES,
     .bytes = 8,
     .payload = {4}},
    {.error = "SET_LOG_BASE: payload of 8 bytes",
     .request = VHOST_USER_SET_LOG_BASE,
     .bytes = 8},
    {.error = "SET_LOG_BASE: 0 file descriptors, expected 1",
     .request = VHOST_USER_SET_LOG_BASE,
     .bytes = 16,
     .payload = {4096, 0}},
    {.error = "SET_LOG_BASE: the log has an invalid size",
     .request = VHOST_USER_SET_LOG_BASE,
     .bytes = 16,
     .payload = {0, 0},
     .fds = MEMFD},
    {.error = "SET_LOG_BASE: the log is not within its file",
     .request = VHOST_USER_SET_LOG_BASE,
     .bytes = 16,
     .payload = {4096, 1 << 20},
     .fds = MEMFD,
     .started = true},
    {.error = "SET_LOG_BASE: the log is not within its file",
     .request = VHOST_USER_SET_LOG_BASE,
     .bytes = 16,
     .payload = {4096, 0},
     .fds = EVENT},
    {.error = "SET_LOG_FD: 0 file descriptors, expected 1",
     .request = VHOST_USER_SET_LOG_FD,
     .bytes = 0},
    {.error = "SET_LOG_FD: the descriptor is no eventfd",
     .request = VHOST_USER_SET_LOG_FD,
     .bytes = 0,
     .fds = MEMFD},
    {.error = "SET_MEM_TABLE: payload of 4 bytes",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 4},
    {.error = "SET_MEM_TABLE: 9 memory regions",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 8,
     .payload = {9}},
    {.error = "SET_MEM_TABLE: 8 bytes for 1 memory",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 8,
     .payload = {1}},
    {.error = "SET_MEM_TABLE: 0 file descriptors, expected 1",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 4096, 0, 0}},
    {.error = "SET_MEM_TABLE: memory region at 0x0 is not within its file",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 1 << 20, 0, 0},
     .fds = MEMFD},
    {.error = "SET_MEM_TABLE: memory region at 0x0 is not within its file",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 4096, 0, 0},
     .fds = EVENT},
    {.error = "SET_MEM_TABLE: memory region at 0x5 has an invalid size",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 5, 0, 0, 0},
     .fds = MEMFD},
    {.error = "invalid size",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 4096, 0, INT64_MAX},
     .fds = MEMFD},
    {.error = "invalid size",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 4096, UINT64_MAX, 0},
     .fds = MEMFD},
    {.error = "invalid size",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, UINT64_MAX, 4096, 0, 0},
     .fds = MEMFD},
    {.error = "SET_MEM_TABLE: queue 0 is not within guest memory",
     .request = VHOST_USER_SET_MEM_TABLE,
     .bytes = 40,
     .payload = {1, 0, 4096, 0, 0},
     .fds = MEMFD,
     .started = true},
    {.error = "ADD_MEM_REG: 0 file descriptors",
     .request = VHOST_USER_ADD_MEM_REG,
     .bytes = 40},
    {.error = "REM_MEM_REG: there is no memory region at 0x77",
     .request = VHOST_USER_REM_MEM_REG,
     .bytes = 40,
     .payload = {0, 0x77, 4096, 0, 0}},
    {.error = "ADD_MEM_REG: Guest memory regions at",
     .request = VHOST_USER_ADD_MEM_REG,
     .bytes = 40,
     .payload = {0, VHOST_CLIENT_GPA + 4096, 4096, 0, 0},
     .fds = MEMFD,
     .started = true},
    {.error = "GET_INFLIGHT_FD: payload of 16 bytes",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 16},
    {.error = "GET_INFLIGHT_FD: 1 file descriptors, expected 0",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {0, 0, 1 | QUEUE << 16},
     .fds = MEMFD},
    {.error = "GET_INFLIGHT_FD: 0 queues, but there are 2",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {0, 0, QUEUE << 16}},
    {.error = "GET_INFLIGHT_FD: 3 queues, but there are 2",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 24,
     .payload = {0, 0, 3 | QUEUE << 16}},
    {.error = "GET_INFLIGHT_FD: 0 entries, the limit is 16",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {0, 0, 1}},
    {.error = "GET_INFLIGHT_FD: 65535 entries, the limit is 16",
     .request = VHOST_USER_GET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {0, 0, 1 | 0xffff0000}},
    {.error = "SET_INFLIGHT_FD: 0 file descriptors, expected 1",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {4096, 0, 1 | QUEUE << 16}},
    {.error = "SET_INFLIGHT_FD: 64 bytes for 1 queues of 16 entries",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {64, 0, 1 | QUEUE << 16},
     .fds = MEMFD},
    {.error = "SET_INFLIGHT_FD: offset 8",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {4096, 8, 1 | QUEUE << 16},
     .fds = MEMFD},
    {.error = "SET_INFLIGHT_FD: the region is not within its file",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {1 << 20, 0, 1 | QUEUE << 16},
     .fds = MEMFD},
    {.error = "SET_INFLIGHT_FD: the region has an invalid size",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {1 << 20, INT64_MAX - 63, 1 | QUEUE << 16},
     .fds = MEMFD},
    {.error = "SET_INFLIGHT_FD: the region is not within its file",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {4096, 0, 1 | QUEUE << 16},
     .fds = EVENT},
    {.error = "SET_INFLIGHT_FD: a queue is running",
     .request = VHOST_USER_SET_INFLIGHT_FD,
     .bytes = 20,
     .payload = {4096, 0, 1 | QUEUE << 16},
     .fds = MEMFD,
     .started = true},
    {.error = "SET_VRING_NUM: queue 2, but there are 2",
     .request = VHOST_USER_SET_VRING_NUM,
     .bytes = 8,
     .payload = {2}},
    {.error = "SET_VRING_NUM: 0 entries",
     .request = VHOST_USER_SET_VRING_NUM,
     .bytes = 8,
     .payload = {0}},
    {.error = "SET_VRING_NUM: 32 entries",
     .request = VHOST_USER_SET_VRING_NUM,
     .bytes = 8,
     .payload = {32ull << 32}},
    {.error = "SET_VRING_NUM: 5 entries",
     .request = VHOST_USER_SET_VRING_NUM,
     .bytes = 8,
     .payload = {5ull << 32}},
    {.error = "SET_VRING_NUM: queue 0 is running",
     .request = VHOST_USER_SET_VRING_NUM,
     .bytes = 8,
     .payload = {8ull << 32},
     .started = true},
    {.error = "SET_VRING_ADDR: queue 77",
     .request = VHOST_USER_SET_VRING_ADDR,
     .bytes = 40,
     .payload = {77}},
    {.error = "SET_VRING_ADDR: unknown flags 0x2",
     .request = VHOST_USER_SET_VRING_ADDR,
     .bytes = 40,
     .payload = {2ull << 32}},
    {.error = "SET_VRING_ADDR: queue 0 is running",
     .request = VHOST_USER_SET_VRING_ADDR,
     .bytes = 40,
     .payload = {0},
     .started = true},
    {.error = "SET_VRING_BASE: index 65536",
     .request = VHOST_USER_SET_VRING_BASE,
     .bytes = 8,
     .payload = {65536ull << 32}},
    {.error = "SET_VRING_BASE: queue 0 is running",
     .request = VHOST_USER_SET_VRING_BASE,
     .bytes = 8,
     .payload = {0},
     .started = true},
    {.error = "GET_VRING_BASE: queue 5",
     .request = VHOST_USER_GET_VRING_BASE,
     .bytes = 8,
     .payload = {5}},
    {.error = "SET_VRING_KICK: queue 255",
     .request = VHOST_USER_SET_VRING_KICK,
     .bytes = 8,
     .payload = {255},
     .fds = EVENT},
    {.error = "SET_VRING_KICK: 1 file descriptors, expected 0",
     .request = VHOST_USER_SET_VRING_KICK,
     .bytes = 8,
     .payload = {0x100},
     .fds = EVENT},
    {.error = "SET_VRING_KICK: polling without",
     .request = VHOST_USER_SET_VRING_KICK,
     .bytes = 8,
     .payload = {0x100}},
    {.error = "SET_VRING_KICK: 0 file descriptors, expected 1",
     .request = VHOST_USER_SET_VRING_KICK,
     .bytes = 8,
     .payload = {0}},
    {.error = "SET_VRING_KICK: the descriptor is no eventfd",
     .request = VHOST_USER_SET_VRING_KICK,
     .bytes = 8,
     .payload = {0},
     .fds = MEMFD},
    {.error = "SET_VRING_CALL: value 0x200",
     .request = VHOST_USER_SET_VRING_CALL,
     .bytes = 8,
     .payload = {0x200},
     .fds = EVENT},
    {.error = "SET_VRING_ENABLE: value 2",
     .request = VHOST_USER_SET_VRING_ENABLE,
     .bytes = 8,
     .payload = {2ull << 32}},
    {.error = "SET_BACKEND_REQ_FD: the descriptor is no socket",
     .request = VHOST_USER_SET_BACKEND_REQ_FD,
     .bytes = 0,
     .fds = EVENT},
    {.error = "GET_CONFIG: payload of 8 bytes",
     .request = VHOST_USER_GET_CONFIG,
     .bytes = 8},
    {.error = "GET_CONFIG: 8 bytes at 0 of the configuration",
     .request = VHOST_USER_GET_CONFIG,
     .bytes = 12,
     .payload = {8ull << 32}},
    {.error = "GET_CONFIG: 16 bytes at 255",
     .request = VHOST_USER_GET_CONFIG,
     .bytes = 28,
     .payload = {255 | 16ull << 32}},
    {.error = "SET_STATUS: value 0x100",
     .request = VHOST_USER_SET_STATUS,
     .bytes = 8,
     .payload = {0x100}},

};

static int open_fd(int kind)
{
    if (kind == MEMFD) {
        int fd = memfd_create("small", MFD_CLOEXEC);
        assert_int_equal(ftruncate(fd, 8192), 0);
        return fd;
    }
    return eventfd(0, EFD_CLOEXEC);
}

static void send_wrong(const struct wrong *w)
{
    int fds[9];
    unsigned n = w->fds == NINE ? 9 : w->fds != NONE;

    for (unsigned i = 0; i < n; i++) {
        fds[i] = open_fd(w->fds);
    }
    if (w->bytes > sizeof(w->payload)) {
        struct vhost_user_header h = {w->request, 1, w->bytes};
        assert_int_equal(send(client.socket, &h, sizeof(h), 0), sizeof(h));
    } else {
        assert_true(vhost_client_send(&client, w->request, w->flags, w->payload,
                                      w->bytes, fds, n));
    }
    for (unsigned i = 0; i < n; i++) {
        close(fds[i]);
    }
}

static void wrong_messages_are_named_and_end_the_connection(void **state)
{
    struct vhost_user_message m;

    for (unsigned i = 0; i < G_N_ELEMENTS(wrongs); i++) {
        const struct wrong *w = &wrongs[i];

        assert_true(w->started ? vhost_client_start(&client, 1, QUEUE)
                               : vhost_client_negotiate(&client, 0, 0));
        g_string_truncate(logged, 0);
        send_wrong(w);
        if (vhost_client_receive(&client, &m)) {
            fail_msg("%s: there was an answer", w->error);
        }
        if (!strstr(logged->str, w->error)) {
            fail_msg("'%s' is not in '%s'", w->error, logged->str);
        }
        reconnect();
    }
    assert_true(vhost_client_start(&client, 1, QUEUE));
    check_works();
}

static void messages_need_their_protocol_feature(void **state)
{
    static const struct {
        uint32_t request, bit, bytes;
        const char *name;
    } rows[] = {
        {VHOST_USER_GET_QUEUE_NUM, VHOST_USER_PROTOCOL_F_MQ, 0,
         "GET_QUEUE_NUM"},
        {VHOST_USER_GET_CONFIG, VHOST_USER_PROTOCOL_F_CONFIG, 12, "GET_CONFIG"},
        {VHOST_USER_RESET_DEVICE, VHOST_USER_PROTOCOL_F_RESET_DEVICE, 0,
         "RESET_DEVICE"},
        {VHOST_USER_GET_MAX_MEM_SLOTS,
         VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS, 0, "GET_MAX_MEM_SLOTS"},
        {VHOST_USER_SET_LOG_BASE, VHOST_USER_PROTOCOL_F_LOG_SHMFD, 16,
         "SET_LOG_BASE"},
        {VHOST_USER_GET_INFLIGHT_FD, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD, 20,
         "GET_INFLIGHT_FD"},
        {VHOST_USER_SET_INFLIGHT_FD, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD, 20,
         "SET_INFLIGHT_FD"},
        {VHOST_USER_GET_STATUS, VHOST_USER_PROTOCOL_F_STATUS, 0, "GET_STATUS"},
    };
    struct vhost_user_message m;
    char zeroes[24] = "";

    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        assert_true(
            vhost_client_negotiate(&client, 0, VIRTIO_BIT(rows[i].bit)));
        g_string_truncate(logged, 0);
        assert_true(vhost_client_send(&client, rows[i].request, 0, zeroes,
                                      rows[i].bytes, NULL, 0));
        assert_false(vhost_client_receive(&client, &m));
        assert_non_null(strstr(logged->str, rows[i].name));
        assert_non_null(strstr(logged->str, "was not negotiated"));
        reconnect();
    }
}

static void a_refused_message_is_answered_before_the_end(void **state)
{
    struct vhost_user_vring_state q = {.index = 9};
    struct vhost_user_message m;

    assert_true(vhost_client_negotiate(&client, 0, 0));
    assert_true(vhost_client_send(&client, VHOST_USER_SET_VRING_NUM,
                                  VHOST_USER_FLAG_NEED_REPLY, &q, sizeof(q),
                                  NULL, 0));
    assert_true(vhost_client_receive(&client, &m));
    assert_int_equal(m.payload.u64, 1);
    assert_false(vhost_client_receive(&client, &m));
}

static void half_a_message_is_an_error(void **state)
{
    struct vhost_user_header h = {VHOST_USER_SET_FEATURES, 1, 8};

    assert_int_equal(send(client.socket, &h, 7, 0), 7);
    settle();
    reconnect();
    settle();
    assert_non_null(strstr(logged->str, "ended inside a message"));
    assert_true(vhost_client_start(&client, 1, QUEUE));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(wrong_messages_are_named_and_end_the_connection),
        CASE(messages_need_their_protocol_feature),
        CASE(a_refused_message_is_answered_before_the_end),
        CASE(half_a_message_is_an_error),
    };

    g_log_set_writer_func(on_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
