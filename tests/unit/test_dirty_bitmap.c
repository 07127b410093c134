/*
 * Dirty bitmaps: refusals, marking, freezing, sizes, and a random model.
 */
#include "block/dirty_bitmap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "block/request.h"
#include "qapi/types.h"
#include "tests/unit/lib/ram_node.h"

#define LENGTH (INT64_C(1) << 20)

static struct ram_node *ram;

static void set_up(void)
{
    ram = ram_node_new("ram", LENGTH);
}

static void tear_down(void)
{
    ram_node_free(ram);
}

static struct dirty_bitmap *add(const char *name, int64_t granularity)
{
    struct dirty_bitmap *b =
        dirty_bitmap_new(&ram->node, name, granularity, NULL);
    assert_non_null(b);
    return b;
}

static void co_write(int64_t offset, int64_t bytes)
{
    g_autofree char *buf = g_malloc(bytes);
    memset(buf, 1, bytes);
    assert_int_equal(co_node_pwrite(&ram->node, offset, buf, bytes, 0), 0);
}

static void expect(bool ok, GError **error, const char *message)
{
    assert_false(ok);
    assert_string_equal((*error)->message, message);
    g_clear_error(error);
}

/* ---- adding ---- */

static void refuse_add(const char *name, int64_t granularity,
                       const char *message)
{
    g_autoptr(GError) error = NULL;
    expect(dirty_bitmap_new(&ram->node, name, granularity, &error) != NULL,
           &error, message);
}

static void co_add(void)
{
    char name[DIRTY_BITMAP_NAME_MAX + 2];
    g_autofree char *too_long = NULL;
    const char *bad = "Granularity must be power of 2 and at least 512";

    set_up();
    refuse_add("", 65536, "Bitmap name cannot be empty");
    refuse_add("", 513, "Bitmap name cannot be empty");
    refuse_add("a", 513, bad);
    refuse_add("a", 256, bad);
    refuse_add("a", 0, bad);
    refuse_add("a", -512, bad);
    refuse_add("a", INT64_C(1) << 32, bad);
    add("a", 512);
    refuse_add("a", 65536, "Bitmap already exists: a");
    memset(name, 'x', sizeof(name));
    name[DIRTY_BITMAP_NAME_MAX + 1] = 0;
    too_long = g_strconcat("Bitmap name too long: ", name, NULL);
    refuse_add(name, 65536, too_long);
    name[DIRTY_BITMAP_NAME_MAX] = 0;
    add(name, INT64_C(1) << 31);
    add(NULL, 512);
    add(NULL, 512);
    assert_null(dirty_bitmap_find(&ram->node, "b"));
    assert_non_null(dirty_bitmap_find(&ram->node, "a"));
    tear_down();
}

static void names_and_granularities_are_checked(void **state)
{
    ram_run(co_add);
}

static void the_default_granularity_follows_the_clusters(void **state)
{
    assert_int_equal(dirty_bitmap_default_granularity(0), 65536);
    assert_int_equal(dirty_bitmap_default_granularity(512), 4096);
    assert_int_equal(dirty_bitmap_default_granularity(4096), 4096);
    assert_int_equal(dirty_bitmap_default_granularity(32768), 32768);
    assert_int_equal(dirty_bitmap_default_granularity(2 << 20), 65536);
}

/* ---- marking ---- */

static void co_mark(void)
{
    set_up();
    struct dirty_bitmap *fine = add("fine", 512);
    struct dirty_bitmap *coarse = add("coarse", 65536);
    struct dirty_bitmap *off = add("off", 512);

    dirty_bitmap_disable(off);
    assert_false(dirty_bitmap_recording(off));
    co_write(65535, 2);
    assert_int_equal(dirty_bitmap_count(fine), 1024);
    assert_int_equal(dirty_bitmap_count(coarse), 2 * 65536);
    assert_int_equal(dirty_bitmap_count(off), 0);
    dirty_bitmap_enable(off);
    dirty_bitmap_disable(fine);
    co_write(0, 1);
    assert_int_equal(dirty_bitmap_count(fine), 1024);
    assert_int_equal(dirty_bitmap_count(off), 512);
    /* Zeroes and discards are changes, too. */
    co_node_pwrite_zeroes(&ram->node, 4096, 4096, 0);
    co_node_pdiscard(&ram->node, 8192, 4096);
    assert_int_equal(dirty_bitmap_count(off), 512 + 8192);
    tear_down();
}

static void enabled_bitmaps_record_every_change(void **state)
{
    ram_run(co_mark);
}

static void co_clear(void)
{
    struct hbitmap *backup;

    set_up();
    struct dirty_bitmap *b = add("b", 4096);
    co_write(0, 5000);
    dirty_bitmap_clear(b, &backup);
    assert_int_equal(dirty_bitmap_count(b), 0);
    co_write(65536, 1);
    assert_int_equal(dirty_bitmap_count(b), 4096);
    dirty_bitmap_restore(b, backup);
    assert_int_equal(dirty_bitmap_count(b), 8192);
    assert_true(hbitmap_get(b->bits, 4096));
    dirty_bitmap_clear(b, NULL);
    assert_int_equal(dirty_bitmap_count(b), 0);
    tear_down();
}

static void clearing_can_be_undone(void **state)
{
    ram_run(co_clear);
}

/* ---- merging ---- */

static void co_merge(void)
{
    g_autoptr(GError) error = NULL;
    struct hbitmap *backup = NULL;

    set_up();
    struct dirty_bitmap *src = add("src", 512), *dst = add("dst", 4096);
    struct ram_node *other = ram_node_new("other", 2 * LENGTH);
    struct dirty_bitmap *big = dirty_bitmap_new(&other->node, "b", 512, NULL);

    dirty_bitmap_disable(dst);
    co_write(5000, 10);
    assert_true(dirty_bitmap_merge(dst, src, &backup, NULL));
    assert_int_equal(dirty_bitmap_count(dst), 4096);
    assert_int_equal(dirty_bitmap_count(src), 512);
    dirty_bitmap_restore(dst, backup);
    assert_int_equal(dirty_bitmap_count(dst), 0);
    assert_true(dirty_bitmap_merge(src, src, NULL, NULL));
    expect(dirty_bitmap_merge(dst, big, &backup, &error), &error,
           "Bitmaps are of different sizes (destination size is 1048576, "
           "source size is 2097152) and can't be merged");
    ram_node_free(other);
    tear_down();
}

static void merging_takes_the_union(void **state)
{
    ram_run(co_merge);
}

static void co_refusals(void)
{
    g_autoptr(GError) error = NULL;
    const char *busy = "Bitmap 'b' is currently in use by another operation "
                       "and cannot be used";
    const char *read_only = "Bitmap 'b' is readonly and cannot be modified";
    const char *broken = "Bitmap 'b' is inconsistent and cannot be used\n"
                         "Try block-dirty-bitmap-remove to delete this bitmap "
                         "from disk";

    set_up();
    struct dirty_bitmap *b = add("b", 512), *o = add("o", 512);
    assert_true(dirty_bitmap_check(b, REFUSE_DEFAULT, &error));
    dirty_bitmap_set_busy(b, true);
    expect(dirty_bitmap_check(b, REFUSE_DEFAULT, &error), &error, busy);
    expect(dirty_bitmap_merge(o, b, NULL, &error), &error, busy);
    expect(dirty_bitmap_merge(b, o, NULL, &error), &error, busy);
    expect(dirty_bitmap_freeze(b, &error), &error, busy);
    assert_true(dirty_bitmap_check(b, REFUSE_READONLY, &error));
    dirty_bitmap_set_busy(b, false);

    b->persistent = true;
    assert_true(dirty_bitmap_check(b, REFUSE_DEFAULT, &error));
    ram->node.read_only = true;
    expect(dirty_bitmap_check(b, REFUSE_DEFAULT, &error), &error, read_only);
    expect(dirty_bitmap_merge(b, o, NULL, &error), &error, read_only);
    assert_true(dirty_bitmap_merge(o, b, NULL, &error));
    assert_true(dirty_bitmap_check(b, REFUSE_ALLOW_RO, &error));
    ram->node.read_only = false;

    b->inconsistent = true;
    expect(dirty_bitmap_check(b, REFUSE_DEFAULT, &error), &error, broken);
    expect(dirty_bitmap_merge(o, b, NULL, &error), &error, broken);
    expect(dirty_bitmap_merge(b, o, NULL, &error), &error, broken);
    assert_true(dirty_bitmap_check(b, REFUSE_BUSY, &error));
    tear_down();
}

static void refusals_name_the_bitmap_and_the_reason(void **state)
{
    ram_run(co_refusals);
}

/* ---- freezing ---- */

static void co_freeze(void)
{
    set_up();
    struct dirty_bitmap *b = add("b", 4096);

    co_write(0, 1);
    assert_true(dirty_bitmap_freeze(b, NULL));
    assert_true(b->busy && dirty_bitmap_recording(b));
    co_write(8192, 1);
    assert_int_equal(dirty_bitmap_count(b), 4096);
    assert_int_equal(dirty_bitmap_count(b->successor), 4096);
    /* Failure: nothing is lost. */
    dirty_bitmap_reclaim(b);
    assert_false(b->busy);
    assert_int_equal(dirty_bitmap_count(b), 8192);
    co_write(16384, 1);
    assert_int_equal(dirty_bitmap_count(b), 3 * 4096);
    /* Success: what was new meanwhile stays. */
    assert_true(dirty_bitmap_freeze(b, NULL));
    co_write(0, 1);
    dirty_bitmap_abdicate(b);
    assert_int_equal(dirty_bitmap_count(b), 4096);
    assert_true(hbitmap_get(b->bits, 0));
    assert_string_equal(b->name, "b");
    co_write(4096, 1);
    assert_int_equal(dirty_bitmap_count(b), 8192);
    /* No trace of a successor. */
    assert_ptr_equal(LIST_FIRST(&ram->node.bitmaps), b);
    assert_null(LIST_NEXT(b, link));
    tear_down();
}

static void a_frozen_bitmap_keeps_still_and_loses_nothing(void **state)
{
    ram_run(co_freeze);
}

static void co_freeze_disabled(void)
{
    set_up();
    struct dirty_bitmap *b = add("b", 4096);

    co_write(0, 1);
    dirty_bitmap_disable(b);
    assert_true(dirty_bitmap_freeze(b, NULL));
    assert_false(dirty_bitmap_recording(b));
    co_write(8192, 1);
    dirty_bitmap_reclaim(b);
    assert_int_equal(dirty_bitmap_count(b), 4096);
    assert_true(b->disabled);
    assert_true(dirty_bitmap_freeze(b, NULL));
    dirty_bitmap_abdicate(b);
    assert_int_equal(dirty_bitmap_count(b), 0);
    assert_true(b->disabled);
    tear_down();
}

static void a_frozen_disabled_bitmap_stays_disabled(void **state)
{
    ram_run(co_freeze_disabled);
}

/* A write that is in the driver while the bitmap changes hands belongs to the
 * new half: its data may have come after what the job read. */
static void co_in_flight(void)
{
    set_up();
    struct dirty_bitmap *b = add("b", 4096);
    struct ram_call c = {
        .node = &ram->node,
        .what = CALL_WRITE,
        .offset = 4096,
        .bytes = 1,
    };

    ram->hold[RAM_WRITE] = true;
    ram_start(&c);
    co_ram_settle();
    assert_true(dirty_bitmap_freeze(b, NULL));
    ram_release(ram);
    co_ram_settle();
    assert_true(c.done);
    assert_int_equal(dirty_bitmap_count(b), 0);
    assert_int_equal(dirty_bitmap_count(b->successor), 4096);
    ram->hold[RAM_WRITE] = true;
    c.offset = 8192;
    ram_start(&c);
    co_ram_settle();
    dirty_bitmap_abdicate(b);
    ram_release(ram);
    co_ram_settle();
    assert_int_equal(dirty_bitmap_count(b), 8192);
    tear_down();
}

static void writes_in_flight_are_in_one_half_or_the_other(void **state)
{
    ram_run(co_in_flight);
}

/* ---- sizes ---- */

static void co_resize(void)
{
    set_up();
    struct dirty_bitmap *b = add("b", 65536), *fine = add("fine", 512);
    co_write(LENGTH - 1, 1);
    co_write(0, 1);
    assert_true(dirty_bitmaps_resize(&ram->node, LENGTH + 1000, NULL));
    assert_int_equal(dirty_bitmap_count(b), 2 * 65536);
    assert_true(dirty_bitmaps_reserve(&ram->node, LENGTH));
    assert_int_equal(hbitmap_size(b->bits), LENGTH + 1000);
    assert_true(dirty_bitmaps_resize(&ram->node, 1000, NULL));
    assert_int_equal(hbitmap_count(b->bits), 1000);
    assert_int_equal(dirty_bitmap_count(b), 65536);
    assert_int_equal(dirty_bitmap_count(fine), 512);
    assert_true(dirty_bitmaps_resize(&ram->node, LENGTH, NULL));
    assert_int_equal(dirty_bitmap_count(b), 65536);
    tear_down();
}

static void sizes_follow_the_node(void **state)
{
    ram_run(co_resize);
}

static void co_give_up(void)
{
    set_up();
    struct dirty_bitmap *b = add("b", 512);

    assert_true(dirty_bitmap_freeze(b, NULL));
    dirty_bitmaps_give_up(&ram->node, LENGTH);
    assert_false(b->inconsistent);
    /* Longer than the bitmaps: a write there is seen by none. */
    ram->node.length = LENGTH + 512;
    dirty_bitmaps_give_up(&ram->node, LENGTH + 512);
    co_write(LENGTH - 512, 1024);
    co_write(LENGTH, 512);
    dirty_bitmap_abdicate(b);
    assert_true(b->inconsistent && b->disabled && !b->busy);
    tear_down();
}

static void a_bitmap_that_missed_writes_is_inconsistent(void **state)
{
    ram_run(co_give_up);
}

/* ---- telling ---- */

static void check_sha(int64_t size, int64_t granularity,
                      const int64_t (*runs)[2], size_t n, const char *want)
{
    struct ram_node *r = ram_node_new("sha", 0);
    r->node.length = size;
    struct dirty_bitmap *b =
        dirty_bitmap_new(&r->node, NULL, granularity, NULL);

    for (size_t i = 0; i < n; i++) {
        dirty_bitmaps_mark(&r->node, runs[i][0], runs[i][1]);
    }
    g_autofree char *got = dirty_bitmap_sha256(b, NULL);
    assert_string_equal(got, want);
    ram_node_free(r);
}

/* The digests are qemu-storage-daemon's, after the same writes. */
static void co_sha(void)
{
    const int64_t a[][2] = {{0, 512}, {65536, 4096}, {267386880, 1 << 20}};
    const int64_t c[][2] = {{0, 512}, {999936, 512}};

    check_sha(
        0, 65536, a, 0,
        "af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc");
    check_sha(
        1 << 20, 512, a, 0,
        "5341e6b2646979a70e57653007a1f310169421ec9bdd9f1a5648f75ade005af1");
    check_sha(
        1 << 20, 512, a, 2,
        "d6ee16fda7b512f2e05c09b8ee201ae4cd0369c4d38a2f95bc7af9dcc256da8d");
    check_sha(
        1 << 20, 65536, a, 2,
        "35be322d094f9d154a8aba4733b8497f180353bd7ae7b0a15f90b586b549f28b");
    check_sha(
        1 << 28, 512, a, 3,
        "ea631bf94f992f74a7f7536131a00b193265eea678269677a80069c8ba095c6e");
    check_sha(
        1 << 28, 1 << 20, a, 3,
        "05e33a7a25dc39ab258dacfea5a955d0d3742731d8f1c42c427bf98ca9c75ccc");
    check_sha(
        1000448, 512, c, 0,
        "b3ab6982980fddf460a2f47adb428475ce9afa89092fd034499d017a35993f05");
    check_sha(
        1000448, 512, c, 2,
        "6e9d387a08d3f7d0e5a943d9d845a9d98caa8df811cbf78757fdae0d43dbcf7c");
    check_sha(
        1000448, 4096, c, 2,
        "42bc4cb593a1d0719214b1641b22bc7b3abbb23fc7ca85d286c859f7a00d6d82");
}

static void the_digest_is_the_one_of_qemu(void **state)
{
    ram_run(co_sha);
}

static void co_query(void)
{
    set_up();
    ram->node.length = 1000448; /* the last granule reaches beyond */
    struct dirty_bitmap *b = add("b", 65536);
    add("a", 512);

    co_write(999936, 512);
    assert_true(dirty_bitmap_freeze(b, NULL));
    dirty_bitmap_find(&ram->node, "a")->inconsistent = true;
    struct block_dirty_info_list *list = dirty_bitmaps_query(&ram->node);
    assert_int_equal(list->n, 3);
    /* The newest first; the successor has no name. */
    assert_null(list->items[0]->name);
    assert_true(list->items[0]->recording && !list->items[0]->busy);
    assert_string_equal(list->items[1]->name, "a");
    assert_true(list->items[1]->has_inconsistent);
    assert_string_equal(list->items[2]->name, "b");
    assert_true(list->items[2]->recording && list->items[2]->busy);
    assert_false(list->items[2]->has_inconsistent);
    assert_int_equal(list->items[2]->count, 65536);
    assert_int_equal(list->items[2]->granularity, 65536);
    block_dirty_info_list_free(list);
    dirty_bitmap_reclaim(b);
    tear_down();
}

static void queries_show_what_people_know_from_qemu(void **state)
{
    ram_run(co_query);
}

/* ---- against a model ---- */

enum { GRANULES = 256, BITMAPS = 4 };

struct model {
    struct dirty_bitmap *b;
    bool dirty[GRANULES], old[GRANULES]; /* old: of the frozen half */
    bool enabled, frozen;
};

static void model_write(struct model *m, int first, int last)
{
    for (int i = 0; i < BITMAPS; i++) {
        for (int g = first; m[i].enabled && g <= last; g++) {
            m[i].dirty[g] = true;
        }
    }
}

static void model_verb(struct model *m, int verb)
{
    if (m->frozen) {
        m->frozen = false;
        if (verb % 2) {
            dirty_bitmap_abdicate(m->b);
        } else {
            dirty_bitmap_reclaim(m->b);
            for (int g = 0; g < GRANULES; g++) {
                m->dirty[g] |= m->old[g];
            }
        }
    } else if (verb == 0) {
        assert_true(dirty_bitmap_freeze(m->b, NULL));
        memcpy(m->old, m->dirty, sizeof(m->old));
        memset(m->dirty, 0, sizeof(m->dirty));
        m->frozen = true;
    } else if (verb == 1) {
        m->enabled = !m->enabled;
        (m->enabled ? dirty_bitmap_enable : dirty_bitmap_disable)(m->b);
    } else if (verb == 2) {
        dirty_bitmap_clear(m->b, NULL);
        memset(m->dirty, 0, sizeof(m->dirty));
    }
}

static void model_check(const struct model *m)
{
    const struct dirty_bitmap *now = m->frozen ? m->b->successor : m->b;

    assert_int_equal(dirty_bitmap_recording(m->b), m->enabled);
    for (int g = 0; g < GRANULES; g++) {
        assert_int_equal(hbitmap_get(now->bits, g * 4096), m->dirty[g]);
        if (m->frozen) {
            assert_int_equal(hbitmap_get(m->b->bits, g * 4096), m->old[g]);
        }
    }
}

static void co_model(void)
{
    struct model m[BITMAPS] = {0};

    set_up();
    srandom(7);
    for (int i = 0; i < BITMAPS; i++) {
        m[i].b = add(NULL, 4096);
        m[i].enabled = true;
    }
    for (int step = 0; step < 2000; step++) {
        struct model *one = &m[random() % BITMAPS];
        if (random() % 3) {
            int64_t offset = random() % (LENGTH - 9000);
            int64_t bytes = 1 + random() % 9000;
            co_node_pwrite_zeroes(&ram->node, offset, bytes, 0);
            model_write(m, offset / 4096, (offset + bytes - 1) / 4096);
        } else {
            model_verb(one, random() % 8);
        }
        model_check(one);
    }
    for (int i = 0; i < BITMAPS; i++) {
        model_check(&m[i]);
        if (m[i].frozen) {
            dirty_bitmap_reclaim(m[i].b);
        }
    }
    tear_down();
}

static void random_lives_agree_with_a_model(void **state)
{
    ram_run(co_model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_granularities_are_checked),
        cmocka_unit_test(the_default_granularity_follows_the_clusters),
        cmocka_unit_test(enabled_bitmaps_record_every_change),
        cmocka_unit_test(clearing_can_be_undone),
        cmocka_unit_test(merging_takes_the_union),
        cmocka_unit_test(refusals_name_the_bitmap_and_the_reason),
        cmocka_unit_test(a_frozen_bitmap_keeps_still_and_loses_nothing),
        cmocka_unit_test(a_frozen_disabled_bitmap_stays_disabled),
        cmocka_unit_test(writes_in_flight_are_in_one_half_or_the_other),
        cmocka_unit_test(sizes_follow_the_node),
        cmocka_unit_test(a_bitmap_that_missed_writes_is_inconsistent),
        cmocka_unit_test(the_digest_is_the_one_of_qemu),
        cmocka_unit_test(queries_show_what_people_know_from_qemu),
        cmocka_unit_test(random_lives_agree_with_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
