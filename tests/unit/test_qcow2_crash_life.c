/*
 * qcow2: what a crash leaves of an image that lives through everything.
 *
 * One image gets random requests (compressed ones by several workers, discards
 * and the reuse of what they free, some that outlive the process), snapshots
 * that are taken, gone back to and deleted, other sizes, other options by
 * amend, bitmaps, commits into its backing file, and is closed and opened
 * between. All writes to the image, its backing file and its data file go into
 * one log. For many points of each step the files are rebuilt as a crash might
 * leave them: the image must have no error, show what was flushed or what the
 * step makes of it, its snapshots too, and can be used further.
 *
 * VARVE_SEEDS=FIRST-LAST runs other seeds than the usual one.
 */
#include "block/driver.h"
#include "block/layer_copy.h"
#include "block/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "block/check_report.h"
#include "block/dirty_bitmap.h"
#include "lib/crash_log.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"
#include "lib/shots.h"

enum {
    STEPS = 12,
    POINTS = 8,      /* crashes in each step */
    ALL_LOOKS = 8,   /* one crash of so many is looked at more closely */
    PEER_LOOKS = 48, /* and by qemu-img */
    UNIT = 512,
    MAX_SIZE = 4 << 20,
    BASE_SIZE = 3 << 20, /* behind the disk when that grows */
};

/* The name that the image says. */
#define DATA_FILE "data.raw"

/* What a guest may see: the disk, and the snapshots. */
struct sight {
    uint8_t *model;
    int64_t size;
    GPtrArray *shots; /* of struct shot */
};

struct life {
    const struct shape *shape;
    struct node *file, *base, *data; /* memory disks; NULL: has none */
    struct node *node;
    struct stress t;
    GPtrArray *shots;
    GRand *rand;
    unsigned named; /* snapshots and bitmaps so far */
    unsigned replays;
    /* The step under way. */
    const char *step;
    struct crash_start start[3];
    struct sight before;
};

static void fail_life(const struct life *l, const char *what)
{
    fail_msg("%s: %s: crash %u: %s", l->shape->create, l->step, l->replays,
             what);
}

/* ---- sights -------------------------------------------------------------- */

static struct sight sight_of(const struct life *l)
{
    return (struct sight){g_memdup2(l->t.model, l->t.size), l->t.size,
                          shots_copy(l->shots)};
}

static void sight_clear(struct sight *s)
{
    g_free(s->model);
    g_ptr_array_unref(s->shots);
}

/* ---- the image ----------------------------------------------------------- */

/* The options that open it, from disks whose names begin so. */
static char *life_options(const struct life *l, const char *prefix,
                          const char *more)
{
    g_autofree char *base = g_strdup_printf(",backing=%sbase", prefix);
    g_autofree char *data = g_strdup_printf(",data-file=%sdata", prefix);

    return g_strdup_printf("driver=qcow2,file=%sdisk,discard=unmap%s%s%s%s",
                           prefix, l->base ? base : "", l->data ? data : "",
                           l->shape->open, more);
}

static struct node *co_open_life(const struct life *l, const char *prefix,
                                 const char *more)
{
    g_autofree char *options = life_options(l, prefix, more);

    return co_open("%s", options);
}

static struct node *mem_disk_new(const char *name, unsigned seed)
{
    struct node *disk = co_mem_disk(name);

    mem_disk_of(disk)->pauses = 3;
    mem_disk_of(disk)->rng = seed;
    return disk;
}

/* The stress fits a disk of another size, or content. */
static void co_learn(struct life *l)
{
    struct stress *t = &l->t;
    GRand *rand = g_rand_copy(t->rand);
    int64_t cluster = t->cluster;

    stress_free(t);
    stress_init(t, l->node, 0);
    g_rand_free(t->rand);
    t->rand = rand;
    t->cluster = cluster;
    t->no_flush = true;
    assert_int_equal(co_node_pread(l->node, 0, t->model, t->size, 0), 0);
}

static void co_life_begin(struct life *l, const struct shape *shape,
                          unsigned seed)
{
    *l = (struct life){.shape = shape, .step = "begin"};
    l->rand = g_rand_new_with_seed(seed);
    l->file = mem_disk_new("disk", seed);
    if (strstr(shape->create, "data-file")) {
        l->data = mem_disk_new("data", seed + 1);
        g_free(l->data->filename);
        l->data->filename = g_strdup(DATA_FILE);
    } else if (seed % 2) {
        l->base = mem_disk_new("base", seed + 2);
        l->base->length = BASE_SIZE;
        for (int64_t i = 0; i < BASE_SIZE; i++) {
            mem_disk_of(l->base)->data[i] = i >> 9;
        }
    }
    co_make("disk", shape->size, shape->create);
    l->node = co_open_life(l, "", "");
    stress_init(&l->t, l->node, seed);
    l->t.cluster = shape->cluster;
    l->shots = shots_new();
    co_learn(l);
}

/* By qemu-img. */
static void co_check_files(struct node *file, struct node *data,
                           bool leaks_allowed)
{
    if (data) {
        mem_disk_save(data, DATA_FILE);
    }
    co_check(file, leaks_allowed);
}

static void co_life_end(struct life *l)
{
    co_node_unref(l->node);
    co_check_files(l->file, l->data, false);
    stress_free(&l->t);
    g_ptr_array_unref(l->shots);
    g_rand_free(l->rand);
    for (unsigned i = 0; i < 3; i++) {
        struct node *disk[] = {l->base, l->data, l->file};
        if (disk[i]) {
            co_node_unref(disk[i]);
        }
    }
}

static unsigned any(struct life *l, unsigned n)
{
    return g_rand_int_range(l->rand, 0, n);
}

/* ---- steps --------------------------------------------------------------- */

static void co_requests(struct life *l)
{
    l->t.small = any(l, 3);
    for (unsigned i = any(l, 3); i < 3; i++) {
        co_stress(&l->t, 12, 6);
        if (any(l, 3) == 0) {
            assert_int_equal(co_node_write_back(l->node), 0);
        }
    }
}

static void co_take(struct life *l)
{
    g_autofree char *name = g_strdup_printf("shot-%u", l->named++);
    struct snapshot_info info = {.name = name};

    if (co_node_snapshot_create(l->node, &info) == 0) {
        shots_add(l->shots, name, l->t.model, l->t.size);
    }
}

static const struct shot *any_shot(struct life *l)
{
    if (!l->shots->len) {
        return NULL;
    }
    return g_ptr_array_index(l->shots, any(l, l->shots->len));
}

/* Refused while there are bitmaps. */
static void co_go_back(struct life *l)
{
    const struct shot *shot = any_shot(l);

    if (shot && co_node_snapshot_apply(l->node, shot->name, NULL)) {
        assert_int_equal(l->node->length, shot->size);
        co_learn(l);
        assert_memory_equal(l->t.model, shot->model, shot->size);
    }
}

static void co_delete(struct life *l)
{
    const struct shot *shot = any_shot(l);

    if (shot) {
        assert_true(co_node_snapshot_delete(l->node, NULL, shot->name, NULL));
        g_ptr_array_remove(l->shots, (gpointer)shot);
    }
}

static void co_resize(struct life *l)
{
    static const enum prealloc_mode modes[] = {
        PREALLOC_MODE_OFF, PREALLOC_MODE_OFF, PREALLOC_MODE_METADATA,
        PREALLOC_MODE_FALLOC};
    int64_t old = l->t.size;
    int64_t size = any(l, 2) ? old / 2 + any(l, old / UNIT) * INT64_C(512)
                             : g_rand_int_range(l->rand, 1, MAX_SIZE / UNIT) *
                                   INT64_C(512);
    g_autofree uint8_t *was = g_memdup2(l->t.model, old);

    size = MIN(size / UNIT * UNIT, MAX_SIZE);
    if (!co_node_truncate(l->node, size, true,
                          size > old ? modes[any(l, 4)] : PREALLOC_MODE_OFF, 0,
                          NULL)) {
        return; /* of an old image with snapshots */
    }
    co_learn(l);
    assert_memory_equal(was, l->t.model, MIN(old, size));
    for (int64_t i = old; i < size; i++) {
        assert_int_equal(l->t.model[i], 0);
    }
}

static void co_amend(struct life *l)
{
    static const char *const options[] = {
        "compat=0.10",      "refcount_bits=64",   "refcount_bits=8",
        "refcount_bits=16", "lazy_refcounts=off", "lazy_refcounts=on",
        "compat=1.1"};
    /* An old image has no use for bitmaps, whose clusters leak. */
    unsigned first = LIST_EMPTY(&l->node->bitmaps) ? 0 : 1;
    struct amend_request request = {
        .text = options[first + any(l, G_N_ELEMENTS(options) - first)]};

    /* What does not fit the image is refused, and changes nothing. */
    (void)l->node->driver->co_amend(l->node, &request, NULL);
}

static void co_bitmap(struct life *l)
{
    g_autofree char *name = g_strdup_printf("bitmap-%u", l->named++);
    struct dirty_bitmap *b = LIST_FIRST(&l->node->bitmaps);

    if (b && any(l, 3)) {
        assert_true(co_dirty_bitmap_unstore(b, NULL));
        dirty_bitmap_free(b);
    } else if (dirty_bitmap_can_store(l->node, name, 4096, NULL)) {
        b = dirty_bitmap_new(l->node, name, 4096, NULL);
        b->persistent = true;
        dirty_bitmap_mark(b, 0, UNIT);
    }
}

static void co_reopen(struct life *l)
{
    co_node_unref(l->node);
    l->node = co_open_life(l, "", "");
    l->t.node = l->node;
}

/* What snapshots show may come from the backing file, so there are none. */
static void co_commit(struct life *l)
{
    struct layer_copy copy = {.top = l->node, .target = l->base};

    if (!l->base || l->shots->len || l->t.size > l->base->length) {
        return;
    }
    assert_int_equal(co_layer_copy(&copy), 0);
    assert_int_equal(co_node_flush(l->base), 0);
    assert_int_equal(co_node_make_empty(l->node), 0);
}

static const struct {
    const char *name;
    void (*co_run)(struct life *l);
} steps[] = {
    {"requests", co_requests}, {"requests", co_requests},
    {"requests", co_requests}, {"requests", co_requests},
    {"take", co_take},         {"take", co_take},
    {"go back", co_go_back},   {"delete", co_delete},
    {"resize", co_resize},     {"resize", co_resize},
    {"amend", co_amend},       {"amend", co_amend},
    {"bitmap", co_bitmap},     {"reopen", co_reopen},
    {"commit", co_commit},
};

/* ---- crashes ------------------------------------------------------------- */

static void on_finding(struct check_report *c, enum check_report_kind kind,
                       bool fixed, const char *message)
{
    if (kind == CHECK_REPORT_ERROR) {
        print_message("%s\n", message);
    }
}

static void co_assert_sound(const struct life *l, struct node *node)
{
    struct check_report c = {.found = on_finding};

    if (!node->driver->co_check(node, &c, NULL) || c.errors || c.check_errors) {
        fail_life(l, "the image is corrupt");
    }
}

/* Where the crash left the disk as it was, where as it is, or neither: a unit
 * that changed in the step may be anything if `any`. */
static bool matches(const struct life *l, const uint8_t *seen, int64_t size,
                    const struct sight *s, bool any_touched)
{
    for (int64_t at = 0; at < MIN(size, s->size); at += UNIT) {
        if (memcmp(seen + at, s->model + at, UNIT) &&
            !(any_touched && l->t.touched[at / UNIT])) {
            return false;
        }
    }
    return true;
}

static void co_check_disk(struct life *l, struct node *node,
                          const struct sight *after)
{
    g_autofree uint8_t *seen = g_malloc(node->length);
    bool requests = !strcmp(l->step, "requests");

    assert_int_equal(co_node_pread(node, 0, seen, node->length, 0), 0);
    if (node->length != l->before.size && node->length != after->size) {
        fail_life(l, "the disk has a wrong size");
    }
    bool as_before =
        matches(l, seen, MIN(node->length, after->size), &l->before, requests);
    if (!as_before &&
        (requests || !matches(l, seen, node->length, after, false))) {
        fail_life(l, "the disk does not show what was flushed");
    }
    for (int64_t i = l->before.size; as_before && i < node->length; i++) {
        if (seen[i] && !strcmp(l->step, "resize")) {
            fail_life(l, "a larger disk shows what is not its own");
        }
    }
}

/* They are those from before the step, or those from after it. */
static void co_check_shots(struct life *l, const struct sight *after)
{
    g_autofree char *options = life_options(l, "crash-", ",read-only=on");
    struct node *node = co_open("%s", options);
    struct snapshot_info_list *list = node_snapshots(node);
    unsigned n = list ? list->n : 0;

    snapshot_info_list_free(list);
    co_node_unref(node);
    if (n != after->shots->len) {
        assert_int_equal(n, l->before.shots->len);
    }
    co_verify_shots(options,
                    n == after->shots->len ? after->shots : l->before.shots);
}

static void co_check_use(struct life *l, struct node *disk)
{
    struct node *node = co_open_life(l, "crash-", "");
    uint8_t byte = 1;

    assert_int_equal(co_node_pwrite(node, node->length - 1, &byte, 1, 0), 0);
    assert_int_equal(co_node_pwrite_zeroes(node, 0, UNIT, 0), 0);
    co_node_unref(node);
    node = co_open_life(l, "crash-", ",read-only=on");
    co_assert_sound(l, node);
    co_node_unref(node);
}

/* disk: the image and, if there is one, the data file as last one. */
static void co_check_crash(struct life *l, struct node *const disks[3],
                           const struct sight *after)
{
    struct node *disk = disks[0];

    l->replays++;
    if (get_be(disk, 4, 4) >= 3 && get_be(disk, 72, 8) & 1) {
        /* Lazy refcounts: opening makes it good. */
        co_node_unref(co_open_life(l, "crash-", ""));
    }
    if (l->replays % PEER_LOOKS == 0) {
        co_check_files(disk, disks[2], true);
    }
    struct node *node = co_open_life(l, "crash-", ",read-only=on");
    co_assert_sound(l, node);
    co_check_disk(l, node, after);
    co_node_unref(node);
    if (l->replays % ALL_LOOKS == 0) {
        co_check_shots(l, after);
        co_check_use(l, disk);
    }
}

/* Anywhere, or just before a flush, where most is at stake. */
static guint pick_point(struct life *l, const GArray *log)
{
    guint point = any(l, log->len + 1);

    for (bool at_flush = any(l, 2); at_flush && point < log->len; point++) {
        if (g_array_index(log, struct mem_event, point).flush) {
            break;
        }
    }
    return point;
}

static void co_crashes(struct life *l, const struct sight *after)
{
    static const char *const names[] = {"crash-disk", "crash-base",
                                        "crash-data"};
    struct node *disks[3] = {NULL};
    const GArray *log = mem_disk_of(l->file)->log;

    for (unsigned k = 0; k < 3; k++) {
        disks[k] = l->start[k].disk ? co_mem_disk(names[k]) : NULL;
    }
    for (unsigned i = 0; i < POINTS; i++) {
        guint point = pick_point(l, log);
        for (unsigned k = 0; k < 3; k++) {
            if (disks[k]) {
                crash_rebuild(disks[k], &l->start[k], log, point, l->rand);
            }
        }
        co_check_crash(l, disks, after);
    }
    for (unsigned k = 0; k < 3; k++) {
        if (disks[k]) {
            co_node_unref(disks[k]);
        }
    }
}

/* ---- a life -------------------------------------------------------------- */

static void record(struct life *l)
{
    l->start[0] = crash_record(l->file);
    if (l->base) {
        l->start[1] = crash_start(l->base);
        mem_disk_record_beside(l->base, l->file);
    }
    if (l->data) {
        l->start[2] = crash_start(l->data);
        mem_disk_record_beside(l->data, l->file);
    }
}

static void forget(struct life *l)
{
    struct node *disks[] = {l->base, l->data, l->file};

    for (unsigned i = 0; i < 3; i++) {
        if (disks[i]) {
            mem_disk_forget(disks[i]);
        }
        g_free(l->start[i].image);
        l->start[i] = (struct crash_start){0};
    }
}

/* From one flush to the next one. */
static void co_step(struct life *l)
{
    unsigned which = any(l, G_N_ELEMENTS(steps));

    assert_int_equal(co_node_flush(l->node), 0);
    memset(l->t.touched, 0, l->t.size / UNIT);
    l->step = steps[which].name;
    l->before = sight_of(l);
    record(l);
    steps[which].co_run(l);
    assert_int_equal(co_node_flush(l->node), 0);
    struct sight after = sight_of(l);
    co_crashes(l, &after);
    sight_clear(&after);
    sight_clear(&l->before);
    forget(l);
}

static const struct shape shapes[] = {
    {"'cluster-size': 512, 'refcount-bits': 64", "", 1 << 20, 512},
    {"'cluster-size': 1024", ",cache-size=4096,l2-cache-entry-size=512",
     1 << 20, 1024},
    {"'cluster-size': 4096, 'refcount-bits': 8, 'lazy-refcounts': true", "",
     2 << 20, 4096},
    {"'cluster-size': 16384, 'version': 'v2'",
     ",pass-discard-request=on,pass-discard-other=on", 2 << 20, 16384},
    {"'cluster-size': 16384, 'extended-l2': true, 'compression-type': 'zstd'",
     "", 2 << 20, 16384},
    {"'cluster-size': 65536", ",pass-discard-other=on", 2 << 20, 65536},
    {"'cluster-size': 4096", ",discard-no-unref=on,pass-discard-request=on",
     1 << 20, 4096},
    {"'cluster-size': 4096, 'data-file': 'data'", "", 1 << 20, 0},
    {"'cluster-size': 65536, 'extended-l2': true, 'data-file': 'data', "
     "'data-file-raw': true",
     "", 1 << 20, 0},
};

static void co_live(unsigned seed, unsigned *replays)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        struct life l;
        print_message("seed %u, %s\n", seed, shapes[i].create);
        co_life_begin(&l, &shapes[i], seed + i);
        for (unsigned k = 0; k < STEPS; k++) {
            co_step(&l);
        }
        *replays += l.replays;
        co_life_end(&l);
    }
}

static void co_lives(void *opaque)
{
    const char *seeds = g_getenv("VARVE_SEEDS");
    unsigned first = 1, last = 1, replays = 0;

    if (seeds && sscanf(seeds, "%u-%u", &first, &last) != 2) {
        last = first;
    }
    for (unsigned seed = first; seed <= last; seed++) {
        co_live(seed, &replays);
    }
    print_message("%u crashes\n", replays);
}

static void a_crash_at_any_moment_of_a_life_leaves_leaks_at_worst(void **state)
{
    in_fake_loop(co_lives);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crash_at_any_moment_of_a_life_leaves_leaks_at_worst),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
