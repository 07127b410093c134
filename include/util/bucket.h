/*
 * A leaky bucket: a rate that holds on average, and how far one may be ahead.
 *
 * What is used is poured in, and leaks out at the rate. Work may start while
 * the bucket is not over its size; what it pours in too much is paid by waiting
 * until that has leaked out. Without a burst rate the size is what leaks out in
 * 100 ms. With one it is what the burst brings in its length; and where a burst
 * may last longer than a second, a second, small bucket that leaks at the burst
 * rate sees to it that the burst itself keeps to that.
 *
 * Pure arithmetic on a clock that the caller brings. Any loop, one owner. A
 * bucket of zeroes has no limit.
 */
#ifndef VARVE_UTIL_BUCKET_H
#define VARVE_UTIL_BUCKET_H

#include <stdint.h>

struct bucket {
    int64_t rate;    /* units a second; 0 = unlimited */
    int64_t burst;   /* units a second during a burst; 0 = none */
    int64_t seconds; /* that a burst may last; at least 1 if there is one */
    double level, burst_level;
    int64_t leaked_ns; /* when the levels were right */
};

/* rate >= 0, and no bursts. What was used stays accounted, but for 0, which
 * forgets it. */
void bucket_set_rate(struct bucket *b, int64_t rate);
/* Nanoseconds to wait before work may start; 0 = now. */
int64_t bucket_delay(struct bucket *b, int64_t now_ns);
/* Whole units that may be used at once: 100 ms of the rate, at least 1. */
int64_t bucket_headroom(const struct bucket *b);
/* Pours in n units. */
void bucket_add(struct bucket *b, double n, int64_t now_ns);

#endif
