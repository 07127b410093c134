/*
 * Speed limit in slices of 100 ms.
 *
 * What was used beyond the quota moves the end of the slice on in proportion,
 * so that the mean holds whatever the size of one piece of work is.
 */
#include "block/ratelimit.h"

#include "util/range.h"

void ratelimit_set_speed(struct ratelimit *r, int64_t speed)
{
    r->speed = speed;
    r->quota = max_i64(1, speed / (1000000000 / RATELIMIT_SLICE_NS));
    if (!speed) {
        r->slice_end = 0;
        r->used = 0;
    }
}

static void new_slice_if_over(struct ratelimit *r, int64_t now_ns)
{
    if (r->slice_end <= now_ns) {
        r->slice_start = now_ns;
        r->slice_end = now_ns + RATELIMIT_SLICE_NS;
        r->used = 0;
    }
}

/* When the time that `used` takes at this speed is over. */
static int64_t debt_end(const struct ratelimit *r)
{
    double ns = (double)r->used / (double)r->quota * (double)RATELIMIT_SLICE_NS;
    int64_t end;

    if (ns > 1e18 || !range_add(r->slice_start, (int64_t)ns, &end)) {
        return INT64_MAX;
    }
    return max_i64(end, r->slice_start + RATELIMIT_SLICE_NS);
}

int64_t ratelimit_delay(struct ratelimit *r, int64_t now_ns)
{
    if (!r->speed) {
        return 0;
    }
    new_slice_if_over(r, now_ns);
    if (r->used < r->quota) {
        return 0;
    }
    r->slice_end = debt_end(r);
    return max_i64(0, r->slice_end - now_ns);
}

void ratelimit_account(struct ratelimit *r, int64_t n, int64_t now_ns)
{
    if (!r->speed) {
        return;
    }
    new_slice_if_over(r, now_ns);
    if (!range_add(r->used, n, &r->used)) {
        r->used = INT64_MAX;
    }
}
