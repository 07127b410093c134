/*
 * The dirty bitmap of a 16 TiB disk at 64 KiB granularity: one JSON line a row,
 * {"bench", "row", "ns" (median), "min", "max", "reps"}. Times are of one call;
 * rows of cheap calls time a batch and divide.
 *
 * "sparse" is 16384 dirty granules, 1 GiB of the 16 TiB, each at a random
 * place, which is the worst case for memory pages; "sparse runs" is as much in
 * runs of 64 granules.
 */
#include "util/hbitmap.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define SIZE        (INT64_C(16) << 40)
#define GRANULARITY INT64_C(65536)
#define SPARSE      16384
#define CALLS       100000
#define REPS        15

struct bench {
    struct hbitmap *sparse, *other, *runs, *full, *scratch;
    int64_t places[CALLS];
};

/* Keeps results alive. */
static volatile int64_t sink;

static uint64_t rng_state;

static int64_t random_place(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state % (SIZE / 4096) * 4096;
}

static void make_sparse(struct hbitmap *b)
{
    for (int i = 0; i < SPARSE; i++) {
        hbitmap_set(b, random_place(), 4096);
    }
}

static void make_runs(struct hbitmap *b)
{
    for (int i = 0; i < SPARSE / 64; i++) {
        int64_t at = random_place();
        int64_t bytes = 64 * GRANULARITY;
        hbitmap_set(b, at, bytes < SIZE - at ? bytes : SIZE - at);
    }
}

/* ---- rows ---------------------------------------------------------------- */

static void set_places(struct hbitmap *b, const struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        hbitmap_set(b, x->places[i], 4096);
    }
}

static void set_new(struct bench *x)
{
    set_places(x->scratch, x);
}

static void set_again_random(struct bench *x)
{
    set_places(x->full, x);
}

static void set_sequential(struct bench *x)
{
    for (int64_t i = 0; i < CALLS; i++) {
        hbitmap_set(x->scratch, i * 4096, 4096);
    }
}

static void set_one_again(struct bench *x)
{
    for (int64_t i = 0; i < CALLS; i++) {
        hbitmap_set(x->full, 4096 * (i & 7), 4096);
    }
}

static void next_dirty_sparse(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_next_set(x->sparse, x->places[i], SIZE - x->places[i]);
    }
}

static void next_dirty_full(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_next_set(x->full, x->places[i], SIZE - x->places[i]);
    }
}

static void next_clean_sparse(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_next_clear(x->sparse, x->places[i], SIZE - x->places[i]);
    }
}

static void next_clean_full(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_next_clear(x->full, x->places[i], SIZE - x->places[i]);
    }
}

static void walk_sparse(struct bench *x)
{
    int64_t at = 0, bytes;
    while (hbitmap_next_run(x->sparse, at, SIZE - at, SIZE, &at, &bytes)) {
        at += bytes;
    }
}

static void count_sparse(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_count(x->sparse);
    }
}

static void count_full(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        sink = hbitmap_count(x->full);
    }
}

static void merge_sparse(struct bench *x)
{
    hbitmap_merge(x->scratch, x->sparse);
}

static void merge_runs(struct bench *x)
{
    hbitmap_merge(x->scratch, x->runs);
}

static void merge_full(struct bench *x)
{
    hbitmap_merge(x->scratch, x->full);
}

static void clear_all(struct bench *x)
{
    hbitmap_clear_all(x->scratch);
}

static void set_all(struct bench *x)
{
    hbitmap_set_all(x->scratch);
}

/* What the scratch bitmap holds before each repetition. */
static void scratch_empty(struct bench *x)
{
    hbitmap_clear_all(x->scratch);
}

static void scratch_other(struct bench *x)
{
    hbitmap_clear_all(x->scratch);
    hbitmap_merge(x->scratch, x->other);
}

static void scratch_full(struct bench *x)
{
    hbitmap_set_all(x->scratch);
}

static const struct row {
    const char *name;
    int calls;
    void (*prepare)(struct bench *x);
    void (*run)(struct bench *x);
} rows[] = {
    {"set, same place again", CALLS, NULL, set_one_again},
    {"set, sequential 4 KiB, empty", CALLS, scratch_empty, set_sequential},
    {"set, random, already set", CALLS, NULL, set_again_random},
    {"set, random, empty (with page faults)", CALLS, scratch_empty, set_new},
    {"next dirty, sparse", CALLS, NULL, next_dirty_sparse},
    {"next dirty, full", CALLS, NULL, next_dirty_full},
    {"next clean, sparse", CALLS, NULL, next_clean_sparse},
    {"next clean, full", CALLS, NULL, next_clean_full},
    {"walk of all runs, sparse", 1, NULL, walk_sparse},
    {"count, sparse", CALLS, NULL, count_sparse},
    {"count, full", CALLS, NULL, count_full},
    {"merge, sparse into sparse", 1, scratch_other, merge_sparse},
    {"merge, sparse into empty", 1, scratch_empty, merge_sparse},
    {"merge, sparse runs into sparse", 1, scratch_other, merge_runs},
    {"merge, sparse runs into empty", 1, scratch_empty, merge_runs},
    {"merge, sparse into full", 1, scratch_full, merge_sparse},
    {"merge, full into sparse", 1, scratch_other, merge_full},
    {"merge, full into full", 1, scratch_full, merge_full},
    {"clear all, sparse", 1, scratch_other, clear_all},
    {"clear all, full", 1, scratch_full, clear_all},
    {"set all, empty", 1, scratch_empty, set_all},
};

/* ---- measuring ------------------------------------------------------------
 */

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(const struct row *row, struct bench *x)
{
    double ns[REPS];

    for (int i = -1; i < REPS; i++) {
        if (row->prepare) {
            row->prepare(x);
        }
        int64_t start = now_ns();
        row->run(x);
        double took = (double)(now_ns() - start) / row->calls;
        /* The first run warms up. */
        if (i >= 0) {
            ns[i] = took;
        }
    }
    qsort(ns, REPS, sizeof(ns[0]), by_value);
    printf("{\"bench\": \"hbitmap\", \"row\": \"%s\", \"ns\": %.2f, "
           "\"min\": %.2f, \"max\": %.2f, \"reps\": %d}\n",
           row->name, ns[REPS / 2], ns[0], ns[REPS - 1], REPS);
    fflush(stdout);
}

int main(void)
{
    static struct bench x;
    struct hbitmap **const all[] = {&x.sparse, &x.other, &x.runs, &x.full,
                                    &x.scratch};

    rng_state = UINT64_C(0x9e3779b97f4a7c15);
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        *all[i] = hbitmap_new(SIZE, GRANULARITY);
        if (!*all[i]) {
            fprintf(stderr, "bench_hbitmap: no address space\n");
            return 1;
        }
    }
    make_sparse(x.sparse);
    make_sparse(x.other);
    make_runs(x.runs);
    hbitmap_set_all(x.full);
    for (int i = 0; i < CALLS; i++) {
        x.places[i] = random_place();
    }
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        measure(&rows[i], &x);
    }
    for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        hbitmap_free(*all[i]);
    }
    return 0;
}
