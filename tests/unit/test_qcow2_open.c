/* qcow2: what is refused, and what the special bits of a header do. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "block/listener.h"
#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

/* ---- fields -------------------------------------------------------------- */

/* An image of 1 MiB with clusters of 64 KiB, one field changed. error NULL: it
 * opens. */
static const struct field {
    const char *name;
    unsigned offset, bytes;
    uint64_t value;
    const char *error;
} fields[] = {
    {"magic", 0, 4, 0x514649fa, "Image is not in qcow2 format"},
    {"version", 4, 4, 1, "Unsupported qcow2 version 1"},
    {"version", 4, 4, 4, "Unsupported qcow2 version 4"},
    {"backing offset", 8, 8, 65537, "Invalid backing file offset"},
    {"backing offset", 8, 8, 111, "Invalid backing file offset"},
    {"backing offset", 8, 8, UINT64_MAX, "Invalid backing file offset"},
    {"cluster bits", 20, 4, 8, "Unsupported cluster size: 2^8"},
    {"cluster bits", 20, 4, 22, "Unsupported cluster size: 2^22"},
    {"cluster bits", 20, 4, UINT32_MAX,
     "Unsupported cluster size: 2^4294967295"},
    {"size", 24, 8, UINT64_C(1) << 29, NULL},
    {"size", 24, 8, (UINT64_C(1) << 29) + 1, "L1 table is too small"},
    {"size", 24, 8, UINT64_C(1) << 60, "Image is too big"},
    {"size", 24, 8, UINT64_MAX, "Image size 18446744073709551615 is too large"},
    {"crypt", 32, 4, 1, "Unsupported encryption method 1: AES"},
    {"crypt", 32, 4, 2, "Unsupported encryption method 2: LUKS"},
    {"crypt", 32, 4, 77, "Unsupported encryption method 77"},
    {"l1 size", 36, 4, 0, "L1 table is too small"},
    {"l1 size", 36, 4, 1 << 22, NULL},
    {"l1 size", 36, 4, (1 << 22) + 1, "Active L1 table too large"},
    {"l1 size", 36, 4, UINT32_MAX, "Active L1 table too large"},
    {"l1 offset", 40, 8, 0, "Active L1 table offset invalid"},
    {"l1 offset", 40, 8, 0x30200, "Active L1 table offset invalid"},
    {"l1 offset", 40, 8, INT64_MAX & ~UINT64_C(0xffff),
     "Active L1 table offset invalid"},
    {"l1 offset", 40, 8, UINT64_C(1) << 50,
     "The L1 table lies beyond the end of the file"},
    {"l1 offset", 40, 8, UINT64_C(1) << 63, "Active L1 table offset invalid"},
    {"reftable offset", 48, 8, 0, "Reference count table offset invalid"},
    {"reftable offset", 48, 8, 512, "Reference count table offset invalid"},
    {"reftable offset", 48, 8, UINT64_C(1) << 63,
     "Reference count table offset invalid"},
    {"reftable clusters", 56, 4, 0,
     "Image does not contain a reference count table"},
    {"reftable clusters", 56, 4, 128, NULL},
    {"reftable clusters", 56, 4, 129, "Reference count table too large"},
    {"reftable clusters", 56, 4, UINT32_MAX, "Reference count table too large"},
    {"snapshots", 60, 4, 1, "Snapshot table offset invalid"},
    {"refcount order", 96, 4, 6, NULL},
    {"refcount order", 96, 4, 7,
     "Reference count entry width too large; may not exceed 64 bits"},
    {"header length", 100, 4, 103, "qcow2 header too short: 103 bytes"},
    {"header length", 100, 4, 65537, "qcow2 header exceeds cluster size"},
    {"header length", 100, 4, UINT32_MAX, "qcow2 header exceeds cluster size"},
    {"compression", 104, 1, 1,
     "qcow2: Compression type incompatible feature bit must be set"},
    {"compression", 104, 1, 2, "qcow2: unknown compression type: 2"},
    {"incompatible", 72, 8, 8,
     "qcow2: Compression type incompatible feature bit must not be set"},
    {"incompatible", 72, 8, 4, "'data-file' is required for this image"},
    {"incompatible", 72, 8, 16, NULL},
    {"incompatible", 72, 8, (UINT64_C(1) << 63) | (1 << 5),
     "Unsupported qcow2 feature(s): unknown incompatible feature: bit 5, "
     "unknown incompatible feature: bit 63"},
    {"extension length", 116, 4, UINT32_MAX,
     "Header extension 0x6803f857 too large"},
};

static void co_try_field(struct node *file, const struct field *f)
{
    GError *error = NULL;
    uint64_t old = get_be(file, f->offset, f->bytes);

    put_be(file, f->offset, f->bytes, f->value);
    struct node *node =
        co_try_open(&error, "driver=qcow2,file=disk,read-only=on");
    if (f->error) {
        if (node || strcmp(error->message, f->error)) {
            fail_msg("%s %" G_GUINT64_FORMAT ": %s", f->name, f->value,
                     node ? "opened" : error->message);
        }
        g_error_free(error);
    } else {
        if (!node) {
            fail_msg("%s %" G_GUINT64_FORMAT ": %s", f->name, f->value,
                     error->message);
        }
        co_node_unref(node);
    }
    put_be(file, f->offset, f->bytes, old);
}

static void co_all_fields(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_make("disk", 1 << 20, "'cluster-size': 65536");
    for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++) {
        co_try_field(file, &fields[i]);
    }
    co_node_unref(file);
}

static void each_field_is_checked_by_name(void **state)
{
    in_fake_loop(co_all_fields);
}

/* The image's own table names a feature. */
static void co_named_feature(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    GError *error = NULL;

    co_make("disk", 1 << 20, "'cluster-size': 65536");
    put_be(file, 72, 8, 1 << 17);
    uint8_t *row = mem_disk_of(file)->data + 120;
    row[1] = 17;
    strcpy((char *)row + 2, "quantum \x1b"
                            "entries");
    assert_null(co_try_open(&error, "driver=qcow2,file=disk,read-only=on"));
    assert_string_equal(error->message,
                        "Unsupported qcow2 feature(s): quantum ?entries");
    g_error_free(error);
    co_node_unref(file);
}

static void an_unknown_feature_is_named_as_the_image_names_it(void **state)
{
    in_fake_loop(co_named_feature);
}

/* ---- bits ---------------------------------------------------------------- */

/* Unknown extensions and autoclear bits: the first stay, the second go at the
 * first opening for writing. */
static void co_autoclear(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_make("disk", 1 << 20, "'cluster-size': 65536");
    put_be(file, 88, 8, UINT64_C(0x8000000000000003));
    put_be(file, 112, 4, 0x12345678); /* was the feature table */
    g_autofree uint8_t *before = g_memdup2(mem_disk_of(file)->data, 65536);
    co_node_unref(co_open("driver=qcow2,file=disk,read-only=on"));
    assert_memory_equal(mem_disk_of(file)->data, before, 65536);
    co_node_unref(co_open("driver=qcow2,file=disk"));
    assert_int_equal(get_be(file, 88, 8), 0);
    put_be(file, 88, 8, UINT64_C(0x8000000000000003));
    assert_memory_equal(mem_disk_of(file)->data, before, 65536);
    co_node_unref(file);
}

static void unknown_autoclear_bits_go_and_unknown_extensions_stay(void **state)
{
    in_fake_loop(co_autoclear);
}

static void co_dirty(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    char text[] = "some data";

    co_make("disk", 8 << 20, "'cluster-size': 4096, 'lazy-refcounts': true");
    struct node *node = co_open("driver=qcow2,file=disk");
    for (int64_t at = 0; at < 8 << 20; at += 100000) {
        assert_int_equal(co_node_pwrite(node, at, text, sizeof(text), 0), 0);
    }
    co_node_unref(node);
    /* Refcounts that a lazy writer did not get to, and some too many. */
    int64_t block = get_be(file, get_be(file, 48, 8), 8);
    memset(mem_disk_of(file)->data + block + 40, 0, 60);
    memset(mem_disk_of(file)->data + block + 1000, 1, 40);
    put_be(file, 72, 8, 1);
    node = co_open("driver=qcow2,file=disk,read-only=on");
    struct node_info info;
    assert_int_equal(co_node_get_info(node, &info), 0);
    assert_true(info.is_dirty);
    co_node_unref(node);
    assert_int_equal(get_be(file, 72, 8), 1);
    node = co_open("driver=qcow2,file=disk");
    assert_int_equal(co_node_get_info(node, &info), 0);
    assert_false(info.is_dirty);
    assert_int_equal(get_be(file, 72, 8), 0);
    co_check(file, false);
    char now[sizeof(text)];
    assert_int_equal(co_node_pread(node, 100000, now, sizeof(now), 0), 0);
    assert_string_equal(now, text);
    co_node_unref(node);
    co_node_unref(file);
}

static void a_dirty_image_gets_its_refcounts_back_before_it_is_written(
    void **state)
{
    in_fake_loop(co_dirty);
}

struct heard {
    unsigned times;
    bool fatal;
};

static void on_corrupted(void *opaque, const struct node *node,
                         const char *message, int64_t offset, int64_t bytes,
                         bool fatal)
{
    struct heard *h = opaque;
    h->times++;
    h->fatal = fatal;
}

/* Both L2 entries point at the refcount table; each use must fail, and the
 * first says so. */
static void co_corrupt(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    struct heard heard = {0};
    struct block_listener listener = {.image_corrupted = on_corrupted,
                                      .opaque = &heard};
    GError *error = NULL;
    char byte = 1;

    co_make("disk", 1 << 20,
            "'cluster-size': 65536, 'preallocation': 'metadata'");
    int64_t l2 = get_be(file, get_be(file, 40, 8), 8) & INT64_MAX;
    put_be(file, l2, 8, UINT64_C(0x8000000000010000));
    put_be(file, l2 + 8, 8, UINT64_C(0x8000000000010200));
    block_listener_add(&listener);
    struct node *node = co_open("driver=qcow2,file=disk");
    mem_disk_record(file);
    assert_int_equal(co_node_pwrite(node, 0, &byte, 1, 0), -EIO);
    assert_all_stable(file);
    assert_int_equal(heard.times, 1);
    assert_true(heard.fatal);
    assert_int_equal(get_be(file, 72, 8), 2);
    assert_int_equal(co_node_pwrite(node, 200000, &byte, 1, 0), -EIO);
    assert_int_equal(co_node_pread(node, 70000, &byte, 1, 0), -EIO);
    assert_int_equal(co_node_pread(node, 200000, &byte, 1, 0), 0);
    assert_int_equal(heard.times, 1);
    co_node_unref(node);
    block_listener_remove(&listener);
    assert_null(co_try_open(&error, "driver=qcow2,file=disk"));
    assert_string_equal(error->message, "qcow2: Image is corrupt; cannot be "
                                        "opened read/write");
    g_error_free(error);
    co_node_unref(co_open("driver=qcow2,file=disk,read-only=on"));
    co_node_unref(file);
}

static void a_write_to_metadata_is_prevented_and_marks_the_image(void **state)
{
    in_fake_loop(co_corrupt);
}

/* Two entries of the refcount table name one place, so that every table is
 * looked at before it changes, and the first one then names none at all. */
static void co_refblock_nowhere(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    struct heard heard = {0};
    struct block_listener listener = {.image_corrupted = on_corrupted,
                                      .opaque = &heard};

    co_make("disk", 1 << 20,
            "'cluster-size': 65536, 'preallocation': 'metadata'");
    int64_t table = get_be(file, 48, 8);
    put_be(file, table + 8, 8, get_be(file, table, 8));
    put_be(file, table, 8, UINT64_MAX << 16);
    put_be(file, table + 16, 8, get_be(file, table + 8, 8));
    block_listener_add(&listener);
    struct node *node = co_open("driver=qcow2,file=disk,discard=unmap");
    assert_int_equal(co_node_pdiscard(node, 0, 65536), 0);
    (void)co_node_flush(node);
    assert_int_equal(heard.times, 1);
    co_node_unref(node);
    block_listener_remove(&listener);
    assert_int_equal(get_be(file, 72, 8), 2);
    co_node_unref(file);
}

static void a_refcount_block_at_an_impossible_place_marks_the_image(
    void **state)
{
    in_fake_loop(co_refblock_nowhere);
}

/* ---- options ------------------------------------------------------------- */

static void co_refuse(const char *options, const char *expected)
{
    GError *error = NULL;

    if (co_try_open(&error, "driver=qcow2,file=disk,%s", options)) {
        fail_msg("%s was accepted", options);
    }
    assert_string_equal(error->message, expected);
    g_error_free(error);
}

static void co_bad_options(void *opaque)
{
    struct node *file = co_mem_disk("disk");

    co_make("disk", 1 << 20, "'cluster-size': 65536");
    co_refuse("l2-cache-entry-size=1000",
              "L2 cache entry size must be a power of two between 512 and the "
              "cluster size (65536)");
    co_refuse("l2-cache-entry-size=131072",
              "L2 cache entry size must be a power of two between 512 and the "
              "cluster size (65536)");
    co_refuse("cache-size=1,l2-cache-size=2",
              "l2-cache-size may not exceed cache-size");
    co_refuse("cache-size=1,refcount-cache-size=2",
              "refcount-cache-size may not exceed cache-size");
    co_refuse("cache-size=3,refcount-cache-size=2,l2-cache-size=1",
              "cache-size, l2-cache-size and refcount-cache-size may not be "
              "set at the same time");
    co_refuse(
        "l2-cache-size=-1",
        "Parameter 'l2-cache-size' expects a non-negative number below 2^64");
    co_refuse("data-file.driver=null-co",
              "'data-file' can only be set for images with an external data "
              "file");
    co_node_unref(file);
}

static void options_that_make_no_sense_are_refused(void **state)
{
    in_fake_loop(co_bad_options);
}

/* ---- sizes --------------------------------------------------------------- */

static void co_resize(void *opaque)
{
    struct node *file = co_mem_disk("disk");
    GError *error = NULL;
    g_autofree uint8_t *buf = g_malloc(1 << 20);

    co_make("disk", 100 * 512, "'cluster-size': 512");
    struct node *node = co_open("driver=qcow2,file=disk");
    memset(buf, 5, 100 * 512);
    assert_int_equal(co_node_pwrite(node, 0, buf, 100 * 512, 0), 0);
    /* Needs a larger L1 table. */
    assert_true(
        co_node_truncate(node, 8 << 20, true, PREALLOC_MODE_OFF, 0, &error));
    memset(buf, 6, 1 << 20);
    assert_int_equal(co_node_pwrite(node, 7 << 20, buf, 1 << 20, 0), 0);
    assert_true(
        co_node_truncate(node, 60 * 512, true, PREALLOC_MODE_OFF, 0, &error));
    assert_true(
        co_node_truncate(node, 1 << 20, true, PREALLOC_MODE_OFF, 0, &error));
    assert_int_equal(co_node_pread(node, 0, buf, 1 << 20, 0), 0);
    for (int64_t i = 0; i < 1 << 20; i++) {
        assert_int_equal(buf[i], i < 60 * 512 ? 5 : 0);
    }
    assert_false(
        co_node_truncate(node, 1000, true, PREALLOC_MODE_OFF, 0, &error));
    assert_string_equal(error->message,
                        "The new size must be a multiple of 512");
    g_clear_error(&error);
    assert_true(
        co_node_truncate(node, 2 << 20, true, PREALLOC_MODE_FULL, 0, &error));
    assert_int_equal(node->length, 2 << 20);
    co_node_unref(node);
    co_check(file, false);
    co_node_unref(file);
}

static void a_disk_grows_and_shrinks(void **state)
{
    in_fake_loop(co_resize);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_field_is_checked_by_name),
        cmocka_unit_test(an_unknown_feature_is_named_as_the_image_names_it),
        cmocka_unit_test(unknown_autoclear_bits_go_and_unknown_extensions_stay),
        cmocka_unit_test(
            a_dirty_image_gets_its_refcounts_back_before_it_is_written),
        cmocka_unit_test(a_write_to_metadata_is_prevented_and_marks_the_image),
        cmocka_unit_test(
            a_refcount_block_at_an_impossible_place_marks_the_image),
        cmocka_unit_test(options_that_make_no_sense_are_refused),
        cmocka_unit_test(a_disk_grows_and_shrinks),
    };
    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
