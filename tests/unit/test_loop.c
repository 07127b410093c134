/*
 * The pass: deferred calls, descriptors, hooks, polling, GLib.
 */
#include "aio/loop.h"
#include "aio/loop_internal.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/file_io.h"
#include "aio/timer.h"

static struct loop *loop;
static char trace[64];

static int set_up_with(enum loop_clock clock)
{
    loop = loop_new("test", clock);
    loop_bind(loop);
    memset(trace, 0, sizeof(trace));
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(LOOP_CLOCK_SIMULATED);
}

static int set_up_real(void **state)
{
    return set_up_with(LOOP_CLOCK_REAL);
}

static int tear_down(void **state)
{
    loop_bind(NULL);
    loop_free(loop);
    return 0;
}

static void note(void *opaque)
{
    assert_true(strlen(trace) + 1 < sizeof(trace));
    trace[strlen(trace)] = *(char *)opaque;
}

static void settle(void)
{
    while (loop_pass(loop, false)) {
    }
}

/* ---- deferred calls ---- */

static void deferred_calls_run_once_in_order(void **state)
{
    struct deferred a = {.fn = note, .opaque = "a"};
    struct deferred b = {.fn = note, .opaque = "b"};
    struct deferred c = {.fn = note, .opaque = "c"};

    loop_defer(loop, &a);
    loop_defer(loop, &b);
    loop_defer(loop, &c);
    loop_defer(loop, &a);
    loop_defer_cancel(loop, &b);
    loop_defer_cancel(loop, &b);
    assert_string_equal(trace, "");
    settle();
    assert_string_equal(trace, "ac");
    loop_defer(loop, &b);
    loop_defer_cancel(loop, &b);
    loop_defer(loop, &c);
    settle();
    assert_string_equal(trace, "acc");
}

/* ---- descriptors ---- */

struct pair {
    int fd[2];
    int reads, writes;
};

static void open_pair(struct pair *p)
{
    *p = (struct pair){0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, p->fd),
                     0);
}

static void close_pair(struct pair *p)
{
    close(p->fd[0]);
    close(p->fd[1]);
}

static void on_readable(void *opaque)
{
    ((struct pair *)opaque)->reads++;
}

static void on_writable(void *opaque)
{
    ((struct pair *)opaque)->writes++;
}

static void handlers_are_level_triggered(void **state)
{
    struct pair p;
    char c;

    open_pair(&p);
    loop_fd_set(loop, p.fd[0], on_readable, NULL, &p);
    assert_false(loop_pass(loop, false));
    assert_int_equal(write(p.fd[1], "x", 1), 1);
    assert_true(loop_pass(loop, false));
    assert_true(loop_pass(loop, false));
    assert_int_equal(p.reads, 2);
    assert_int_equal(read(p.fd[0], &c, 1), 1);
    assert_false(loop_pass(loop, false));
    loop_fd_set(loop, p.fd[0], on_readable, on_writable, &p);
    loop_pass(loop, false);
    assert_int_equal(p.writes, 1);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    assert_false(loop_pass(loop, false));
    close_pair(&p);
}

static struct pair twins[2];

static void forget_both(void *opaque)
{
    trace[strlen(trace)] = 'f';
    for (int i = 0; i < 2; i++) {
        loop_fd_set(loop, twins[i].fd[0], NULL, NULL, NULL);
    }
}

static void a_forgotten_descriptor_gets_no_event_of_the_same_batch(void **state)
{
    for (int i = 0; i < 2; i++) {
        open_pair(&twins[i]);
        assert_int_equal(write(twins[i].fd[1], "x", 1), 1);
        loop_fd_set(loop, twins[i].fd[0], forget_both, forget_both, NULL);
    }
    settle();
    assert_string_equal(trace, "f");
    for (int i = 0; i < 2; i++) {
        close_pair(&twins[i]);
    }
}

static void co_read_until_the_end(void *opaque)
{
    int fd = *(int *)opaque;
    char buf[8];
    ssize_t n;

    for (;;) {
        co_fd_wait_readable(fd);
        n = read(fd, buf, sizeof(buf));
        if (n == 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            note(&buf[i]);
        }
    }
    loop_fd_set(loop, fd, NULL, NULL, NULL);
    note("$");
}

static void a_coroutine_waits_for_a_descriptor(void **state)
{
    struct pair p;

    open_pair(&p);
    co_start(co_read_until_the_end, &p.fd[0]);
    settle();
    assert_int_equal(write(p.fd[1], "ab", 2), 2);
    settle();
    assert_string_equal(trace, "ab");
    assert_int_equal(write(p.fd[1], "c", 1), 1);
    settle();
    assert_string_equal(trace, "abc");
    shutdown(p.fd[1], SHUT_WR);
    settle();
    assert_string_equal(trace, "abc$");
    close_pair(&p);
}

static void co_wait_writable(void *opaque)
{
    co_fd_wait_writable(*(int *)opaque);
    note("w");
}

static void both_directions_may_be_waited_for(void **state)
{
    static char junk[65536];
    struct pair p;

    open_pair(&p);
    while (write(p.fd[0], junk, sizeof(junk)) > 0) {
    }
    co_start(co_read_until_the_end, &p.fd[0]);
    co_start(co_wait_writable, &p.fd[0]);
    settle();
    assert_string_equal(trace, "");
    assert_int_equal(write(p.fd[1], "r", 1), 1);
    settle();
    assert_string_equal(trace, "r");
    while (read(p.fd[1], junk, sizeof(junk)) > 0) {
    }
    settle();
    assert_string_equal(trace, "rw");
    close(p.fd[1]);
    settle();
    assert_string_equal(trace, "rw$");
    close(p.fd[0]);
}

static void a_hang_up_that_nobody_wants_does_not_spin(void **state)
{
    struct pair p;

    open_pair(&p);
    co_start(co_wait_writable, &p.fd[0]);
    settle();
    close(p.fd[1]);
    settle(); /* ends only if the loop stops to hear of it */
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    close(p.fd[0]);
}

static void a_plain_file_is_always_ready(void **state)
{
    char path[] = "/tmp/test_loop.XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, "file", 4), 4);
    lseek(fd, 0, SEEK_SET);
    co_start(co_read_until_the_end, &fd);
    settle();
    assert_string_equal(trace, "file$");
    co_start(co_wait_writable, &fd);
    settle();
    assert_string_equal(trace, "file$w");
    loop_fd_set(loop, fd, NULL, NULL, NULL);
    close(fd);
}

/* ---- hooks ---- */

struct spy {
    struct loop_hook hook;
    int flushed, polled, armed, disarmed;
    int work;    /* polls that make progress */
    int work_at; /* so does the poll of that number */
    bool work_on_arm;
    bool work_after_arm; /* the next poll makes progress */
    int polled_at_arm;
    int wake_fd; /* to end a sleep that arm() has seen */
};

static void spy_flush(void *opaque)
{
    ((struct spy *)opaque)->flushed++;
}

static bool spy_poll(void *opaque)
{
    struct spy *s = opaque;

    if (++s->polled == s->work_at) {
        s->work_at = 0;
        return true;
    }
    return s->work > 0 && s->work-- > 0;
}

static bool spy_arm(void *opaque)
{
    struct spy *s = opaque;

    s->armed++;
    s->polled_at_arm = s->polled;
    s->work += s->work_after_arm;
    if (s->wake_fd && write(s->wake_fd, "x", 1) != 1) {
        abort();
    }
    return s->work_on_arm;
}

static void spy_disarm(void *opaque)
{
    ((struct spy *)opaque)->disarmed++;
}

static void spy_add(struct spy *s)
{
    *s = (struct spy){0};
    s->hook = (struct loop_hook){.flush = spy_flush,
                                 .poll = spy_poll,
                                 .arm = spy_arm,
                                 .disarm = spy_disarm,
                                 .opaque = s};
    loop_hook_add(loop, &s->hook);
}

static struct spy spy;
static int flushed_before;

static void look_at_flush_count(void *opaque)
{
    flushed_before = spy.flushed;
    note("c");
}

static void flush_comes_after_all_that_is_ready(void **state)
{
    spy_add(&spy);
    for (int i = 0; i < 5; i++) {
        co_start(look_at_flush_count, NULL);
    }
    loop_pass(loop, false);
    assert_string_equal(trace, "ccccc");
    assert_int_equal(flushed_before, 0);
    assert_true(spy.flushed >= 1);
    assert_int_equal(spy.armed, 0);
    loop_hook_remove(loop, &spy.hook);
}

static void progress_of_a_poller_keeps_the_loop_awake(void **state)
{
    spy_add(&spy);
    spy.work = 3;
    for (int i = 0; i < 3; i++) {
        assert_true(loop_pass(loop, true));
    }
    assert_int_equal(spy.work, 0);
    assert_int_equal(spy.armed, 0);
    loop_hook_remove(loop, &spy.hook);
}

static void arming_that_finds_work_prevents_the_sleep(void **state)
{
    spy_add(&spy);
    spy.work_on_arm = true;
    assert_true(loop_pass(loop, true)); /* would sleep for ever */
    assert_int_equal(spy.armed, 1);
    assert_int_equal(spy.disarmed, 1);
    loop_hook_remove(loop, &spy.hook);
}

static void a_sleep_is_armed_and_disarmed(void **state)
{
    struct pair p;

    open_pair(&p);
    spy_add(&spy);
    spy.wake_fd = p.fd[1];
    loop_fd_set(loop, p.fd[0], on_readable, NULL, &p);
    assert_true(loop_pass(loop, true));
    assert_int_equal(p.reads, 1);
    assert_int_equal(spy.armed, 1);
    assert_int_equal(spy.disarmed, 1);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    loop_hook_remove(loop, &spy.hook);
    close_pair(&p);
}

static bool spy_listed;

static void remove_the_spy(void *opaque)
{
    if (spy_listed) {
        spy_listed = false;
        loop_hook_remove(loop, &spy.hook);
    }
}

static void a_hook_may_be_removed_from_a_hook(void **state)
{
    struct loop_hook remover = {.flush = remove_the_spy};

    spy_add(&spy);
    spy_listed = true;
    loop_hook_add(loop, &remover); /* is called before the spy */
    loop_pass(loop, false);
    assert_false(spy_listed);
    assert_int_equal(spy.flushed, 0);
    loop_hook_remove(loop, &remover);
}

/* ---- polling that adapts ---- */

/* So long a maximum that every event counts as one within it. */
#define FOR_EVER INT64_C(1000000000000)

/* Goes to sleep; the poller has something to see as soon as it wakes, if seen,
 * or only long after. Returns how often the loop polled before it slept. */
static int polls_before_a_sleep(struct pair *p, bool seen)
{
    char c;

    spy.polled = 0;
    spy.polled_at_arm = 0;
    spy.armed = 0;
    spy.work_after_arm = seen;
    while (!spy.armed) {
        loop_pass(loop, true);
    }
    assert_int_equal(read(p->fd[0], &c, 1), 1);
    spy.work = 0;
    settle();
    return spy.polled_at_arm;
}

static void polling_starts_when_it_pays_and_stops_when_not(void **state)
{
    struct pair p;
    int polls = 0;

    open_pair(&p);
    spy_add(&spy);
    spy.wake_fd = p.fd[1];
    loop_fd_set(loop, p.fd[0], on_readable, NULL, &p);

    loop_set_poll_max(loop, FOR_EVER);
    assert_true(polls_before_a_sleep(&p, true) <= 2);
    while (polls <= 2) {
        polls = polls_before_a_sleep(&p, true);
    }
    for (int i = 0; i < 20; i++) {
        polls = polls_before_a_sleep(&p, false);
    }
    assert_true(polls <= 2);
    loop_set_poll_max(loop, 0);
    for (int i = 0; i < 8; i++) {
        polls = polls_before_a_sleep(&p, true);
    }
    assert_true(polls <= 2);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    loop_hook_remove(loop, &spy.hook);
    close_pair(&p);
}

/* The loop has learnt that polling pays, from polls that did as often as said.
 */
static void learn_to_poll(struct pair *p, int paid)
{
    loop_set_poll_max(loop, FOR_EVER);
    for (int i = 0; i < 4; i++) {
        polls_before_a_sleep(p, true);
    }
    spy.work_after_arm = false;
    while (paid) {
        /* The second poll of the window sees something. */
        spy.polled = 0;
        spy.armed = 0;
        spy.work_at = 2;
        loop_pass(loop, true);
        paid -= !spy.armed && !spy.work_at;
    }
}

static int sleeps_until_polling_ends(struct pair *p)
{
    int n = 0;

    while (loop->poll_ns) {
        polls_before_a_sleep(p, false);
        n++;
    }
    return n;
}

static void polls_that_paid_outlive_some_that_did_not(void **state)
{
    struct pair p;

    open_pair(&p);
    spy_add(&spy);
    spy.wake_fd = p.fd[1];
    loop_fd_set(loop, p.fd[0], on_readable, NULL, &p);
    learn_to_poll(&p, 0);
    int first = sleeps_until_polling_ends(&p);
    learn_to_poll(&p, 100);
    int many = sleeps_until_polling_ends(&p);
    assert_true(many > first);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    loop_hook_remove(loop, &spy.hook);
    close_pair(&p);
}

static void a_trial_polls_without_a_window_and_ends(void **state)
{
    struct pair p;

    open_pair(&p);
    spy_add(&spy);
    spy.wake_fd = p.fd[1];
    loop_fd_set(loop, p.fd[0], on_readable, NULL, &p);
    assert_true(loop->may_try);
    assert_int_equal(loop->poll_ns, 0);
    loop->trial_left = 3;
    for (int i = 0; i < 3; i++) {
        /* One of a pass, and one of the wait at least. */
        assert_true(polls_before_a_sleep(&p, false) >= 2);
    }
    assert_int_equal(loop->trial_left, 0);
    assert_int_equal(polls_before_a_sleep(&p, false), 1);
    /* Who has chosen a window gets no longer one. */
    loop_set_poll_max(loop, 1000);
    assert_false(loop->may_try);
    loop_fd_set(loop, p.fd[0], NULL, NULL, NULL);
    loop_hook_remove(loop, &spy.hook);
    close_pair(&p);
}

/* ---- GLib ---- */

static GMainLoop *main_loop;

static int blocking_work(void *opaque)
{
    return 42;
}

static void co_quit_after_a_while(void *opaque)
{
    co_sleep_ns(1000000);
    note("s");
    /* Needs the flush hook, and mail from another thread. */
    assert_int_equal(co_worker(blocking_work, NULL), 42);
    co_read_until_the_end(opaque);
    g_main_loop_quit(main_loop);
}

static gboolean from_glib(gpointer opaque)
{
    note("g");
    assert_int_equal(g_main_depth(), 1);
    co_enter(co_create(co_quit_after_a_while, opaque));
    return G_SOURCE_REMOVE;
}

static gboolean write_and_close(gpointer opaque)
{
    int fd = *(int *)opaque;

    if (write(fd, "!", 1) != 1) {
        abort();
    }
    close(fd);
    return G_SOURCE_REMOVE;
}

static void glib_drives_an_attached_loop(void **state)
{
    GMainContext *context = g_main_context_new();
    GSource *source = loop_attach_glib(loop, context);
    struct pair p;

    open_pair(&p);
    main_loop = g_main_loop_new(context, FALSE);
    GSource *idle = g_idle_source_new();
    g_source_set_callback(idle, from_glib, &p.fd[0], NULL);
    g_source_attach(idle, context);
    GSource *later = g_timeout_source_new(20);
    g_source_set_callback(later, write_and_close, &p.fd[1], NULL);
    g_source_attach(later, context);

    g_main_loop_run(main_loop);
    assert_string_equal(trace, "gs!$");
    g_source_destroy(source);
    g_source_unref(source);
    g_source_unref(idle);
    g_source_unref(later);
    g_main_loop_unref(main_loop);
    g_main_context_unref(context);
    close(p.fd[0]);
}

/* ---- running ---- */

static void quit_now(void *opaque)
{
    note("q");
    loop_quit(loop);
}

static void run_ends_at_quit(void **state)
{
    co_start(quit_now, NULL);
    loop_run(loop);
    assert_string_equal(trace, "q");
    co_start(quit_now, NULL);
    loop_run(loop);
    assert_string_equal(trace, "qq");
}

static void sleep_then_note(void *opaque)
{
    co_sleep_ns(100000);
    note(opaque);
}

static void run_co_returns_when_the_coroutine_ended(void **state)
{
    loop_run_co(loop, sleep_then_note, "z");
    assert_string_equal(trace, "z");
}

static int destroyed;

static void destroy_slot(void *value)
{
    assert_ptr_equal(value, &destroyed);
    destroyed++;
}

static void slots_are_destroyed_with_the_loop(void **state)
{
    struct loop *l = loop_new("slots", LOOP_CLOCK_REAL);
    struct loop *outer = loop_current();

    loop_bind(l);
    assert_null(loop_get(l, LOOP_SLOT_GRAPH));
    loop_set(l, LOOP_SLOT_GRAPH, &destroyed, destroy_slot);
    assert_ptr_equal(loop_get(l, LOOP_SLOT_GRAPH), &destroyed);
    loop_bind(outer);
    loop_free(l);
    assert_int_equal(destroyed, 1);
    assert_ptr_equal(loop_current(), outer);
}

/* ---- clock ---- */

static int64_t stamps[3];

static void take_stamps(void *opaque)
{
    stamps[0] = loop_stamp_ns(loop);
    while (loop_now_ns(loop) <= stamps[0]) {
    }
    stamps[1] = loop_stamp_ns(loop);
    co_pause();
    stamps[2] = loop_stamp_ns(loop);
}

static void a_stamp_stays_for_one_round(void **state)
{
    loop_run_co(loop, take_stamps, NULL);
    assert_true(stamps[0] > 0);
    assert_true(stamps[1] == stamps[0]);
    assert_true(stamps[2] > stamps[1]);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
#define TEST_REAL(name) \
    cmocka_unit_test_setup_teardown(name, set_up_real, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(deferred_calls_run_once_in_order),
        TEST(handlers_are_level_triggered),
        TEST(a_forgotten_descriptor_gets_no_event_of_the_same_batch),
        TEST(a_coroutine_waits_for_a_descriptor),
        TEST(both_directions_may_be_waited_for),
        TEST(a_hang_up_that_nobody_wants_does_not_spin),
        TEST(a_plain_file_is_always_ready),
        TEST(flush_comes_after_all_that_is_ready),
        TEST(progress_of_a_poller_keeps_the_loop_awake),
        TEST(arming_that_finds_work_prevents_the_sleep),
        TEST(a_sleep_is_armed_and_disarmed),
        TEST(a_hook_may_be_removed_from_a_hook),
        TEST_REAL(polling_starts_when_it_pays_and_stops_when_not),
        TEST_REAL(polls_that_paid_outlive_some_that_did_not),
        TEST_REAL(a_trial_polls_without_a_window_and_ends),
        TEST_REAL(glib_drives_an_attached_loop),
        TEST_REAL(run_ends_at_quit),
        TEST_REAL(run_co_returns_when_the_coroutine_ended),
        TEST_REAL(a_stamp_stays_for_one_round),
        TEST_REAL(slots_are_destroyed_with_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
