/*
 * Mail between loops: the one way from thread to thread.
 *
 * The inbox is one word: NULL, ASLEEP, or a stack of mail that senders push
 * with compare-and-swap; the owner takes all of it at once and turns it round,
 * so mail of one sender arrives in order. The owner may sleep once it has
 * changed NULL into ASLEEP; the sender that changes ASLEEP into its mail writes
 * to the eventfd, and nobody else does. It is registered edge-triggered and
 * never read: every write is an edge. A sender touches nothing of the loop
 * after its push, because the loop may be gone then; the one that signals is
 * counted, and the end of the loop waits for it.
 */
#include "aio/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <sys/eventfd.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#include "aio/loop_internal.h"

/* In the inbox of a loop that sleeps or is about to. */
#define ASLEEP     ((struct mail *)1)

/* Waking a thread, and a short call on it. */
#define AWAIT_NS   (100 * 1000)
/* Calls that are not awaited, at most, before one that is. */
#define ASLEEP_MAX 63

void mailbox_init(struct loop *loop)
{
    loop->mail_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (loop->mail_fd < 0) {
        g_error("%s: eventfd: %s", loop->name, g_strerror(errno));
    }
    loop_fd_set_engine(loop, loop->mail_fd, NULL, NULL);
}

void mailbox_destroy(struct loop *loop)
{
    assert(mailbox_empty(loop));
    while (__atomic_load_n(&loop->signallers, __ATOMIC_ACQUIRE)) {
        sched_yield();
    }
    loop_fd_set(loop, loop->mail_fd, NULL, NULL, NULL);
    close(loop->mail_fd);
}

bool mailbox_empty(struct loop *loop)
{
    struct mail *head = __atomic_load_n(&loop->inbox, __ATOMIC_RELAXED);

    return !head || head == ASLEEP;
}

bool mailbox_prepare_sleep(struct loop *loop)
{
    struct mail *none = NULL;

    return __atomic_compare_exchange_n(&loop->inbox, &none, ASLEEP, false,
                                       __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

void mailbox_awake(struct loop *loop)
{
    struct mail *asleep = ASLEEP;

    __atomic_compare_exchange_n(&loop->inbox, &asleep, NULL, false,
                                __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

bool mailbox_run(struct loop *loop)
{
    struct mail *mail, *in_order = NULL;

    assert(!loop->armed);
    if (mailbox_empty(loop)) {
        return false;
    }
    mail = __atomic_exchange_n(&loop->inbox, NULL, __ATOMIC_ACQUIRE);
    while (mail) {
        struct mail *next = mail->next;
        mail->next = in_order;
        in_order = mail;
        mail = next;
    }
    while (in_order) {
        mail = in_order;
        in_order = mail->next;
        mail->fn(mail->opaque); /* mail is the sender's again */
    }
    return true;
}

/* Pushes mail over ASLEEP and signals; false if the loop woke up meanwhile. */
static bool post_and_signal(struct loop *loop, struct mail *mail)
{
    static const uint64_t one = 1;
    struct mail *asleep = ASLEEP;

    __atomic_fetch_add(&loop->signallers, 1, __ATOMIC_ACQUIRE);
    mail->next = NULL;
    bool pushed = __atomic_compare_exchange_n(
        &loop->inbox, &asleep, mail, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    if (pushed) {
        /* Cannot fail but for a full counter, which is an edge too. */
        ssize_t n = write(loop->mail_fd, &one, sizeof(one));
        (void)n;
    }
    __atomic_fetch_sub(&loop->signallers, 1, __ATOMIC_RELEASE);
    return pushed;
}

void loop_post(struct loop *loop, struct mail *mail)
{
    struct mail *head = __atomic_load_n(&loop->inbox, __ATOMIC_RELAXED);

    for (;;) {
        if (head == ASLEEP) {
            if (post_and_signal(loop, mail)) {
                return;
            }
            head = __atomic_load_n(&loop->inbox, __ATOMIC_RELAXED);
            continue;
        }
        mail->next = head;
        if (__atomic_compare_exchange_n(&loop->inbox, &head, mail, true,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
            return;
        }
    }
}

struct self_freeing_mail {
    struct mail mail;
    void (*fn)(void *opaque);
    void *opaque;
};

static void self_freeing_call(void *opaque)
{
    struct self_freeing_mail m = *(struct self_freeing_mail *)opaque;

    g_free(opaque);
    m.fn(m.opaque);
}

void loop_post_call(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
    struct self_freeing_mail *m = g_new(struct self_freeing_mail, 1);

    m->fn = fn;
    m->opaque = opaque;
    m->mail = (struct mail){.fn = self_freeing_call, .opaque = m};
    loop_post(loop, &m->mail);
}

/* ---- calls ---- */

struct remote_call {
    struct mail mail; /* there, then back */
    co_fn *fn;
    void *opaque;
    /* Who waits: a coroutine, or a thread without a loop. */
    struct coroutine *caller;
    pthread_mutex_t lock;
    pthread_cond_t done_cond;
    bool done;
};

static void remote_call_returned(void *opaque)
{
    struct remote_call *c = opaque;

    co_wake(c->caller);
}

static void remote_call_run(void *opaque)
{
    struct remote_call *c = opaque;

    c->fn(c->opaque);
    if (c->caller) {
        c->mail = (struct mail){.fn = remote_call_returned, .opaque = c};
        loop_post(co_loop(c->caller), &c->mail);
        return;
    }
    pthread_mutex_lock(&c->lock);
    c->done = true;
    pthread_cond_signal(&c->done_cond);
    pthread_mutex_unlock(&c->lock);
}

static void remote_call_arrived(void *opaque)
{
    co_enter(co_create(remote_call_run, opaque));
}

/* A short call on a loop that sleeps takes less time than to fall asleep here
 * and to be woken. So a loop with nothing else to do, and no guest that waits
 * for it, looks out for the answer for a moment; where that was in vain it does
 * without for twice as many calls each time. */
static void await_answer(struct loop *self)
{
    if (self->poll_hooks || loop_has_ready(self)) {
        return;
    }
    if (self->calls_to_sleep) {
        self->calls_to_sleep--;
        return;
    }
    int64_t start = loop_real_ns();
    while (mailbox_empty(self)) {
        if (loop_real_ns() - start > AWAIT_NS) {
            self->calls_asleep = MIN(self->calls_asleep * 2 + 1, ASLEEP_MAX);
            self->calls_to_sleep = self->calls_asleep;
            return;
        }
        cpu_relax();
    }
    self->calls_asleep = 0;
}

void co_call_on(struct loop *loop, co_fn *fn, void *opaque)
{
    assert(co_inside());
    if (loop == loop_tls) {
        fn(opaque);
        return;
    }
    struct remote_call c = {
        .mail = {.fn = remote_call_arrived, .opaque = &c},
        .fn = fn,
        .opaque = opaque,
        .caller = co_self(),
    };
    loop_post(loop, &c.mail);
    await_answer(loop_tls);
    co_yield ();
}

void loop_call_blocking(struct loop *loop, co_fn *fn, void *opaque)
{
    struct remote_call c = {
        .mail = {.fn = remote_call_arrived, .opaque = &c},
        .fn = fn,
        .opaque = opaque,
    };

    assert(loop != loop_tls && !co_inside());
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.done_cond, NULL);
    loop_post(loop, &c.mail);
    pthread_mutex_lock(&c.lock);
    while (!c.done) {
        pthread_cond_wait(&c.done_cond, &c.lock);
    }
    pthread_mutex_unlock(&c.lock);
    pthread_cond_destroy(&c.done_cond);
    pthread_mutex_destroy(&c.lock);
}
