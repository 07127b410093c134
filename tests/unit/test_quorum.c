/*
 * quorum: the vote, and what happens while it is taken.
 */
#include "block/node.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "block/listener.h"
#include "block/request.h"
#include "qapi/options.h"
#include "tests/unit/lib/fake_driver.h"

enum { CHILDREN = 3, LENGTH = 65536, PIECE = 4096 };

static struct node *children[CHILDREN], *quorum;
static struct backend *backend;
static unsigned bad[CHILDREN], failures;
static char buf[PIECE];

static void on_bad(void *opaque, const struct node *child,
                   enum quorum_op_type type, int errnum, int64_t offset,
                   int64_t bytes)
{
    for (int i = 0; i < CHILDREN; i++) {
        bad[i] += children[i] == child;
    }
}

static void on_failure(void *opaque, const struct node *node, int64_t offset,
                       int64_t bytes)
{
    failures++;
}

static struct block_listener listener = {
    .quorum_report_bad = on_bad,
    .quorum_failure = on_failure,
};

static void co_set_up(const char *more)
{
    static const char *const names[] = {"a", "b", "c"};
    g_autofree char *text = g_strdup_printf(
        "driver=quorum,node-name=q,vote-threshold=2,children.0=a,children.1=b,"
        "children.2=c%s",
        more);

    for (int i = 0; i < CHILDREN; i++) {
        children[i] = co_fake_node(names[i], LENGTH);
        bad[i] = 0;
    }
    failures = 0;
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, NULL);
    assert_non_null(o);
    quorum = co_node_open(o, NULL);
    assert_non_null(quorum);
    backend = co_backend_new("d", quorum, PERM_CONSISTENT_READ | PERM_WRITE,
                             PERM_ALL, NULL);
    assert_non_null(backend);
    block_listener_add(&listener);
}

static void co_tear_down(void)
{
    block_listener_remove(&listener);
    co_backend_unref(backend);
    co_node_unref(quorum);
    for (int i = 0; i < CHILDREN; i++) {
        co_node_unref(children[i]);
    }
}

static int co_read(void)
{
    return co_node_pread(quorum, 0, buf, PIECE, 0);
}

static int co_write(int byte)
{
    memset(buf, byte, PIECE);
    return co_node_pwrite(quorum, 0, buf, PIECE, 0);
}

static void spoil(int child, int byte)
{
    memset(fake_of(children[child])->data, byte, PIECE);
}

static void assert_holds(int child, int byte)
{
    for (int i = 0; i < PIECE; i++) {
        assert_int_equal(fake_of(children[child])->data[i], byte);
    }
}

static void assert_reports(unsigned a, unsigned b, unsigned c, unsigned failed)
{
    assert_int_equal(bad[0], a);
    assert_int_equal(bad[1], b);
    assert_int_equal(bad[2], c);
    assert_int_equal(failures, failed);
}

/* A request in a coroutine of its own. */
struct call {
    int byte; /* to write; 0: read */
    int ret;  /* 1 until done */
    char data[PIECE];
};

static void co_call(void *opaque)
{
    struct call *c = opaque;

    memset(c->data, c->byte, PIECE);
    c->ret = c->byte ? co_node_pwrite(quorum, 0, c->data, PIECE, 0)
                     : co_node_pread(quorum, 0, c->data, PIECE, 0);
}

static void co_begin(struct call *c)
{
    c->ret = 1;
    co_start(co_call, c);
    co_settle();
}

static void co_one_is_outvoted(void *opaque)
{
    co_set_up("");
    assert_int_equal(co_write(1), 0);
    for (int i = 0; i < CHILDREN; i++) {
        assert_holds(i, 1);
        spoil(i, 9);
        assert_int_equal(co_read(), 0);
        assert_int_equal(buf[0], 1);
        assert_int_equal(buf[PIECE - 1], 1);
        assert_holds(i, 9);
        spoil(i, 1);
    }
    assert_reports(1, 1, 1, 0);
    spoil(0, 7);
    spoil(1, 8);
    assert_int_equal(co_read(), -EIO);
    assert_reports(1, 1, 1, 1);
    co_tear_down();
}

static void co_the_outvoted_is_mended(void *opaque)
{
    co_set_up(",rewrite-corrupted=on");
    assert_int_equal(co_write(1), 0);
    spoil(0, 9);
    assert_int_equal(co_read(), 0);
    assert_int_equal(buf[0], 1);
    assert_holds(0, 1);
    assert_int_equal(co_read(), 0);
    assert_reports(1, 0, 0, 0);
    co_tear_down();
}

static void co_a_write_on_its_way_is_no_difference(void *opaque)
{
    struct call write = {.byte = 5}, read = {0};

    co_set_up(",rewrite-corrupted=on");
    assert_int_equal(co_write(1), 0);
    fake_of(children[1])->hold[FAKE_WRITE] = true;
    co_begin(&write);
    assert_holds(0, 5);
    assert_holds(1, 1);
    co_begin(&read);
    assert_int_equal(read.ret, 1);
    fake_release(children[1]);
    co_settle();
    assert_int_equal(write.ret, 0);
    assert_int_equal(read.ret, 0);
    assert_int_equal(read.data[0], 5);
    assert_holds(1, 5);
    assert_reports(0, 0, 0, 0);
    co_tear_down();
}

static void co_mending_undoes_no_write(void *opaque)
{
    struct call read = {0}, write = {.byte = 5};

    co_set_up(",rewrite-corrupted=on");
    assert_int_equal(co_write(1), 0);
    spoil(1, 9);
    /* The repair itself is held: a write has to wait for its end. */
    fake_of(children[1])->hold[FAKE_WRITE] = true;
    co_begin(&read);
    assert_int_equal(read.ret, 1);
    co_begin(&write);
    assert_holds(0, 1);
    fake_release(children[1]);
    co_settle();
    assert_int_equal(read.ret, 0);
    assert_int_equal(read.data[0], 1);
    assert_int_equal(write.ret, 0);
    for (int i = 0; i < CHILDREN; i++) {
        assert_holds(i, 5);
    }
    assert_reports(0, 1, 0, 0);
    co_tear_down();
}

static void co_too_many_errors_fail_a_request(void *opaque)
{
    co_set_up("");
    fake_of(children[0])->fail_at[FAKE_WRITE] = 1;
    assert_int_equal(co_write(1), 0);
    assert_reports(1, 0, 0, 0);
    fake_of(children[0])->fail_at[FAKE_WRITE] = 1;
    fake_of(children[2])->fail_at[FAKE_WRITE] = 1;
    fake_of(children[2])->fail_errno = ENOSPC;
    assert_int_equal(co_write(1), -ENOSPC);
    assert_reports(2, 0, 1, 1);
    fake_of(children[1])->fail_at[FAKE_FLUSH] = 1;
    assert_int_equal(co_node_flush(quorum), 0);
    assert_reports(2, 1, 1, 1);
    co_tear_down();
}

static void co_fifo_takes_the_first_that_can(void *opaque)
{
    co_set_up(",read-pattern=fifo");
    assert_int_equal(co_write(1), 0);
    spoil(0, 2);
    fake_log_forget();
    assert_int_equal(co_read(), 0);
    assert_int_equal(buf[0], 2);
    fake_log_is("a:read");
    fake_of(children[0])->fail_at[FAKE_READ] = 1;
    fake_of(children[1])->fail_at[FAKE_READ] = 1;
    assert_int_equal(co_read(), 0);
    assert_int_equal(buf[0], 1);
    fake_log_is("a:read b:read c:read");
    assert_reports(1, 1, 0, 0);
    co_tear_down();
}

static void co_a_guest_cannot_change_what_is_mended(void *opaque)
{
    struct call read = {0};

    co_set_up(",rewrite-corrupted=on");
    assert_int_equal(co_write(1), 0);
    spoil(2, 9);
    fake_of(children[2])->hold[FAKE_WRITE] = true;
    co_begin(&read);
    memset(read.data, 66, PIECE);
    fake_release(children[2]);
    co_settle();
    assert_int_equal(read.ret, 0);
    assert_holds(2, 1);
    co_tear_down();
}

#define QUORUM_TEST(name)          \
    static void name(void **state) \
    {                              \
        in_fake_loop(co_##name);   \
    }
QUORUM_TEST(one_is_outvoted)
QUORUM_TEST(the_outvoted_is_mended)
QUORUM_TEST(a_write_on_its_way_is_no_difference)
QUORUM_TEST(mending_undoes_no_write)
QUORUM_TEST(too_many_errors_fail_a_request)
QUORUM_TEST(fifo_takes_the_first_that_can)
QUORUM_TEST(a_guest_cannot_change_what_is_mended)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_outvoted),
        cmocka_unit_test(the_outvoted_is_mended),
        cmocka_unit_test(a_write_on_its_way_is_no_difference),
        cmocka_unit_test(mending_undoes_no_write),
        cmocka_unit_test(too_many_errors_fail_a_request),
        cmocka_unit_test(fifo_takes_the_first_that_can),
        cmocka_unit_test(a_guest_cannot_change_what_is_mended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
