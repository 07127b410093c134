/*
 * Linux native AIO.
 *
 * One context a loop, made at the first request. Requests lie on the stacks of
 * their coroutines and wait in `pending` until the loop's flush hook submits as
 * many as the context takes, in one system call; the rest waits for
 * completions. Completions are read from the ring that the kernel maps at the
 * context's address, without a system call, if its magic and feature words are
 * the ones that we know; otherwise by io_getevents(). Every request asks for a
 * count on an eventfd, which is registered edge-triggered and never read, so
 * that the loop can sleep. Owner's thread only.
 */
#include "aio/file_io_internal.h"

#include <assert.h>
#include <errno.h>
#include <libaio.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>
#include "aio/loop_internal.h"

enum {
    DEPTH = 256, /* requests that the kernel has at one time */
    BATCH = 64,  /* requests a system call */
    RETRY_NS = 1000000,
};

/* The head of the mapped ring (public since Linux 2.6; struct aio_ring). */
#define RING_MAGIC 0xa10a10a1u
struct ring {
    unsigned id;
    unsigned nr; /* slots */
    unsigned head;
    unsigned tail;
    unsigned magic;
    unsigned compat_features;
    unsigned incompat_features;
    unsigned header_bytes;
    struct io_event events[];
};

struct libaio {
    struct loop_hook hook;
    struct loop *loop;
    io_context_t context;
    struct ring *ring; /* NULL: unknown layout */
    int event_fd;
    unsigned in_flight;
    struct io_list pending;
    /* Brings the loop back to the flush hook when the kernel has no room and
     * nothing of ours is in flight that would. */
    struct timer retry;
};

struct request {
    struct io_request common;
    struct iocb iocb;
};

static void complete(struct libaio *a, struct io_event *ev)
{
    struct io_request *r = ev->data;

    a->in_flight--;
    r->result = (ssize_t)(long)ev->res;
    co_wake(r->co);
}

static bool reap(struct libaio *a)
{
    struct ring *ring = a->ring;
    struct io_event events[BATCH];
    struct timespec zero = {0};
    int n;

    if (!a->in_flight) {
        return false;
    }
    if (ring) {
        unsigned head = ring->head;
        unsigned tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
        if (head == tail) {
            return false;
        }
        while (head != tail) {
            complete(a, &ring->events[head]);
            head = head + 1 == ring->nr ? 0 : head + 1;
        }
        __atomic_store_n(&ring->head, head, __ATOMIC_RELEASE);
        return true;
    }
    n = io_getevents(a->context, 0, BATCH, events, &zero);
    for (int i = 0; i < n; i++) {
        complete(a, &events[i]);
    }
    return n > 0;
}

static bool libaio_poll(void *opaque)
{
    return reap(opaque);
}

static void libaio_edge(void *opaque)
{
    reap(opaque);
}

/* Submits a batch from the head of pending; false when to stop for now. */
static bool submit_batch(struct libaio *a)
{
    struct iocb *iocbs[BATCH];
    int n = 0;

    for (struct io_request *r = a->pending.first;
         r && n < BATCH && a->in_flight + (unsigned)n < DEPTH; r = r->next) {
        iocbs[n++] = &((struct request *)r)->iocb;
    }
    if (!n) {
        return false;
    }
    int ret = io_submit(a->context, n, iocbs);
    if (ret == -EAGAIN || ret == -EINTR || ret == 0) {
        if (!a->in_flight) {
            timer_arm(&a->retry, RETRY_NS);
        }
        return false;
    }
    if (ret < 0) {
        /* It is the first that the kernel refuses. */
        struct io_request *r = io_list_pop(&a->pending);
        r->result = ret;
        co_wake(r->co);
        return true;
    }
    a->in_flight += (unsigned)ret;
    while (ret--) {
        io_list_pop(&a->pending);
    }
    return true;
}

static void libaio_flush(void *opaque)
{
    struct libaio *a = opaque;

    if (!a->pending.first) {
        return;
    }
    while (submit_batch(a)) {
    }
    /* What the page cache served is complete already. */
    reap(a);
}

static void libaio_retry(void *opaque)
{
}

static void libaio_free(void *opaque)
{
    struct libaio *a = opaque;

    assert(!a->in_flight && !a->pending.first);
    timer_cancel(&a->retry);
    loop_hook_remove(a->loop, &a->hook);
    loop_fd_set(a->loop, a->event_fd, NULL, NULL, NULL);
    close(a->event_fd);
    io_destroy(a->context);
    g_free(a);
}

static struct libaio *libaio_new(struct loop *loop)
{
    struct libaio *a = g_new0(struct libaio, 1);

    if (io_setup(DEPTH, &a->context) < 0) {
        goto err;
    }
    a->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (a->event_fd < 0) {
        io_destroy(a->context);
        goto err;
    }
    struct ring *ring = (struct ring *)a->context;
    if (ring->magic == RING_MAGIC && ring->incompat_features == 0) {
        a->ring = ring;
    }
    a->loop = loop;
    io_list_init(&a->pending);
    timer_init(&a->retry, loop, libaio_retry, NULL);
    a->hook = (struct loop_hook){
        .flush = libaio_flush, .poll = libaio_poll, .opaque = a};
    loop_hook_add(loop, &a->hook);
    loop_fd_set_engine(loop, a->event_fd, libaio_edge, a);
    loop_set(loop, LOOP_SLOT_LIBAIO, a, libaio_free);
    return a;
err:
    g_free(a);
    return NULL;
}

static void prepare(struct iocb *iocb, const struct io_part *part)
{
    bool one = part->count == 1;
    void *base = one ? part->vec->iov_base : (void *)(uintptr_t)part->vec;
    unsigned long n = one ? part->vec->iov_len : part->count;

    iocb->aio_fildes = part->fd;
    switch (part->op) {
    case FILE_IO_READ:
        iocb->aio_lio_opcode = one ? IO_CMD_PREAD : IO_CMD_PREADV;
        break;
    case FILE_IO_WRITE_FUA:
        iocb->aio_rw_flags = RWF_DSYNC;
        __attribute__((fallthrough));
    case FILE_IO_WRITE:
        iocb->aio_lio_opcode = one ? IO_CMD_PWRITE : IO_CMD_PWRITEV;
        break;
    case FILE_IO_FLUSH:
        iocb->aio_lio_opcode = IO_CMD_FDSYNC;
        return;
    }
    iocb->u.c.buf = base;
    iocb->u.c.nbytes = n;
    iocb->u.c.offset = part->offset;
}

static ssize_t co_libaio_part(const struct io_part *part)
{
    struct libaio *a = loop_tls->slots[LOOP_SLOT_LIBAIO];
    struct request r = {.common.co = co_self()};

    prepare(&r.iocb, part);
    r.iocb.data = &r.common;
    io_set_eventfd(&r.iocb, a->event_fd);
    io_list_append(&a->pending, &r.common);
    co_yield ();
    return r.common.result;
}

int co_libaio(int fd, enum file_io_op op, int64_t offset, const struct iov *iov)
{
    struct loop *loop = loop_tls;

    assert(co_inside());
    /* Without a context (the system's aio-max-nr is used up) a worker does. */
    if (!loop->slots[LOOP_SLOT_LIBAIO] && !libaio_new(loop)) {
        return co_threaded(fd, op, offset, iov);
    }
    return co_transfer(co_libaio_part, fd, op, offset, iov);
}

bool file_io_have_libaio(void)
{
    static int have; /* 0: not yet known, 1: yes, -1: no */
    int known = __atomic_load_n(&have, __ATOMIC_RELAXED);

    if (!known) {
        io_context_t context = NULL;
        int ret = io_setup(1, &context);
        if (ret == 0) {
            io_destroy(context);
        }
        known = ret == -ENOSYS ? -1 : 1;
        __atomic_store_n(&have, known, __ATOMIC_RELAXED);
    }
    return known > 0;
}
