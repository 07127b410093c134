/*
 * The leaky bucket of util/bucket.h. Levels are floating point: they hold parts
 * of units, and neither a huge amount nor a long time can make them overflow.
 */
#include "util/bucket.h"

#define NS_PER_S 1e9
/* The share of a second that may be used at once. */
#define HEADROOM 0.1

void bucket_set_rate(struct bucket *b, int64_t rate)
{
    b->rate = rate;
    b->burst = 0;
    if (!rate) {
        b->level = 0;
    }
}

static double drained(double level, double rate, double seconds)
{
    double left = level - rate * seconds;

    return left > 0 ? left : 0;
}

static void leak(struct bucket *b, int64_t now_ns)
{
    double seconds = ((double)now_ns - (double)b->leaked_ns) / NS_PER_S;

    if (seconds > 0) {
        b->level = drained(b->level, (double)b->rate, seconds);
        b->burst_level = drained(b->burst_level, (double)b->burst, seconds);
        b->leaked_ns = now_ns;
    }
}

/* How long it takes until level has come down to size. */
static int64_t excess_ns(double level, double size, int64_t rate)
{
    double ns = (level - size) / (double)rate * NS_PER_S;

    if (ns <= 0) {
        return 0;
    }
    return ns < 9e18 ? (int64_t)ns + 1 : INT64_MAX;
}

int64_t bucket_delay(struct bucket *b, int64_t now_ns)
{
    if (!b->rate) {
        return 0;
    }
    leak(b, now_ns);
    if (!b->burst) {
        return excess_ns(b->level, (double)b->rate * HEADROOM, b->rate);
    }
    int64_t ns =
        excess_ns(b->level, (double)b->burst * (double)b->seconds, b->rate);
    if (!ns && b->seconds > 1) {
        ns = excess_ns(b->burst_level, (double)b->burst * HEADROOM, b->burst);
    }
    return ns;
}

int64_t bucket_headroom(const struct bucket *b)
{
    return b->rate > 10 ? b->rate / 10 : 1;
}

void bucket_add(struct bucket *b, double n, int64_t now_ns)
{
    if (b->rate) {
        leak(b, now_ns);
        b->level += n;
        b->burst_level += n;
    }
}
