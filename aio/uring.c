/*
 * io_uring.
 *
 * One ring a loop, made at the first request. Requests lie on the stacks of
 * their coroutines and wait in `pending` until the loop's flush hook turns them
 * into entries and submits all with one system call; no more are in flight than
 * the completion ring holds. Completions are read from that ring when the loop
 * polls; for its sleep the ring's descriptor is in epoll. Where the kernel can,
 * it posts completions only when this thread enters it (COOP_TASKRUN), and a
 * flag that polling sees says that there are some. Owner's thread only.
 */
#include "aio/file_io_internal.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "aio/loop_internal.h"

enum {
    ENTRIES = 256,
    BATCH = 64,
    RETRY_NS = 1000000,
};

struct uring {
    struct loop_hook hook;
    struct loop *loop;
    struct io_uring ring;
    unsigned depth;     /* completions that the ring holds */
    unsigned in_flight; /* entries made, including not yet submitted ones */
    struct io_list pending;
    /* Brings the loop back to the flush hook when the kernel took no entry. */
    struct timer retry;
};

struct request {
    struct io_request common;
    struct io_part part;
};

static bool reap(struct uring *u)
{
    struct io_uring_cqe *cqes[BATCH];
    bool any = false;
    unsigned n;

    if (!u->in_flight) {
        return false;
    }
    do {
        n = io_uring_peek_batch_cqe(&u->ring, cqes, BATCH);
        for (unsigned i = 0; i < n; i++) {
            struct io_request *r = io_uring_cqe_get_data(cqes[i]);
            r->result = cqes[i]->res;
            co_wake(r->co);
        }
        io_uring_cq_advance(&u->ring, n);
        u->in_flight -= n;
        any |= n > 0;
    } while (n == BATCH);
    return any;
}

static bool uring_poll(void *opaque)
{
    return reap(opaque);
}

static void uring_edge(void *opaque)
{
    reap(opaque);
}

static void prepare(struct io_uring_sqe *sqe, const struct io_part *part)
{
    bool one = part->count == 1;
    unsigned len =
        (unsigned)(one ? MIN(part->vec->iov_len, 1u << 30) : part->count);
    const void *base = one ? part->vec->iov_base : (const void *)part->vec;
    uint64_t offset = (uint64_t)part->offset;

    switch (part->op) {
    case FILE_IO_READ:
        io_uring_prep_rw(one ? IORING_OP_READ : IORING_OP_READV, sqe, part->fd,
                         base, len, offset);
        break;
    case FILE_IO_WRITE:
    case FILE_IO_WRITE_FUA:
        io_uring_prep_rw(one ? IORING_OP_WRITE : IORING_OP_WRITEV, sqe,
                         part->fd, base, len, offset);
        sqe->rw_flags = part->op == FILE_IO_WRITE_FUA ? RWF_DSYNC : 0;
        break;
    case FILE_IO_FLUSH:
        io_uring_prep_fsync(sqe, part->fd, IORING_FSYNC_DATASYNC);
        break;
    }
}

/* Makes entries of what pends, as far as there is room. */
static void make_entries(struct uring *u)
{
    while (u->pending.first && u->in_flight < u->depth) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
        if (!sqe) {
            break;
        }
        struct io_request *r = io_list_pop(&u->pending);
        prepare(sqe, &((struct request *)r)->part);
        io_uring_sqe_set_data(sqe, r);
        u->in_flight++;
    }
}

static void uring_flush(void *opaque)
{
    struct uring *u = opaque;

    if (!u->pending.first && !io_uring_sq_ready(&u->ring)) {
        return;
    }
    for (;;) {
        make_entries(u);
        unsigned ready = io_uring_sq_ready(&u->ring);
        if (!ready) {
            break;
        }
        /* Entries that the kernel does not take (-EAGAIN, -EBUSY, -EINTR) stay
         * in the ring for the next flush. */
        int ret = io_uring_submit(&u->ring);
        reap(u);
        if (ret <= 0) {
            if (io_uring_sq_ready(&u->ring) == u->in_flight) {
                timer_arm(&u->retry, RETRY_NS);
            }
            break;
        }
    }
}

static void uring_retry(void *opaque)
{
}

static void uring_free(void *opaque)
{
    struct uring *u = opaque;

    assert(!u->in_flight && !u->pending.first);
    timer_cancel(&u->retry);
    loop_hook_remove(u->loop, &u->hook);
    loop_fd_set(u->loop, u->ring.ring_fd, NULL, NULL, NULL);
    io_uring_queue_exit(&u->ring);
    g_free(u);
}

static int ring_init(struct io_uring *ring)
{
    static const unsigned flags[] = {
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
            IORING_SETUP_SINGLE_ISSUER,
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
        0,
    };
    int ret = -EINVAL;

    for (size_t i = 0; i < G_N_ELEMENTS(flags) && ret == -EINVAL; i++) {
        ret = io_uring_queue_init(ENTRIES, ring, flags[i]);
    }
    return ret;
}

static struct uring *uring_new(struct loop *loop)
{
    struct uring *u = g_new0(struct uring, 1);

    if (ring_init(&u->ring) < 0) {
        g_free(u);
        return NULL;
    }
    u->loop = loop;
    u->depth = *u->ring.cq.kring_entries;
    io_list_init(&u->pending);
    timer_init(&u->retry, loop, uring_retry, NULL);
    u->hook = (struct loop_hook){
        .flush = uring_flush, .poll = uring_poll, .opaque = u};
    loop_hook_add(loop, &u->hook);
    loop_fd_set_engine(loop, u->ring.ring_fd, uring_edge, u);
    loop_set(loop, LOOP_SLOT_URING, u, uring_free);
    return u;
}

static ssize_t co_uring_part(const struct io_part *part)
{
    struct uring *u = loop_tls->slots[LOOP_SLOT_URING];
    struct request r = {.common.co = co_self(), .part = *part};

    io_list_append(&u->pending, &r.common);
    co_yield ();
    return r.common.result;
}

int co_uring(int fd, enum file_io_op op, int64_t offset, const struct iov *iov)
{
    struct loop *loop = loop_tls;

    assert(co_inside());
    if (!loop->slots[LOOP_SLOT_URING] && !uring_new(loop)) {
        /* Out of memory or descriptors: a worker does. */
        return file_io_have_uring() ? co_threaded(fd, op, offset, iov)
                                    : -ENOSYS;
    }
    return co_transfer(co_uring_part, fd, op, offset, iov);
}

bool file_io_have_uring(void)
{
    static int have; /* 0: not yet known, 1: yes, -1: no */
    int known = __atomic_load_n(&have, __ATOMIC_RELAXED);

    if (!known) {
        /* A ring of no entries is refused as such by who makes rings, which is
         * cheaper to hear than to have one made. EPERM: forbidden by seccomp or
         * sysctl. */
        struct io_uring_params none = {0};
        bool refused = syscall(SYS_io_uring_setup, 0, &none) < 0 &&
                       (errno == ENOSYS || errno == EPERM || errno == EACCES);
        known = refused ? -1 : 1;
        __atomic_store_n(&have, known, __ATOMIC_RELAXED);
    }
    return known > 0;
}
