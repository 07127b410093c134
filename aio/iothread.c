/*
 * A thread that runs one loop.
 *
 * The loop is made before the thread starts, so that mail can be posted at
 * once, and freed after it ended. The main thread owns struct iothread.
 */
#include "aio/iothread.h"

#include <glib.h>
#include <pthread.h>
#include <unistd.h>
#include "aio/loop.h"
#include "aio/mailbox.h"

struct iothread {
    struct loop *loop;
    GThread *thread;
    pthread_mutex_t lock; /* guards tid until the thread has set it */
    pthread_cond_t started;
    int tid;
};

static gpointer iothread_main(gpointer opaque)
{
    struct iothread *t = opaque;
    char name[16]; /* the kernel's limit */

    g_strlcpy(name, loop_name(t->loop), sizeof(name));
    pthread_setname_np(pthread_self(), name);
    pthread_mutex_lock(&t->lock);
    t->tid = (int)gettid();
    pthread_cond_signal(&t->started);
    pthread_mutex_unlock(&t->lock);
    loop_run(t->loop);
    return NULL;
}

struct iothread *iothread_new(const char *name)
{
    struct iothread *t = g_new0(struct iothread, 1);

    t->loop = loop_new(name, LOOP_CLOCK_REAL);
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->started, NULL);
    t->thread = g_thread_new(name, iothread_main, t);
    pthread_mutex_lock(&t->lock);
    while (!t->tid) {
        pthread_cond_wait(&t->started, &t->lock);
    }
    pthread_mutex_unlock(&t->lock);
    return t;
}

static void quit_here(void *opaque)
{
    loop_quit(opaque);
}

void iothread_free(struct iothread *t)
{
    struct mail mail = {.fn = quit_here, .opaque = t->loop};

    loop_post(t->loop, &mail);
    g_thread_join(t->thread);
    loop_free(t->loop);
    pthread_cond_destroy(&t->started);
    pthread_mutex_destroy(&t->lock);
    g_free(t);
}

struct loop *iothread_loop(struct iothread *t)
{
    return t->loop;
}

int iothread_tid(const struct iothread *t)
{
    return t->tid;
}
