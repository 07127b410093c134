/*
 * qcow2: what a crash may leave behind.
 *
 * Writes and flushes of a run are recorded. A crash keeps all writes before the
 * last flush and any part of the later ones; for many such points the image is
 * rebuilt, must have no error but leaked clusters, and must show what the
 * guest had flushed.
 */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <string.h>

#include "lib/crash_log.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define PHASES 4
#define POINTS 10 /* crashes tried in each phase */

/* The disk at the end of a phase: all is flushed. */
struct flushed {
    guint log_length;
    uint8_t *model;
};

/* Closing is the last phase. */
struct run {
    struct flushed at[PHASES + 2];
    uint8_t *touched[PHASES + 2]; /* units changed in the phase before */
    struct stress t;
    struct crash_start start; /* as created */
    bool lazy;                /* refcounts are */
    bool write_back;          /* after every few requests */
};

static void phase_end(struct run *r, unsigned phase, struct mem_disk *d)
{
    struct stress *t = &r->t;

    r->at[phase].log_length = d->log->len;
    r->at[phase].model = g_memdup2(t->model, t->size);
    r->touched[phase] = g_memdup2(t->touched, t->size / t->unit);
    memset(t->touched, 0, t->size / t->unit);
}

/* What was flushed before the phase and not changed in it is there. */
static void co_check_crash(struct run *r, struct node *disk, unsigned phase,
                           const char *what)
{
    struct stress v = r->t;

    if (r->lazy) {
        /* Opening it makes it good. */
        co_node_unref(co_open("driver=qcow2,file=crash-disk"));
        assert_int_equal(get_be(disk, 72, 8) & 1, 0);
    }
    mem_disk_save(disk, "crash.qcow2");
    assert_image_clean("crash.qcow2", true);
    v.node = co_open("driver=qcow2,file=crash-disk,%s", what);
    v.model = r->at[phase - 1].model;
    v.unknown = r->touched[phase];
    co_verify(&v, 0, v.size);
    /* It can be used further, and closing leaks no more. */
    if (!v.node->read_only) {
        uint8_t byte = 1;
        assert_int_equal(co_node_pwrite(v.node, v.size - 1, &byte, 1, 0), 0);
        co_node_unref(v.node);
        mem_disk_save(disk, "crash.qcow2");
        assert_image_clean("crash.qcow2", true);
    } else {
        co_node_unref(v.node);
    }
}

/* Anywhere in [from, to), or just before a flush, where most is at stake. */
static guint pick_point(const GArray *log, guint from, guint to, bool at_flush,
                        GRand *rand)
{
    guint point = g_rand_int_range(rand, from, to);

    while (at_flush && point < to - 1 &&
           !g_array_index(log, struct mem_event, point).flush) {
        point++;
    }
    return point;
}

static void co_try_crashes(struct run *r, const GArray *log, unsigned phase)
{
    struct node *disk = co_mem_disk("crash-disk");
    guint from = r->at[phase - 1].log_length, to = r->at[phase].log_length;

    /* Closing may have nothing left to do. */
    for (unsigned i = 0; from < to && i < POINTS; i++) {
        guint point = pick_point(log, from, to, i & 1, r->t.rand);
        crash_rebuild(disk, &r->start, log, point, r->t.rand);
        co_check_crash(r, disk, phase, i % 4 ? "read-only=on" : "");
    }
    co_node_unref(disk);
}

/* All that has ended survives the process as it is now. */
static void co_write_back(struct run *r, struct node *node, struct node *file)
{
    struct node *disk = co_mem_disk("crash-disk");
    struct stress v = r->t;

    assert_int_equal(co_node_write_back(node), 0);
    memcpy(mem_disk_of(disk)->data, mem_disk_of(file)->data, file->length);
    disk->length = file->length;
    v.node = co_open("driver=qcow2,file=crash-disk");
    co_verify(&v, 0, v.size);
    co_node_unref(v.node);
    co_node_unref(disk);
}

static void co_requests(struct run *r, struct node *node, struct node *file)
{
    if (!r->write_back) {
        co_stress(&r->t, 60, 8);
        return;
    }
    for (unsigned i = 0; i < 3; i++) {
        co_stress(&r->t, 20, 8);
        co_write_back(r, node, file);
    }
}

/* compressed: the cluster size if there are compressed writes, else 0. */
static void co_run(struct run *run, const char *create, int64_t size,
                   const char *open, int64_t compressed, unsigned seed)
{
    struct run r = *run;
    struct node *file = co_mem_disk("disk");
    struct mem_disk *d = mem_disk_of(file);

    co_make("disk", size, create);
    d->pauses = 3;
    d->rng = seed;
    r.start = crash_record(file);
    struct node *node = co_open("driver=qcow2,file=disk,discard=unmap%s", open);
    stress_init(&r.t, node, seed);
    r.t.cluster = compressed;
    phase_end(&r, 0, d);
    for (unsigned phase = 1; phase <= PHASES; phase++) {
        r.t.small = phase & 1;
        r.t.no_flush = phase < PHASES;
        co_requests(&r, node, file);
        assert_int_equal(co_node_flush(node), 0);
        phase_end(&r, phase, d);
    }
    co_node_unref(node);
    co_check(file, false);
    assert_all_stable(file);
    phase_end(&r, PHASES + 1, d);
    for (unsigned phase = 1; phase <= PHASES + 1; phase++) {
        co_try_crashes(&r, d->log, phase);
    }
    for (unsigned phase = 0; phase <= PHASES + 1; phase++) {
        g_free(r.at[phase].model);
        g_free(r.touched[phase]);
    }
    g_free(r.start.image);
    stress_free(&r.t);
    co_node_unref(file);
}

static void co_crash_run(const char *create, int64_t size, const char *open,
                         int64_t compressed, unsigned seed)
{
    co_run(&(struct run){0}, create, size, open, compressed, seed);
}

static void co_lazy(void *opaque)
{
    struct run r = {.lazy = true};

    co_run(&r, "'cluster-size': 4096, 'lazy-refcounts': true", 2 << 20, "",
           4096, 21);
    co_run(&r, "'cluster-size': 512", 2 << 20,
           ",lazy-refcounts=on,pass-discard-request=on,cache-size=4096,"
           "l2-cache-entry-size=512",
           0, 22);
    co_run(&r,
           "'cluster-size': 16384, 'extended-l2': true, "
           "'lazy-refcounts': true",
           4 << 20, "", 0, 23);
    r.write_back = true;
    co_run(&r, "'cluster-size': 4096, 'lazy-refcounts': true", 2 << 20, "", 0,
           24);
}

static void lazy_refcounts_are_good_again_after_a_crash(void **state)
{
    in_fake_loop(co_lazy);
}

static void co_written_back(void *opaque)
{
    struct run r = {.write_back = true};

    co_run(&r, "'cluster-size': 512", 1 << 20, "", 0, 11);
    co_run(&r, "'cluster-size': 16384, 'extended-l2': true", 4 << 20, "", 16384,
           13);
    co_run(&r, "'cluster-size': 65536", 8 << 20, "", 0, 12);
}

static void what_is_written_back_survives_the_process(void **state)
{
    in_fake_loop(co_written_back);
}

static void co_small_clusters(void *opaque)
{
    co_crash_run("'cluster-size': 512, 'refcount-bits': 64", 4 << 20, "", 0, 1);
}

static void co_tiny_caches(void *opaque)
{
    co_crash_run("'cluster-size': 1024", 2 << 20,
                 ",l2-cache-entry-size=512,cache-size=4096", 0, 2);
}

static void co_default_clusters(void *opaque)
{
    co_crash_run("'cluster-size': 65536", 8 << 20,
                 ",pass-discard-request=on,pass-discard-other=on", 0, 3);
}

static void co_subclusters(void *opaque)
{
    co_crash_run("'cluster-size': 16384, 'extended-l2': true", 4 << 20,
                 ",pass-discard-other=on", 16384, 6);
}

static void co_compressed(void *opaque)
{
    co_crash_run("'cluster-size': 4096", 2 << 20, "", 4096, 4);
    co_crash_run("'cluster-size': 65536, 'compression-type': 'zstd'", 8 << 20,
                 ",pass-discard-request=on,pass-discard-other=on", 65536, 5);
}

static void a_crash_leaves_leaks_at_worst_with_compressed_writes(void **state)
{
    in_fake_loop(co_compressed);
}

static void a_crash_leaves_leaks_at_worst_with_subclusters(void **state)
{
    in_fake_loop(co_subclusters);
}

static void a_crash_leaves_leaks_at_worst_with_small_clusters(void **state)
{
    in_fake_loop(co_small_clusters);
}

static void a_crash_leaves_leaks_at_worst_with_tiny_caches(void **state)
{
    in_fake_loop(co_tiny_caches);
}

static void a_crash_leaves_leaks_at_worst_with_default_clusters(void **state)
{
    in_fake_loop(co_default_clusters);
}

/* ---- changes of the size ------------------------------------------------- */

#define OLD_BACKING   0x5a
#define OVERLAY       0x11

#define CHANGE_POINTS 24

/* How a disk of `old` bytes changes to one of `size`. */
struct change {
    const char *create;
    int64_t old, size;
    int64_t backing; /* bytes of the backing file, or 0 */
    enum prealloc_mode prealloc;
    bool full; /* the disk had data everywhere, not just in its first sector */
};

static uint8_t expected_byte(const struct change *c, int64_t i)
{
    if (i >= c->old) {
        return 0;
    }
    return c->full || i < 512 ? OVERLAY : i < c->backing ? OLD_BACKING : 0;
}

/* The disk is the old one, or the new one with zeroes where it grew. One that
 * was to shrink may have lost what was to go. */
static void co_check_changed(struct node *disk, const struct change *c,
                             bool over)
{
    mem_disk_save(disk, "crash.qcow2");
    assert_image_clean("crash.qcow2", true);
    struct node *node = co_open("driver=qcow2,file=crash-disk,read-only=on%s",
                                c->backing ? ",backing=base" : "");
    int64_t length = node->length;
    g_autofree uint8_t *buf = g_malloc(length);

    assert_true((length == c->old && !over) || length == c->size);
    assert_int_equal(co_node_pread(node, 0, buf, length, 0), 0);
    for (int64_t i = 0; i < (c->size < c->old ? c->size : length); i++) {
        if (buf[i] != expected_byte(c, i)) {
            fail_msg("byte %" G_GINT64_FORMAT " is %02x", i, buf[i]);
        }
    }
    co_node_unref(node);
}

static struct node *co_open_to_change(const struct change *c)
{
    struct node *node =
        co_open("driver=qcow2,file=disk%s", c->backing ? ",backing=base" : "");
    int64_t bytes = c->full ? c->old : 512;
    g_autofree uint8_t *buf = g_malloc(bytes);

    memset(buf, OVERLAY, bytes);
    assert_int_equal(co_node_pwrite(node, 0, buf, bytes, 0), 0);
    assert_int_equal(co_node_flush(node), 0);
    return node;
}

/* Crashes at points of one change of size, all of them if there are few. */
static void co_change_run(const struct change *c, unsigned seed)
{
    struct node *base = co_mem_disk("base"), *file = co_mem_disk("disk");
    struct mem_disk *d = mem_disk_of(file);
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);

    memset(mem_disk_of(base)->data, OLD_BACKING, c->backing);
    base->length = c->backing;
    co_make("disk", c->old, c->create);
    struct node *node = co_open_to_change(c);
    struct run r = {.start = crash_record(file)};
    d->pauses = 3;
    d->rng = seed;
    assert_true(co_node_truncate(node, c->size, true, c->prealloc, 0, NULL));
    assert_int_equal(node->length, c->size);
    struct node *disk = co_mem_disk("crash-disk");
    guint step = MAX(d->log->len / CHANGE_POINTS, 1);
    for (guint point = 0; point < d->log->len; point += step) {
        crash_rebuild(disk, &r.start, d->log, point, rand);
        co_check_changed(disk, c, false);
    }
    crash_rebuild(disk, &r.start, d->log, d->log->len, rand);
    co_check_changed(disk, c, true);
    co_node_unref(disk);
    co_node_unref(node);
    g_free(r.start.image);
    co_node_unref(file);
    co_node_unref(base);
}

static void co_growth(void *opaque)
{
    /* The ends lie on borders of clusters, and not. */
    static const struct change changes[] = {
        {.create = "'cluster-size': 4096",
         .old = 65536,
         .size = 1 << 20,
         .backing = 1 << 20},
        {.create = "'cluster-size': 4096",
         .old = 65536 + 512,
         .size = 1 << 20,
         .backing = 600000 / 512 * 512},
        {.create = "'cluster-size': 512",
         .old = 65536,
         .size = (1 << 20) + 512,
         .backing = 4 << 20},
        {.create = "'cluster-size': 65536",
         .old = 1536,
         .size = 1 << 20,
         .backing = 2 << 20},
        {.create = "'cluster-size': 16384, 'extended-l2': true",
         .old = 20480 + 512,
         .size = 1 << 20,
         .backing = 1 << 20},
        {.create = "'cluster-size': 4096, 'version': 'v2'",
         .old = 65536 + 512,
         .size = 1 << 19,
         .backing = 1 << 20},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        co_change_run(&changes[i], i);
    }
}

static void co_preallocation(void *opaque)
{
    static const struct change changes[] = {
        {.create = "'cluster-size': 4096",
         .old = 65536 + 512,
         .size = 4 << 20,
         .backing = 0,
         .prealloc = PREALLOC_MODE_METADATA},
        {.create = "'cluster-size': 512",
         .old = 65536,
         .size = (1 << 20) + 512,
         .backing = 4 << 20,
         .prealloc = PREALLOC_MODE_METADATA},
        {.create = "'cluster-size': 4096",
         .old = 65536,
         .size = 4 << 20,
         .backing = 1 << 20,
         .prealloc = PREALLOC_MODE_FALLOC},
        {.create = "'cluster-size': 16384, 'extended-l2': true",
         .old = 20480 + 2048,
         .size = 1 << 20,
         .backing = 1 << 20,
         .prealloc = PREALLOC_MODE_METADATA},
        {.create = "'cluster-size': 4096, 'version': 'v2'",
         .old = 65536 + 512,
         .size = 1 << 20,
         .backing = 1 << 20,
         .prealloc = PREALLOC_MODE_METADATA},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        co_change_run(&changes[i], i);
    }
}

static void co_shrinking(void *opaque)
{
    static const struct change changes[] = {
        {.create = "'cluster-size': 4096",
         .old = 4 << 20,
         .size = 65536 + 512,
         .full = true},
        {.create = "'cluster-size': 512, 'refcount-bits': 64",
         .old = 1 << 20,
         .size = 512,
         .full = true},
        {.create = "'cluster-size': 65536",
         .old = 4 << 20,
         .size = 1 << 20,
         .backing = 4 << 20,
         .full = true},
        {.create = "'cluster-size': 16384, 'extended-l2': true",
         .old = 4 << 20,
         .size = 20480 + 512,
         .backing = 1 << 20,
         .full = true},
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
        co_change_run(&changes[i], i);
    }
}

static void a_crash_while_an_overlay_grows_never_shows_its_backing(void **state)
{
    in_fake_loop(co_growth);
}

static void a_crash_while_growing_with_places_leaves_leaks_at_worst(
    void **state)
{
    in_fake_loop(co_preallocation);
}

static void a_crash_while_shrinking_leaves_leaks_at_worst(void **state)
{
    in_fake_loop(co_shrinking);
}

/* ---- writes whose end survives the process ------------------------------- */

enum { SURVIVORS = 80, APART = 65536, WRITTEN_AT = 8192, WRITTEN = 4096 };

/* All is as before, or a write is there in part or as a whole. */
static void co_check_survivors(struct node *disk, uint8_t before,
                               const char *open)
{
    g_autofree uint8_t *buf = g_malloc(SURVIVORS * APART);

    mem_disk_save(disk, "crash.qcow2");
    assert_image_clean("crash.qcow2", true);
    struct node *node =
        co_open("driver=qcow2,file=crash-disk,read-only=on%s", open);
    assert_int_equal(co_node_pread(node, 0, buf, SURVIVORS * APART, 0), 0);
    for (int64_t i = 0; i < SURVIVORS * APART; i++) {
        bool written =
            i % APART >= WRITTEN_AT && i % APART < WRITTEN_AT + WRITTEN;
        if (buf[i] != before && !(written && buf[i] == OVERLAY)) {
            fail_msg("byte %" G_GINT64_FORMAT " is %02x", i, buf[i]);
        }
    }
    co_node_unref(node);
}

struct survivor {
    struct node *node;
    int64_t offset;
};

static int co_survivor(void *opaque)
{
    struct survivor *w = opaque;
    uint8_t data[WRITTEN];

    memset(data, OVERLAY, sizeof(data));
    assert_int_equal(co_node_pwrite(w->node, w->offset, data, WRITTEN, 0), 0);
    assert_int_equal(co_node_write_back(w->node), 0);
    return 0;
}

static void co_write_survivors(struct node *node, unsigned depth)
{
    struct survivor writes[SURVIVORS];
    struct co_pool pool = {.limit = depth};

    for (int64_t i = 0; i < SURVIVORS; i++) {
        writes[i] = (struct survivor){node, i * APART + WRITTEN_AT};
        co_pool_start(&pool, co_survivor, &writes[i]);
    }
    co_pool_wait(&pool);
}

/* Allocates a cluster a write; how many flushes it takes, and in *stable how
 * many writes that are stable by themselves. Any crash on the way leaves a good
 * image. */
static unsigned co_survivors(uint8_t before, const char *open, unsigned depth,
                             unsigned *stable)
{
    struct node *file = co_mem_disk("disk"), *disk = co_mem_disk("crash-disk");
    struct mem_disk *d = mem_disk_of(file);
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    co_make("disk", SURVIVORS * APART, "'cluster-size': 65536");
    struct node *node = co_open("driver=qcow2,file=disk%s", open);
    d->flushes = d->fua_writes = 0;
    d->pauses = 3;
    struct run r = {.start = crash_record(file)};
    co_write_survivors(node, depth);
    unsigned flushes = d->flushes;
    *stable = d->fua_writes;
    for (guint i = 0; i < 24; i++) {
        crash_rebuild(disk, &r.start, d->log,
                      g_rand_int_range(rand, 0, d->log->len + 1), rand);
        co_check_survivors(disk, before, open);
    }
    co_node_unref(node);
    /* What was counted ahead is given back, and the file is no longer for
     * it.
     */
    co_check(file, false);
    assert_true(file->length <= (SURVIVORS + 8) * APART);
    g_free(r.start.image);
    co_node_unref(disk);
    co_node_unref(file);
    return flushes;
}

static void co_surviving_writes(void *opaque)
{
    struct node *base = co_mem_disk("base");
    unsigned stable;

    /* Only the first clusters that are counted ahead cost flushes. */
    for (unsigned depth = 1; depth <= 16; depth *= 4) {
        assert_in_range(co_survivors(0, "", depth, &stable), 1, 4);
        assert_in_range(stable, 2, 6);
    }
    /* What is copied around the data has to be stable before it is mapped.
     */
    base->length = SURVIVORS * APART;
    memset(mem_disk_of(base)->data, OLD_BACKING, base->length);
    assert_true(co_survivors(OLD_BACKING, ",backing=base", 1, &stable) >=
                SURVIVORS);
    co_node_unref(base);
}

static void allocating_writes_that_survive_the_process_share_flushes(
    void **state)
{
    in_fake_loop(co_surviving_writes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_back_survives_the_process),
        cmocka_unit_test(lazy_refcounts_are_good_again_after_a_crash),
        cmocka_unit_test(a_crash_leaves_leaks_at_worst_with_small_clusters),
        cmocka_unit_test(a_crash_leaves_leaks_at_worst_with_tiny_caches),
        cmocka_unit_test(a_crash_leaves_leaks_at_worst_with_default_clusters),
        cmocka_unit_test(a_crash_leaves_leaks_at_worst_with_compressed_writes),
        cmocka_unit_test(a_crash_leaves_leaks_at_worst_with_subclusters),
        cmocka_unit_test(
            a_crash_while_an_overlay_grows_never_shows_its_backing),
        cmocka_unit_test(
            a_crash_while_growing_with_places_leaves_leaks_at_worst),
        cmocka_unit_test(a_crash_while_shrinking_leaves_leaks_at_worst),
        cmocka_unit_test(
            allocating_writes_that_survive_the_process_share_flushes),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
