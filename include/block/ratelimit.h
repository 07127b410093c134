/*
 * A speed limit in slices of time.
 *
 * A slice of 100 ms gives speed / 10 units; work may start while units are
 * left, and what it takes too much is paid by waiting. Pure
 * arithmetic on a clock that the caller brings. Any loop, one owner.
 */
#ifndef VARVE_BLOCK_RATELIMIT_H
#define VARVE_BLOCK_RATELIMIT_H

#include <stdint.h>

#define RATELIMIT_SLICE_NS INT64_C(100000000)

struct ratelimit {
    int64_t speed; /* units a second; 0 = unlimited */
    int64_t slice_start, slice_end;
    int64_t quota; /* units of one slice; at least 1 */
    int64_t used;  /* since slice_start */
};

/* speed >= 0. What was used stays accounted. */
void ratelimit_set_speed(struct ratelimit *r, int64_t speed);
/* Nanoseconds to wait before work may start; 0 = now. */
int64_t ratelimit_delay(struct ratelimit *r, int64_t now_ns);
/* Accounts n units. */
void ratelimit_account(struct ratelimit *r, int64_t n, int64_t now_ns);

#endif
