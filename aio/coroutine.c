/*
 * Coroutines of the current loop, on pooled stacks.
 *
 * A coroutine lives at the top of its own stack mapping, below which lies a
 * guard. Stacks are given out from the loop's pool: the bottom frame of each is
 * an endless loop that runs one function after another, so that starting one on
 * a pooled stack is a plain switch. Invariants: `current` is the coroutine that
 * runs on this thread, NULL outside of any; a coroutine's caller is whoever
 * entered it and gets the CPU back when it suspends or ends; the ready list is
 * only emptied outside of any coroutine, so that waking one that has yet to
 * suspend is safe. Runs on any loop; a coroutine never leaves its own.
 */
#include "aio/coroutine.h"

#include <assert.h>
#include <glib.h>
#include <stdint.h>
#include <sys/mman.h>
#include "aio/coroutine_internal.h"
#include "aio/loop_internal.h"

#if __has_include(<valgrind/valgrind.h>)
#include <valgrind/valgrind.h>
#else
#define VALGRIND_STACK_REGISTER(start, end) 0
#define VALGRIND_STACK_DEREGISTER(id)       ((void)(id))
#endif

#if defined(CO_ASAN) || defined(CO_TSAN)
#define STACK_BYTES ((size_t)1024 * 1024)
#else
#define STACK_BYTES ((size_t)256 * 1024)
#endif
#define GUARD_BYTES  ((size_t)16 * 1024)
/* Free stacks that a loop keeps: bounds what a burst leaves behind. */
#define POOL_MAX     256
/* Tops of stacks are spread over a page, or they would all fall into the same
 * few sets of the first-level cache. */
#define COLOURS      16
#define COLOUR_BYTES 256

static __thread struct coroutine *current
    __attribute__((tls_model("initial-exec")));

static inline struct co_context *context_of(struct coroutine *co,
                                            struct loop *loop)
{
    return co ? &co->ctx : &loop->leader;
}

static void co_main(void)
{
    struct coroutine *co = current;

    for (;;) {
        context_entered(&co->ctx, context_of(co->caller, co->loop));
        co->fn(co->opaque);
        assert(!co->queued);
        co->state = CO_ENDED;
        context_leave(&co->ctx, context_of(co->caller, co->loop));
    }
}

static struct coroutine *stack_new(struct loop *loop)
{
    struct co_stacks *s = &loop->stacks;
    void *map =
        mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (map == MAP_FAILED || mprotect(map, GUARD_BYTES, PROT_NONE) < 0) {
        g_error("no memory for a coroutine stack");
    }
    char *bottom = (char *)map + GUARD_BYTES;
    size_t top = STACK_BYTES - sizeof(struct coroutine) -
                 (s->made++ % COLOURS) * COLOUR_BYTES;
    struct coroutine *co =
        (struct coroutine *)(void *)(bottom + (top & ~(size_t)63));

    context_init(&co->ctx, bottom, co, co_main);
    co->state = CO_POOLED;
    co->loop = loop;
    co->map = map;
    co->valgrind_id = VALGRIND_STACK_REGISTER(bottom, co);
    co->all_next = s->all;
    co->all_prev = &s->all;
    if (s->all) {
        s->all->all_prev = &co->all_next;
    }
    s->all = co;
    return co;
}

static void stack_free(struct coroutine *co)
{
    void *map = co->map;

    *co->all_prev = co->all_next;
    if (co->all_next) {
        co->all_next->all_prev = co->all_prev;
    }
    VALGRIND_STACK_DEREGISTER(co->valgrind_id);
    context_destroy(&co->ctx);
#ifdef CO_ASAN
    __asan_unpoison_memory_region((char *)map + GUARD_BYTES, STACK_BYTES);
#endif
    munmap(map, GUARD_BYTES + STACK_BYTES);
}

void co_stacks_free(struct co_stacks *s)
{
    assert(s->live == 0);
    while (s->pool) {
        struct coroutine *co = s->pool;
        s->pool = co->next;
        stack_free(co);
    }
    assert(!s->all);
    s->pooled = 0;
}

static void put_away(struct coroutine *co)
{
    struct co_stacks *s = &co->loop->stacks;

    s->live--;
    if (s->pooled >= POOL_MAX) {
        stack_free(co);
        return;
    }
    co->state = CO_POOLED;
    co->next = s->pool;
    s->pool = co;
    s->pooled++;
}

struct coroutine *co_create(co_fn *fn, void *opaque)
{
    struct loop *loop = loop_tls;
    assert(loop);
    struct co_stacks *s = &loop->stacks;
    struct coroutine *co = s->pool;

    if (G_LIKELY(co)) {
        s->pool = co->next;
        s->pooled--;
    } else {
        co = stack_new(loop);
    }
    s->live++;
    co->fn = fn;
    co->opaque = opaque;
    co->state = CO_SUSPENDED;
    return co;
}

void co_enter(struct coroutine *co)
{
    struct coroutine *self = current;
    struct loop *loop = co->loop;

    assert(loop == loop_tls);
    assert(co->state == CO_SUSPENDED && !co->queued);
    co->caller = self;
    co->state = CO_RUNNING;
    current = co;
    context_leave(context_of(self, loop), &co->ctx);
    context_entered(context_of(self, loop), &co->ctx);
    current = self;
    if (co->state == CO_ENDED) {
        put_away(co);
    }
}

void co_wake(struct coroutine *co)
{
    assert(co->loop == loop_tls);
    assert(!co->queued);
    co->queued = true;
    co_list_append(&co->loop->ready, co);
}

void co_start(co_fn *fn, void *opaque)
{
    co_wake(co_create(fn, opaque));
}

void co_yield (void)
{
    struct coroutine *self = current;

    assert(self);
    self->state = CO_SUSPENDED;
    context_leave(&self->ctx, context_of(self->caller, self->loop));
    context_entered(&self->ctx, context_of(self->caller, self->loop));
}

void co_pause(void)
{
    struct coroutine *self = current;

    assert(self && !self->queued);
    /* Not on the ready list: a coroutine that waits for I/O in this way would
     * keep the pass from ever reaching the poll. */
    self->queued = true;
    co_list_append(&self->loop->paused, self);
    co_yield ();
}

struct coroutine *co_self(void)
{
    return current;
}

struct loop *co_loop(const struct coroutine *co)
{
    return co->loop;
}
