/*
 * qcow2: what a crash leaves of work on a whole image: creating it, repairing
 * it, changing its options and its header, and opening it to write.
 *
 * The work is done with all writes recorded. After a crash at any moment the
 * disk shows what it did, the image has no more errors than before, none if a
 * bit that warned of them is gone, and the work can be done again. When the
 * work is over, so it stays.
 */
#include "block/check_report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <glib.h>
#include <string.h>

#include "block/node_int.h"
#include "block/snapshot.h"
#include "lib/crash_log.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"
#include "qapi/options.h"

#define CLUSTER      4096
#define SIZE         (INT64_C(1) << 20)
#define ON_BASE      0x5a
#define COPIED       (UINT64_C(1) << 63)
#define COMPRESSED   (UINT64_C(1) << 62)
#define OFFSET_MASK  UINT64_C(0x00fffffffffffe00)
#define INCOMPATIBLE 72
#define AUTOCLEAR    88
#define DIRTY        1
#define CORRUPT      2
#define QEMU_ASKED   8 /* at every such point */

struct work {
    const char *what;
    const char *create; /* JSON members, or NULL: clusters of CLUSTER */
    void (*damage)(struct node *file); /* of an image that was closed */
    uint64_t bits;                     /* incompatible features, then */
    bool (*co_do)(struct node *node, const char *how, GError **error);
    const char *how;
    bool no_snapshot;
};

/* ---- damage -------------------------------------------------------------- */

/* The 16-bit count of a cluster, in the first refcount block. */
static int64_t count_at(struct node *file, int64_t cluster)
{
    return (int64_t)get_be(file, (int64_t)get_be(file, 48, 8), 8) + cluster * 2;
}

/* Every few clusters that have this count get another one. */
static void miscount(struct node *file, uint64_t from, uint64_t to)
{
    for (int64_t c = 0; c < file->length / CLUSTER; c += 3) {
        if (get_be(file, count_at(file, c), 2) == from) {
            put_be(file, count_at(file, c), 2, to);
        }
    }
}

static void count_too_high(struct node *file)
{
    miscount(file, 1, 4);
}

static void count_too_low(struct node *file)
{
    miscount(file, 2, 1);
}

static void used_looks_free(struct node *file)
{
    miscount(file, 1, 0);
}

static void wrong_flags(struct node *file)
{
    int64_t l1 = (int64_t)get_be(file, 40, 8);
    int64_t l2 = (int64_t)(get_be(file, l1, 8) & OFFSET_MASK);

    for (int64_t i = 0; i < CLUSTER / 8; i += 3) {
        uint64_t entry = get_be(file, l2 + i * 8, 8);
        if (entry & OFFSET_MASK && !(entry & COMPRESSED)) {
            put_be(file, l2 + i * 8, 8, entry ^ COPIED);
        }
    }
}

/* ---- work ---------------------------------------------------------------- */

static void hear(struct check_report *check, enum check_report_kind kind,
                 bool fixed, const char *message)
{
}

static bool co_repair(struct node *node, const char *how, GError **error)
{
    struct check_report check = {
        .found = hear, .fix_leaks = true, .fix_errors = true};

    return node->driver->co_check(node, &check, error);
}

static bool co_amend(struct node *node, const char *how, GError **error)
{
    struct amend_request request = {.text = how};

    return node->driver->co_amend(node, &request, error);
}

static bool co_rename_backing(struct node *node, const char *how,
                              GError **error)
{
    return node->driver->co_change_backing(node, how, "raw", error);
}

/* Beyond what one cluster of a refcount table counts. */
static bool co_grow(struct node *node, const char *how, GError **error)
{
    return co_node_truncate(node, 3 * SIZE, true, PREALLOC_MODE_METADATA, 0,
                            error);
}

/* Opening it to write is all. */
static bool co_nothing(struct node *node, const char *how, GError **error)
{
    return true;
}

/* The base by a name that leaves no room for all the rest in one sector. */
#define HERE      "./././././././././././././././"
#define LONG_NAME HERE HERE HERE HERE HERE HERE HERE HERE HERE HERE "base"

static const struct work works[] = {
    {.what = "repair of leaks", .damage = count_too_high, .co_do = co_repair},
    {.what = "repair of counts that are too high",
     .damage = count_too_high,
     .bits = CORRUPT,
     .co_do = co_repair},
    {.what = "repair of counts that are too low",
     .damage = count_too_low,
     .bits = CORRUPT,
     .co_do = co_repair},
    {.what = "repair of flags",
     .damage = wrong_flags,
     .bits = CORRUPT,
     .co_do = co_repair},
    {.what = "rebuild",
     .damage = used_looks_free,
     .bits = CORRUPT,
     .co_do = co_repair},
    {.what = "opening with counts that are too high",
     .damage = count_too_high,
     .bits = DIRTY,
     .co_do = co_nothing},
    {.what = "opening with counts that are too low",
     .damage = used_looks_free,
     .bits = DIRTY,
     .co_do = co_nothing},
    {.what = "other width", .co_do = co_amend, .how = "refcount_bits=64"},
    {.what = "lazy refcounts", .co_do = co_amend, .how = "lazy_refcounts=on"},
    {.what = "downgrade",
     .no_snapshot = true,
     .co_do = co_amend,
     .how = "compat=0.10"},
    {.what = "upgrade",
     .create = "'version': 'v2', 'cluster-size': 4096",
     .co_do = co_amend,
     .how = "compat=1.1"},
    {.what = "growth of the refcount table",
     .create = "'cluster-size': 512, 'refcount-bits': 64",
     .co_do = co_grow},
    {.what = "long name", .co_do = co_rename_backing, .how = LONG_NAME},
};

/* ---- the image ----------------------------------------------------------- */

static struct node *co_open_on(const char *file, const char *more)
{
    return co_open("driver=qcow2,file=%s,backing=base%s", file, more);
}

static void co_build(struct stress *t, const struct work *w)
{
    struct snapshot_info info = {.name = (char *)"shot"};
    g_autofree char *create =
        g_strdup_printf("'backing-file': 'base', 'backing-fmt': 'raw', %s",
                        w->create ? w->create : "'cluster-size': 4096");

    co_make("disk", SIZE, create);
    struct node *node = co_open_on("disk", ",discard=unmap");
    stress_init(t, node, 1);
    memset(t->model, ON_BASE, SIZE);
    t->small = true;
    co_stress(t, 120, 8);
    if (!w->no_snapshot) {
        assert_int_equal(co_node_snapshot_create(node, &info), 0);
        co_stress(t, 60, 8);
    }
    co_node_unref(node);
    t->node = NULL;
}

/* ---- after a crash ------------------------------------------------------- */

/* The disk shows what it did; how many errors there are. */
static int64_t co_errors(struct stress *t, const char *file)
{
    struct check_report check = {.found = hear};

    t->node = co_open_on(file, ",read-only=on");
    co_verify(t, 0, SIZE);
    assert_true(t->node->driver->co_check(t->node, &check, NULL));
    co_node_unref(t->node);
    return check.errors + check.check_errors;
}

static void co_do(const struct work *w, const char *file)
{
    struct open_defaults defaults = {.check = w->co_do == co_repair};
    GError *error = NULL;
    g_autofree char *text =
        g_strdup_printf("driver=qcow2,file=%s,backing=base", file);
    qapi_auto(blockdev_options) o = qapi_blockdev_options_parse(text, &error);
    struct node *node = o ? co_node_open_with(o, &defaults, &error) : NULL;

    if (!node || !w->co_do(node, w->how, &error)) {
        fail_msg("%s: %s", w->what, error->message);
    }
    co_node_unref(node);
}

/* The backing file has the old name or the new one. */
static void co_check_name(const struct work *w)
{
    struct node *node = co_open_on("crash", ",read-only=on");

    assert_true(!g_strcmp0(node->backing_filename, "base") ||
                !g_strcmp0(node->backing_filename, w->how));
    co_node_unref(node);
}

static void co_check_point(const struct work *w, struct stress *t,
                           struct node *disk, int64_t errors_before,
                           guint point)
{
    int64_t errors = co_errors(t, "crash");
    uint64_t bits = get_be(disk, INCOMPATIBLE, 8);

    if (errors > errors_before) {
        fail_msg("%s: %d errors after a crash at event %u", w->what,
                 (int)errors, point);
    }
    if (errors && w->bits & ~bits) {
        fail_msg("%s: %d errors and no warning after a crash at event %u",
                 w->what, (int)errors, point);
    }
    if (w->co_do == co_rename_backing) {
        co_check_name(w);
    }
}

/* Most is at stake where a flush is about to begin. */
static unsigned tries_at(const GArray *log, guint point)
{
    if (point == log->len ||
        g_array_index(log, struct mem_event, point).flush) {
        return 16;
    }
    return point % (log->len / 64 + 1) ? 0 : 2;
}

static void co_crashes_in(const struct work *w)
{
    struct node *base = co_mem_disk("base"), *file = co_mem_disk("disk");
    struct node *disk = co_mem_disk("crash");
    g_autoptr(GRand) rand = g_rand_new_with_seed(5);
    struct stress t;

    memset(mem_disk_of(base)->data, ON_BASE, SIZE);
    base->length = SIZE;
    mem_disk_save(base, "base"); /* for qemu-img */
    co_build(&t, w);
    if (w->damage) {
        w->damage(file);
    }
    if (w->bits) {
        put_be(file, INCOMPATIBLE, 8, w->bits);
    }
    int64_t errors = co_errors(&t, "disk");
    struct crash_start start = crash_record(file);
    co_do(w, "disk");
    const GArray *log = mem_disk_of(file)->log;
    for (guint point = 0; point <= log->len; point++) {
        for (unsigned i = 0; i < tries_at(log, point); i++) {
            crash_rebuild(disk, &start, log, point, rand);
            co_check_point(w, &t, disk, errors, point);
            if (i == 1 && !errors && point % QEMU_ASKED == 0) {
                co_check(disk, true);
            }
        }
    }
    co_do(w, "crash");
    assert_int_equal(co_errors(&t, "crash"), 0);
    stress_free(&t);
    g_free(start.image);
    co_node_unref(disk);
    co_node_unref(file);
    co_node_unref(base);
}

static void co_all_work(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(works); i++) {
        co_crashes_in(&works[i]);
    }
}

static void a_crash_in_work_on_an_image_makes_nothing_worse(void **state)
{
    in_fake_loop(co_all_work);
}

/* ---- creating ------------------------------------------------------------ */

/* There is no image yet, or a good one. */
static void co_check_created(struct node *disk, bool over)
{
    struct stress t = {.size = SIZE, .unit = 512};
    struct node *node = co_try_open(NULL, "driver=qcow2,file=crash");

    assert_true(node || !over);
    if (node) {
        co_node_unref(node);
        t.model = g_malloc0(SIZE);
        t.unknown = g_malloc0(SIZE / t.unit);
        assert_int_equal(co_errors(&t, "crash"), 0);
        co_check(disk, false);
        g_free(t.model);
        g_free(t.unknown);
    }
}

static void co_creation(void *opaque)
{
    static const char *const how[] = {
        "'cluster-size': 512",
        "'cluster-size': 4096, 'preallocation': 'metadata'",
        "'cluster-size': 65536, 'version': 'v2'",
    };
    struct node *disk = co_mem_disk("crash"), *base = co_mem_disk("base");
    g_autoptr(GRand) rand = g_rand_new_with_seed(6);

    for (unsigned i = 0; i < G_N_ELEMENTS(how); i++) {
        struct node *file = co_mem_disk("disk");
        struct crash_start start = crash_record(file);
        co_make("disk", SIZE, how[i]);
        const GArray *log = mem_disk_of(file)->log;
        for (guint point = 0; point <= log->len; point++) {
            for (unsigned k = 0; k < tries_at(log, point); k++) {
                crash_rebuild(disk, &start, log, point, rand);
                co_check_created(disk, point == log->len);
            }
        }
        g_free(start.image);
        co_node_unref(file);
    }
    co_node_unref(base);
    co_node_unref(disk);
}

static void a_crash_while_creating_leaves_no_image_or_a_good_one(void **state)
{
    in_fake_loop(co_creation);
}

/* ---- bits that a writer clears ------------------------------------------- */

#define UNKNOWN_BIT (UINT64_C(1) << 63)

/* The bit stands for something that is true as long as nobody writes. */
static void co_unknown_bit(void *opaque)
{
    struct node *file = co_mem_disk("disk"), *disk = co_mem_disk("crash");
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);
    uint8_t before[CLUSTER], after[CLUSTER], now[CLUSTER];

    memset(before, 1, CLUSTER);
    memset(after, 2, CLUSTER);
    co_make("disk", SIZE, "");
    struct node *node = co_open("driver=qcow2,file=disk");
    assert_int_equal(co_node_pwrite(node, 0, before, CLUSTER, 0), 0);
    co_node_unref(node);
    put_be(file, AUTOCLEAR, 8, UNKNOWN_BIT);
    struct crash_start start = crash_record(file);
    node = co_open("driver=qcow2,file=disk");
    assert_int_equal(co_node_pwrite(node, 0, after, CLUSTER, 0), 0);
    const GArray *log = mem_disk_of(file)->log;
    for (unsigned i = 0; i < 32; i++) {
        crash_rebuild(disk, &start, log, log->len, rand);
        struct node *crashed = co_open("driver=qcow2,file=crash,read-only=on");
        assert_int_equal(co_node_pread(crashed, 0, now, CLUSTER, 0), 0);
        co_node_unref(crashed);
        assert_true(!get_be(disk, AUTOCLEAR, 8) ||
                    !memcmp(now, before, CLUSTER));
    }
    co_node_unref(node);
    g_free(start.image);
    co_node_unref(disk);
    co_node_unref(file);
}

static void unknown_autoclear_bits_are_gone_before_the_first_write(void **state)
{
    in_fake_loop(co_unknown_bit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crash_in_work_on_an_image_makes_nothing_worse),
        cmocka_unit_test(a_crash_while_creating_leaves_no_image_or_a_good_one),
        cmocka_unit_test(
            unknown_autoclear_bits_are_gone_before_the_first_write),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
