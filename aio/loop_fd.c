/*
 * Descriptors of a loop: epoll, handlers, and coroutines that wait.
 *
 * Each descriptor has two directions, each with a handler or one waiting
 * coroutine. Handlers are level-triggered. The interest of a waiter stays
 * registered after it was woken, and is taken away only when an event comes
 * that nobody wants: a connection that alternates reading and waiting then
 * costs no epoll_ctl(). A hang-up or an error counts as both directions. What
 * epoll refuses (plain files, as a monitor's stdin may be) is always ready.
 * Events carry a generation, so that one for a descriptor that was forgotten in
 * the same batch reaches nobody. Owner's thread only.
 */
#include "aio/loop.h"

#include <assert.h>
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "aio/loop_internal.h"

enum direction { READABLE, WRITABLE };

struct fd_side {
    loop_fd_fn *fn;
    void *opaque;
    struct coroutine *waiter;
};

struct loop_fd {
    int fd;
    uint32_t generation;
    uint32_t registered; /* what epoll knows */
    bool refused;        /* by epoll: counts as ready while anybody wants it */
    bool engine;
    struct fd_side side[2];
};

static const uint32_t side_mask[2] = {EPOLLIN, EPOLLOUT};

static struct loop_fd *fd_find(struct loop *loop, int fd)
{
    return (unsigned)fd < loop->fds_len ? loop->fds[fd] : NULL;
}

static struct loop_fd *fd_get(struct loop *loop, int fd)
{
    assert(fd >= 0);
    if ((unsigned)fd >= loop->fds_len) {
        unsigned len = MAX((unsigned)fd + 1, loop->fds_len * 2);
        loop->fds = g_renew(struct loop_fd *, loop->fds, len);
        for (unsigned i = loop->fds_len; i < len; i++) {
            loop->fds[i] = NULL;
        }
        loop->fds_len = len;
    }
    struct loop_fd *e = loop->fds[fd];
    if (!e) {
        e = g_new0(struct loop_fd, 1);
        e->fd = fd;
        e->generation = ++loop->fd_generation;
        loop->fds[fd] = e;
    }
    return e;
}

static uint32_t fd_wanted(const struct loop_fd *e)
{
    uint32_t mask = 0;

    for (int d = READABLE; d <= WRITABLE; d++) {
        if (e->side[d].fn || e->side[d].waiter) {
            mask |= side_mask[d];
        }
    }
    return mask;
}

static void fd_register(struct loop *loop, struct loop_fd *e, uint32_t mask)
{
    struct epoll_event ev = {
        .events = mask,
        .data.u64 = (uint64_t)e->generation << 32 | (uint32_t)e->fd,
    };

    if (mask == e->registered) {
        return;
    }
    if (e->refused) {
        loop->always_ready += (mask != 0) - (e->registered != 0);
        e->registered = mask;
        return;
    }
    /* A descriptor that is already gone is no error here: its owner is about
     * to find out. Interest 0 would still report hang-ups, for ever. */
    if (!mask) {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, e->fd, NULL);
    } else if (!e->registered) {
        if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, e->fd, &ev) < 0) {
            if (errno == EPERM) {
                e->refused = true;
                fd_register(loop, e, mask);
                return;
            }
            if (errno != EEXIST ||
                epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, e->fd, &ev) < 0) {
                g_error("descriptor %d: epoll_ctl: %s", e->fd,
                        g_strerror(errno));
            }
        }
    } else if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, e->fd, &ev) < 0) {
        g_error("descriptor %d was closed before it was forgotten: %s", e->fd,
                g_strerror(errno));
    }
    e->registered = mask;
}

static void fd_forget(struct loop *loop, struct loop_fd *e)
{
    fd_register(loop, e, 0);
    loop->fds[e->fd] = NULL;
    g_free(e);
}

void loop_fd_destroy_all(struct loop *loop)
{
    for (unsigned i = 0; i < loop->fds_len; i++) {
        if (loop->fds[i]) {
            fd_forget(loop, loop->fds[i]);
        }
    }
    g_free(loop->fds);
    loop->fds = NULL;
    loop->fds_len = 0;
}

void loop_fd_set(struct loop *loop, int fd, loop_fd_fn *readable,
                 loop_fd_fn *writable, void *opaque)
{
    assert(loop == loop_tls);
    if (!readable && !writable && !fd_find(loop, fd)) {
        return;
    }
    struct loop_fd *e = fd_get(loop, fd);
    assert(!readable || !e->side[READABLE].waiter);
    assert(!writable || !e->side[WRITABLE].waiter);
    e->side[READABLE].fn = readable;
    e->side[READABLE].opaque = opaque;
    e->side[WRITABLE].fn = writable;
    e->side[WRITABLE].opaque = opaque;
    if (fd_wanted(e)) {
        fd_register(loop, e, fd_wanted(e));
    } else {
        fd_forget(loop, e);
    }
}

void loop_fd_set_engine(struct loop *loop, int fd, loop_fd_fn *fn, void *opaque)
{
    struct loop_fd *e = fd_get(loop, fd);

    e->engine = true;
    e->side[READABLE].fn = fn;
    e->side[READABLE].opaque = opaque;
    fd_register(loop, e, EPOLLIN | EPOLLET);
}

/* ---- waiting coroutines ---- */

static void co_fd_wait(int fd, enum direction d)
{
    struct loop *loop = loop_tls;

    assert(co_inside());
    struct loop_fd *e = fd_get(loop, fd);
    struct fd_side *side = &e->side[d];
    assert(!side->fn && !side->waiter);
    side->waiter = co_self();
#if defined(CO_ASAN) || defined(CO_TSAN)
    /* Finds descriptors that were closed without being forgotten. */
    if (e->registered & side_mask[d]) {
        e->registered &= ~side_mask[d];
        e->registered |= EPOLLRDHUP;
    }
#endif
    fd_register(loop, e, (e->registered & ~EPOLLRDHUP) | side_mask[d]);
    co_yield ();
}

void co_fd_wait_readable(int fd)
{
    co_fd_wait(fd, READABLE);
}

void co_fd_wait_writable(int fd)
{
    co_fd_wait(fd, WRITABLE);
}

/* ---- events ---- */

int loop_fd_wait(struct loop *loop, struct epoll_event *events,
                 int64_t timeout_ns)
{
    static bool no_pwait2; /* set once, by any thread, always to the same */
    int n;

    if (loop->always_ready) {
        timeout_ns = 0;
    }
    if (timeout_ns > 0 && !__atomic_load_n(&no_pwait2, __ATOMIC_RELAXED)) {
        struct timespec ts = {
            .tv_sec = timeout_ns / 1000000000,
            .tv_nsec = timeout_ns % 1000000000,
        };
        n = epoll_pwait2(loop->epoll_fd, events, LOOP_FD_BATCH, &ts, NULL);
        if (n >= 0 || errno != ENOSYS) {
            goto out;
        }
        __atomic_store_n(&no_pwait2, true, __ATOMIC_RELAXED);
    }
    /* Rounded up: a loop that wakes early would spin up to the deadline. */
    int64_t ms =
        timeout_ns < 0
            ? -1
            : MIN(timeout_ns / 1000000 + (timeout_ns % 1000000 != 0), G_MAXINT);
    n = epoll_wait(loop->epoll_fd, events, LOOP_FD_BATCH, (int)ms);
out:
    if (n < 0 && errno != EINTR) {
        g_error("%s: epoll_wait: %s", loop->name, g_strerror(errno));
    }
    loop->last_epoll_ns = loop->poll_hooks ? loop_real_ns() : 0;
    loop->stamp_ns = 0;
    return MAX(n, 0);
}

static bool fd_dispatch(struct loop *loop, int fd, uint32_t generation,
                        uint32_t events)
{
    bool called = false;

    if (events & (EPOLLHUP | EPOLLERR)) {
        events |= EPOLLIN | EPOLLOUT;
    }
    for (int d = READABLE; d <= WRITABLE; d++) {
        struct loop_fd *e = fd_find(loop, fd);
        if (!e || e->generation != generation) {
            return called;
        }
        struct fd_side *side = &e->side[d];
        if (!(events & side_mask[d])) {
            continue;
        }
        if (side->waiter) {
            struct coroutine *co = side->waiter;
            side->waiter = NULL;
            called = true;
            co_wake(co);
        } else if (side->fn) {
            called = !e->engine;
            side->fn(side->opaque);
        } else if (!e->engine && (e->registered & side_mask[d])) {
            fd_register(loop, e, fd_wanted(e));
        }
    }
    struct loop_fd *e = fd_find(loop, fd);
    if (e && e->generation == generation && !e->engine &&
        (!called || e->refused)) {
        fd_register(loop, e, fd_wanted(e));
    }
    return called;
}

bool loop_fd_dispatch(struct loop *loop, const struct epoll_event *events,
                      int n)
{
    bool any = false;

    for (int i = 0; i < n; i++) {
        any |=
            fd_dispatch(loop, (int)(uint32_t)events[i].data.u64,
                        (uint32_t)(events[i].data.u64 >> 32), events[i].events);
    }
    if (!loop->always_ready) {
        return any;
    }
    for (unsigned i = 0; i < loop->fds_len; i++) {
        struct loop_fd *e = loop->fds[i];
        if (e && e->refused && e->registered) {
            any |= fd_dispatch(loop, e->fd, e->generation, fd_wanted(e));
        }
    }
    return any;
}
