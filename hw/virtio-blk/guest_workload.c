/*
 * The guest's workload: a deterministic mix of requests at a given depth and
 * rate, with a memory of what it wrote.
 *
 * There is no coroutine a request: completions are reaped in batches, and each
 * batch is refilled at once, so that the measured cost is the device's. With
 * `verify` no two requests on one block are in flight together. Invariant:
 * `in_flight` counts slots between issue() and on_done(); the workload is
 * active until it may issue nothing more and that is zero. Runs on the guest's
 * loop.
 */
#include <string.h>

#include "aio/timer.h"
#include "hw/virtio-blk/guest_internal.h"
#include "hw/virtio-blk/guest_record.h"
#include "hw/virtio_blk.h"
#include "util/error.h"
#include "util/range.h"

/* Latencies in ns by powers of two, in eight steps each. */
#define HISTOGRAM_STEPS   8
#define HISTOGRAM_BUCKETS (64 * HISTOGRAM_STEPS)
/* The most that a workload tries to catch up after it was held up. */
#define CATCH_UP_NS       INT64_C(10000000)

struct guest_workload {
    struct guest *guest;
    struct guest_workload_options opt;
    bool active, stopping;
    unsigned in_flight;
    uint64_t random;
    int64_t blocks, next_block;
    uint64_t issued, since_flush;
    int64_t started_ns, ended_ns;
    int64_t next_due_ns, interval_ns; /* with a rate */
    struct timer timer;
    uint64_t kicks_before, interrupts_before;
    struct guest_workload_stats stats;
    uint64_t latency_sum;
    uint64_t histogram[HISTOGRAM_BUCKETS];
};

/* ---- what to do next ---- */

static uint64_t random64(struct guest_workload *w)
{
    uint64_t x = w->random += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* A number below limit, by multiplication instead of division. */
static int64_t random_below(struct guest_workload *w, int64_t limit)
{
    return ((unsigned __int128)random64(w) * (uint64_t)limit) >> 64;
}

static enum guest_op choose_op(struct guest_workload *w)
{
    const struct guest_workload_options *o = &w->opt;

    if (o->flush_every && w->since_flush >= o->flush_every) {
        return GUEST_OP_FLUSH;
    }
    unsigned n = random_below(w, 100);

    if (n < o->read_percent) {
        return GUEST_OP_READ;
    }
    n -= o->read_percent;
    if (n < o->discard_percent) {
        return GUEST_OP_DISCARD;
    }
    n -= o->discard_percent;
    return n < o->zeroes_percent ? GUEST_OP_WRITE_ZEROES : GUEST_OP_WRITE;
}

/* A block for the next request, claimed if need be; -1: all near are taken. */
static int64_t choose_block(struct guest_workload *w)
{
    struct guest_record *record = w->guest->record;
    int64_t block =
        w->opt.sequential ? w->next_block : random_below(w, w->blocks);
    int64_t tries = min_i64(w->blocks, w->opt.depth + 1);

    for (; tries > 0; tries--) {
        int64_t next = block + 1 < w->blocks ? block + 1 : 0;

        if (!w->opt.verify || guest_record_claim(record, block)) {
            w->next_block = next;
            return block;
        }
        block = next;
    }
    return -1;
}

/* ---- completion ---- */

static void count_latency(struct guest_workload *w, int64_t ns)
{
    unsigned bucket = 0;

    if (ns >= HISTOGRAM_STEPS) {
        unsigned msb = 63 - __builtin_clzll(ns);
        bucket = (msb - 2) * HISTOGRAM_STEPS + ((ns >> (msb - 3)) & 7);
    } else if (ns > 0) {
        bucket = ns;
    }
    w->histogram[bucket]++;
    w->latency_sum += ns;
    w->stats.latency_max_ns = max_i64(w->stats.latency_max_ns, ns);
}

static int64_t bucket_ns(unsigned bucket)
{
    unsigned msb = bucket / HISTOGRAM_STEPS + 2;

    if (bucket < HISTOGRAM_STEPS) {
        return bucket;
    }
    return (INT64_C(8) + bucket % HISTOGRAM_STEPS) << (msb - 3);
}

static void maybe_end(struct guest_workload *w)
{
    bool spent = w->opt.max_ops && w->issued >= w->opt.max_ops;

    if (!w->active || w->in_flight || !(spent || w->stopping)) {
        return;
    }
    w->active = false;
    w->ended_ns = loop_now_ns(w->guest->loop);
    timer_cancel(&w->timer);
    co_queue_wake_all(&w->guest->idle);
}

static void check_read(struct guest_workload *w, const struct guest_slot *slot)
{
    int64_t bad =
        guest_record_check(w->guest->record, slot->offset, slot->data);

    if (bad == -2) {
        w->stats.unverified++;
    } else if (bad >= 0) {
        if (!w->stats.mismatches++) {
            w->stats.first_mismatch =
                w->opt.offset + slot->offset * w->opt.block_bytes + bad;
        }
    }
}

static void count(struct guest_workload *w, enum guest_op op)
{
    struct guest_workload_stats *s = &w->stats;

    switch (op) {
    case GUEST_OP_READ:
        s->reads++;
        s->read_bytes += w->opt.block_bytes;
        break;
    case GUEST_OP_WRITE:
        s->writes++;
        s->written_bytes += w->opt.block_bytes;
        break;
    case GUEST_OP_FLUSH:
        s->flushes++;
        break;
    case GUEST_OP_DISCARD:
        s->discards++;
        break;
    case GUEST_OP_WRITE_ZEROES:
        s->zeroes++;
        break;
    case GUEST_OP_GET_ID:
        break;
    }
}

/* What the block holds after a request of this kind. */
static void remember(struct guest_workload *w, const struct guest_slot *slot,
                     bool ok)
{
    struct guest_record *record = w->guest->record;

    if (slot->kind == GUEST_OP_READ && ok) {
        check_read(w, slot);
    } else if (slot->kind != GUEST_OP_READ) {
        /* A failed write may have written part of its data. */
        guest_record_set(record, slot->offset,
                         ok ? slot->extra : GUEST_RECORD_UNKNOWN);
    }
    guest_record_release(record, slot->offset);
}

static void on_done(struct guest_slot *slot, void *opaque)
{
    struct guest_workload *w = opaque;
    enum guest_op op = slot->kind;
    bool ok = guest_slot_status(slot) == GUEST_STATUS_OK;

    w->in_flight--;
    count(w, op);
    w->stats.errors += !ok;
    count_latency(w, w->guest->now - slot->started_ns);
    if (w->opt.verify && op != GUEST_OP_FLUSH) {
        remember(w, slot, ok);
    }
    guest_put_slot(w->guest, slot);
    maybe_end(w);
}

/* ---- issuing ---- */

static const uint32_t types[] = {
    [GUEST_OP_READ] = VIRTIO_BLK_T_IN,
    [GUEST_OP_WRITE] = VIRTIO_BLK_T_OUT,
    [GUEST_OP_FLUSH] = VIRTIO_BLK_T_FLUSH,
    [GUEST_OP_DISCARD] = VIRTIO_BLK_T_DISCARD,
    [GUEST_OP_WRITE_ZEROES] = VIRTIO_BLK_T_WRITE_ZEROES,
};

/* Data for a request on slot->offset (a block); returns its length, and in
 * slot->extra what the block will hold. */
static uint32_t prepare(struct guest_workload *w, struct guest_slot *slot,
                        enum guest_op op, int64_t offset)
{
    slot->extra =
        op == GUEST_OP_WRITE_ZEROES ? GUEST_RECORD_ZERO : GUEST_RECORD_UNKNOWN;
    switch (op) {
    case GUEST_OP_WRITE:
        if (w->opt.verify) {
            slot->extra =
                guest_record_fill(w->guest->record, slot->offset, slot->data);
        } else {
            /* Different from write to write, at no cost to speak of. */
            memcpy(slot->data, &w->random, sizeof(w->random));
        }
        return w->opt.block_bytes;
    case GUEST_OP_READ:
        return w->opt.block_bytes;
    case GUEST_OP_WRITE_ZEROES:
    case GUEST_OP_DISCARD:
        guest_put_segment(slot, offset, w->opt.block_bytes,
                          op == GUEST_OP_WRITE_ZEROES && (w->random & 1));
        return sizeof(struct virtio_blk_segment);
    default:
        return 0;
    }
}

/* False if there is no slot or no block for it now. */
static bool issue(struct guest_workload *w)
{
    struct guest_slot *slot = guest_get_slot(w->guest);
    int64_t offset = 0;

    if (!slot) {
        return false;
    }
    enum guest_op op = choose_op(w);
    if (op != GUEST_OP_FLUSH) {
        slot->offset = choose_block(w);
        if (slot->offset < 0) {
            guest_put_slot(w->guest, slot);
            return false;
        }
        offset = w->opt.offset + slot->offset * w->opt.block_bytes;
        w->since_flush++;
    } else {
        w->since_flush = 0;
    }
    uint32_t bytes = prepare(w, slot, op, offset);
    bool on_disk = op == GUEST_OP_READ || op == GUEST_OP_WRITE;

    slot->kind = op;
    slot->started_ns = w->guest->now;
    slot->done = on_done;
    slot->opaque = w;
    guest_queue_add(slot, types[op],
                    on_disk ? offset >> VIRTIO_BLK_SECTOR_BITS : 0, bytes,
                    on_disk ? w->opt.segments : 1);
    w->in_flight++;
    w->issued++;
    return true;
}

/* True if the rate allows a request now; else the timer will pump. */
static bool rate_allows(struct guest_workload *w)
{
    int64_t now = w->guest->now;

    if (!w->opt.rate) {
        return true;
    }
    if (w->next_due_ns > now) {
        if (!timer_armed(&w->timer)) {
            timer_arm(&w->timer, w->next_due_ns - now);
        }
        return false;
    }
    w->next_due_ns =
        max_i64(w->next_due_ns, now - CATCH_UP_NS) + w->interval_ns;
    return true;
}

void guest_workload_pump(struct guest *g)
{
    struct guest_workload *w = g->workload;

    if (!w || !w->active || guest_obstacle(g)) {
        return;
    }
    while (!w->stopping && w->in_flight < w->opt.depth &&
           !(w->opt.max_ops && w->issued >= w->opt.max_ops) && rate_allows(w) &&
           issue(w)) {
    }
}

static void on_timer(void *opaque)
{
    struct guest_workload *w = opaque;

    w->guest->now = loop_now_ns(w->guest->loop);
    guest_workload_pump(w->guest);
    guest_ring(w->guest);
}

/* ---- verbs ---- */

static bool check_region(const struct guest *g,
                         struct guest_workload_options *o, GError **error)
{
    if (o->offset < 0 || o->bytes < 0 || o->offset > g->disk_bytes) {
        return error_set(error, "The workload's region is not on the disk");
    }
    if (o->block_bytes <= 0 || o->block_bytes > g->max_transfer ||
        o->block_bytes % g->logical_bytes || o->offset % g->logical_bytes) {
        return error_set(error,
                         "The workload's offset and block size must be "
                         "multiples of %u, and a block at most %u bytes",
                         g->logical_bytes, g->max_transfer);
    }
    if (!o->bytes) {
        o->bytes = g->disk_bytes - o->offset;
    }
    o->bytes -= o->bytes % o->block_bytes;
    if (!o->bytes || !range_within(o->offset, o->bytes, g->disk_bytes)) {
        return error_set(error, "The workload's region is not on the disk");
    }
    return true;
}

static bool check_mix(const struct guest_workload_options *o, GError **error)
{
    if (!o->depth || o->depth > GUEST_MAX_SLOTS * VIRTIO_BLK_MAX_QUEUES) {
        return error_set(error, "The workload's depth must be between 1 and %d",
                         GUEST_MAX_SLOTS * VIRTIO_BLK_MAX_QUEUES);
    }
    if (o->read_percent > 100 || o->discard_percent > 100 ||
        o->zeroes_percent > 100 ||
        o->read_percent + o->discard_percent + o->zeroes_percent > 100) {
        return error_set(error, "The workload's percentages exceed 100");
    }
    if (o->segments > GUEST_MAX_SEGMENTS) {
        return error_set(error, "The workload's segments are limited to %d",
                         GUEST_MAX_SEGMENTS);
    }
    if (o->rate > 1000000000) {
        return error_set(error, "The workload's rate is limited to 10^9");
    }
    return true;
}

static bool prepare_record(struct guest *g,
                           const struct guest_workload_options *o,
                           GError **error)
{
    if (!o->verify ||
        (g->record &&
         guest_record_covers(g->record, o->offset, o->bytes, o->block_bytes))) {
        return true;
    }
    struct guest_record *record =
        guest_record_new(o->offset, o->bytes, o->block_bytes, o->seed, error);

    if (!record) {
        return false;
    }
    guest_record_free(g->record);
    g->record = record;
    return true;
}

bool guest_workload_start(struct guest *g,
                          const struct guest_workload_options *options,
                          GError **error)
{
    struct guest_workload_options o = *options;

    if (g->workload && g->workload->active) {
        return error_set(error, "The guest runs a workload already");
    }
    if (g->broken) {
        return error_set(error, "%s", guest_obstacle(g));
    }
    if (!check_region(g, &o, error) || !check_mix(&o, error) ||
        !prepare_record(g, &o, error)) {
        return false;
    }
    g_free(g->workload);
    struct guest_workload *w = g->workload = g_new0(struct guest_workload, 1);

    g->now = loop_now_ns(g->loop);
    w->guest = g;
    w->opt = o;
    w->opt.segments = MAX(o.segments, guest_segments(g, o.block_bytes));
    w->active = true;
    w->random = o.seed;
    w->blocks = o.bytes / o.block_bytes;
    w->started_ns = w->next_due_ns = g->now;
    w->interval_ns = o.rate ? 1000000000 / o.rate : 0;
    w->kicks_before = g->kicks;
    w->interrupts_before = g->interrupts;
    w->stats.first_mismatch = -1;
    timer_init(&w->timer, g->loop, on_timer, w);
    guest_workload_pump(g);
    guest_ring(g);
    return true;
}

void co_guest_workload_stop(struct guest *g)
{
    g->users++;
    if (g->workload) {
        g->workload->stopping = true;
        timer_cancel(&g->workload->timer);
        maybe_end(g->workload);
    }
    while (g->workload && g->workload->active && !guest_obstacle(g)) {
        co_queue_wait(&g->idle);
    }
    g->users--;
}

void co_guest_workload_wait(struct guest *g)
{
    g->users++;
    while (g->workload && g->workload->active && !g->broken) {
        co_queue_wait(&g->idle);
    }
    g->users--;
}

void guest_workload_fail(struct guest *g)
{
    struct guest_workload *w = g->workload;

    if (!w || !w->active) {
        return;
    }
    /* What is in flight may have been written or not. */
    for (unsigned i = 0; i < g->num_queues; i++) {
        struct guest_queue *q = &g->queues[i];

        for (unsigned s = 0; s < q->num_slots; s++) {
            struct guest_slot *slot = &q->slots[s];

            if (slot->in_flight && slot->done == on_done && w->opt.verify &&
                slot->kind != GUEST_OP_FLUSH) {
                remember(w, slot, false);
            }
        }
    }
    w->stats.errors += w->in_flight;
    w->in_flight = 0;
    w->stopping = true;
    maybe_end(w);
}

void guest_workload_free(struct guest *g)
{
    if (g->workload) {
        g_assert(!g->workload->active);
        g_free(g->workload);
    }
    guest_record_free(g->record);
    g->workload = NULL;
    g->record = NULL;
}

static int64_t percentile(const struct guest_workload *w, uint64_t total,
                          unsigned percent)
{
    uint64_t seen = 0, wanted = (total * percent + 99) / 100;

    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += w->histogram[i];
        if (seen && seen >= wanted) {
            return bucket_ns(i);
        }
    }
    return 0;
}

void guest_workload_query(const struct guest *g,
                          struct guest_workload_stats *stats)
{
    const struct guest_workload *w = g->workload;

    *stats = (struct guest_workload_stats){.first_mismatch = -1};
    if (!w) {
        return;
    }
    *stats = w->stats;
    uint64_t ops = stats->reads + stats->writes + stats->flushes +
                   stats->discards + stats->zeroes;

    stats->active = w->active;
    stats->in_flight = w->in_flight;
    stats->kicks = g->kicks - w->kicks_before;
    stats->interrupts = g->interrupts - w->interrupts_before;
    stats->elapsed_ns =
        (w->active ? loop_now_ns(g->loop) : w->ended_ns) - w->started_ns;
    stats->latency_avg_ns = ops ? w->latency_sum / ops : 0;
    stats->latency_p50_ns = percentile(w, ops, 50);
    stats->latency_p99_ns = percentile(w, ops, 99);
}
