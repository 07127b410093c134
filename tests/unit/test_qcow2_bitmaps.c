/* qcow2: bitmaps in the image: what comes back, and what is refused. */
#include "block/dirty_bitmap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "block/check_report.h"
#include "block/driver.h"
#include "block/drivers/qcow2/format.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define MIB INT64_C(1048576)

/* The data of the bitmaps extension; -1: there is none. */
static int64_t extension(struct node *file)
{
    int64_t at = (int64_t)get_be(file, 100, 4);

    for (uint32_t type; (type = get_be(file, at, 4));) {
        if (type == QCOW2_EXT_BITMAPS) {
            return at + 8;
        }
        at += 8 + (int64_t)(get_be(file, at + 4, 4) + 7) / 8 * 8;
    }
    return -1;
}

static struct dirty_bitmap *add(struct node *node, const char *name,
                                int64_t granularity, bool disabled)
{
    GError *error = NULL;

    if (!dirty_bitmap_can_store(node, name, granularity, &error)) {
        fail_msg("%s", error->message);
    }
    struct dirty_bitmap *b = dirty_bitmap_new(node, name, granularity, &error);
    assert_non_null(b);
    b->persistent = true;
    b->disabled = disabled;
    return b;
}

/* What a program says that only qemu-img's oracle knows: nothing is wrong. */
static void assert_says(GError **error, const char *text)
{
    assert_non_null(*error);
    if (!strstr((*error)->message, text)) {
        fail_msg("\"%s\" is not in \"%s\"", text, (*error)->message);
    }
    g_clear_error(error);
}

/* ---- round trips --------------------------------------------------------- */

static char *digest(struct node *node, const char *name)
{
    struct dirty_bitmap *b = dirty_bitmap_find(node, name);

    assert_non_null(b);
    assert_true(b->persistent);
    assert_false(b->inconsistent);
    return dirty_bitmap_sha256(b, NULL);
}

/* Bits of all kinds: runs, single ones, all of a cluster of bits. */
static void mark_some(struct dirty_bitmap *b, GRand *rand)
{
    int64_t size = hbitmap_size(b->bits);

    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        hbitmap_set_all(b->bits);
        break;
    case 1:
        break;
    default:
        for (unsigned i = 0; i < 50; i++) {
            int64_t at = (int64_t)(g_rand_double(rand) * (double)size);
            int64_t n = g_rand_int_range(rand, 1, 1 << 20);
            dirty_bitmap_mark(b, at, MIN(n, size - at));
        }
    }
}

static void co_round_trip(const char *create, int64_t size, unsigned seed)
{
    static const int64_t granularities[] = {512, 4096, 65536, 1 << 20,
                                            INT64_C(1) << 31};
    struct node *file = co_mem_disk("disk");
    GRand *rand = g_rand_new_with_seed(seed);
    char *before[5] = {0};

    co_make("disk", size, create);
    struct node *node = co_open("driver=qcow2,file=disk");
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < G_N_ELEMENTS(granularities); i++) {
            char name[2] = {'a' + i, 0};
            struct dirty_bitmap *b = dirty_bitmap_find(node, name);
            if (!b) {
                b = add(node, name, granularities[i], i == 1);
            }
            assert_int_equal(b->disabled, i == 1);
            assert_int_equal(hbitmap_granularity(b->bits), granularities[i]);
            mark_some(b, rand);
            g_free(before[i]);
            before[i] = dirty_bitmap_sha256(b, NULL);
        }
        co_node_unref(node);
        co_check(file, false);
        node = co_open("driver=qcow2,file=disk,read-only=%s",
                       round == 3 ? "on" : "off");
        for (unsigned i = 0; i < G_N_ELEMENTS(granularities); i++) {
            char name[2] = {'a' + i, 0};
            g_autofree char *after = digest(node, name);
            assert_string_equal(before[i], after);
        }
    }
    co_node_unref(node);
    co_node_unref(file);
    for (unsigned i = 0; i < G_N_ELEMENTS(before); i++) {
        g_free(before[i]);
    }
    g_rand_free(rand);
}

static void co_round_trips(void *opaque)
{
    co_round_trip("'cluster-size': 512", 12345 * 512, 1);
    co_round_trip("'cluster-size': 65536", 300 * MIB + 512, 2);
    co_round_trip("'cluster-size': 2097152", 64 * MIB, 3);
    co_round_trip("'cluster-size': 4096, 'refcount-bits': 1", 700 * MIB, 4);
}

static void what_was_marked_comes_back(void **state)
{
    in_fake_loop(co_round_trips);
}

static void co_read_only_untouched(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_make("disk", MIB, "");
    struct node *node = co_open("driver=qcow2,file=disk");
    add(node, "b", 65536, false);
    co_node_unref(node);
    unsigned writes = mem_disk_of(file)->writes;
    node = co_open("driver=qcow2,file=disk,read-only=on");
    assert_non_null(dirty_bitmap_find(node, "b"));
    co_node_unref(node);
    assert_int_equal(mem_disk_of(file)->writes, writes);
    co_node_unref(file);
}

static void reading_leaves_the_image_untouched(void **state)
{
    in_fake_loop(co_read_only_untouched);
}

static void co_removal(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    int64_t length = 0;

    co_make("disk", 64 * MIB, "'cluster-size': 4096");
    struct node *node = co_open("driver=qcow2,file=disk");
    for (unsigned i = 0; i < 20; i++) {
        struct dirty_bitmap *b = add(node, "b", 512, false);
        add(node, "other", 512, false);
        dirty_bitmap_mark(b, 0, MIB + 512);
        co_node_unref(node);
        node = co_open("driver=qcow2,file=disk");
        struct dirty_bitmap *again = dirty_bitmap_find(node, "b");
        assert_true(co_dirty_bitmap_unstore(again, NULL));
        dirty_bitmap_free(again);
        again = dirty_bitmap_find(node, "other");
        assert_true(co_dirty_bitmap_unstore(again, NULL));
        dirty_bitmap_free(again);
        co_node_unref(node);
        assert_int_equal(extension(file), -1);
        assert_int_equal(get_be(file, 88, 8), 0);
        co_check(file, false);
        node = co_open("driver=qcow2,file=disk");
        assert_null(dirty_bitmap_find(node, "b"));
        /* Room is used again. */
        length = i == 1 ? file->length : length;
        assert_true(i < 2 || file->length == length);
    }
    co_node_unref(node);
    co_node_unref(file);
}

static void a_removed_bitmap_leaves_nothing(void **state)
{
    in_fake_loop(co_removal);
}

static void co_resized(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    GError *error = NULL;

    co_make("disk", 64 * MIB, "");
    struct node *node = co_open("driver=qcow2,file=disk");
    struct dirty_bitmap *b = add(node, "b", 512, false);
    dirty_bitmap_mark(b, 10 * MIB, 512);
    dirty_bitmap_mark(b, 60 * MIB, 512);
    co_node_unref(node);
    node = co_open("driver=qcow2,file=disk");
    assert_true(
        co_node_truncate(node, 600 * MIB, false, PREALLOC_MODE_OFF, 0, NULL));
    b = dirty_bitmap_find(node, "b");
    dirty_bitmap_mark(b, 599 * MIB, 512);
    co_node_unref(node);
    co_check(file, false);
    node = co_open("driver=qcow2,file=disk");
    b = dirty_bitmap_find(node, "b");
    assert_int_equal(dirty_bitmap_count(b), 3 * 512);
    assert_true(
        co_node_truncate(node, 20 * MIB, false, PREALLOC_MODE_OFF, 0, NULL));
    co_node_unref(node);
    co_check(file, false);
    node = co_open("driver=qcow2,file=disk");
    b = dirty_bitmap_find(node, "b");
    assert_int_equal(dirty_bitmap_count(b), 512);
    b->inconsistent = true;
    assert_false(
        co_node_truncate(node, 30 * MIB, false, PREALLOC_MODE_OFF, 0, &error));
    assert_says(&error, "Bitmap 'b' is inconsistent and cannot be used");
    b->inconsistent = false;
    co_node_unref(node);
    co_node_unref(file);
}

static void bitmaps_follow_the_size(void **state)
{
    in_fake_loop(co_resized);
}

/* ---- what is not possible ------------------------------------------------ */

static void co_limits(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    g_autofree char *name = g_strnfill(1024, 'n');
    GError *error = NULL;

    co_make("disk", INT64_C(1) << 45, "'cluster-size': 2097152");
    struct node *node = co_open("driver=qcow2,file=disk");
    assert_false(dirty_bitmap_can_store(node, "b", 4096, &error));
    assert_says(&error, "Too much space will be occupied by the bitmap");
    assert_true(dirty_bitmap_can_store(node, "b", 8192, NULL));
    assert_false(dirty_bitmap_can_store(node, name, 8192, &error));
    assert_says(&error, "Name length exceeds maximum (1023 characters)");
    co_node_unref(node);
    assert_false(dirty_bitmap_can_store(file, "b", 8192, &error));
    assert_says(&error, "Can't store persistent bitmaps to disk: Operation not "
                        "supported");
    co_make("disk", MIB, "'version': 'v2'");
    node = co_open("driver=qcow2,file=disk");
    assert_false(dirty_bitmap_can_store(node, "b", 65536, &error));
    assert_says(&error, "Cannot store dirty bitmaps in qcow2 v2 files");
    co_node_unref(node);
    co_node_unref(file);
}

static void what_cannot_be_stored_is_refused(void **state)
{
    in_fake_loop(co_limits);
}

/* The bitmaps of a program that does not know them did not follow it. */
static void co_stale(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_make("disk", MIB, "");
    struct node *node = co_open("driver=qcow2,file=disk");
    add(node, "old", 65536, false);
    co_node_unref(node);
    assert_int_equal(get_be(file, 88, 8), 1);
    put_be(file, 88, 8, 0);
    node = co_open("driver=qcow2,file=disk,read-only=on");
    assert_null(dirty_bitmap_find(node, "old"));
    co_node_unref(node);
    assert_int_not_equal(extension(file), -1);
    node = co_open("driver=qcow2,file=disk");
    assert_null(dirty_bitmap_find(node, "old"));
    assert_int_equal(extension(file), -1);
    add(node, "new", 65536, false);
    co_node_unref(node);
    co_check(file, true);
    node = co_open("driver=qcow2,file=disk");
    assert_null(dirty_bitmap_find(node, "old"));
    assert_non_null(dirty_bitmap_find(node, "new"));
    co_node_unref(node);
    co_node_unref(file);
}

static void bitmaps_that_did_not_follow_are_dropped(void **state)
{
    in_fake_loop(co_stale);
}

/* ---- damage -------------------------------------------------------------- */

/* Where a field is: in the header's extension, in the first or second entry of
 * the directory, in the first bitmap's table. The image has clusters of 4 KiB;
 * bitmaps "aa" and "bb", each with a table and one cluster of bits. */
enum place { EXT, FIRST, SECOND, TABLE };
enum usable { NONE, AA, BB, BOTH };

static const struct damage {
    const char *what;
    enum place place;
    unsigned offset, bytes;
    uint64_t value;
    const char *report; /* NULL: it is no damage */
    enum usable usable;
} damages[] = {
    {"length", EXT, -4, 4, 16, "the bitmaps extension has 16 bytes", NONE},
    {"count 0", EXT, 0, 4, 0, "the bitmaps extension counts 0 bitmaps", NONE},
    {"count 1", EXT, 0, 4, 1, "bytes behind its last entry", AA},
    {"count 3", EXT, 0, 4, 3, "ends within entry 3 of 3", BOTH},
    {"count", EXT, 0, 4, 65536, "the bitmaps extension counts 65536 bitmaps",
     NONE},
    {"reserved", EXT, 4, 4, 1, "the reserved field of the bitmaps extension",
     NONE},
    {"directory size", EXT, 8, 8, 0, "the bitmap directory has 0 bytes", NONE},
    {"directory size", EXT, 8, 8, 63, "ends within entry 2 of 2", AA},
    {"directory size", EXT, 8, 8, 24, "ends within entry 1 of 2", NONE},
    {"directory size", EXT, 8, 8, 1 << 26, "the bitmap directory has 67108864",
     NONE},
    {"directory size", EXT, 8, 8, UINT64_MAX, "the bitmap directory has 184467",
     NONE},
    {"directory", EXT, 16, 8, 0, "the bitmap directory's offset 0 is invalid",
     NONE},
    {"directory", EXT, 16, 8, 4097, "the bitmap directory's offset 0x1001",
     NONE},
    {"directory", EXT, 16, 8, 1 << 30, "the bitmap directory's offset 0x40000",
     NONE},
    {"directory", EXT, 16, 8, 1ull << 63,
     "the bitmap directory's offset 0x8000", NONE},
    {"directory", EXT, 16, 8, 4096, "the bitmap directory overlaps other meta",
     NONE},
    {"table", FIRST, 0, 8, 0, "'aa' cannot be used: its table offset 0 is", BB},
    {"table", FIRST, 0, 8, 512, "its table offset 0x200 is invalid", BB},
    {"table", FIRST, 0, 8, 4096, "its table overlaps other metadata", BB},
    {"table", FIRST, 0, 8, 1 << 30, "its table offset 0x40000000 is invalid",
     BB},
    {"table", FIRST, 0, 8, UINT64_MAX, "its table offset 0xffffffffffffffff",
     BB},
    {"table size", FIRST, 8, 4, 0, "its table has 0 entries", BB},
    {"table size", FIRST, 8, 4, UINT32_MAX, "its table has 4294967295 entries",
     BB},
    {"table size", FIRST, 8, 4, 131073, "its table has 131073 entries", BB},
    {"in use", FIRST, 12, 4, 3, NULL, BB},
    {"flags", FIRST, 12, 4, 8, "it has the unknown flags 0x8", BB},
    {"flags", FIRST, 12, 4, 1u << 31, "it has the unknown flags 0x80000000",
     BB},
    {"not auto", FIRST, 12, 4, 0, NULL, BOTH},
    {"type", FIRST, 16, 1, 0, "it is of unknown type 0", BB},
    {"type", FIRST, 16, 1, 2, "it is of unknown type 2", BB},
    {"granularity", FIRST, 17, 1, 8, "its granularity of 2^8", BB},
    {"granularity", FIRST, 17, 1, 32, "its granularity of 2^32", BB},
    {"granularity", FIRST, 17, 1, 255, "its granularity of 2^255", BB},
    {"name size", FIRST, 18, 2, 0, "it has no name", NONE},
    {"name size", FIRST, 18, 2, 1024, "ends within entry 1 of 2", NONE},
    {"name size", FIRST, 18, 2, 65535, "ends within entry 1 of 2", NONE},
    {"extra data", FIRST, 20, 4, UINT32_MAX, "ends within entry 1 of 2", NONE},
    {"name", FIRST, 24, 1, 0xff, "its name is not valid UTF-8", BB},
    {"name", FIRST, 24, 2, 0x6262, "its name is there twice", BB},
    {"name", FIRST, 25, 1, 0, "its name is not valid UTF-8", BB},
    {"table", SECOND, 0, 8, 0, "'bb' cannot be used: its table offset 0", AA},
    {"table", TABLE, 0, 8, 2, "entry 0 of its table is invalid: 0x2", BB},
    {"table", TABLE, 0, 8, 512, "entry 0 of its table is invalid", BB},
    {"table", TABLE, 0, 8, 4097, "entry 0 of its table is invalid", BB},
    {"table", TABLE, 0, 8, 4096, "points to other metadata: 0x1000", BB},
    {"table", TABLE, 0, 8, 1ull << 56, "entry 0 of its table is invalid", BB},
    {"table", TABLE, 0, 8, 1 << 30, "entry 0 of its table is invalid", BB},
    {"zeroes", TABLE, 0, 8, 0, NULL, BOTH},
    {"ones", TABLE, 0, 8, 1, NULL, BOTH},
};

static void co_build_for_damage(struct node *file)
{
    co_make("disk", MIB, "'cluster-size': 4096");
    struct node *node = co_open("driver=qcow2,file=disk");
    /* Stored in the order of the list: the youngest first. */
    dirty_bitmap_mark(add(node, "bb", 4096, false), 65536, 4096);
    dirty_bitmap_mark(add(node, "aa", 4096, false), 4096, 4096);
    co_node_unref(node);
}

static void assert_usable(struct node *node, const char *name, bool usable)
{
    struct dirty_bitmap *b = dirty_bitmap_find(node, name);

    if (usable != (b && !b->inconsistent)) {
        fail_msg("bitmap '%s' is %susable", name, usable ? "not " : "");
    }
    assert_true(!b || b->persistent);
}

struct reports {
    struct check_report check;
    GString *text;
};

static void collect(struct check_report *check, enum check_report_kind kind,
                    bool fixed, const char *message)
{
    struct reports *r = (struct reports *)check;

    if (kind == CHECK_REPORT_ERROR) {
        g_string_append_printf(r->text, "%s\n", message);
    }
}

static void co_try_damage(struct node *file, const struct damage *d)
{
    struct reports r = {{.found = collect}, g_string_new(NULL)};

    co_build_for_damage(file);
    int64_t ext = extension(file);
    int64_t directory = (int64_t)get_be(file, ext + 16, 8);
    int64_t places[] = {ext, directory, directory + 32,
                        (int64_t)get_be(file, directory, 8)};
    put_be(file, places[d->place] + (int)d->offset, d->bytes, d->value);

    struct node *node = co_open("driver=qcow2,file=disk,read-only=on");
    assert_usable(node, "aa", d->usable & AA);
    assert_usable(node, "bb", d->usable & BB);
    assert_true(node->driver->co_check(node, &r.check, NULL));
    if (d->report ? !strstr(r.text->str, d->report) : r.text->len > 0) {
        fail_msg("\"%s\" is not in \"%s\"", d->report, r.text->str);
    }
    co_node_unref(node);
    g_string_free(r.text, true);

    /* It can be written, and what is usable is stored again. */
    node = co_open("driver=qcow2,file=disk");
    uint8_t byte = 1;
    assert_int_equal(co_node_pwrite(node, 0, &byte, 1, 0), 0);
    co_node_unref(node);
    node = co_open("driver=qcow2,file=disk,read-only=on");
    assert_usable(node, "aa", d->usable & AA);
    assert_usable(node, "bb", d->usable & BB);
    co_node_unref(node);

    /* What is shown of the rest can be removed. */
    node = co_open("driver=qcow2,file=disk");
    struct dirty_bitmap *b, *next;
    for (b = LIST_FIRST(&node->bitmaps); b; b = next) {
        next = LIST_NEXT(b, link);
        if (b->inconsistent) {
            assert_true(co_dirty_bitmap_unstore(b, NULL));
            dirty_bitmap_free(b);
        }
    }
    co_node_unref(node);
}

static void co_damage(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(damages); i++) {
        struct node *file = co_mem_disk("disk");
        print_message("%s = %#" G_GINT64_MODIFIER "x\n", damages[i].what,
                      damages[i].value);
        co_try_damage(file, &damages[i]);
        co_node_unref(file);
    }
}

static void a_damaged_entry_hurts_nothing_else(void **state)
{
    in_fake_loop(co_damage);
}

/* Extra data that may be ignored is kept; other extra data as well. */
static void co_extra_data(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_build_for_damage(file);
    int64_t ext = extension(file);
    int64_t directory = (int64_t)get_be(file, ext + 16, 8);
    uint8_t *second = mem_disk_of(file)->data + directory + 32;
    memmove(second + 28, second + 24, 2);
    memcpy(second + 24, "XTRA", 4);
    put_be(file, directory + 32 + 20, 4, 4);
    put_be(file, directory + 32 + 12, 4, 6);
    for (unsigned i = 0; i < 3; i++) {
        struct node *node = co_open("driver=qcow2,file=disk");
        assert_usable(node, "bb", true);
        co_node_unref(node);
        directory = (int64_t)get_be(file, extension(file) + 16, 8);
        assert_memory_equal(mem_disk_of(file)->data + directory + 32 + 24,
                            "XTRAbb", 6);
        assert_int_equal(get_be(file, directory + 32 + 12, 4), 6);
    }
    put_be(file, directory + 32 + 12, 4, 2);
    struct node *node = co_open("driver=qcow2,file=disk");
    assert_usable(node, "aa", true);
    assert_usable(node, "bb", false);
    co_node_unref(node);
    directory = (int64_t)get_be(file, extension(file) + 16, 8);
    assert_memory_equal(mem_disk_of(file)->data + directory + 32 + 24, "XTRAbb",
                        6);
    co_node_unref(file);
}

static void extra_data_is_kept(void **state)
{
    in_fake_loop(co_extra_data);
}

/* A write that fails somewhere in a close loses no more than the bitmaps. */
static void co_store_fails(void *opaque)
{
    for (unsigned n = 1; n < 40; n++) {
        struct node *file = co_mem_disk("disk");
        co_build_for_damage(file);
        struct node *node = co_open("driver=qcow2,file=disk");
        uint8_t byte = 1;
        assert_int_equal(co_node_pwrite(node, 8192, &byte, 1, 0), 0);
        assert_int_equal(co_node_flush(node), 0);
        mem_disk_of(file)->fail_at = n;
        co_node_unref(node);
        bool failed = !mem_disk_of(file)->fail_at;
        mem_disk_of(file)->fail_at = 0;
        co_check(file, true);
        node = co_open("driver=qcow2,file=disk,read-only=on");
        struct dirty_bitmap *b = dirty_bitmap_find(node, "aa");
        assert_non_null(b);
        assert_true(b->inconsistent || dirty_bitmap_count(b) == 2 * 4096);
        assert_true(failed || !b->inconsistent);
        co_node_unref(node);
        co_node_unref(file);
        if (!failed) {
            assert_true(n > 8);
            return;
        }
    }
    fail_msg("a close takes too many writes");
}

static void a_failed_store_leaves_bitmaps_in_use(void **state)
{
    in_fake_loop(co_store_fails);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_marked_comes_back),
        cmocka_unit_test(reading_leaves_the_image_untouched),
        cmocka_unit_test(a_removed_bitmap_leaves_nothing),
        cmocka_unit_test(bitmaps_follow_the_size),
        cmocka_unit_test(what_cannot_be_stored_is_refused),
        cmocka_unit_test(bitmaps_that_did_not_follow_are_dropped),
        cmocka_unit_test(a_damaged_entry_hurts_nothing_else),
        cmocka_unit_test(extra_data_is_kept),
        cmocka_unit_test(a_failed_store_leaves_bitmaps_in_use),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
