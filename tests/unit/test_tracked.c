/*
 * Who waits for whom among the requests of a node.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "tests/unit/lib/ram_node.h"

static struct ram_node *ram;

static struct ram_call call(int what, int64_t offset, int64_t bytes,
                            unsigned flags)
{
    struct ram_call c = {.node = &ram->node};
    c.what = what;
    c.offset = offset;
    c.bytes = bytes;
    c.flags = flags;
    return c;
}

static void start(struct ram_call *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ram_start(&c[i]);
        co_ram_settle();
    }
}

static void hold_all(void)
{
    ram->hold[RAM_READ] = ram->hold[RAM_WRITE] = ram->hold[RAM_ZEROES] = true;
}

static unsigned in_driver(void)
{
    return ram->inside;
}

static void set_up(void)
{
    ram = ram_node_new("ram", 1 << 20);
    ram->node.limits.request_alignment = 512;
}

static void finish(struct ram_call *c, size_t n)
{
    ram_release(ram);
    co_ram_settle();
    for (size_t i = 0; i < n; i++) {
        assert_true(c[i].done);
        assert_int_equal(c[i].ret, 0);
    }
    assert_int_equal(ram->node.serialising, 0);
    assert_int_equal(ram->node.in_flight, 0);
    ram_node_free(ram);
}

static void co_plain_requests(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_WRITE, 0, 4096, 0),
        call(CALL_WRITE, 0, 4096, 0),
        call(CALL_READ, 0, 4096, 0),
        call(CALL_ZEROES, 0, 4096, 0),
    };
    hold_all();
    start(c, 4);
    assert_int_equal(in_driver(), 4);
    assert_int_equal(ram->node.in_flight, 4);
    finish(c, 4);
}

static void plain_requests_do_not_wait(void **state)
{
    ram_run(co_plain_requests);
}

static void co_serialising_waits(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_READ, 0, 512, 0), call(CALL_WRITE, 512, 512, 0),
        call(CALL_WRITE, 0, 1024, REQ_SERIALISING),
        call(CALL_READ, 1024, 512, 0), /* beside it */
    };
    hold_all();
    start(c, 4);
    assert_int_equal(in_driver(), 3);
    assert_int_equal(ram->node.serialising, 1);
    assert_int_equal(ram->calls[RAM_WRITE], 1);
    /* One of the two in its way is not enough. */
    ram->hold[RAM_READ] = false;
    co_queue_wake_all(&ram->held);
    co_ram_settle();
    assert_true(c[0].done && c[3].done && !c[1].done);
    assert_int_equal(ram->calls[RAM_WRITE], 1);
    finish(c, 4);
}

static void a_serialising_write_waits_for_reads_and_writes(void **state)
{
    ram_run(co_serialising_waits);
}

static void co_hold_off(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_WRITE, 4096, 4096, REQ_SERIALISING),
        call(CALL_READ, 8191, 1, 0), /* widened, but the byte overlaps */
        call(CALL_WRITE, 0, 8192, 0),
        call(CALL_WRITE, 8192, 512, 0),
        call(CALL_READ, 0, 4096, 0),
    };
    hold_all();
    start(c, 5);
    assert_int_equal(in_driver(), 3);
    assert_int_equal(ram->calls[RAM_READ], 1);
    assert_int_equal(ram->calls[RAM_WRITE], 2);
    finish(c, 5);
}

static void a_serialising_write_holds_off_what_comes_later(void **state)
{
    ram_run(co_hold_off);
}

static void co_unaligned(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_WRITE, 100, 10, 0),   /* all of the first block */
        call(CALL_WRITE, 200, 10, 0),   /* the same */
        call(CALL_WRITE, 0, 512, 0),    /* plain, but overlaps the block */
        call(CALL_WRITE, 512, 512, 0),  /* the next block */
        call(CALL_ZEROES, 1000, 10, 0), /* overlaps that */
    };
    ram->hold[RAM_WRITE] = true;
    start(c, 5);
    assert_int_equal(ram->calls[RAM_WRITE], 2);
    assert_int_equal(ram->node.serialising, 3);
    finish(c, 5);
}

static void an_unaligned_write_owns_its_blocks(void **state)
{
    ram_run(co_unaligned);
}

static void co_no_wait(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_READ, 0, 512, 0),
        call(CALL_WRITE, 0, 512, REQ_SERIALISING | REQ_NO_WAIT),
        call(CALL_WRITE, 512, 512, REQ_SERIALISING | REQ_NO_WAIT),
    };
    hold_all();
    start(c, 3);
    assert_true(c[1].done);
    assert_int_equal(c[1].ret, -EBUSY);
    assert_int_equal(ram->node.serialising, 1);
    assert_int_equal(in_driver(), 2);
    c[1].ret = 0;
    finish(c, 3);
}

static void no_wait_is_busy_at_once(void **state)
{
    ram_run(co_no_wait);
}

/* Chains in which each overlaps its neighbours, of every kind: whatever the
 * order, all end, in order of arrival where they conflict. */
static void co_chain(void)
{
    set_up();
    struct ram_call c[32];
    for (unsigned i = 0; i < 32; i++) {
        c[i] = call(i % 3 ? CALL_WRITE : CALL_READ, i * 37 % 8 * 512, 1024,
                    i % 2 ? REQ_SERIALISING : 0);
    }
    ram->pauses = 5;
    hold_all();
    for (unsigned i = 0; i < 32; i++) {
        ram_start(&c[i]);
    }
    co_ram_settle();
    ram_release(ram);
    for (unsigned i = 0; i < 20; i++) {
        co_ram_settle();
    }
    finish(c, 32);
}

static void overlapping_chains_end(void **state)
{
    ram_run(co_chain);
}

static void co_not_overtaken(void)
{
    set_up();
    struct ram_call c[] = {
        call(CALL_WRITE, 0, 512, 0),
        call(CALL_WRITE, 0, 512, REQ_SERIALISING),
        call(CALL_WRITE, 0, 512, 0),
        call(CALL_WRITE, 0, 512, 0),
    };
    hold_all();
    start(c, 4);
    /* The later ones may not slip in before the one that waits. */
    assert_int_equal(in_driver(), 1);
    finish(c, 4);
}

static void a_waiting_request_is_not_overtaken(void **state)
{
    ram_run(co_not_overtaken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_requests_do_not_wait),
        cmocka_unit_test(a_serialising_write_waits_for_reads_and_writes),
        cmocka_unit_test(a_serialising_write_holds_off_what_comes_later),
        cmocka_unit_test(an_unaligned_write_owns_its_blocks),
        cmocka_unit_test(no_wait_is_busy_at_once),
        cmocka_unit_test(overlapping_chains_end),
        cmocka_unit_test(a_waiting_request_is_not_overtaken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
