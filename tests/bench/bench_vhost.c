/*
 * A guest on a vhost-user socket: load, and a memory of what it wrote.
 *
 *   bench_vhost SOCKET [KEY=VALUE]...
 *
 *   rw=0..100      percent of reads (100)      sequential=1
 *   discard=, zeroes=  percent of those        flush=N  one after N others
 *   bs=BYTES       of a request (4k)           depth=N  in flight (32)
 *   queues=N (1)   size=N of a queue (128)     segments=N (1)
 *   bytes=SIZE     only so much of the disk          seed=N
 *   packed=1, indirect=0, event_idx=0, inflight=0, slots=0, ack=0: features
 *   poll=0         sleeps until it is notified
 *   ms=N           of a run (1000); 0: until standard input ends
 *   warmup=MS      before it (200)
 *   pid=N          of the back-end: whose CPU time is counted
 *   verify=1       writes patterns and checks reads; at the end, reads all
 *   reconnect=S    seconds to wait for another back-end
 *
 * Prints one JSON line at the end, and one for each line that it reads. The
 * exit status is 1 if a request failed or read something else than was written.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "aio/loop.h"
#include "aio/timer.h"
#include "args.h"
#include "hw/guest.h"
#include "hw/guest_vhost.h"
#include "hw/virtio-blk/virtio_defs.h"
#include "hw/virtio-blk/vhost_user_proto.h"

static struct {
    const char *socket;
    uint64_t rw, discard, zeroes, flush, bs, depth, queues, size, segments;
    uint64_t bytes, seed, sequential, packed, indirect, event_idx, inflight;
    uint64_t slots, ack, poll, ms, warmup, pid, verify, reconnect;
} arg = {
    .rw = 100,
    .bs = 4096,
    .depth = 32,
    .queues = 1,
    .seed = 1,
    .indirect = 1,
    .event_idx = 1,
    .inflight = 1,
    .slots = 1,
    .ack = 1,
    .poll = 1,
    .ms = 1000,
    .warmup = 200,
};

#define ARG(name)        \
    {                    \
#name, &arg.name \
    }
static const struct bench_arg args[] = {
    ARG(rw),    ARG(discard), ARG(zeroes),    ARG(flush),      ARG(bs),
    ARG(depth), ARG(queues),  ARG(size),      ARG(segments),   ARG(bytes),
    ARG(seed),  ARG(packed),  ARG(indirect),  ARG(event_idx),  ARG(inflight),
    ARG(slots), ARG(ack),     ARG(poll),      ARG(ms),         ARG(warmup),
    ARG(pid),   ARG(verify),  ARG(reconnect), ARG(sequential),
};

/* Longer than any sleep is worth: the client is not what is measured. */
#define POLL_FOR_EVER INT64_C(1000000000000)

static struct loop *loop;
static struct guest *guest;
static double cpu_before, cpu_after;
static int status;

static void die(GError *error)
{
    fprintf(stderr, "bench_vhost: %s\n",
            error ? error->message : "bad arguments");
    exit(1);
}

static double back_end_cpu_s(void)
{
    struct timespec ts = {0};
    clockid_t clock;

    if (arg.pid && (clock_getcpuclockid(arg.pid, &clock) != 0 ||
                    clock_gettime(clock, &ts) != 0)) {
        return 0;
    }
    return ts.tv_sec + ts.tv_nsec / 1e9;
}

static uint64_t ops_of(const struct guest_workload_stats *s)
{
    return s->reads + s->writes + s->flushes + s->discards + s->zeroes;
}

static void print_stats(const char *what)
{
    struct guest_workload_stats s;
    struct guest_vhost_info info;

    guest_workload_query(guest, &s);
    guest_vhost_query(guest, &info);
    double ops = ops_of(&s), seconds = s.elapsed_ns / 1e9;

    printf("{\"what\": \"%s\", \"ops\": %.0f, \"iops\": %.0f, "
           "\"cpu_us\": %.4f, \"avg_us\": %.3f, \"p50_us\": %.3f, "
           "\"p99_us\": %.3f, \"max_us\": %.1f, \"kicks_per_op\": %.4f, "
           "\"interrupts_per_op\": %.4f, \"writes\": %" PRIu64
           ", \"flushes\": %" PRIu64 ", \"in_flight\": %u, "
           "\"connections\": %" PRIu64 ", \"errors\": %" PRIu64
           ", \"mismatches\": %" PRIu64 ", \"first_mismatch\": %" PRId64
           ", \"features\": \"0x%" PRIx64 "\"}\n",
           what, ops, seconds > 0 ? ops / seconds : 0,
           ops > 0 ? (cpu_after - cpu_before) * 1e6 / ops : 0,
           s.latency_avg_ns / 1e3, s.latency_p50_ns / 1e3,
           s.latency_p99_ns / 1e3, s.latency_max_ns / 1e3,
           ops > 0 ? s.kicks / ops : 0, ops > 0 ? s.interrupts / ops : 0,
           s.writes, s.flushes, s.in_flight, info.connections, s.errors,
           s.mismatches, s.first_mismatch, info.features);
    fflush(stdout);
    if (s.errors || s.mismatches) {
        status = 1;
    }
}

static struct guest_workload_options load(void)
{
    return (struct guest_workload_options){
        .seed = arg.seed,
        .bytes = arg.bytes,
        .block_bytes = arg.bs,
        .depth = arg.depth,
        .segments = arg.segments,
        .read_percent = arg.rw,
        .discard_percent = arg.discard,
        .zeroes_percent = arg.zeroes,
        .flush_every = arg.flush,
        .sequential = arg.sequential,
        .verify = arg.verify,
    };
}

static void start(const struct guest_workload_options *o)
{
    GError *error = NULL;

    if (!guest_workload_start(guest, o, &error)) {
        die(error);
    }
}

static void co_run_for(const struct guest_workload_options *o, int64_t ns)
{
    start(o);
    co_sleep_ns(ns);
    co_guest_workload_stop(guest);
}

/* Every line is a question; the end of the file is the end. */
static void co_answer_questions(void)
{
    char c[256];

    for (;;) {
        co_fd_wait_readable(0);
        ssize_t n = read(0, c, sizeof(c));

        if (n <= 0) {
            break;
        }
        for (ssize_t i = 0; i < n; i++) {
            if (c[i] == '\n') {
                print_stats("so far");
            }
        }
    }
    loop_fd_set(loop, 0, NULL, NULL, NULL);
}

static void co_check_all(void)
{
    struct guest_workload_options o = load();
    int64_t bytes = arg.bytes ? (int64_t)arg.bytes : guest_disk_bytes(guest);

    o.read_percent = 100;
    o.discard_percent = o.zeroes_percent = o.flush_every = 0;
    o.sequential = true;
    o.max_ops = bytes / o.block_bytes;
    start(&o);
    co_guest_workload_wait(guest);
    print_stats("check");
}

static void co_load(void)
{
    struct guest_workload_options o = load();

    if (arg.warmup) {
        co_run_for(&o, arg.warmup * 1000000);
    }
    cpu_before = back_end_cpu_s();
    if (arg.ms) {
        co_run_for(&o, arg.ms * 1000000);
    } else {
        start(&o);
        co_answer_questions();
        co_guest_workload_stop(guest);
    }
    cpu_after = back_end_cpu_s();
    print_stats("load");
    cpu_before = cpu_after;
    if (guest_broken(guest)) {
        status = 1;
    } else if (arg.verify) {
        co_check_all();
    }
}

static void co_main(void *opaque)
{
    uint64_t without = 0, protocol = 0;
    GError *error = NULL;

    without |= arg.indirect ? 0 : VIRTIO_BIT(VIRTIO_F_INDIRECT_DESC);
    without |= arg.event_idx ? 0 : VIRTIO_BIT(VIRTIO_F_EVENT_IDX);
    protocol |=
        arg.inflight ? 0 : VIRTIO_BIT(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD);
    protocol |=
        arg.slots ? 0 : VIRTIO_BIT(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
    protocol |= arg.ack ? 0 : VIRTIO_BIT(VHOST_USER_PROTOCOL_F_REPLY_ACK);
    guest = co_guest_connect(
        &(struct guest_vhost_options){
            .path = arg.socket,
            .num_queues = arg.queues,
            .queue_size = arg.size,
            .packed = arg.packed,
            .reconnect_ns = arg.reconnect * 1000000000,
            .without = without,
            .without_protocol = protocol,
        },
        &error);
    if (!guest) {
        die(error);
    }
    co_load();
    co_guest_disconnect(guest);
}

int main(int argc, char **argv)
{
    if (argc < 2 || !bench_args(argc, argv, 2, args, G_N_ELEMENTS(args))) {
        die(NULL);
    }
    arg.socket = argv[1];
    loop = loop_new("guest", LOOP_CLOCK_REAL);
    loop_set_poll_max(loop, arg.poll ? POLL_FOR_EVER : 0);
    loop_run_co(loop, co_main, NULL);
    loop_free(loop);
    return status;
}
