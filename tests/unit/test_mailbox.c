/*
 * Mail and calls from thread to thread.
 */
#include "aio/mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/timer.h"

static void on_loop(void *opaque)
{
    *(struct loop **)opaque = loop_current();
    co_pause();
}

struct call_test {
    struct loop *there;
    struct loop *seen;
};

static void call_there(void *opaque)
{
    struct call_test *t = opaque;
    struct loop *home = loop_current();

    co_call_on(t->there, on_loop, &t->seen);
    assert_ptr_equal(t->seen, t->there);
    assert_ptr_equal(loop_current(), home);
    co_call_on(home, on_loop, &t->seen);
    assert_ptr_equal(t->seen, home);
}

static void a_call_runs_on_the_other_loop_and_comes_back(void **state)
{
    struct loop *home = loop_new("home", LOOP_CLOCK_REAL);
    struct iothread *io = iothread_new("io0");
    struct call_test t = {.there = iothread_loop(io)};

    loop_run_co(home, call_there, &t);
    iothread_free(io);
    loop_free(home);
}

static void a_thread_without_loop_may_call(void **state)
{
    struct iothread *io = iothread_new("io0");
    struct loop *seen = NULL;

    loop_call_blocking(iothread_loop(io), on_loop, &seen);
    assert_ptr_equal(seen, iothread_loop(io));
    iothread_free(io);
}

enum { SENDERS = 3, LETTERS = 20000 };

struct letter {
    struct mail mail;
    struct sender *sender;
    int number;
};

struct sender {
    struct loop *to;
    struct letter letters[LETTERS];
    int expected; /* receiver's */
};

static struct sender senders[SENDERS];
static int received;

static void read_letter(void *opaque)
{
    struct letter *l = opaque;

    assert_false(co_inside());
    assert_int_equal(l->number, l->sender->expected);
    l->sender->expected++;
    if (++received == SENDERS * LETTERS) {
        loop_quit(loop_current());
    }
}

static gpointer send_all(gpointer opaque)
{
    struct sender *s = opaque;

    for (int i = 0; i < LETTERS; i++) {
        struct letter *l = &s->letters[i];
        *l = (struct letter){.sender = s, .number = i};
        l->mail = (struct mail){.fn = read_letter, .opaque = l};
        loop_post(s->to, &l->mail);
        if (i % 64 == 0) {
            g_thread_yield(); /* let the receiver fall asleep now and then */
        }
    }
    return NULL;
}

static void mail_of_each_sender_arrives_in_order(void **state)
{
    struct loop *loop = loop_new("inbox", LOOP_CLOCK_REAL);
    GThread *threads[SENDERS];

    received = 0;
    for (int i = 0; i < SENDERS; i++) {
        senders[i].to = loop;
        senders[i].expected = 0;
        threads[i] = g_thread_new("sender", send_all, &senders[i]);
    }
    loop_run(loop);
    for (int i = 0; i < SENDERS; i++) {
        g_thread_join(threads[i]);
        assert_int_equal(senders[i].expected, LETTERS);
    }
    loop_free(loop);
}

static void add_one(void *opaque)
{
    (*(int *)opaque)++;
}

struct storm {
    struct loop *there;
    int *counter; /* touched on that loop alone */
    int running;
};

static void call_many(void *opaque)
{
    struct storm *s = opaque;

    for (int i = 0; i < 500; i++) {
        co_call_on(s->there, add_one, s->counter);
    }
    s->running--;
}

static void run_storm(void *opaque)
{
    struct storm *s = opaque;

    s->running = 20;
    for (int i = 0; i < 20; i++) {
        co_start(call_many, s);
    }
    while (s->running) {
        co_sleep_ns(100000);
    }
}

static void many_coroutines_call_at_once(void **state)
{
    struct loop *home = loop_new("home", LOOP_CLOCK_REAL);
    struct iothread *io = iothread_new("io0");
    int counter = 0;
    struct storm s = {.there = iothread_loop(io), .counter = &counter};

    loop_run_co(home, run_storm, &s);
    assert_int_equal(counter, 20 * 500);
    iothread_free(io);
    loop_free(home);
}

static void count_and_quit(void *opaque)
{
    if (++*(int *)opaque == 3) {
        loop_quit(loop_current());
    }
}

static void a_posted_call_frees_itself(void **state)
{
    struct loop *loop = loop_new("inbox", LOOP_CLOCK_REAL);
    int n = 0;

    for (int i = 0; i < 3; i++) {
        loop_post_call(loop, count_and_quit, &n);
    }
    assert_int_equal(n, 0);
    loop_run(loop);
    assert_int_equal(n, 3);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_call_runs_on_the_other_loop_and_comes_back),
        cmocka_unit_test(a_thread_without_loop_may_call),
        cmocka_unit_test(mail_of_each_sender_arrives_in_order),
        cmocka_unit_test(many_coroutines_call_at_once),
        cmocka_unit_test(a_posted_call_frees_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
