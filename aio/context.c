/*
 * The machine-dependent part of coroutines: a new context, and the switch.
 *
 * The assembly saves what the psABI calls callee-saved and jumps through the
 * saved return address with an indirect jump, because the return-address
 * predictor would be wrong on every switch. The frame that context_init()
 * builds has the layout that the switch pops, with a zero frame pointer and
 * return address above it, where backtraces end.
 */
#include "aio/context.h"

#include <stdint.h>
#include <string.h>

#if !defined(CO_UCONTEXT) && defined(__x86_64__)

/* clang-format off */
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".globl context_switch_asm\n"
    ".type context_switch_asm, @function\n"
    "context_switch_asm:\n"
    "    pushq %rbp\n"
    "    pushq %rbx\n"
    "    pushq %r12\n"
    "    pushq %r13\n"
    "    pushq %r14\n"
    "    pushq %r15\n"
    "    movq %rsp, (%rdi)\n"
    "    movq %rsi, %rsp\n"
    "    popq %r15\n"
    "    popq %r14\n"
    "    popq %r13\n"
    "    popq %r12\n"
    "    popq %rbx\n"
    "    popq %rbp\n"
    "    popq %rcx\n"
    "    jmpq *%rcx\n"
    ".size context_switch_asm, . - context_switch_asm\n");
/* clang-format on */

enum { FRAME_WORDS = 8, FRAME_ENTRY = 6 }; /* 6 registers, rip, end marker */

#elif !defined(CO_UCONTEXT) && defined(__aarch64__)

/* clang-format off */
__asm__(
    ".text\n"
    ".p2align 4\n"
    ".globl context_switch_asm\n"
    ".type context_switch_asm, %function\n"
    "context_switch_asm:\n"
    "    sub sp, sp, #160\n"
    "    stp x19, x20, [sp, #0]\n"
    "    stp x21, x22, [sp, #16]\n"
    "    stp x23, x24, [sp, #32]\n"
    "    stp x25, x26, [sp, #48]\n"
    "    stp x27, x28, [sp, #64]\n"
    "    stp x29, x30, [sp, #80]\n"
    "    stp d8, d9, [sp, #96]\n"
    "    stp d10, d11, [sp, #112]\n"
    "    stp d12, d13, [sp, #128]\n"
    "    stp d14, d15, [sp, #144]\n"
    "    mov x9, sp\n"
    "    str x9, [x0]\n"
    "    mov sp, x1\n"
    "    ldp x19, x20, [sp, #0]\n"
    "    ldp x21, x22, [sp, #16]\n"
    "    ldp x23, x24, [sp, #32]\n"
    "    ldp x25, x26, [sp, #48]\n"
    "    ldp x27, x28, [sp, #64]\n"
    "    ldp x29, x30, [sp, #80]\n"
    "    ldp d8, d9, [sp, #96]\n"
    "    ldp d10, d11, [sp, #112]\n"
    "    ldp d12, d13, [sp, #128]\n"
    "    ldp d14, d15, [sp, #144]\n"
    "    add sp, sp, #160\n"
    "    br x30\n"
    ".size context_switch_asm, . - context_switch_asm\n");
/* clang-format on */

enum { FRAME_WORDS = 22, FRAME_ENTRY = 11 }; /* x19..x30, d8..d15, padding */

#endif

void context_init(struct co_context *ctx, void *bottom, void *top,
                  void (*entry)(void))
{
    memset(ctx, 0, sizeof(*ctx));
    top = (void *)((uintptr_t)top & ~(uintptr_t)15);
#ifdef CO_UCONTEXT
    getcontext(&ctx->uc);
    ctx->uc.uc_stack.ss_sp = bottom;
    ctx->uc.uc_stack.ss_size = (size_t)((char *)top - (char *)bottom);
    ctx->uc.uc_link = NULL;
    makecontext(&ctx->uc, entry, 0);
#else
    uintptr_t *frame = (uintptr_t *)top - FRAME_WORDS;
    memset(frame, 0, FRAME_WORDS * sizeof(*frame));
    frame[FRAME_ENTRY] = (uintptr_t)entry;
    ctx->sp = frame;
#endif
#ifdef CO_ASAN
    ctx->bottom = bottom;
    ctx->size = (size_t)((char *)top - (char *)bottom);
#endif
#ifdef CO_TSAN
    ctx->fiber = __tsan_create_fiber(0);
#endif
}

void context_destroy(struct co_context *ctx)
{
#ifdef CO_TSAN
    __tsan_destroy_fiber(ctx->fiber);
#endif
}
