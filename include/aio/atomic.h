/*
 * Ordered access to memory that another thread or a guest shares.
 *
 * The only atomics of the project live in aio/; device models use these names
 * for ring indices (virtio 1.1, 2.6.7 and 2.6.8: the driver and the device must
 * order index updates against the entries they cover).
 */
#ifndef VARVE_AIO_ATOMIC_H
#define VARVE_AIO_ATOMIC_H

#include <glib.h>
#include <stdint.h>

static inline uint16_t load_acquire_u16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline uint16_t load_relaxed_u16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_RELAXED);
}

static inline void store_release_u16(uint16_t *p, uint16_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

static inline void store_release_u32(uint32_t *p, uint32_t v)
{
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
}

/* Whoever sees the bits sees all stores before. */
static inline void or_release_u8(uint8_t *p, uint8_t bits)
{
    __atomic_fetch_or(p, bits, __ATOMIC_RELEASE);
}

/* Stores before it are not made after it: enough where another process reads
 * them once this one has ended. */
static inline void compiler_barrier(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Calls fn the first time, with zero in *once; who comes meanwhile waits. */
static inline void run_once(gsize *once, void (*fn)(void))
{
    if (g_once_init_enter(once)) {
        fn();
        g_once_init_leave(once, 1);
    }
}

/* A full barrier: store, then look at what the other side stored. */
static inline void memory_barrier(void)
{
#if defined(__SANITIZE_THREAD__)
    /* ThreadSanitizer does not follow fences, and gcc refuses them there. */
    static int order;
    __atomic_fetch_add(&order, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#endif
