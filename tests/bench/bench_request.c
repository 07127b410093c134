/*
 * What the block layer itself costs: requests of 4 KiB to null-co, which takes
 * no time, one after the other in one coroutine. One JSON line a row, as
 * bench_hbitmap prints; times are of one request.
 *
 * Rows say the way of the request, and how many enabled bitmaps lie on it.
 */
#include "block/request.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "aio/loop.h"
#include "block/backend.h"
#include "block/dirty_bitmap.h"
#include "block/graph.h"
#include "qapi/options.h"

#define SIZE  (INT64_C(1) << 30)
#define CALLS 100000
#define REPS  15

struct bench {
    struct node *null, *raw;
    struct backend *backend;
    struct iovec vec;
    struct iov iov;
    int64_t at[CALLS];
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void must(bool ok)
{
    if (!ok) {
        abort();
    }
}

/* ---- rows ---------------------------------------------------------------- */

static void co_read_null(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        must(co_node_preadv(x->null, x->at[i], &x->iov, 0) == 0);
    }
}

static void co_read_raw(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        must(co_node_preadv(x->raw, x->at[i], &x->iov, 0) == 0);
    }
}

static void co_read_backend(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        must(co_backend_preadv(x->backend, x->at[i], &x->iov, 0) == 0);
    }
}

static void co_write_null(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        must(co_node_pwritev(x->null, x->at[i], &x->iov, 0) == 0);
    }
}

static void co_write_raw(struct bench *x)
{
    for (int i = 0; i < CALLS; i++) {
        must(co_node_pwritev(x->raw, x->at[i], &x->iov, 0) == 0);
    }
}

static const struct {
    const char *name;
    void (*co_fn)(struct bench *x);
    int bitmaps;
} rows[] = {
    {"read null-co", co_read_null, 0},
    {"read raw on null-co", co_read_raw, 0},
    {"read backend, raw on null-co", co_read_backend, 0},
    {"write null-co", co_write_null, 0},
    {"write null-co, 1 bitmap", co_write_null, 1},
    {"write null-co, 8 bitmaps", co_write_null, 8},
    {"write raw on null-co", co_write_raw, 0},
};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void co_measure(struct bench *x, size_t row)
{
    double ns[REPS] = {0};

    for (int i = 0; i < rows[row].bitmaps; i++) {
        must(dirty_bitmap_new(x->null, NULL, 65536, NULL));
    }
    for (int rep = -1; rep < REPS; rep++) {
        double start = now_ns();
        rows[row].co_fn(x);
        if (rep >= 0) {
            ns[rep] = (now_ns() - start) / CALLS;
        }
    }
    dirty_bitmaps_free_all(x->null);
    qsort(ns, REPS, sizeof(ns[0]), by_value);
    printf("{\"bench\": \"request\", \"row\": \"%s\", \"ns\": %.2f, "
           "\"min\": %.2f, \"max\": %.2f, \"reps\": %d}\n",
           rows[row].name, ns[REPS / 2], ns[0], ns[REPS - 1], REPS);
}

static void co_bench(void *opaque)
{
    struct bench *x = opaque;
    static char buf[4096] __attribute__((aligned(4096)));
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(
        "driver=raw,file.driver=null-co,file.size=1073741824", NULL);

    x->iov = iov_buf(&x->vec, buf, sizeof(buf));
    for (int i = 0; i < CALLS; i++) {
        x->at[i] = random() % (SIZE / 4096) * 4096;
    }
    x->raw = co_node_open(o, NULL);
    must(x->raw);
    x->null = x->raw->file->child;
    x->backend = co_backend_new(
        "drive0", x->raw, PERM_CONSISTENT_READ | PERM_WRITE, PERM_ALL, NULL);
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        co_measure(x, i);
    }
    co_backend_unref(x->backend);
    co_node_unref(x->raw);
}

int main(void)
{
    struct loop *loop = loop_new("bench", LOOP_CLOCK_REAL);
    struct bench *x = calloc(1, sizeof(*x));

    loop_run_co(loop, co_bench, x);
    loop_free(loop);
    free(x);
    return 0;
}
