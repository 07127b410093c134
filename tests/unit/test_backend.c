/* Backends: names, rights, holding requests, accounting, error policy. */
#include "block/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "aio/loop.h"
#include "aio/timer.h"
#include "block/listener.h"
#include "lib/fake_driver.h"
#include "util/error.h"

#define RW (PERM_CONSISTENT_READ | PERM_WRITE)

static void assert_error(GError **error, const char *expected)
{
    assert_non_null(*error);
    assert_string_equal((*error)->message, expected);
    g_clear_error(error);
}

static void co_names(void *opaque)
{
    GError *error = NULL;
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("drive0", f, 0, PERM_ALL, NULL);
    assert_ptr_equal(backend_find("drive0", NULL), b);
    assert_null(backend_find("drive1", &error));
    assert_string_equal(error_class_str(error), "DeviceNotFound");
    assert_error(&error, "Device 'drive1' not found");
    assert_null(co_backend_new("drive0", f, 0, PERM_ALL, &error));
    assert_error(&error, "Device with id 'drive0' already exists");
    assert_null(co_backend_new("f", f, 0, PERM_ALL, &error));
    assert_error(&error,
                 "Device name 'f' conflicts with an existing node name");
    assert_null(co_backend_new("0x", f, 0, PERM_ALL, &error));
    assert_error(&error, "Invalid device name");
    assert_int_equal(f->refs, 2);
    assert_ptr_equal(node_lookup("drive0", NULL, NULL), f);
    assert_true(backend_attach_device(b, "vd0", NULL, b, NULL));
    assert_ptr_equal(node_lookup("vd0", NULL, NULL), f);
    assert_false(backend_attach_device(b, "vd1", NULL, b, &error));
    assert_error(&error, "Drive 'drive0' is already in use by another device");
    backend_detach_device(b);
    assert_null(node_lookup("vd0", NULL, &error));
    assert_error(&error, "Cannot find device='vd0' nor node-name=''");
    struct backend *empty = co_backend_new("cd0", NULL, 0, PERM_ALL, NULL);
    assert_null(node_lookup("cd0", NULL, &error));
    assert_error(&error, "Device 'cd0' has no medium");
    assert_int_equal(backend_length(empty), 0);
    assert_int_equal(backend_length(b), 4096);
    assert_int_equal(co_backend_flush(empty), -ENOMEDIUM);
    co_backend_unref(empty);
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_ranges_and_rights(void *opaque)
{
    char buf[512] = {0};
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, sizeof(buf));
    struct node *f = co_fake_node("f", 4096);
    struct backend *b =
        co_backend_new("b", f, PERM_CONSISTENT_READ, PERM_ALL, NULL);
    assert_int_equal(co_backend_preadv(b, 3584, &iov, 0), 0);
    assert_int_equal(co_backend_preadv(b, 3585, &iov, 0), -EIO);
    assert_int_equal(co_backend_preadv(b, -1, &iov, 0), -EIO);
    assert_int_equal(co_backend_preadv(b, INT64_MAX, &iov, 0), -EIO);
    assert_int_equal(co_backend_pwritev(b, 0, &iov, 0), -EACCES);
    assert_int_equal(co_backend_pwrite_zeroes(b, 0, 512, 0), -EACCES);
    assert_int_equal(co_backend_pdiscard(b, 0, 512), -EACCES);
    assert_true(co_backend_set_perm(b, RW, PERM_ALL, NULL));
    assert_int_equal(co_backend_pwritev(b, 512, &iov, 0), 0);
    assert_int_equal(co_backend_pwrite_zeroes(b, 0, 4096, 0), 0);
    assert_int_equal(co_backend_pwrite_zeroes(b, 0, 4097, 0), -EIO);
    assert_int_equal(co_backend_pdiscard(b, 0, -1), -EIO);
    assert_int_equal(b->in_flight, 0);
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_held_requests_go_on_in_order(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    struct fake_call calls[4];
    co_drain_begin(f);
    for (int i = 0; i < 4; i++) {
        calls[i] = (struct fake_call){b, .is_write = i & 1, .bytes = 512};
        fake_start(&calls[i]);
    }
    co_settle();
    assert_int_equal(b->in_flight, 0);
    co_drain_end(f);
    co_settle();
    for (int i = 0; i < 4; i++) {
        assert_int_equal(calls[i].ret, 0);
        assert_int_equal(calls[i].order, calls[0].order + (unsigned)i);
    }
    co_backend_unref(b);
    co_node_unref(f);
}

/* The range is checked when the request really goes. */
static void co_held_requests_check_again(void *opaque)
{
    struct node *f = co_fake_node("f", 4096), *g = co_fake_node("g", 512);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    struct fake_call c = {b, .offset = 512, .bytes = 512};
    co_drain_begin(f);
    fake_start(&c);
    co_settle();
    struct graph_tx *tx = graph_tx_begin();
    assert_true(graph_tx_replace_child(tx, b->root, g, NULL));
    assert_true(co_graph_tx_commit(tx, NULL));
    co_settle();
    assert_int_equal(c.ret, -EIO);
    co_drain_end(f);
    co_backend_unref(b);
    co_node_unref(f);
    co_node_unref(g);
}

static void co_drop(void *opaque)
{
    struct backend **b = opaque;
    co_backend_unref(*b);
    *b = NULL;
}

static void co_end_waits_for_its_requests_only(void *opaque)
{
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    struct backend *other = co_backend_new("other", f, RW, PERM_ALL, NULL);
    struct backend *dropped = b;
    struct fake_call c = {b, .bytes = 512},
                     d = {other, .is_write = true, .bytes = 512};
    fake_of(f)->hold[FAKE_READ] = fake_of(f)->hold[FAKE_WRITE] = true;
    fake_start(&c);
    fake_start(&d);
    co_settle();
    co_start(co_drop, &dropped);
    co_settle();
    assert_non_null(dropped);
    assert_int_equal(other->quiesced, 0);
    fake_of(f)->hold[FAKE_READ] = false;
    co_queue_wake_all(&fake_of(f)->held);
    co_settle();
    assert_null(dropped);
    assert_int_equal(c.ret, 0);
    assert_int_equal(d.ret, 1);
    fake_release(f);
    co_settle();
    co_backend_unref(other);
    co_node_unref(f);
}

struct device {
    int begun, ended;
};

static void on_begin(void *device)
{
    ((struct device *)device)->begun++;
}

static void on_end(void *device)
{
    ((struct device *)device)->ended++;
}

static void co_device_hears_of_drain(void *opaque)
{
    static const struct backend_device_ops ops = {.drained_begin = on_begin,
                                                  .drained_end = on_end};
    struct device d = {0};
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    co_drain_begin(f);
    assert_true(backend_attach_device(b, NULL, &ops, &d, NULL));
    assert_int_equal(d.begun, 1);
    co_drain_begin(f);
    co_drain_end(f);
    assert_int_equal(d.ended, 0);
    co_drain_end(f);
    assert_int_equal(d.ended, 1);
    assert_int_equal(d.begun, 1);
    backend_detach_device(b);
    co_backend_unref(b);
    co_node_unref(f);
}

static void co_accounting(void *opaque)
{
    char buf[1024] = {0};
    struct iovec vec;
    struct iov iov = iov_buf(&vec, buf, sizeof(buf));
    struct node *f = co_fake_node("f", 4096);
    struct backend *b = co_backend_new("b", f, RW, PERM_ALL, NULL);
    assert_int_equal(co_backend_pwritev(b, 1024, &iov, 0), 0);
    assert_int_equal(co_backend_pwritev(b, 0, &iov, 0), 0);
    fake_of(f)->fail_at[FAKE_WRITE] = 1;
    assert_int_equal(co_backend_pwritev(b, 3072, &iov, 0), -EIO);
    assert_int_equal(co_backend_preadv(b, 4096, &iov, 0), -EIO);
    assert_int_equal(co_backend_flush(b), 0);
    assert_int_equal(b->acct[ACCT_WRITE].ops, 2);
    assert_int_equal(b->acct[ACCT_WRITE].bytes, 2048);
    assert_int_equal(b->acct[ACCT_WRITE].failed, 1);
    assert_int_equal(b->acct[ACCT_READ].invalid, 1);
    assert_int_equal(b->acct[ACCT_READ].ops, 0);
    assert_int_equal(b->acct[ACCT_FLUSH].ops, 1);
    assert_int_equal(b->wr_highest_offset, 2048);
    struct fake_call c = {b, .bytes = 512};
    fake_of(f)->hold[FAKE_READ] = true;
    fake_start(&c);
    co_settle();
    loop_clock_advance(loop_current(), 5000);
    fake_release(f);
    co_settle();
    assert_int_equal(b->acct[ACCT_READ].total_ns, 5000);
    co_backend_unref(b);
    co_node_unref(f);
}

/* ---- errors ---- */

static void co_error_policy(void *opaque)
{
    static const struct {
        enum blockdev_on_error policy;
        bool is_read;
        enum block_error_action no_space, other;
    } rows[] = {
        {BLOCKDEV_ON_ERROR_REPORT, false, BLOCK_ERROR_ACTION_REPORT,
         BLOCK_ERROR_ACTION_REPORT},
        {BLOCKDEV_ON_ERROR_IGNORE, false, BLOCK_ERROR_ACTION_IGNORE,
         BLOCK_ERROR_ACTION_IGNORE},
        {BLOCKDEV_ON_ERROR_ENOSPC, false, BLOCK_ERROR_ACTION_STOP,
         BLOCK_ERROR_ACTION_REPORT},
        {BLOCKDEV_ON_ERROR_STOP, false, BLOCK_ERROR_ACTION_STOP,
         BLOCK_ERROR_ACTION_STOP},
        {BLOCKDEV_ON_ERROR_AUTO, false, BLOCK_ERROR_ACTION_STOP,
         BLOCK_ERROR_ACTION_REPORT},
        {BLOCKDEV_ON_ERROR_AUTO, true, BLOCK_ERROR_ACTION_REPORT,
         BLOCK_ERROR_ACTION_REPORT},
        {BLOCKDEV_ON_ERROR_STOP, true, BLOCK_ERROR_ACTION_STOP,
         BLOCK_ERROR_ACTION_STOP},
    };
    struct backend *b = co_backend_new("b", NULL, RW, PERM_ALL, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        b->on_read_error = b->on_write_error = BLOCKDEV_ON_ERROR_IGNORE;
        *(rows[i].is_read ? &b->on_read_error : &b->on_write_error) =
            rows[i].policy;
        assert_int_equal(backend_error_action(b, rows[i].is_read, ENOSPC),
                         rows[i].no_space);
        assert_int_equal(backend_error_action(b, rows[i].is_read, EIO),
                         rows[i].other);
    }
    co_backend_unref(b);
}

static void hear_error(void *opaque, const struct backend *b, bool is_read,
                       enum block_error_action action, int errnum)
{
    g_string_append_printf(opaque, "error %s %s %s %d %s;", b->name,
                           is_read ? "read" : "write",
                           block_error_action_str(action), errnum,
                           block_device_io_status_str(b->io_status));
}

static void hear_stop(void *opaque, const struct backend *b)
{
    g_string_append_printf(opaque, "stop %s;", b->name);
}

static void co_errors_are_announced(void *opaque)
{
    g_autoptr(GString) heard = g_string_new(NULL);
    struct block_listener deaf = {0};
    struct block_listener l = {
        .io_error = hear_error, .stop_request = hear_stop, .opaque = heard};
    struct backend *b = co_backend_new("b", NULL, RW, PERM_ALL, NULL);
    block_listener_add(&l);
    block_listener_add(&deaf);
    assert_true(backend_attach_device(b, NULL, NULL, b, NULL));
    backend_report_error(b, BLOCK_ERROR_ACTION_REPORT, true, EIO);
    backend_report_error(b, BLOCK_ERROR_ACTION_STOP, false, ENOSPC);
    backend_report_error(b, BLOCK_ERROR_ACTION_STOP, false, EIO);
    assert_string_equal(heard->str, "error b read report 5 ok;"
                                    "error b write stop 28 nospace;stop b;"
                                    "error b write stop 5 nospace;stop b;");
    backend_reset_io_status(b);
    assert_int_equal(b->io_status, BLOCK_DEVICE_IO_STATUS_OK);
    block_listener_remove(&deaf);
    block_listener_remove(&l);
    backend_detach_device(b);
    co_backend_unref(b);
}

#define BACKEND_TEST(name)         \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
BACKEND_TEST(names)
BACKEND_TEST(ranges_and_rights)
BACKEND_TEST(held_requests_go_on_in_order)
BACKEND_TEST(held_requests_check_again)
BACKEND_TEST(end_waits_for_its_requests_only)
BACKEND_TEST(device_hears_of_drain)
BACKEND_TEST(accounting)
BACKEND_TEST(error_policy)
BACKEND_TEST(errors_are_announced)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(ranges_and_rights),
        cmocka_unit_test(held_requests_go_on_in_order),
        cmocka_unit_test(held_requests_check_again),
        cmocka_unit_test(end_waits_for_its_requests_only),
        cmocka_unit_test(device_hears_of_drain),
        cmocka_unit_test(accounting),
        cmocka_unit_test(error_policy),
        cmocka_unit_test(errors_are_announced),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
