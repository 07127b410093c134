/*
 * qcow2: snapshots within the image.
 *
 * Each snapshot has a model of bytes. After random requests, snapshots taken,
 * gone back to and deleted, the disk and all snapshots must show what their
 * models say, and qemu-img finds nothing wrong with the image.
 *
 * The same is done with all writes recorded: whatever a crash leaves of them
 * has no error but leaked clusters, and shows the disk and the snapshots as
 * they were before a change or as they are after it.
 */
#include "block/snapshot.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "lib/crash_log.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"
#include "lib/shots.h"

/* An image at work. */
struct life {
    struct node *file, *node;
    struct stress t;
    GPtrArray *shots; /* as in the image's table */
    const char *open;
    unsigned taken;
};

static void co_life_begin(struct life *l, const struct shape *shape,
                          unsigned seed)
{
    *l = (struct life){.file = co_mem_disk("disk"), .open = shape->open};
    co_make("disk", shape->size, shape->create);
    mem_disk_of(l->file)->pauses = 2;
    mem_disk_of(l->file)->rng = seed;
    l->node = co_open("driver=qcow2,file=disk,discard=unmap%s", l->open);
    stress_init(&l->t, l->node, seed);
    l->t.cluster = shape->cluster;
    l->t.small = true;
    l->shots = shots_new();
}

static void co_life_end(struct life *l)
{
    co_node_unref(l->node);
    co_check(l->file, false);
    g_ptr_array_unref(l->shots);
    stress_free(&l->t);
    co_node_unref(l->file);
}

/* ---- what is there ------------------------------------------------------- */

/* The file as it is, copied to another disk and looked at there. */
static void co_verify_life(struct life *l)
{
    struct node *disk = co_mem_disk("copy");

    assert_int_equal(co_node_flush(l->node), 0);
    memcpy(mem_disk_of(disk)->data, mem_disk_of(l->file)->data,
           l->file->length);
    disk->length = l->file->length;
    co_verify(&l->t, 0, l->t.size);
    co_check(disk, true);
    co_verify_shots("driver=qcow2,file=copy,read-only=on", l->shots);
    co_node_unref(disk);
}

/* ---- steps --------------------------------------------------------------- */

static void co_take(struct life *l)
{
    g_autofree char *name = g_strdup_printf("shot-%u", l->taken++);
    struct snapshot_info info = {.name = name};

    assert_int_equal(co_node_snapshot_create(l->node, &info), 0);
    shots_add(l->shots, name, l->t.model, l->t.size);
}

static struct shot *any(struct life *l, unsigned *i)
{
    *i = g_rand_int_range(l->t.rand, 0, l->shots->len);
    return g_ptr_array_index(l->shots, *i);
}

static void co_go_back(struct life *l)
{
    unsigned i;
    const struct shot *shot = any(l, &i);
    GError *error = NULL;

    if (!co_node_snapshot_apply(l->node, shot->name, &error)) {
        fail_msg("%s", error->message);
    }
    memcpy(l->t.model, shot->model, shot->size);
    memset(l->t.unknown, 0, shot->size / l->t.unit);
}

static void co_delete(struct life *l)
{
    unsigned i;
    const struct shot *shot = any(l, &i);
    GError *error = NULL;

    if (!co_node_snapshot_delete(l->node, NULL, shot->name, &error)) {
        fail_msg("%s", error->message);
    }
    g_ptr_array_remove_index(l->shots, i);
}

static void co_step(struct life *l)
{
    unsigned what = g_rand_int_range(l->t.rand, 0, 6);

    if (l->shots->len < 2 || (what < 3 && l->shots->len < 5)) {
        co_take(l);
    } else if (what == 3) {
        co_go_back(l);
    } else {
        co_delete(l);
    }
}

/* ---- images of many kinds ------------------------------------------------ */

static void co_live(const struct shape *shape, unsigned seed, unsigned steps)
{
    struct life l;

    co_life_begin(&l, shape, seed);
    for (unsigned i = 0; i < steps; i++) {
        co_stress(&l.t, 25, 8);
        co_step(&l);
        if (i % 4 == 3) {
            co_verify_life(&l);
        }
    }
    co_verify_life(&l);
    while (l.shots->len) {
        co_delete(&l);
    }
    co_life_end(&l);
}

static const struct shape shapes[] = {
    {"'cluster-size': 512, 'refcount-bits': 64", "", 1 << 20, 0},
    {"'cluster-size': 1024", ",cache-size=4096,l2-cache-entry-size=512",
     1 << 20, 1024},
    {"'cluster-size': 4096, 'refcount-bits': 8", "", 2 << 20, 4096},
    {"'cluster-size': 65536, 'version': 'v2'",
     ",pass-discard-request=on,pass-discard-other=on", 4 << 20, 0},
    {"'cluster-size': 16384, 'extended-l2': true", "", 2 << 20, 16384},
};

static void co_all_shapes(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_live(&shapes[i], i + 1, 12);
    }
}

static void disk_and_snapshots_show_what_was_written(void **state)
{
    in_fake_loop(co_all_shapes);
}

/* ---- crashes ------------------------------------------------------------- */

/* The image after a crash during a step: all is as before, or as after. */
static void co_check_crash(struct node *disk, const struct life *l,
                           const uint8_t *before, const GPtrArray *shots_before)
{
    co_check(disk, true);
    struct node *node = co_open("driver=qcow2,file=crash,read-only=on");
    struct snapshot_info_list *list = node_snapshots(node);
    g_autofree uint8_t *now = g_malloc(l->t.size);
    bool changed = list->n != shots_before->len;
    bool many = list->n > 2;

    snapshot_info_list_free(list);
    assert_int_equal(co_node_pread(node, 0, now, l->t.size, 0), 0);
    co_node_unref(node);
    if (shots_before->len == l->shots->len) {
        /* Gone back. */
        assert_true(!memcmp(now, before, l->t.size) ||
                    !memcmp(now, l->t.model, l->t.size));
    } else {
        assert_memory_equal(now, l->t.model, l->t.size);
    }
    if (!many) {
        co_verify_shots("driver=qcow2,file=crash,read-only=on",
                        changed ? l->shots : shots_before);
    }
}

/* One step, and crashes in it. */
static void co_crash_step(struct life *l, GRand *rand, unsigned points)
{
    g_autofree uint8_t *before = g_memdup2(l->t.model, l->t.size);
    g_autoptr(GPtrArray) shots = shots_copy(l->shots);
    struct mem_disk *d = mem_disk_of(l->file);

    assert_int_equal(co_node_flush(l->node), 0);
    struct crash_start start = crash_record(l->file);
    co_step(l);
    struct node *disk = co_mem_disk("crash");
    for (unsigned i = 0; i < points; i++) {
        guint point = g_rand_int_range(rand, 0, d->log->len + 1);
        crash_rebuild(disk, &start, d->log, point, rand);
        co_check_crash(disk, l, before, shots);
    }
    co_node_unref(disk);
    mem_disk_forget(l->file);
    g_free(start.image);
}

static void co_crashes(void *opaque)
{
    g_autoptr(GRand) rand = g_rand_new_with_seed(7);

    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        struct life l;
        co_life_begin(&l, &shapes[i], i + 100);
        for (unsigned k = 0; k < 7; k++) {
            co_stress(&l.t, 12, 4);
            co_crash_step(&l, rand, 5);
        }
        co_life_end(&l);
    }
}

static void a_crash_leaves_the_image_as_before_or_after(void **state)
{
    in_fake_loop(co_crashes);
}

/* ---- failures ------------------------------------------------------------ */

/* Each write and flush of a step fails in its turn. */
static void co_fail_at_each(struct life *l, bool apply)
{
    struct mem_disk *d = mem_disk_of(l->file);
    GError *error = NULL;
    bool ok = false;

    for (unsigned n = 1; !ok; n++) {
        assert_int_equal(co_node_flush(l->node), 0);
        d->fail_at = n;
        struct snapshot_info info = {.name = (char *)"another"};
        ok = apply ? co_node_snapshot_apply(l->node, "shot-0", &error)
                   : co_node_snapshot_create(l->node, &info) == 0;
        g_clear_error(&error);
        /* What fails when it has come into force leaks at worst. */
        bool over = d->fail_at > 0;
        d->fail_at = 0;
        co_check(l->file, true);
        co_verify(&l->t, 0, l->t.size);
        if (ok || over) {
            break;
        }
        co_node_unref(l->node);
        l->node = co_open("driver=qcow2,file=disk,discard=unmap%s", l->open);
        l->t.node = l->node;
    }
}

static void co_failures(void *opaque)
{
    struct life l;

    co_life_begin(&l, &shapes[2], 3);
    co_stress(&l.t, 60, 8);
    co_take(&l);
    co_fail_at_each(&l, true);
    co_fail_at_each(&l, false);
    co_node_unref(l.node);
    co_check(l.file, true);
    g_ptr_array_unref(l.shots);
    stress_free(&l.t);
    co_node_unref(l.file);
}

static void a_failure_leaves_the_image_as_it_was(void **state)
{
    in_fake_loop(co_failures);
}

/* A refcount that cannot count one more. */
static void co_narrow(void *opaque)
{
    struct life l;
    struct snapshot_info info = {.name = (char *)"none"};
    const struct shape narrow = {"'cluster-size': 4096, 'refcount-bits': 1", "",
                                 1 << 20, 0};

    co_life_begin(&l, &narrow, 1);
    co_stress(&l.t, 20, 4);
    assert_int_equal(co_node_snapshot_create(l.node, &info), -EINVAL);
    co_stress(&l.t, 20, 4);
    co_verify_life(&l);
    co_life_end(&l);
}

static void refcounts_without_room_are_told_and_nothing_leaks(void **state)
{
    in_fake_loop(co_narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disk_and_snapshots_show_what_was_written),
        cmocka_unit_test(a_crash_leaves_the_image_as_before_or_after),
        cmocka_unit_test(a_failure_leaves_the_image_as_it_was),
        cmocka_unit_test(refcounts_without_room_are_told_and_nothing_leaks),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
