/*
 * Reads and writes of one node, against a driver over memory and a byte model.
 */
#include "block/request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "aio/coroutine.h"
#include "aio/loop.h"
#include "block/dirty_bitmap.h"
#include "block/listener.h"
#include "tests/unit/lib/ram_node.h"
#include "util/range.h"

#define LENGTH (INT64_C(1) << 20)

static struct loop *loop;
static struct ram_node *ram;
static char *buf;

static int set_up(void **state)
{
    loop = loop_new("test", LOOP_CLOCK_SIMULATED);
    loop_bind(loop);
    ram = ram_node_new("ram", LENGTH);
    buf = aligned_alloc(4096, 4 * LENGTH);
    memset(buf, 0, 4 * LENGTH);
    return 0;
}

static int tear_down(void **state)
{
    ram_node_free(ram);
    free(buf);
    loop_bind(NULL);
    loop_free(loop);
    return 0;
}

static void settle(void)
{
    while (loop_pass(loop, false)) {
    }
}

/* ---- one request at a time ---- */

struct call {
    struct node *node;
    enum { READ, WRITE, ZEROES, FLUSH } what;
    int64_t offset, bytes;
    void *buf;
    unsigned flags;
    int ret;
    bool done;
};

static void co_run(void *opaque)
{
    struct call *c = opaque;

    switch (c->what) {
    case READ:
        c->ret = co_node_pread(c->node, c->offset, c->buf, c->bytes, c->flags);
        break;
    case WRITE:
        c->ret = co_node_pwrite(c->node, c->offset, c->buf, c->bytes, c->flags);
        break;
    case ZEROES:
        c->ret = co_node_pwrite_zeroes(c->node, c->offset, c->bytes, c->flags);
        break;
    case FLUSH:
        c->ret = co_node_flush(c->node);
        break;
    }
    c->done = true;
}

static int run(struct node *node, int what, int64_t offset, void *data,
               int64_t bytes, unsigned flags)
{
    struct call c = {node, what, offset, bytes, data, flags, 0, false};
    loop_run_co(loop, co_run, &c);
    return c.ret;
}

static void pattern(void *p, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++) {
        ((uint8_t *)p)[i] = seed + i * 7 + (i >> 8);
    }
}

static void a_fitting_read_reaches_the_driver_as_it_is(void **state)
{
    pattern(ram->data, LENGTH, 1);
    assert_int_equal(run(&ram->node, READ, 12345, buf, 777, 0), 0);
    assert_memory_equal(buf, ram->data + 12345, 777);
    assert_int_equal(ram->calls[RAM_READ], 1);
    assert_int_equal(ram->last_offset[RAM_READ], 12345);
    assert_int_equal(ram->last_bytes[RAM_READ], 777);
}

static void an_unaligned_read_is_widened_into_one(void **state)
{
    ram->node.limits.request_alignment = 4096;
    pattern(ram->data, LENGTH, 1);
    assert_int_equal(run(&ram->node, READ, 4000, buf, 5000, 0), 0);
    assert_memory_equal(buf, ram->data + 4000, 5000);
    assert_int_equal(ram->calls[RAM_READ], 1);
    assert_int_equal(ram->last_offset[RAM_READ], 0);
    assert_int_equal(ram->last_bytes[RAM_READ], 3 * 4096);
}

static void an_unaligned_write_keeps_its_neighbours(void **state)
{
    uint8_t model[8 * 4096];

    ram->node.limits.request_alignment = 4096;
    pattern(ram->data, sizeof(model), 1);
    memcpy(model, ram->data, sizeof(model));
    memset(buf, 0xee, 5000);
    memset(model + 4000, 0xee, 5000);
    assert_int_equal(run(&ram->node, WRITE, 4000, buf, 5000, 0), 0);
    assert_memory_equal(ram->data, model, sizeof(model));
    assert_int_equal(ram->calls[RAM_READ], 2); /* head and tail */
    assert_int_equal(ram->calls[RAM_WRITE], 1);
    /* Both ends in one block are read once. */
    ram_reset_counters(ram);
    memset(model + 100, 0xee, 10);
    assert_int_equal(run(&ram->node, WRITE, 100, buf, 10, 0), 0);
    assert_memory_equal(ram->data, model, sizeof(model));
    assert_int_equal(ram->calls[RAM_READ], 1);
    assert_int_equal(ram->calls[RAM_WRITE], 1);
}

static void a_failing_read_of_an_end_writes_nothing(void **state)
{
    ram->node.limits.request_alignment = 4096;
    memset(buf, 1, 5000);
    ram->fail_at[RAM_READ] = 2;
    assert_int_equal(run(&ram->node, WRITE, 4000, buf, 5000, 0), -EIO);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
}

static void transfers_are_cut_at_the_drivers_maximum(void **state)
{
    ram->node.limits.request_alignment = 512;
    ram->node.limits.max_transfer = 5000; /* not even a multiple */
    pattern(buf, 65536, 3);
    assert_int_equal(run(&ram->node, WRITE, 512, buf, 65536, 0), 0);
    assert_memory_equal(ram->data + 512, buf, 65536);
    assert_int_equal(ram->max_bytes[RAM_WRITE], 4608);
    assert_int_equal(ram->calls[RAM_WRITE], div_round_up(65536, 4608));
    memset(buf, 0, 65536);
    assert_int_equal(run(&ram->node, READ, 512, buf, 65536, 0), 0);
    assert_memory_equal(ram->data + 512, buf, 65536);
    assert_int_equal(ram->max_bytes[RAM_READ], 4608);
}

static void misaligned_memory_is_bounced(void **state)
{
    ram->node.limits.request_alignment = 512;
    ram->node.limits.memory_alignment = 512;
    pattern(buf + 1, 3 * LENGTH / 4, 3);
    assert_int_equal(run(&ram->node, WRITE, 512, buf + 1, 3 * LENGTH / 4, 0),
                     0);
    assert_memory_equal(ram->data + 512, buf + 1, 3 * LENGTH / 4);
    memset(buf, 0, LENGTH);
    assert_int_equal(run(&ram->node, READ, 512, buf + 1, 3 * LENGTH / 4, 0), 0);
    assert_memory_equal(ram->data + 512, buf + 1, 3 * LENGTH / 4);
    assert_int_equal(ram->calls[RAM_READ], 1);
}

static void a_bounce_buffer_is_bounded(void **state)
{
    struct ram_node *big = ram_node_new("big", 8 * LENGTH);

    big->node.limits.request_alignment = 512;
    memset(big->data, 5, 8 * LENGTH);
    assert_int_equal(run(&big->node, READ, 100, buf, 3 * LENGTH, 0), 0);
    for (int64_t i = 0; i < 3 * LENGTH; i++) {
        assert_int_equal(buf[i], 5);
    }
    /* Only the ends are bounced where the rest can go directly. */
    big->node.limits.memory_alignment = 512;
    assert_int_equal(run(&big->node, READ, 100, buf + 1, 3 * LENGTH, 0), 0);
    assert_true(big->last_bytes[RAM_READ] <= LENGTH);
    ram_node_free(big);
}

static void reads_beyond_the_end_give_zeroes(void **state)
{
    ram->node.length = 1000;
    ram->node.limits.request_alignment = 512;
    memset(ram->data, 1, 4096);
    memset(buf, 9, 4096);
    assert_int_equal(run(&ram->node, READ, 900, buf, 2000, 0), 0);
    for (int i = 0; i < 2000; i++) {
        assert_int_equal(buf[i], i < 100);
    }
    ram_reset_counters(ram);
    memset(buf, 9, 4096);
    assert_int_equal(run(&ram->node, READ, 1024, buf, 512, 0), 0);
    assert_int_equal(buf[0] | buf[511], 0);
    assert_int_equal(ram->calls[RAM_READ], 0);
    ram->node.length = LENGTH;
}

static void ranges_out_of_this_world_are_refused(void **state)
{
    assert_int_equal(run(&ram->node, READ, -1, buf, 1, 0), -EIO);
    assert_int_equal(run(&ram->node, READ, 0, buf, -1, 0), -EIO);
    assert_int_equal(run(&ram->node, WRITE, 0, buf, -1, 0), -EIO);
    assert_int_equal(run(&ram->node, READ, INT64_MAX, buf, 1, 0), -EIO);
    assert_int_equal(run(&ram->node, WRITE, BLOCK_MAX_LENGTH, buf, 1, 0), -EIO);
    assert_int_equal(run(&ram->node, WRITE, INT64_MAX - 1, buf, 4096, 0), -EIO);
    assert_int_equal(run(&ram->node, READ, 5, buf, 0, 0), 0);
    assert_int_equal(run(&ram->node, WRITE, 5, buf, 0, 0), 0);
    assert_int_equal(ram->calls[RAM_READ] + ram->calls[RAM_WRITE], 0);
}

static void a_read_only_node_refuses_writes(void **state)
{
    ram->node.read_only = true;
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 1, 0), -EPERM);
    assert_int_equal(run(&ram->node, ZEROES, 0, NULL, 1, 0), -EPERM);
    assert_int_equal(run(&ram->node, READ, 0, buf, 1, 0), 0);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
}

/* ---- forwarding ---- */

static void a_filter_without_functions_forwards(void **state)
{
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);

    pattern(buf, 4096, 9);
    assert_int_equal(
        run(&filter->node, WRITE, 100, buf, 4096, REQ_WRITE_UNCHANGED), 0);
    assert_int_equal(ram->last_flags[RAM_WRITE], REQ_WRITE_UNCHANGED);
    assert_memory_equal(ram->data + 100, buf, 4096);
    memset(buf, 0, 4096);
    assert_int_equal(run(&filter->node, READ, 100, buf, 4096, 0), 0);
    assert_memory_equal(ram->data + 100, buf, 4096);
    assert_int_equal(run(&filter->node, FLUSH, 0, NULL, 0, 0), 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 1);
    ram_node_free(filter);
}

static void a_format_without_functions_cannot(void **state)
{
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);

    assert_int_equal(run(&format->node, READ, 0, buf, 1, 0), -ENOTSUP);
    assert_int_equal(run(&format->node, WRITE, 0, buf, 1, 0), -ENOTSUP);
    ram_node_free(format);
}

/* ---- flags ---- */

static void fua_goes_to_a_driver_that_honours_it(void **state)
{
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);

    ram->driver.writes_fua = true;
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 512, REQ_FUA), 0);
    assert_int_equal(ram->last_flags[RAM_WRITE], REQ_FUA);
    assert_int_equal(run(&filter->node, WRITE, 0, buf, 512, REQ_FUA), 0);
    assert_int_equal(ram->last_flags[RAM_WRITE], REQ_FUA);
    assert_int_equal(ram->calls[RAM_FLUSH], 0);
    ram_node_free(filter);
}

static void fua_is_a_flush_for_other_drivers(void **state)
{
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 512, REQ_FUA), 0);
    assert_int_equal(ram->last_flags[RAM_WRITE], 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 1);
    assert_int_equal(run(&ram->node, ZEROES, 0, NULL, 512, REQ_FUA), 0);
    assert_int_equal(ram->last_flags[RAM_ZEROES], 0);
    assert_int_equal(ram->calls[RAM_FLUSH], 2);
    /* What failed need not be stable; a failing flush is a failing write. */
    ram->fail_at[RAM_WRITE] = 1;
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 512, REQ_FUA), -EIO);
    assert_int_equal(ram->calls[RAM_FLUSH], 2);
    ram->fail_at[RAM_FLUSH] = 1;
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 512, REQ_FUA), -EIO);
    assert_int_equal(ram->calls[RAM_FLUSH], 3);
}

static void flags_of_the_engine_stay_in_it(void **state)
{
    unsigned flags = REQ_SERIALISING | REQ_NO_WAIT | REQ_COMPRESSED;
    assert_int_equal(run(&ram->node, WRITE, 0, buf, 512, flags), 0);
    assert_int_equal(ram->last_flags[RAM_WRITE], REQ_COMPRESSED);
    assert_int_equal(
        run(&ram->node, READ, 0, buf, 512, REQ_SERIALISING | REQ_NO_WAIT), 0);
    assert_int_equal(ram->last_flags[RAM_READ], 0);
}

static void zeroes_are_detected(void **state)
{
    ram->node.limits.request_alignment = 512;
    memset(buf, 0, 4096);
    assert_int_equal(run(&ram->node, WRITE, 512, buf, 1024, 0), 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 0);
    ram->node.detect_zeroes = BLOCKDEV_DETECT_ZEROES_OPTIONS_ON;
    ram->driver.zeroes_unmap = true;
    assert_int_equal(run(&ram->node, WRITE, 512, buf, 1024, 0), 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 1);
    assert_int_equal(ram->last_flags[RAM_ZEROES], 0);
    ram->node.detect_zeroes = BLOCKDEV_DETECT_ZEROES_OPTIONS_UNMAP;
    /* With unaligned ends too. */
    memset(ram->data, 7, 4096);
    assert_int_equal(run(&ram->node, WRITE, 100, buf, 1000, 0), 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 2);
    assert_int_equal(ram->last_flags[RAM_ZEROES], REQ_MAY_UNMAP);
    for (int i = 0; i < 4096; i++) {
        assert_int_equal(ram->data[i], i >= 100 && i < 1100 ? 0 : 7);
    }
    buf[500] = 1;
    ram_reset_counters(ram);
    assert_int_equal(run(&ram->node, WRITE, 512, buf, 1024, 0), 0);
    assert_int_equal(ram->calls[RAM_ZEROES], 0);
    assert_int_equal(ram->calls[RAM_WRITE], 1);
}

/* ---- bookkeeping ---- */

static void a_write_marks_also_when_it_fails(void **state)
{
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 4096, NULL);
    uint64_t gen = ram->node.write_gen;

    ram->fail_at[RAM_WRITE] = 1;
    assert_int_equal(run(&ram->node, WRITE, 8000, buf, 400, 0), -EIO);
    assert_int_equal(dirty_bitmap_count(b), 8192);
    assert_true(hbitmap_get(b->bits, 8191) && hbitmap_get(b->bits, 8192));
    assert_int_equal(ram->node.write_gen, gen + 1);
    assert_int_equal(run(&ram->node, READ, 0, buf, 400, 0), 0);
    assert_int_equal(dirty_bitmap_count(b), 8192);
}

static void every_node_that_a_write_passes_marks(void **state)
{
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct dirty_bitmap *top = dirty_bitmap_new(&filter->node, "b", 512, NULL);
    struct dirty_bitmap *bottom = dirty_bitmap_new(&ram->node, "b", 4096, NULL);

    run(&filter->node, WRITE, 0, buf, 1, 0);
    run(&ram->node, WRITE, LENGTH - 1, buf, 1, 0);
    assert_int_equal(dirty_bitmap_count(top), 512);
    assert_int_equal(dirty_bitmap_count(bottom), 8192);
    ram_node_free(filter);
}

static void a_write_past_the_end_grows_a_protocol(void **state)
{
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);
    struct dirty_bitmap *top =
        dirty_bitmap_new(&filter->node, "b", 65536, NULL);
    struct dirty_bitmap *bottom =
        dirty_bitmap_new(&ram->node, "b", 65536, NULL);

    assert_int_equal(run(&filter->node, WRITE, LENGTH, buf, 512, 0), 0);
    assert_int_equal(ram->node.length, LENGTH + 512);
    assert_int_equal(filter->node.length, LENGTH + 512);
    assert_int_equal(hbitmap_size(top->bits), LENGTH + 512);
    assert_int_equal(hbitmap_size(bottom->bits), LENGTH + 512);
    assert_int_equal(hbitmap_next_set(bottom->bits, 0, LENGTH + 512), LENGTH);
    assert_int_equal(hbitmap_next_set(top->bits, 0, LENGTH + 512), LENGTH);
    /* A write below makes what is above follow. */
    assert_int_equal(run(&ram->node, ZEROES, LENGTH + 512, NULL, 512, 0), 0);
    assert_int_equal(filter->node.length, LENGTH + 1024);
    assert_int_equal(hbitmap_size(top->bits), LENGTH + 1024);
    ram_node_free(filter);
}

static void a_format_does_not_grow_unless_it_says_so(void **state)
{
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);

    assert_int_equal(run(&format->node, WRITE, LENGTH, buf, 512, 0), -EIO);
    assert_int_equal(run(&format->node, WRITE, LENGTH - 1, buf, 2, 0), -EIO);
    assert_int_equal(ram->calls[RAM_WRITE], 0);
    format->driver.writes_grow = true;
    format->driver.kind = DRIVER_FILTER;
    assert_int_equal(run(&format->node, WRITE, LENGTH - 1, buf, 2, 0), 0);
    assert_int_equal(format->node.length, LENGTH + 1);
    ram_node_free(format);
}

static void a_failed_growth_does_not_grow(void **state)
{
    struct dirty_bitmap *b = dirty_bitmap_new(&ram->node, "b", 65536, NULL);

    ram->fail_at[RAM_WRITE] = 1;
    assert_int_equal(run(&ram->node, WRITE, LENGTH, buf, 512, 0), -EIO);
    assert_int_equal(ram->node.length, LENGTH);
    /* Part of it may be there. */
    assert_true(dirty_bitmap_count(b) > 0);
}

static int64_t exceeded, threshold;
static unsigned announced;

static void on_threshold(void *opaque, const struct node *node,
                         int64_t exceeded_by, int64_t at)
{
    exceeded = exceeded_by;
    threshold = at;
    announced++;
}

static void a_write_threshold_is_announced_once(void **state)
{
    struct block_listener l = {.write_threshold = on_threshold};

    block_listener_add(&l);
    ram->node.write_threshold = 10000;
    run(&ram->node, WRITE, 9000, buf, 1000, 0);
    assert_int_equal(announced, 0);
    run(&ram->node, WRITE, 9000, buf, 4000, 0);
    run(&ram->node, WRITE, 9000, buf, 4000, 0);
    assert_int_equal(announced, 1);
    assert_int_equal(exceeded, 3000);
    assert_int_equal(threshold, 10000);
    assert_int_equal(ram->node.write_threshold, 0);
    block_listener_remove(&l);
}

static char events[32];

static void co_note_event(struct node *node, enum blkdebug_event event)
{
    size_t n = strlen(events);
    assert_true(n + 1 < sizeof(events));
    events[n] = event == BLKDEBUG_EVENT_PWRITEV            ? 'w'
                : event == BLKDEBUG_EVENT_PWRITEV_ZERO     ? 'z'
                : event == BLKDEBUG_EVENT_PWRITEV_DONE     ? '.'
                : event == BLKDEBUG_EVENT_PWRITEV_RMW_HEAD ? 'h'
                : event == BLKDEBUG_EVENT_PWRITEV_RMW_TAIL ? 't'
                : event == BLKDEBUG_EVENT_FLUSH_TO_OS      ? 'f'
                : event == BLKDEBUG_EVENT_FLUSH_TO_DISK    ? 'F'
                                                           : '-';
}

static void the_steps_of_a_write_are_events(void **state)
{
    struct ram_node *filter = ram_node_above("filter", DRIVER_FILTER, ram);

    ram->driver.co_debug_event = co_note_event;
    ram->node.limits.request_alignment = 4096;
    run(&filter->node, WRITE, 100, buf, 8000, 0);
    run(&filter->node, WRITE, 0, buf, 4096, 0);
    run(&filter->node, ZEROES, 0, NULL, 4096, 0);
    /* What a node does to its file, once. */
    run(&filter->node, FLUSH, 0, NULL, 0, 0);
    assert_string_equal(events, "h-t-w.w.z.fF");
    ram_node_free(filter);
}

static void co_tell(void *opaque)
{
    co_node_debug_event(opaque, BLKDEBUG_EVENT_PWRITEV_ZERO);
}

static void an_event_goes_down_to_the_first_that_listens(void **state)
{
    struct ram_node *format = ram_node_above("format", DRIVER_FORMAT, ram);

    memset(events, 0, sizeof(events));
    loop_run_co(loop, co_tell, &format->node);
    ram->driver.co_debug_event = co_note_event;
    loop_run_co(loop, co_tell, &format->node);
    assert_string_equal(events, "z");
    ram_node_free(format);
}

/* ---- concurrency ---- */

/* Workers own interleaved stretches that share blocks; each checks its own
 * bytes against its own model, so any lost update between them shows. */
enum { WORKERS = 16, STRETCH = 700, ROUNDS = 60, STEPS = 120 };

struct worker {
    unsigned index, rng;
    uint8_t *model;
    struct node *node;
    unsigned left;
};

static unsigned roll(struct worker *w, unsigned below)
{
    w->rng = w->rng * 1664525 + 1013904223;
    return (w->rng >> 8) % below;
}

static void co_step(struct worker *w, uint8_t *memory)
{
    unsigned at = roll(w, STRETCH), n = 1 + roll(w, STRETCH - at);
    int64_t offset =
        (int64_t)(roll(w, ROUNDS) * WORKERS + w->index) * STRETCH + at;
    unsigned flags = roll(w, 8) == 0   ? REQ_SERIALISING
                     : roll(w, 8) == 0 ? REQ_FUA
                                       : 0;
    memory += roll(w, 600);

    switch (roll(w, 4)) {
    case 0:
        assert_int_equal(co_node_pwrite_zeroes(w->node, offset, n, flags), 0);
        memset(w->model + offset, 0, n);
        break;
    case 1:
        assert_int_equal(co_node_pread(w->node, offset, memory, n, 0), 0);
        assert_memory_equal(memory, w->model + offset, n);
        break;
    default:
        memset(memory, roll(w, 256), n);
        assert_int_equal(co_node_pwrite(w->node, offset, memory, n, flags), 0);
        memcpy(w->model + offset, memory, n);
        break;
    }
}

static void co_worker_main(void *opaque)
{
    struct worker *w = opaque;
    uint8_t *memory = aligned_alloc(4096, 8192);

    for (unsigned i = 0; i < STEPS; i++) {
        co_step(w, memory);
    }
    free(memory);
    w->left--;
}

static void stress(int64_t align, int64_t memory_align, int64_t max,
                   unsigned seed)
{
    const int64_t length = WORKERS * STRETCH * ROUNDS;
    struct ram_node *r = ram_node_new("stress", align_up(length, 4096));
    struct worker workers[WORKERS];
    uint8_t *model = calloc(1, length);
    struct dirty_bitmap *b = dirty_bitmap_new(&r->node, "b", 512, NULL);

    r->pauses = 3;
    r->rng = seed;
    r->node.limits.request_alignment = align;
    r->node.limits.memory_alignment = memory_align;
    r->node.limits.max_transfer = max;
    for (unsigned i = 0; i < WORKERS; i++) {
        workers[i] = (struct worker){i, seed * 31 + i, model, &r->node, 1};
        co_start(co_worker_main, &workers[i]);
    }
    settle();
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(workers[i].left, 0);
    }
    assert_true(r->max_inside > 2);
    assert_memory_equal(r->data, model, length);
    for (int64_t at = 0; at < length; at++) {
        if (r->data[at]) {
            assert_true(hbitmap_get(b->bits, at));
        }
    }
    free(model);
    ram_node_free(r);
}

static void random_requests_lose_nothing(void **state)
{
    static const struct {
        int64_t align, memory, max;
    } rows[] = {
        {0, 0, 0},       {1, 1, 100},       {512, 1, 0},
        {512, 512, 512}, {4096, 4096, 0},   {4096, 512, 4096},
        {512, 64, 0},    {65536, 1, 65536}, {4096, 16, 12288},
    };

    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        stress(rows[i].align, rows[i].memory, rows[i].max, i + 1);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_fitting_read_reaches_the_driver_as_it_is),
        TEST(an_unaligned_read_is_widened_into_one),
        TEST(an_unaligned_write_keeps_its_neighbours),
        TEST(a_failing_read_of_an_end_writes_nothing),
        TEST(transfers_are_cut_at_the_drivers_maximum),
        TEST(misaligned_memory_is_bounced),
        TEST(a_bounce_buffer_is_bounded),
        TEST(reads_beyond_the_end_give_zeroes),
        TEST(ranges_out_of_this_world_are_refused),
        TEST(a_read_only_node_refuses_writes),
        TEST(a_filter_without_functions_forwards),
        TEST(a_format_without_functions_cannot),
        TEST(fua_goes_to_a_driver_that_honours_it),
        TEST(fua_is_a_flush_for_other_drivers),
        TEST(flags_of_the_engine_stay_in_it),
        TEST(zeroes_are_detected),
        TEST(a_write_marks_also_when_it_fails),
        TEST(every_node_that_a_write_passes_marks),
        TEST(a_write_past_the_end_grows_a_protocol),
        TEST(a_format_does_not_grow_unless_it_says_so),
        TEST(a_failed_growth_does_not_grow),
        TEST(a_write_threshold_is_announced_once),
        TEST(the_steps_of_a_write_are_events),
        TEST(an_event_goes_down_to_the_first_that_listens),
        TEST(random_requests_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
