/*
 * A mutex among coroutines of several loops, and the directory of names.
 */
#include "aio/shared_mutex.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "aio/directory.h"
#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"

static struct co_shared_mutex mutex = CO_SHARED_MUTEX_INITIALIZER;

/* ---- one loop: as a co_mutex ---- */

static GString *trail;

static void co_take(void *opaque)
{
    co_shared_mutex_lock(&mutex);
    g_string_append(trail, opaque);
    co_pause();
    g_string_append(trail, opaque);
    co_shared_mutex_unlock(&mutex);
}

static void co_take_in_turn(void *opaque)
{
    co_shared_mutex_lock(&mutex);
    co_start(co_take, "a");
    co_start(co_take, "b");
    co_start(co_take, "c");
    co_pause();
    assert_string_equal(trail->str, "");
    co_shared_mutex_unlock(&mutex);
    co_shared_mutex_lock(&mutex);
    assert_string_equal(trail->str, "aabbcc");
    co_shared_mutex_unlock(&mutex);
}

static void it_is_served_in_order_of_arrival(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_SIMULATED);

    trail = g_string_new(NULL);
    loop_run_co(loop, co_take_in_turn, NULL);
    g_string_free(trail, TRUE);
    loop_free(loop);
}

/* ---- several threads ---- */

#define ROUNDS 2000

static unsigned plain; /* a sanitizer sees whether the lock orders accesses */

static void co_count_up(void *opaque)
{
    for (int i = 0; i < ROUNDS; i++) {
        co_shared_mutex_lock(&mutex);
        plain++;
        co_shared_mutex_unlock(&mutex);
        if (i % 7 == 0) {
            co_pause();
        }
    }
}

struct counting {
    struct loop *loop;
    unsigned *running;
};

static void co_send(void *opaque)
{
    struct counting *c = opaque;

    co_call_on(c->loop, co_count_up, NULL);
    --*c->running;
}

static void co_count_everywhere(void *opaque)
{
    struct iothread **threads = opaque;
    struct counting c[6];
    unsigned running = 6;

    for (unsigned i = 0; i < 6; i++) {
        c[i] = (struct counting){
            .loop = i < 3 ? iothread_loop(threads[i % 3])
                          : iothread_loop(threads[(i + 1) % 3]),
            .running = &running,
        };
        co_start(co_send, &c[i]);
    }
    while (running) {
        co_count_up(NULL);
        co_pause();
    }
    assert_true(plain >= 6 * ROUNDS);
}

static void it_excludes_coroutines_of_other_threads(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);
    struct iothread *threads[3];

    for (int i = 0; i < 3; i++) {
        threads[i] = iothread_new("io");
    }
    loop_run_co(loop, co_count_everywhere, threads);
    for (int i = 0; i < 3; i++) {
        iothread_free(threads[i]);
    }
    loop_free(loop);
}

/* ---- the directory ---- */

static void co_arrive(void *opaque)
{
    struct loop *where;

    assert_true(directory_find(DIRECTORY_NODE, "disk", &where));
    assert_null(where);
    assert_false(directory_add(DIRECTORY_NODE, "disk"));
    directory_arrive(DIRECTORY_NODE, "disk");
}

static void co_move_a_name(void *opaque)
{
    struct iothread *t = opaque;
    struct loop *where;

    assert_true(directory_add(DIRECTORY_NODE, "disk"));
    assert_false(directory_add(DIRECTORY_NODE, "disk"));
    assert_true(directory_add(DIRECTORY_JOB, "disk"));
    assert_true(directory_find(DIRECTORY_NODE, "disk", &where));
    assert_ptr_equal(where, loop_current());
    directory_leave(DIRECTORY_NODE, "disk");
    co_call_on(iothread_loop(t), co_arrive, NULL);
    assert_true(directory_find(DIRECTORY_NODE, "disk", &where));
    assert_ptr_equal(where, iothread_loop(t));
    directory_remove(DIRECTORY_NODE, "disk");
    assert_false(directory_find(DIRECTORY_NODE, "disk", NULL));
    directory_remove(DIRECTORY_JOB, "disk");
}

static void a_name_says_where_its_thing_lives(void **state)
{
    struct loop *loop = loop_new("test", LOOP_CLOCK_REAL);
    struct iothread *t = iothread_new("io");

    loop_run_co(loop, co_move_a_name, t);
    iothread_free(t);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_is_served_in_order_of_arrival),
        cmocka_unit_test(it_excludes_coroutines_of_other_threads),
        cmocka_unit_test(a_name_says_where_its_thing_lives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
