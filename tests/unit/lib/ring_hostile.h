/*
 * What every violation of a ring format must lead to, and chains that are
 * mostly valid.
 */
#ifndef VARVE_TESTS_RING_HOSTILE_H
#define VARVE_TESTS_RING_HOSTILE_H

#include "ring.h"

#include <errno.h>
#include <string.h>

struct violation {
    const char *name;
    void (*prepare)(struct fixture *f);
};

/* Each breaks the queue, which then touches nothing in guest memory. */
static inline void check_violations(struct fixture *f,
                                    const struct violation *violations,
                                    unsigned n)
{
    uint16_t heads[SIZE];

    for (unsigned i = 0; i < n; i++) {
        memset(f->regions[1].host, 0, 0x4000);
        start(f);
        violations[i].prepare(f);
        g_autofree uint8_t *before =
            g_memdup2(f->regions[1].host, f->regions[1].bytes);
        int got = virtqueue_pop(&f->vq, heads, SIZE);
        if (got != -EBADMSG || !f->vq.broken) {
            fail_msg("%s: popped %d", violations[i].name, got);
        }
        /* From now on it does nothing at all. */
        assert_int_equal(f->vq.in_flight, 0);
        assert_false(virtqueue_has_work(&f->vq));
        assert_int_equal(virtqueue_pop(&f->vq, heads, SIZE), -EBADMSG);
        assert_false(virtqueue_arm(&f->vq));
        virtqueue_disarm(&f->vq);
        assert_false(virtqueue_publish(&f->vq));
        assert_memory_equal(before, f->regions[1].host, f->regions[1].bytes);
        assert_int_equal(f->vq.last_avail, f->setup.avail_idx);
        virtqueue_stop(&f->vq);
        assert_null(f->vq.broken);
    }
}

static uint64_t rng_state;

static inline uint32_t rnd(uint32_t limit)
{
    rng_state = rng_state * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(rng_state >> 33) % limit;
}

/* AddressSanitizer judges. */
static inline void check_random_chains(struct fixture *f,
                                       void (*add)(struct fixture *f))
{
    unsigned broken = 0, good = 0;
    uint16_t heads[SIZE];

    rng_state = 42;
    start(f);
    for (unsigned round = 0; round < 60000; round++) {
        add(f);
        int n = virtqueue_pop(&f->vq, heads, SIZE);
        for (int i = 0; i < n; i++) {
            struct vq_chain *c = virtqueue_slot(&f->vq, heads[i]);
            struct iov r = vq_chain_readable(c), w = vq_chain_writable(c);

            iov_is_zero(&r);
            if (rnd(2)) {
                iov_set(&w, 0, 0x55, MIN(w.bytes, 16));
            }
            virtqueue_push(&f->vq, heads[i], w.bytes);
            good++;
        }
        virtqueue_publish(&f->vq);
        if (n < 0) {
            broken++;
            virtqueue_stop(&f->vq);
            memset(f->regions[1].host, 0, 0x2000);
            start(f);
        }
    }
    assert_true(good > 10000);
    assert_true(broken > 500);
}

#endif
