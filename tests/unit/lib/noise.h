/*
 * A guest that never stops: several coroutines that write, zero and discard
 * random ranges of a backend.
 */
#ifndef VARVE_TESTS_NOISE_H
#define VARVE_TESTS_NOISE_H

#include "block/backend.h"

struct noise {
    struct backend *backend;
    GRand *rand;
    int64_t max_bytes; /* of one request */
    unsigned rest;     /* passes between requests, at random up to */
    unsigned running;
    unsigned requests, failed;
    bool stop;
    struct co_queue ended;
};

/* Starts n coroutines. */
void noise_start(struct noise *noise, struct backend *backend, unsigned n,
                 unsigned seed);
/* Lets them end, and waits for it. */
void co_noise_stop(struct noise *noise);

/* A seed for random tests: that of the environment variable SEED, or
 * always the same; prints it. */
unsigned test_seed(void);

#endif
