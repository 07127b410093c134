/*
 * qcow2: what a crash leaves of the bitmaps in an image.
 *
 * All writes and flushes of an image's life with bitmaps are recorded: opening,
 * guest writes, removing one bitmap and adding another, closing, twice over.
 * For each prefix of that record the image is rebuilt with some of the writes
 * since the last flush, in whole or in part. A bitmap found there must be what
 * it was before the guest wrote, or what it was when the node was closed, or
 * not to be used. So it never claims to be right and is not.
 */
#include "block/dirty_bitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <string.h>

#include "lib/crash_log.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define SIZE  (INT64_C(2) << 20)
#define LIVES 3
#define TRIES 4 /* rebuilt images at each point */

/* What a bitmap may be, from event `from` on and before event `to`. */
struct truth {
    char *name, *digest;
    guint from, to;
};

struct life {
    struct node *file;
    GArray *truths;
    uint8_t *image; /* before the record */
    int64_t image_bytes;
    GRand *rand;
};

static struct dirty_bitmap *add(struct node *node, const char *name)
{
    struct dirty_bitmap *b = dirty_bitmap_new(node, name, 512, NULL);

    assert_non_null(b);
    b->persistent = true;
    return b;
}

/* What the node's bitmaps are now may be found from event `from` on, until the
 * guest writes again. */
static void note_truths(struct life *l, struct node *node, guint from)
{
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        struct truth t = {g_strdup(b->name), dirty_bitmap_sha256(b, NULL), from,
                          G_MAXUINT};
        g_array_append_val(l->truths, t);
    }
}

static void end_truths(struct life *l, guint to)
{
    for (guint i = 0; i < l->truths->len; i++) {
        struct truth *t = &g_array_index(l->truths, struct truth, i);
        t->to = MIN(t->to, to);
    }
}

static void co_guest_writes(struct life *l, struct node *node)
{
    uint8_t buf[3000];

    for (unsigned i = 0; i < 6; i++) {
        memset(buf, g_rand_int(l->rand), sizeof(buf));
        int64_t at = g_rand_int_range(l->rand, 0, SIZE - sizeof(buf));
        assert_int_equal(co_node_pwrite(node, at, buf, sizeof(buf), 0), 0);
        if (i % 3 == 2) {
            assert_int_equal(co_node_flush(node), 0);
        }
    }
}

/* One opening to closing. */
static void co_live(struct life *l, const GArray *log, unsigned round)
{
    struct node *node = co_open("driver=qcow2,file=disk,backing=");

    end_truths(l, log->len + 1);
    co_guest_writes(l, node);
    g_autofree char *gone = g_strdup_printf("%u", round);
    g_autofree char *come = g_strdup_printf("%u", round + 2);
    struct dirty_bitmap *b = dirty_bitmap_find(node, gone);
    assert_non_null(b);
    assert_true(co_dirty_bitmap_unstore(b, NULL));
    dirty_bitmap_free(b);
    add(node, come);
    co_guest_writes(l, node);
    /* Closing may write them as soon as it begins. */
    note_truths(l, node, log->len);
    co_node_unref(node);
}

static bool may_be(const struct life *l, const char *name, const char *digest,
                   guint point)
{
    for (guint i = 0; i < l->truths->len; i++) {
        const struct truth *t = &g_array_index(l->truths, struct truth, i);
        if (!strcmp(t->name, name) && !strcmp(t->digest, digest) &&
            t->from <= point && point < t->to) {
            return true;
        }
    }
    return false;
}

/* The disk after a crash when `point` events had been issued. */
static void rebuild(struct life *l, struct node *disk, const GArray *log,
                    guint point, int keep)
{
    uint64_t stable = crash_stable(log, l->file, point);

    memset(mem_disk_of(disk)->data, 0, disk->length);
    memcpy(mem_disk_of(disk)->data, l->image, l->image_bytes);
    disk->length = l->image_bytes;
    for (guint i = 0; i < point; i++) {
        const struct mem_event *e = &g_array_index(log, struct mem_event, i);
        if (e->time < stable || keep == 10) {
            mem_disk_replay(disk, e, NULL);
        } else if (g_rand_int_range(l->rand, 0, 10) < keep) {
            mem_disk_replay(disk, e, g_rand_boolean(l->rand) ? l->rand : NULL);
        }
    }
}

static void co_check_point(struct life *l, struct node *disk, guint point)
{
    struct node *node =
        co_open("driver=qcow2,file=crash,backing=,read-only=on");
    struct dirty_bitmap *b;

    LIST_FOREACH (b, &node->bitmaps, link) {
        g_autofree char *digest = dirty_bitmap_sha256(b, NULL);
        if (!b->inconsistent && !may_be(l, b->name, digest, point)) {
            fail_msg("bitmap '%s' is wrong after a crash at event %u", b->name,
                     point);
        }
    }
    co_node_unref(node);
    if (point % 16 == 0) {
        co_check(disk, true);
    }
}

static void co_crash(const char *create, unsigned seed)
{
    struct node *file = co_mem_disk("disk"), *disk = co_mem_disk("crash");
    struct life l = {
        .file = file,
        .truths = g_array_new(false, false, sizeof(struct truth)),
        .rand = g_rand_new_with_seed(seed),
    };

    co_make("disk", SIZE, create);
    struct node *node = co_open("driver=qcow2,file=disk,backing=");
    add(node, "0");
    dirty_bitmap_mark(add(node, "1"), 4096, 4096);
    note_truths(&l, node, 0);
    co_node_unref(node);
    l.image_bytes = file->length;
    l.image = g_memdup2(mem_disk_of(file)->data, file->length);
    mem_disk_record(file);
    const GArray *log = mem_disk_of(file)->log;
    for (unsigned i = 0; i < LIVES; i++) {
        co_live(&l, log, i);
    }
    for (guint point = 0; point <= log->len; point++) {
        for (int i = 0; i < TRIES; i++) {
            rebuild(&l, disk, log, point, i ? 10 - i * 3 : 10);
            co_check_point(&l, disk, point);
        }
    }
    co_node_unref(file);
    co_node_unref(disk);
    for (guint i = 0; i < l.truths->len; i++) {
        g_free(g_array_index(l.truths, struct truth, i).name);
        g_free(g_array_index(l.truths, struct truth, i).digest);
    }
    g_array_unref(l.truths);
    g_rand_free(l.rand);
    g_free(l.image);
}

static void co_crashes(void *opaque)
{
    co_crash("'cluster-size': 512", 1);
    co_crash("'cluster-size': 4096", 2);
    assert_true(g_file_set_contents("base", "", 0, NULL));
    /* A name behind the extensions, which moves with them. */
    co_crash("'cluster-size': 4096, 'backing-file': 'base'", 3);
}

static void no_crash_leaves_a_bitmap_that_is_wrong(void **state)
{
    in_fake_loop(co_crashes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_crash_leaves_a_bitmap_that_is_wrong),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
