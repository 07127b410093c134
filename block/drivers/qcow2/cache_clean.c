/*
 * The cache-clean-interval: entries that nobody used for so long give their
 * memory back.
 *
 * A timer runs while there are entries. Each time it drops the clean ones that
 * have not been used since it came by before, so an entry goes after one to two
 * intervals. It shares the flag with the replacement of cache.c, so under
 * pressure an entry may go a little earlier.
 *
 * The timer stands still while the node is drained, as the node may be on
 * another loop afterwards. Runs on the node's loop.
 */
#include "block/drivers/qcow2/cache.h"

#include "block/node.h"

static void clean(void *opaque)
{
    struct meta_cache *c = opaque;

    meta_cache_drop_unused(c);
    meta_cache_clean_soon(c);
}

void meta_cache_clean_every(struct meta_cache *c, int64_t seconds)
{
    meta_cache_clean_stop(c);
    timer_init(&c->cleaner, c->node->loop, clean, c);
    c->clean_ns = seconds * INT64_C(1000000000);
    meta_cache_clean_soon(c);
}

void meta_cache_clean_soon(struct meta_cache *c)
{
    if (c->clean_ns && !c->paused && c->entries->len &&
        !timer_armed(&c->cleaner)) {
        timer_arm(&c->cleaner, c->clean_ns);
    }
}

void meta_cache_clean_stop(struct meta_cache *c)
{
    if (timer_armed(&c->cleaner)) {
        timer_cancel(&c->cleaner);
    }
}

void meta_cache_pause(struct meta_cache *c)
{
    meta_cache_clean_stop(c);
    c->paused = true;
}

void meta_cache_resume(struct meta_cache *c)
{
    c->paused = false;
    /* A node may be drained before it is open. */
    if (c->entries) {
        meta_cache_clean_every(c, c->clean_ns / INT64_C(1000000000));
    }
}
