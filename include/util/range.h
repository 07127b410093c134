/*
 * Checked arithmetic on byte ranges.
 *
 * Every sum of two numbers that come from a guest, a file or a client goes
 * through here. Offsets and lengths are bytes, signed 64-bit; a negative value
 * is never valid. Pure functions, callable from any thread.
 */
#ifndef VARVE_UTIL_RANGE_H
#define VARVE_UTIL_RANGE_H

#include <stdbool.h>
#include <stdint.h>

/* *sum = a + b; false, and *sum untouched, if either is negative or it
 * overflows. */
static inline bool range_add(int64_t a, int64_t b, int64_t *sum)
{
    int64_t s;
    if (a < 0 || b < 0 || __builtin_add_overflow(a, b, &s)) {
        return false;
    }
    *sum = s;
    return true;
}

/* *product = a * b under the same rules as range_add(). */
static inline bool range_mul(int64_t a, int64_t b, int64_t *product)
{
    int64_t p;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &p)) {
        return false;
    }
    *product = p;
    return true;
}

/* True if [offset, offset + bytes) lies within [0, limit). An empty range at
 * limit is within. */
static inline bool range_within(int64_t offset, int64_t bytes, int64_t limit)
{
    return offset >= 0 && bytes >= 0 && offset <= limit &&
           bytes <= limit - offset;
}

/* True if two valid, non-empty ranges share a byte. */
static inline bool range_overlap(int64_t a, int64_t a_bytes, int64_t b,
                                 int64_t b_bytes)
{
    return a < b + b_bytes && b < a + a_bytes;
}

static inline bool is_power_of_2(uint64_t v)
{
    return v && !(v & (v - 1));
}

/* align is a power of two; align_up's caller knows that it cannot overflow. */
static inline int64_t align_down(int64_t v, int64_t align)
{
    return v & ~(align - 1);
}

static inline int64_t align_up(int64_t v, int64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline bool is_aligned(int64_t v, int64_t align)
{
    return !(v & (align - 1));
}

/* For v >= 0 and d > 0. */
static inline int64_t div_round_up(int64_t v, int64_t d)
{
    return v / d + (v % d != 0);
}

static inline int64_t min_i64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

#endif
