/*
 * The directory of names and loops: tables behind one lock.
 *
 * It is asked by commands and by whoever makes or ends a thing with a name, and
 * never by a request.
 */
#include "aio/directory.h"

#include <assert.h>
#include <pthread.h>
#include "aio/loop.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static GHashTable *names[DIRECTORY_KIND_COUNT]; /* name -> loop, or NULL */
static GPtrArray *loops;
static uint64_t last_number;

/* ---- names ---- */

bool directory_add(enum directory_kind kind, const char *name)
{
    pthread_mutex_lock(&lock);
    if (!names[kind]) {
        names[kind] =
            g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    }
    bool is_new = !g_hash_table_contains(names[kind], name);
    if (is_new) {
        g_hash_table_insert(names[kind], g_strdup(name), loop_current());
    }
    pthread_mutex_unlock(&lock);
    return is_new;
}

void directory_remove(enum directory_kind kind, const char *name)
{
    pthread_mutex_lock(&lock);
    bool was_there = names[kind] && g_hash_table_remove(names[kind], name);
    /* So that nothing is left when everything is gone. */
    if (was_there && !g_hash_table_size(names[kind])) {
        g_clear_pointer(&names[kind], g_hash_table_unref);
    }
    pthread_mutex_unlock(&lock);
    assert(was_there);
}

static void set_loop(enum directory_kind kind, const char *name,
                     struct loop *loop)
{
    pthread_mutex_lock(&lock);
    assert(names[kind] && g_hash_table_contains(names[kind], name));
    g_hash_table_insert(names[kind], g_strdup(name), loop);
    pthread_mutex_unlock(&lock);
}

void directory_leave(enum directory_kind kind, const char *name)
{
    set_loop(kind, name, NULL);
}

void directory_arrive(enum directory_kind kind, const char *name)
{
    set_loop(kind, name, loop_current());
}

bool directory_find(enum directory_kind kind, const char *name,
                    struct loop **loop)
{
    gpointer value = NULL;

    pthread_mutex_lock(&lock);
    bool found = names[kind] &&
                 g_hash_table_lookup_extended(names[kind], name, NULL, &value);
    pthread_mutex_unlock(&lock);
    if (loop) {
        *loop = value;
    }
    return found;
}

uint64_t directory_number(void)
{
    pthread_mutex_lock(&lock);
    uint64_t number = ++last_number;
    pthread_mutex_unlock(&lock);
    return number;
}

/* ---- loops ---- */

void directory_loop_enter(struct loop *loop)
{
    pthread_mutex_lock(&lock);
    if (!loops) {
        loops = g_ptr_array_new();
    }
    g_ptr_array_add(loops, loop);
    pthread_mutex_unlock(&lock);
}

void directory_loop_leave(struct loop *loop)
{
    pthread_mutex_lock(&lock);
    bool was_there = loops && g_ptr_array_remove(loops, loop);
    if (was_there && !loops->len) {
        g_clear_pointer(&loops, g_ptr_array_unref);
    }
    pthread_mutex_unlock(&lock);
    assert(was_there);
}

GPtrArray *directory_loops(void)
{
    GPtrArray *copy = g_ptr_array_new();

    pthread_mutex_lock(&lock);
    for (guint i = 0; loops && i < loops->len; i++) {
        g_ptr_array_add(copy, loops->pdata[i]);
    }
    pthread_mutex_unlock(&lock);
    return copy;
}
