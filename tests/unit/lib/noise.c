/*
 * Random guest requests.
 */
#include "noise.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int co_one(struct noise *n, char *buf)
{
    int64_t length = backend_length(n->backend);
    int64_t bytes = g_rand_int_range(n->rand, 1, (gint32)n->max_bytes);
    int64_t offset;
    struct iovec vec;

    bytes = MIN(bytes, length);
    offset = g_rand_int_range(n->rand, 0, (gint32)(length - bytes + 1));
    switch (g_rand_int_range(n->rand, 0, 8)) {
    case 0:
        return co_backend_pwrite_zeroes(n->backend, offset, bytes, 0);
    case 1:
        return co_backend_pdiscard(n->backend, offset, bytes);
    default:
        break;
    }
    memset(buf, g_rand_int_range(n->rand, 1, 256), (size_t)bytes);
    struct iov iov = iov_buf(&vec, buf, (size_t)bytes);
    return co_backend_pwritev(n->backend, offset, &iov, 0);
}

static void co_noise(void *opaque)
{
    struct noise *n = opaque;
    g_autofree char *buf = g_malloc((size_t)n->max_bytes);

    while (!n->stop) {
        n->requests++;
        n->failed += co_one(n, buf) < 0;
        for (int i = g_rand_int_range(n->rand, 1, (gint32)n->rest + 2); i;
             i--) {
            co_pause();
        }
    }
    n->running--;
    co_queue_wake_all(&n->ended);
}

void noise_start(struct noise *noise, struct backend *backend, unsigned n,
                 unsigned seed)
{
    int64_t max_bytes = noise->max_bytes ? noise->max_bytes : 100000;
    unsigned rest = noise->rest ? noise->rest : 10;

    *noise = (struct noise){.backend = backend,
                            .rand = g_rand_new_with_seed(seed),
                            .max_bytes = max_bytes,
                            .rest = rest,
                            .running = n};
    for (unsigned i = 0; i < n; i++) {
        co_start(co_noise, noise);
    }
}

void co_noise_stop(struct noise *noise)
{
    noise->stop = true;
    while (noise->running) {
        co_queue_wait(&noise->ended);
    }
    g_rand_free(noise->rand);
}

unsigned test_seed(void)
{
    const char *text = getenv("SEED");
    unsigned seed = text ? (unsigned)strtoul(text, NULL, 0) : 1;

    printf("SEED=%u\n", seed);
    return seed;
}
