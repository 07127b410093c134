/*
 * Throttle groups: rates and turns, on clocks that the test moves.
 */
#include "aio/throttle.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"

#define MS       INT64_C(1000000)
#define SECONDS  1000 /* steps of 1 ms */
#define KIB      1024
#define N_LOOPS  2
#define N_MEMBER 3

static struct loop *loops[N_LOOPS];
static struct throttle_group *group;
static struct throttle_member *members[N_MEMBER];

static int set_up(void **state)
{
    for (int i = 0; i < N_LOOPS; i++) {
        loops[i] = loop_new("test", LOOP_CLOCK_SIMULATED);
    }
    loop_bind(loops[0]);
    group = throttle_group_new("g");
    for (int i = 0; i < N_MEMBER; i++) {
        members[i] = throttle_join(group);
    }
    return 0;
}

static void run_all(void)
{
    bool any = true;

    while (any) {
        any = false;
        for (int i = 0; i < N_LOOPS; i++) {
            loop_bind(loops[i]);
            any |= loop_pass(loops[i], false);
        }
    }
    loop_bind(loops[0]);
}

static void steps(int n)
{
    while (n--) {
        for (int i = 0; i < N_LOOPS; i++) {
            loop_clock_advance(loops[i], MS);
        }
        run_all();
    }
}

static int tear_down(void **state)
{
    for (int i = 0; i < N_MEMBER; i++) {
        throttle_leave(members[i]);
    }
    run_all();
    assert_true(throttle_group_unref_last(group));
    loop_bind(NULL);
    for (int i = 0; i < N_LOOPS; i++) {
        loop_free(loops[i]);
    }
    return 0;
}

/* ---- streams of requests ---- */

struct stream {
    struct throttle_member *member;
    enum throttle_direction direction;
    int64_t bytes;
    int on; /* which loop */
    int depth;
    unsigned done;
    int running;
    bool stop;
};

#define STREAM(m, size, dir, ...)                                          \
    {                                                                      \
        .member = members[m], .bytes = size, .direction = dir, __VA_ARGS__ \
    }

static void co_ask_again(void *opaque)
{
    struct stream *s = opaque;

    while (!s->stop) {
        co_throttle(s->member, s->bytes, s->direction);
        s->done++;
    }
    s->running--;
}

static void start(struct stream *s)
{
    loop_bind(loops[s->on]);
    s->stop = false;
    s->running = s->depth = s->depth ? s->depth : 1;
    for (int i = 0; i < s->depth; i++) {
        co_start(co_ask_again, s);
    }
    run_all();
}

static void stop(struct stream *s)
{
    s->stop = true;
    loop_bind(loops[s->on]);
    throttle_bypass_begin(s->member);
    throttle_bypass_end(s->member);
    run_all();
    assert_int_equal(s->running, 0);
}

static void limit(const struct throttle_config *some)
{
    struct throttle_config c = *some;

    for (int i = 0; i < THROTTLE_SCOPES; i++) {
        c.bytes[i].length = c.bytes[i].length ? c.bytes[i].length : 1;
        c.ops[i].length = c.ops[i].length ? c.ops[i].length : 1;
    }
    throttle_group_set(group, &c);
    run_all();
}

#define LIMIT(...) limit(&(struct throttle_config){__VA_ARGS__})

/* Requests of one stream in ten seconds. */
static unsigned rate_of(struct stream s)
{
    start(&s);
    steps(10 * SECONDS);
    unsigned done = s.done;
    stop(&s);
    return done;
}

#define assert_about(n, expected, slack) \
    assert_in_range(n, (expected) - (slack), (expected) + (slack))

static void each_limit_counts_what_it_says(void **state)
{
    struct stream r = STREAM(0, 4 * KIB, THROTTLE_READ);
    struct stream w = STREAM(1, 4 * KIB, THROTTLE_WRITE);

    LIMIT(.ops[THROTTLE_TOTAL].avg = 100);
    assert_about(rate_of(r), 1000, 12);
    LIMIT(.bytes[THROTTLE_TOTAL].avg = 400 * KIB);
    assert_about(rate_of(w), 1000, 12);
    /* Each direction for itself. */
    LIMIT(.ops[THROTTLE_READS].avg = 10,
          .bytes[THROTTLE_WRITES].avg = 80 * KIB);
    start(&r);
    assert_about(rate_of(w), 200, 4);
    assert_about(r.done, 100, 3);
    stop(&r);
    /* Both together, whoever asks for more. */
    LIMIT(.ops[THROTTLE_TOTAL].avg = 100);
    r.done = 0;
    r.depth = 8;
    start(&r);
    assert_about(rate_of(w) + r.done, 1000, 12);
    stop(&r);
    /* The tightest counts. */
    LIMIT(.ops[THROTTLE_TOTAL].avg = 100,
          .bytes[THROTTLE_READS].avg = 40 * KIB);
    assert_about(rate_of((struct stream)STREAM(0, 4 * KIB, THROTTLE_READ)), 100,
                 3);
}

static void a_large_request_counts_as_several(void **state)
{
    struct stream s = STREAM(0, 10 * KIB, THROTTLE_READ);

    LIMIT(.ops[THROTTLE_TOTAL].avg = 100, .op_bytes = 4 * KIB);
    assert_about(rate_of(s), 400, 6);
    s.bytes = 512;
    assert_about(rate_of(s), 1000, 12);
}

static void bursts_come_first(void **state)
{
    struct stream s = STREAM(0, 4 * KIB, THROTTLE_READ);

    LIMIT(.ops[THROTTLE_TOTAL] = {10, 200, 5});
    start(&s);
    steps(1 * SECONDS);
    assert_about(s.done, 220, 2);
    steps(4 * SECONDS);
    assert_about(s.done, 1020, 3);
    steps(50 * SECONDS);
    assert_about(s.done, 1000 + 550, 4);
    stop(&s);
}

static void each_member_gets_the_same_however_much_it_asks(void **state)
{
    struct stream s[N_MEMBER] = {
        STREAM(0, 4 * KIB, THROTTLE_READ, .depth = 1),
        STREAM(1, 4 * KIB, THROTTLE_READ, .depth = 40, .on = 1),
        STREAM(2, 4 * KIB, THROTTLE_READ, .depth = 7),
    };

    LIMIT(.ops[THROTTLE_TOTAL].avg = 300);
    for (int i = 0; i < N_MEMBER; i++) {
        start(&s[i]);
    }
    steps(10 * SECONDS);
    for (int i = 0; i < N_MEMBER; i++) {
        assert_about(s[i].done, 1000, 40);
    }
    /* One that has nothing to do leaves its share to the others. */
    stop(&s[1]);
    s[0].done = s[2].done = 0;
    steps(10 * SECONDS);
    assert_about(s[0].done, 1500, 60);
    assert_about(s[2].done, 1500, 60);
    stop(&s[0]);
    stop(&s[2]);
}

static void co_read_some(void *opaque)
{
    for (int i = 0; i < 100; i++) {
        co_throttle(members[0], 1 << 30, THROTTLE_READ);
    }
    *(bool *)opaque = true;
}

/* True if nothing had to wait. */
static bool reads_at_once(void)
{
    bool done = false;

    co_enter(co_create(co_read_some, &done));
    return done;
}

static void without_a_limit_nobody_waits(void **state)
{
    assert_true(reads_at_once());
    LIMIT(.ops[THROTTLE_WRITES].avg = 1);
    assert_true(reads_at_once());
}

static void other_limits_count_at_once(void **state)
{
    struct stream s = STREAM(0, 4 * KIB, THROTTLE_WRITE, .depth = 4);
    struct stream far = STREAM(1, 4 * KIB, THROTTLE_WRITE, .on = 1);

    LIMIT(.bytes[THROTTLE_TOTAL].avg = 1);
    start(&s);
    start(&far);
    steps(5 * SECONDS);
    assert_int_equal(s.done + far.done, 1);
    LIMIT(.ops[THROTTLE_TOTAL].avg = 100);
    s.done = far.done = 0;
    steps(10 * SECONDS);
    assert_about(s.done + far.done, 1000, 12);
    /* None at all lets everything go. */
    s.stop = far.stop = true;
    LIMIT(.op_bytes = 0);
    assert_int_equal(s.running + far.running, 0);
}

static void a_bypass_lets_go_what_waits_and_it_is_paid_for_later(void **state)
{
    struct stream s = STREAM(0, 4 * KIB, THROTTLE_READ, .depth = 50);
    struct stream other = STREAM(1, 4 * KIB, THROTTLE_READ, .on = 1);

    LIMIT(.ops[THROTTLE_TOTAL].avg = 10);
    start(&s);
    start(&other);
    unsigned before = s.done;
    s.stop = true;
    throttle_bypass_begin(members[0]);
    run_all();
    assert_int_equal(s.running, 0);
    assert_int_equal(s.done, before + 50);
    /* Meanwhile nothing of the member waits, and others still do. */
    assert_true(reads_at_once());
    throttle_bypass_end(members[0]);
    unsigned others = other.done;
    steps(13 * SECONDS);
    assert_int_equal(other.done, others);
    steps(7 * SECONDS);
    assert_about(other.done, others + 50, 5);
    stop(&other);
}

static void a_member_goes_to_another_loop_between_requests(void **state)
{
    struct stream a = STREAM(0, 4 * KIB, THROTTLE_READ, .depth = 3);
    struct stream b = STREAM(1, 4 * KIB, THROTTLE_READ, .depth = 3, .on = 1);

    LIMIT(.ops[THROTTLE_TOTAL].avg = 100);
    start(&a);
    for (int i = 0; i < 200; i++) {
        start(&b);
        steps(1 + i % 13);
        /* Mail to it may be on its way to the loop that it leaves. */
        b.stop = true;
        loop_bind(loops[b.on]);
        throttle_bypass_begin(b.member);
        throttle_bypass_end(b.member);
        while (loop_pass(loops[b.on], false)) {
        }
        assert_int_equal(b.running, 0);
        b.on = !b.on;
        if (i % 7 == 0) {
            throttle_leave(b.member);
            b.member = members[1] = throttle_join(group);
        }
    }
    a.done = 0;
    steps(60 * SECONDS);
    assert_true(a.done > 1000);
    stop(&a);
}

static void who_has_the_turn_may_stop_asking(void **state)
{
    struct stream a = STREAM(0, 4 * KIB, THROTTLE_WRITE, .depth = 2);
    struct stream b = STREAM(1, 4 * KIB, THROTTLE_WRITE, .depth = 2, .on = 1);

    for (int i = 0; i < 12; i++) {
        LIMIT(.ops[THROTTLE_TOTAL].avg = 10);
        start(&a);
        start(&b);
        steps(1000 + i * 50);
        stop(i % 2 ? &a : &b);
        struct stream *left = i % 2 ? &b : &a;
        left->done = 0;
        steps(5 * SECONDS);
        assert_about(left->done, 50, 5);
        stop(left);
    }
}

static void co_ask_once(void *opaque)
{
    co_throttle(members[1], 4 * KIB, THROTTLE_READ);
    *(bool *)opaque = true;
}

static void mail_follows_its_member(void **state)
{
    bool there = false, here = false;

    LIMIT(.bytes[THROTTLE_TOTAL].avg = 1);
    throttle_bypass_begin(members[0]);
    assert_true(reads_at_once());
    loop_bind(loops[1]);
    co_enter(co_create(co_ask_once, &there));
    assert_false(there);
    /* Mail for the loop that it leaves. */
    const struct throttle_config slow = {
        .bytes = {{0, 0, 1}, {0, 0, 1}, {1, 0, 1}},
        .ops = {{0, 0, 1}, {0, 0, 1}, {0, 0, 1}},
    };
    struct throttle_config fast = slow;
    fast.bytes[THROTTLE_TOTAL].avg = 1000000;
    throttle_group_set(group, &slow);
    throttle_bypass_begin(members[1]);
    throttle_bypass_end(members[1]);
    /* On the other one it waits for an hour; until the limits change. */
    loop_bind(loops[0]);
    assert_true(reads_at_once());
    co_enter(co_create(co_ask_once, &here));
    assert_false(here);
    throttle_group_set(group, &fast);
    run_all();
    assert_true(there);
    assert_true(here);
    throttle_bypass_end(members[0]);
}

static void names_are_unique_and_free_again(void **state)
{
    assert_null(throttle_group_new("g"));
    struct throttle_group *again = throttle_group_find("g");
    assert_ptr_equal(again, group);
    throttle_group_unref(again);
    assert_false(throttle_group_unref_last(group)); /* it has members */
    assert_null(throttle_group_find("h"));
    struct throttle_group *h = throttle_group_find_or_new("h");
    assert_string_equal(throttle_group_name(h), "h");
    assert_ptr_equal(throttle_group_find_or_new("h"), h);
    throttle_group_unref(h);
    assert_true(throttle_group_unref_last(h));
    assert_null(throttle_group_find("h"));
}

/* ---- threads ---- */

enum { REQUESTS = 2000, DEPTH = 4 };

struct user {
    struct throttle_member *member;
    unsigned left;
};

static void co_requests(void *opaque)
{
    struct user *u = opaque;

    for (int i = 0; i < REQUESTS; i++) {
        co_throttle(u->member, 4 * KIB, i % 3 ? THROTTLE_READ : THROTTLE_WRITE);
        if (i % 100 == 99) {
            throttle_bypass_begin(u->member);
            throttle_bypass_end(u->member);
        }
    }
    u->left--;
}

static void co_use(void *opaque)
{
    struct user u = {throttle_join(group), DEPTH};

    for (int i = 0; i < DEPTH; i++) {
        co_start(co_requests, &u);
    }
    while (u.left) {
        co_pause();
    }
    throttle_leave(u.member);
}

struct sent {
    struct loop *to;
    unsigned *running;
};

static void co_send(void *opaque)
{
    struct sent *s = opaque;

    co_call_on(s->to, co_use, NULL);
    --*s->running;
}

static void co_use_everywhere(void *opaque)
{
    struct iothread **threads = opaque;
    unsigned running = 2;
    struct sent sent[2];
    const struct throttle_config config = {
        .ops[THROTTLE_TOTAL] = {100000, 0, 1},
        .bytes[THROTTLE_READS] = {1000000000, 0, 1},
    };

    throttle_group_set(group, &config);
    for (int i = 0; i < 2; i++) {
        sent[i] = (struct sent){iothread_loop(threads[i]), &running};
        co_start(co_send, &sent[i]);
    }
    while (running) {
        throttle_group_set(group, &config);
        co_pause();
    }
}

static void threads_share_a_group(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);
    struct iothread *threads[] = {iothread_new("a"), iothread_new("b")};

    loop_bind(NULL);
    loop_run_co(loop, co_use_everywhere, threads);
    iothread_free(threads[0]);
    iothread_free(threads[1]);
    loop_free(loop);
    loop_bind(loops[0]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(each_limit_counts_what_it_says),
        TEST(a_large_request_counts_as_several),
        TEST(bursts_come_first),
        TEST(each_member_gets_the_same_however_much_it_asks),
        TEST(without_a_limit_nobody_waits),
        TEST(other_limits_count_at_once),
        TEST(a_bypass_lets_go_what_waits_and_it_is_paid_for_later),
        TEST(a_member_goes_to_another_loop_between_requests),
        TEST(who_has_the_turn_may_stop_asking),
        TEST(mail_follows_its_member),
        TEST(names_are_unique_and_free_again),
        TEST(threads_share_a_group),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
