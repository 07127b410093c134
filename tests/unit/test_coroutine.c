/*
 * Coroutines: entering, suspending, ending, order of waking, deep stacks.
 */
#include "aio/coroutine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "aio/loop.h"

static int set_up(void **state)
{
    *state = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_bind(*state);
    return 0;
}

static int tear_down(void **state)
{
    loop_bind(NULL);
    loop_free(*state);
    return 0;
}

static char trace[64];

static void note(char c)
{
    size_t n = strlen(trace);

    assert_true(n + 1 < sizeof(trace));
    trace[n] = c;
    trace[n + 1] = 0;
}

static void two_halves(void *opaque)
{
    note('1');
    co_yield ();
    note('2');
}

static void enter_runs_until_the_yield(void **state)
{
    trace[0] = 0;
    struct coroutine *co = co_create(two_halves, NULL);
    assert_false(co_inside());
    assert_ptr_equal(co_loop(co), *state);
    note('a');
    co_enter(co);
    note('b');
    co_enter(co);
    note('c');
    assert_string_equal(trace, "a1b2c");
}

static void inner(void *opaque)
{
    note('i');
    assert_ptr_not_equal(co_self(), opaque);
    co_yield ();
    note('j');
}

static void outer(void *opaque)
{
    struct coroutine *self = co_self();
    struct coroutine *co = co_create(inner, self);

    co_enter(co);
    assert_ptr_equal(co_self(), self);
    note('o');
    co_enter(co);
    note('p');
}

static void a_coroutine_may_enter_another(void **state)
{
    trace[0] = 0;
    co_enter(co_create(outer, NULL));
    assert_string_equal(trace, "iojp");
    assert_null(co_self());
}

static void note_opaque(void *opaque)
{
    note(*(char *)opaque);
}

static void waking_keeps_the_order(void **state)
{
    trace[0] = 0;
    co_start(note_opaque, "x");
    co_start(note_opaque, "y");
    co_start(note_opaque, "z");
    assert_string_equal(trace, "");
    assert_true(loop_pass(*state, false));
    assert_string_equal(trace, "xyz");
    assert_false(loop_pass(*state, false));
}

static void wake_myself(void *opaque)
{
    co_wake(co_self());
    note('w');
    co_yield ();
    note('W');
}

static void a_wake_before_the_yield_is_not_lost(void **state)
{
    trace[0] = 0;
    co_start(wake_myself, NULL);
    loop_pass(*state, false);
    assert_string_equal(trace, "wW");
}

static void pause_three_times(void *opaque)
{
    for (int i = 0; i < 3; i++) {
        note(*(char *)opaque);
        co_pause();
    }
}

static void pausing_lets_the_others_run(void **state)
{
    trace[0] = 0;
    co_start(pause_three_times, "p");
    co_start(pause_three_times, "q");
    while (loop_pass(*state, false)) {
    }
    assert_string_equal(trace, "pqpqpq");
}

static int depth(int n)
{
    volatile char frame[1000];

    memset((void *)(uintptr_t)frame, n, sizeof(frame));
    return n ? depth(n - 1) + (frame[n % 1000] == (char)n) : 0;
}

static void deep(void *opaque)
{
    *(int *)opaque = depth(100);
}

static void a_stack_holds_deep_calls(void **state)
{
    int n = 0;

    co_enter(co_create(deep, &n));
    assert_int_equal(n, 100);
}

enum { MANY = 1000 };
static struct coroutine *many[MANY];
static uint64_t sums[MANY];

static void add_up(void *opaque)
{
    uint64_t *sum = opaque;
    double kept = (double)(sum - sums);

    for (int i = 0; i < 10; i++) {
        *sum += (uint64_t)i;
        kept += 1.5;
        co_yield ();
    }
    assert_true(kept == (double)(sum - sums) + 15);
}

static void many_coroutines_keep_their_own_state(void **state)
{
    memset(sums, 0, sizeof(sums));
    for (int i = 0; i < MANY; i++) {
        many[i] = co_create(add_up, &sums[i]);
    }
    for (int round = 0; round < 11; round++) {
        for (int i = 0; i < MANY; i++) {
            co_enter(many[(i * 7) % MANY]);
        }
    }
    for (int i = 0; i < MANY; i++) {
        assert_int_equal(sums[i], 45);
    }
}

static void count(void *opaque)
{
    (*(int *)opaque)++;
}

static void ended_coroutines_are_used_again(void **state)
{
    int n = 0;
    struct coroutine *first = co_create(count, &n);

    co_enter(first);
    for (int i = 0; i < 100000; i++) {
        struct coroutine *co = co_create(count, &n);
        assert_ptr_equal(co, first);
        co_enter(co);
    }
    assert_int_equal(n, 100001);
}

static int recurse_too_deep(int n)
{
    volatile char frame[512];

    frame[n % 512] = (char)n;
    return n < 1000000 ? recurse_too_deep(n + 1) + frame[n % 512] : 0;
}

static void overflow(void *opaque)
{
    *(int *)opaque = recurse_too_deep(0);
}

static void a_stack_that_overflows_kills_and_corrupts_nothing(void **state)
{
    int status, n;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0};
        setrlimit(RLIMIT_CORE, &none);
        if (!freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        signal(SIGSEGV, SIG_DFL);
        co_enter(co_create(overflow, &n));
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(enter_runs_until_the_yield),
        cmocka_unit_test(a_coroutine_may_enter_another),
        cmocka_unit_test(waking_keeps_the_order),
        cmocka_unit_test(a_wake_before_the_yield_is_not_lost),
        cmocka_unit_test(pausing_lets_the_others_run),
        cmocka_unit_test(a_stack_holds_deep_calls),
        cmocka_unit_test(many_coroutines_keep_their_own_state),
        cmocka_unit_test(ended_coroutines_are_used_again),
        cmocka_unit_test(a_stack_that_overflows_kills_and_corrupts_nothing),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
