/*
 * The machine context of a coroutine, and the switch between two of them.
 *
 * x86-64 and aarch64 switch in a few instructions of assembly; other machines
 * use ucontext, as does a build with CO_UCONTEXT defined. Every switch is told
 * to AddressSanitizer and ThreadSanitizer; stacks are told to valgrind. A
 * context belongs to one thread for life. Private to aio/.
 */
#ifndef VARVE_AIO_CONTEXT_H
#define VARVE_AIO_CONTEXT_H

#include <stddef.h>

#if !defined(__x86_64__) && !defined(__aarch64__) && !defined(CO_UCONTEXT)
#define CO_UCONTEXT
#endif

#ifdef CO_UCONTEXT
#include <ucontext.h>
#endif

#ifndef __has_feature
#define __has_feature(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#define CO_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
#define CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif

struct co_context {
    void *sp; /* saved stack pointer; scripts/gdb reads it */
#ifdef CO_UCONTEXT
    ucontext_t uc;
#endif
#ifdef CO_ASAN
    void *fake_stack;
    const void *bottom;
    size_t size;
#endif
#ifdef CO_TSAN
    void *fiber;
#endif
};

/* Makes ctx start in entry() on the stack [bottom, top); entry never returns,
 * and calls context_entered() first. */
void context_init(struct co_context *ctx, void *bottom, void *top,
                  void (*entry)(void));
void context_destroy(struct co_context *ctx);

#ifndef CO_UCONTEXT
/* Saves callee-saved registers on the stack, *save_sp = sp, sp = load_sp. */
void context_switch_asm(void **save_sp, void *load_sp);
#endif

/* What a context does first when it gets the CPU from prev. */
static inline void context_entered(struct co_context *self,
                                   struct co_context *prev)
{
#ifdef CO_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, &prev->bottom,
                                    &prev->size);
#endif
}

static inline void context_leave(struct co_context *from, struct co_context *to)
{
#ifdef CO_ASAN
    __sanitizer_start_switch_fiber(&from->fake_stack, to->bottom, to->size);
#endif
#ifdef CO_TSAN
    from->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to->fiber, 0);
#endif
#ifdef CO_UCONTEXT
    swapcontext(&from->uc, &to->uc);
#else
    context_switch_asm(&from->sp, to->sp);
#endif
}

#endif
