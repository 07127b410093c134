/*
 * What a guest's request costs, from its queue to the node and back.
 *
 *   bench_virtio NODE-OPTIONS [KEY=VALUE]...
 *
 *   NODE-OPTIONS  as after --blockdev: driver=null-co,size=1073741824
 *   rw=0..100     percent of reads (default 100)
 *   bs=BYTES      of a request (4k)       depth=N   in flight (32)
 *   bitmaps=N     active on the node (0)  queues=N  of the device (1)
 *   seconds=S     of a run (1)            runs=N    (3)
 *   thread=1      the guest on a loop of its own
 *   verify=1      write patterns and check reads
 *
 * The device lives on an I/O thread, as in the daemon. Prints one JSON line:
 * the median, least and most requests a second, CPU time of the whole process a
 * request in us (the guest's driver, and polling, count), and notifications.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "aio/iothread.h"
#include "aio/loop.h"
#include "aio/mailbox.h"
#include "aio/timer.h"
#include "args.h"
#include "block/backend.h"
#include "block/dirty_bitmap.h"
#include "hw/guest.h"
#include "hw/runstate.h"
#include "hw/virtio_blk.h"
#include "qapi/codec.h"
#include "qapi/options.h"

enum { MAX_RUNS = 99 };

static struct {
    const char *node_options;
    uint64_t rw, bs, depth, bitmaps, queues, seconds, runs, thread, verify;
} arg = {
    .rw = 100, .bs = 4096, .depth = 32, .queues = 1, .seconds = 1, .runs = 3};

static const struct bench_arg names[] = {
    {"rw", &arg.rw},         {"bs", &arg.bs},
    {"depth", &arg.depth},   {"bitmaps", &arg.bitmaps},
    {"queues", &arg.queues}, {"seconds", &arg.seconds},
    {"runs", &arg.runs},     {"thread", &arg.thread},
    {"verify", &arg.verify},
};

struct sample {
    double rate, cpu_us;
};

static struct loop *guest_home;
static struct sample samples[MAX_RUNS];
static struct guest_workload_stats last;

static void die(GError *error)
{
    fprintf(stderr, "bench_virtio: %s\n",
            error ? error->message : "bad arguments");
    exit(1);
}

static double wall_s(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec +
           (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static uint64_t ops_of(const struct guest_workload_stats *s)
{
    return s->reads + s->writes + s->flushes + s->discards + s->zeroes;
}

/* On the guest's loop. */
static void co_runs(void *opaque)
{
    struct guest *g = opaque;
    GError *error = NULL;
    struct guest_workload_options o = {
        .seed = 1,
        .block_bytes = arg.bs,
        .depth = arg.depth,
        .read_percent = arg.rw,
        .verify = arg.verify,
    };
    struct guest_workload_stats before;

    if (!guest_workload_start(g, &o, &error)) {
        die(error);
    }
    co_sleep_ns(100000000); /* warms caches and adapts polling */
    for (uint64_t i = 0; i < arg.runs; i++) {
        guest_workload_query(g, &before);
        double wall = wall_s(), cpu = cpu_s();
        co_sleep_ns(arg.seconds * 1000000000);
        guest_workload_query(g, &last);
        wall = wall_s() - wall;
        cpu = cpu_s() - cpu;
        uint64_t ops = ops_of(&last) - ops_of(&before);
        samples[i].rate = ops / wall;
        samples[i].cpu_us = ops ? cpu * 1e6 / ops : 0;
    }
    co_guest_workload_stop(g);
    guest_workload_query(g, &last);
}

/* On the graph's loop. */
static void co_bench(void *opaque)
{
    GError *error = NULL;
    struct virtio_blk_props props = {.id = "vd0", .num_queues = arg.queues};
    struct blockdev_options *options =
        qapi_blockdev_options_parse(arg.node_options, &error);
    struct node *node = options ? co_node_open(options, &error) : NULL;
    struct backend *backend =
        node ? co_backend_new("drive0", node,
                              PERM_CONSISTENT_READ |
                                  (node->read_only ? 0 : PERM_WRITE),
                              PERM_ALL, &error)
             : NULL;

    for (uint64_t i = 0; backend && i < arg.bitmaps; i++) {
        g_autofree char *name = g_strdup_printf("bitmap%d", (int)i);

        if (!dirty_bitmap_new(node, name, 65536, &error)) {
            die(error);
        }
    }
    struct virtio_blk *dev =
        backend ? co_virtio_blk_new(&props, backend, &error) : NULL;
    struct guest *g =
        dev ? co_guest_new(dev, guest_home ? guest_home : loop_current(),
                           &error)
            : NULL;

    if (!g) {
        die(error);
    }
    co_vm_start();
    co_call_on(guest_loop(g), co_runs, g);
    co_virtio_blk_free(dev);
    co_backend_unref(backend);
    while (!LIST_EMPTY(&node->bitmaps)) {
        dirty_bitmap_free(LIST_FIRST(&node->bitmaps));
    }
    co_node_unref(node);
    blockdev_options_free(options);
}

static int by_rate(const void *a, const void *b)
{
    double x = ((const struct sample *)a)->rate,
           y = ((const struct sample *)b)->rate;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    struct iothread *io, *guest;

    if (argc < 2 || !bench_args(argc, argv, 2, names, G_N_ELEMENTS(names)) ||
        !arg.runs || arg.runs > MAX_RUNS) {
        die(NULL);
    }
    arg.node_options = argv[1];
    io = iothread_new("io");
    guest = arg.thread ? iothread_new("guest") : NULL;
    guest_home = guest ? iothread_loop(guest) : NULL;
    loop_call_blocking(iothread_loop(io), co_bench, NULL);
    iothread_free(io);
    if (guest) {
        iothread_free(guest);
    }
    qsort(samples, arg.runs, sizeof(samples[0]), by_rate);
    const struct sample *s = &samples[arg.runs / 2];
    double ops = ops_of(&last);

    printf("{\"node\": \"%s\", \"rw\": %d, \"bs\": %d, \"depth\": %d, "
           "\"bitmaps\": %d, \"queues\": %d, \"thread\": %d, "
           "\"iops\": %.0f, \"iops_min\": %.0f, \"iops_max\": %.0f, "
           "\"cpu_us\": %.3f, \"kicks_per_op\": %.4f, "
           "\"interrupts_per_op\": %.4f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"errors\": %d, \"mismatches\": %d}\n",
           arg.node_options, (int)arg.rw, (int)arg.bs, (int)arg.depth,
           (int)arg.bitmaps, (int)arg.queues, (int)arg.thread, s->rate,
           samples[0].rate, samples[arg.runs - 1].rate, s->cpu_us,
           last.kicks / ops, last.interrupts / ops, last.latency_p50_ns / 1e3,
           last.latency_p99_ns / 1e3, (int)last.errors, (int)last.mismatches);
    return 0;
}
