/*
 * A guest over vhost-user against back-ends that break the rules, go away, or
 * never answer. The back-end is a coroutine beside the test's, in simulated
 * time.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hw/guest.h"
#include "lib/back_end_fixture.h"

#define MIB (1 << 20)

static unsigned warnings;

static GLogWriterOutput on_log(GLogLevelFlags level, const GLogField *fields,
                               gsize n, gpointer opaque)
{
    warnings += level == G_LOG_LEVEL_WARNING;
    return G_LOG_WRITER_HANDLED;
}

/* ---- before and after ---- */

/* Each time around, the loop has looked at all descriptors. */
static void co_settle(void)
{
    int ready = eventfd(1, EFD_CLOEXEC);

    for (unsigned i = 0; i < 100; i++) {
        co_fd_wait_readable(ready);
    }
    forget(&ready);
}

static void co_resized(void *opaque)
{
    be.resized++;
}

static bool co_connect(int64_t reconnect_ns, GError **error)
{
    g = co_guest_connect(
        &(struct guest_vhost_options){
            .path = be.path,
            .reconnect_ns = reconnect_ns,
            .co_resized = co_resized,
        },
        error);
    return g;
}

static void open_listener(void)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    be.directory = g_dir_make_tmp("guest-XXXXXX", NULL);
    be.path = g_build_filename(be.directory, "s", NULL);
    g_strlcpy(addr.sun_path, be.path, sizeof(addr.sun_path));
    be.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(be.listener, (struct sockaddr *)&addr, sizeof(addr)),
                     0);
    assert_int_equal(listen(be.listener, 4), 0);
}

static void co_run(void *opaque)
{
    void (*co_test)(void) = opaque;

    be = (struct back_end){
        .socket = -1, .channel = -1, .err = -1, .capacity = MIB / 512};
    warnings = 0;
    open_listener();
    co_start(co_back_end, NULL);
    co_test();
    if (g) {
        co_guest_disconnect(g);
        g = NULL;
    }
    shutdown(be.listener, SHUT_RDWR);
    while (!be.ended) {
        co_pause();
    }
    forget(&be.listener);
    g_unlink(be.path);
    g_rmdir(be.directory);
    g_free(be.directory);
    g_free(be.path);
}

static void run(void (*co_test)(void))
{
    loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_run_co(loop, co_run, co_test);
    loop_free(loop);
}

/* ---- a set-up that goes wrong ---- */

static void no_version_1(struct vhost_user_message *m, int *fd)
{
    m->payload.u64 &= ~VIRTIO_BIT(VIRTIO_F_VERSION_1);
}

static void other_request(struct vhost_user_message *m, int *fd)
{
    m->header.request++;
}

static void no_reply_flag(struct vhost_user_message *m, int *fd)
{
    m->header.flags = VHOST_USER_VERSION;
}

static void short_answer(struct vhost_user_message *m, int *fd)
{
    m->header.size = 4;
}

static void huge_answer(struct vhost_user_message *m, int *fd)
{
    m->header.size = sizeof(m->payload);
}

static void with_fd(struct vhost_user_message *m, int *fd)
{
    *fd = eventfd(0, EFD_CLOEXEC);
}

static void without_fd(struct vhost_user_message *m, int *fd)
{
    close(*fd);
    *fd = -1;
}

static void all_zero(struct vhost_user_message *m, int *fd)
{
    memset(&m->payload, 0, sizeof(m->payload));
}

static void refusal(struct vhost_user_message *m, int *fd)
{
    m->payload.u64 = 1;
}

static struct virtio_blk_config *config_in(struct vhost_user_message *m)
{
    return (struct virtio_blk_config *)m->payload.config.data;
}

static void endless_disk(struct vhost_user_message *m, int *fd)
{
    config_in(m)->capacity = UINT64_MAX;
}

static void odd_blocks(struct vhost_user_message *m, int *fd)
{
    config_in(m)->blk_size = 3000;
}

static void huge_blocks(struct vhost_user_message *m, int *fd)
{
    config_in(m)->blk_size = 1u << 31;
}

static void no_segments(struct vhost_user_message *m, int *fd)
{
    config_in(m)->seg_max = 0;
}

static const struct row {
    uint32_t request;
    spoil_fn *spoil; /* NULL: hangs up */
    const char *error;
} rows[] = {
    {VHOST_USER_GET_FEATURES, no_version_1, "but not VERSION_1"},
    {VHOST_USER_GET_FEATURES, other_request, "GET_FEATURES: the answer is to"},
    {VHOST_USER_GET_FEATURES, no_reply_flag, "GET_FEATURES: the answer is to"},
    {VHOST_USER_GET_FEATURES, short_answer,
     "GET_FEATURES: the answer has a wr"},
    {VHOST_USER_GET_FEATURES, huge_answer, "GET_FEATURES: the answer has a wr"},
    {VHOST_USER_GET_FEATURES, with_fd, "GET_FEATURES: the answer has a file"},
    {VHOST_USER_GET_FEATURES, NULL, "GET_FEATURES: the back-end hung up"},
    {VHOST_USER_GET_PROTOCOL_FEATURES, all_zero, "does not tell a config"},
    {VHOST_USER_SET_OWNER, refusal, "SET_OWNER: the back-end refused it"},
    {VHOST_USER_GET_QUEUE_NUM, all_zero, "has 0 queues, not 1"},
    {VHOST_USER_GET_CONFIG, endless_disk, "GET_CONFIG: a capacity of"},
    {VHOST_USER_GET_CONFIG, odd_blocks, "GET_CONFIG: blocks of 3000 bytes"},
    {VHOST_USER_GET_CONFIG, huge_blocks, "GET_CONFIG: blocks of 2147483648"},
    {VHOST_USER_GET_CONFIG, no_segments, "GET_CONFIG: requests of no segment"},
    {VHOST_USER_GET_CONFIG, NULL, "GET_CONFIG: the back-end hung up"},
    {VHOST_USER_GET_INFLIGHT_FD, without_fd, "GET_INFLIGHT_FD: the answer has"},
    {VHOST_USER_SET_MEM_TABLE, refusal, "SET_MEM_TABLE: the back-end refused"},
    {VHOST_USER_GET_STATUS, all_zero, "refused features"},
    {VHOST_USER_SET_VRING_KICK, NULL, "SET_VRING_KICK: the back-end hung up"},
    {VHOST_USER_SET_VRING_ENABLE, refusal, "SET_VRING_ENABLE: the back-end re"},
};

static void co_bad_set_ups(void)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        be.request = rows[i].request;
        be.spoil = rows[i].spoil;
        be.hang_up = !rows[i].spoil;
        if (co_connect(0, &error) || !strstr(error->message, rows[i].error)) {
            fail_msg("row %u: %s instead of %s", i,
                     error ? error->message : "no error", rows[i].error);
        }
        co_settle();
    }
}

static void bad_answer_is_named(void **state)
{
    run(co_bad_set_ups);
}

static void co_nobody(void)
{
    g_autoptr(GError) error = NULL;

    g_unlink(be.path);
    assert_false(co_connect(0, &error));
    assert_non_null(strstr(error->message, "Failed to connect to"));
}

static void missing_socket_is_named(void **state)
{
    run(co_nobody);
}

/* ---- a request that waits ---- */

static struct guest_result result;
static bool returned;

static void co_read(void *opaque)
{
    co_guest_request(
        g, &(struct guest_request){.op = GUEST_OP_READ, .bytes = 4096},
        &result);
    returned = true;
}

static void co_begin_read(int64_t reconnect_ns)
{
    assert_true(co_connect(reconnect_ns, NULL));
    returned = false;
    co_start(co_read, NULL);
    co_settle();
    assert_false(returned);
}

static struct guest_queue *queue(void)
{
    return &((struct guest_vhost *)g)->g.queues[0];
}

/* The device returns head, and says that it is done. */
static void co_give_back(uint32_t head)
{
    struct guest_queue *q = queue();

    q->slots[0].control->status = VIRTIO_BLK_S_OK;
    q->used->ring[q->used->idx & (q->size - 1)].id = head;
    q->used->idx++;
    eventfd_write(((struct guest_vhost *)g)->call[0], 1);
    co_settle();
}

static void co_check_broken(void)
{
    co_settle();
    assert_true(guest_broken(g));
    co_read(NULL);
    assert_int_equal(result.status, GUEST_STATUS_NEEDS_RESET);
}

/* The request that waited, and the next. */
static void co_check_failed(void)
{
    co_settle();
    assert_true(returned);
    assert_int_equal(result.status, GUEST_STATUS_NEEDS_RESET);
    co_check_broken();
}

static void co_wrong_head(void)
{
    co_begin_read(INT64_C(1000000000));
    co_give_back(7);
    co_check_failed();
    assert_int_equal(be.connections, 1);
}

static void co_head_beyond_the_ring(void)
{
    co_begin_read(0);
    co_give_back(70000);
    co_check_failed();
}

static void co_head_returned_twice(void)
{
    co_begin_read(0);
    co_give_back(0);
    assert_int_equal(result.status, GUEST_STATUS_OK);
    co_give_back(0);
    co_check_broken();
}

static void co_junk(void)
{
    co_begin_read(INT64_C(1000000000));
    assert_int_equal(send(be.socket, "junk", 4, 0), 4);
    co_check_failed();
    assert_int_equal(be.connections, 1);
}

static void co_needs_reset(void)
{
    co_begin_read(INT64_C(1000000000));
    eventfd_write(be.err, 1);
    co_check_failed();
    assert_int_equal(be.connections, 1);
}

static void back_end_that_cheats_is_dropped(void **state)
{
    run(co_wrong_head);
    run(co_head_beyond_the_ring);
    run(co_head_returned_twice);
    run(co_junk);
    run(co_needs_reset);
}

static void co_hang_up_alone(void)
{
    co_begin_read(0);
    shutdown(be.socket, SHUT_RDWR);
    co_check_failed();
}

static void requests_end_with_the_back_end(void **state)
{
    run(co_hang_up_alone);
}

/* ---- the next back-end ---- */

static void co_go_on(void)
{
    co_begin_read(INT64_C(1000000000));
    shutdown(be.socket, SHUT_RDWR);
    co_settle();
    assert_int_equal(be.connections, 2);
    assert_int_equal(be.inflight_made, 1);
    assert_int_equal(be.base, 0);
    assert_false(returned);
    co_give_back(0);
    assert_true(returned);
    assert_int_equal(result.status, GUEST_STATUS_OK);
    shutdown(be.socket, SHUT_RDWR);
    co_settle();
    assert_int_equal(be.connections, 3);
    assert_int_equal(be.base, 1); /* the ring goes on */
}

static void co_go_on_without_region(void)
{
    be.without = PROTOCOL(INFLIGHT_SHMFD);
    co_begin_read(INT64_C(1000000000));
    co_give_back(0);
    returned = false;
    co_start(co_read, NULL);
    co_settle();
    shutdown(be.socket, SHUT_RDWR);
    co_settle();
    assert_int_equal(be.connections, 2);
    assert_int_equal(be.base, 0);
    assert_int_equal(queue()->avail->idx, 1); /* a new ring, with the request */
    co_give_back(0);
    assert_true(returned);
    assert_int_equal(result.status, GUEST_STATUS_OK);
}

static void next_back_end_goes_on(void **state)
{
    run(co_go_on);
    run(co_go_on_without_region);
}

static void co_patience(void)
{
    co_begin_read(INT64_C(3000000000));
    be.request = VHOST_USER_GET_FEATURES;
    be.hang_up = true; /* whoever comes */
    shutdown(be.socket, SHUT_RDWR);
    for (unsigned i = 0; i < 29; i++) {
        co_settle();
        assert_false(returned);
        loop_clock_advance(loop, 100000000);
    }
    loop_clock_advance(loop, 200000000);
    co_check_failed();
    be.request = 0;
    loop_clock_advance(loop, 1000000000);
    co_settle();
    assert_false(guest_broken(g));
    assert_int_equal(be.inflight_made,
                     2); /* of the old requests none is left */
    assert_int_equal(be.base, 0);
    co_start(co_read, NULL);
    co_settle();
    co_give_back(0);
    assert_int_equal(result.status, GUEST_STATUS_OK);
}

static void requests_wait_for_so_long(void **state)
{
    run(co_patience);
}

static void co_fewer_features(void)
{
    co_begin_read(INT64_C(1000000000));
    be.request = VHOST_USER_GET_FEATURES;
    be.spoil = no_version_1;
    shutdown(be.socket, SHUT_RDWR);
    co_settle();
    be.request = 0;
    assert_false(returned);
    loop_clock_advance(loop, 100000000);
    co_settle();
    co_give_back(0);
    assert_int_equal(result.status, GUEST_STATUS_OK);
}

static void unfit_back_end_is_passed_over(void **state)
{
    run(co_fewer_features);
}

/* ---- what it says by itself ---- */

static void co_tell(uint32_t request, uint32_t flags)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | flags, 0};

    assert_int_equal(send(be.channel, &h, sizeof(h), 0), sizeof(h));
    co_settle();
}

static void co_config_changes(void)
{
    uint64_t reply[4] = {0};

    assert_true(co_connect(0, NULL));
    assert_int_equal(guest_disk_bytes(g), MIB);
    be.capacity *= 2;
    co_tell(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0);
    assert_int_equal(guest_disk_bytes(g), 2 * MIB);
    assert_int_equal(be.resized, 1);
    co_tell(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, VHOST_USER_FLAG_NEED_REPLY);
    assert_int_equal(be.resized, 1);
    assert_int_equal(recv(be.channel, reply, sizeof(reply), MSG_DONTWAIT), 20);
    assert_int_equal(((uint32_t *)reply)[3], 0);
    co_tell(77, VHOST_USER_FLAG_NEED_REPLY);
    assert_int_equal(recv(be.channel, reply, sizeof(reply), MSG_DONTWAIT), 20);
    assert_int_equal(((uint32_t *)reply)[3], 1); /* not known */
    be.capacity = UINT64_MAX;
    co_tell(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 0);
    assert_true(guest_broken(g));
}

static void new_configuration_is_taken(void **state)
{
    run(co_config_changes);
}

/* ---- the end ---- */

static void co_end(void *opaque)
{
    co_guest_disconnect(g);
    g = NULL;
}

static void co_no_goodbye(void)
{
    assert_true(co_connect(0, NULL));
    be.request = VHOST_USER_GET_VRING_BASE;
    be.silent = true;
    co_start(co_end, NULL);
    co_settle();
    assert_non_null(g);
    loop_clock_advance(loop, INT64_C(6000000000));
    co_settle();
    assert_null(g);
    assert_int_equal(warnings, 1);
}

static void co_stopped_elsewhere(void)
{
    assert_true(co_connect(0, NULL));
    be.request = VHOST_USER_GET_VRING_BASE;
    be.spoil = refusal; /* index 1 */
    co_end(NULL);
    assert_int_equal(warnings, 1);
}

static void co_end_of_a_wait(void)
{
    co_begin_read(INT64_C(1000000000));
    be.request = VHOST_USER_GET_FEATURES;
    be.silent = true;
    shutdown(be.socket, SHUT_RDWR);
    co_settle();
    co_end(NULL); /* in the middle of a set-up */
    assert_true(returned);
    assert_int_equal(result.status, GUEST_STATUS_NEEDS_RESET);
}

static void leaving_takes_no_for_ever(void **state)
{
    run(co_no_goodbye);
    run(co_stopped_elsewhere);
    run(co_end_of_a_wait);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_answer_is_named),
        cmocka_unit_test(missing_socket_is_named),
        cmocka_unit_test(back_end_that_cheats_is_dropped),
        cmocka_unit_test(requests_end_with_the_back_end),
        cmocka_unit_test(next_back_end_goes_on),
        cmocka_unit_test(requests_wait_for_so_long),
        cmocka_unit_test(unfit_back_end_is_passed_over),
        cmocka_unit_test(new_configuration_is_taken),
        cmocka_unit_test(leaving_takes_no_for_ever),
    };

    g_log_set_writer_func(on_log, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
