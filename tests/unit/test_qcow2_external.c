/* qcow2: guest data in a file of their own. */
#include "block/node.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <glib.h>
#include <string.h>

#include "lib/fake_driver.h"
#include "lib/qcow2_image.h"

#define OPEN "driver=qcow2,file=disk,data-file=data,discard=unmap"

static const struct layout {
    const char *create;
    int64_t size;
    bool raw;
} shapes[] = {
    {"'cluster-size': 512", 1 << 20, false},
    {"'cluster-size': 65536", (4 << 20) + 512, false},
    {"'cluster-size': 65536, 'preallocation': 'metadata'", 4 << 20, false},
    {"'cluster-size': 16384, 'extended-l2': true", 4 << 20, false},
    {"'cluster-size': 4096, 'data-file-raw': true", (2 << 20) + 512, true},
    {"'cluster-size': 65536, 'data-file-raw': true, 'extended-l2': true",
     4 << 20, true},
};

/* What qemu-img opens as the data file has the name that the image says. */
static void co_check_both(struct node *file, struct node *data)
{
    mem_disk_save(data, data->filename);
    co_check(file, false);
}

/* One that has a name, as files have. */
static struct node *co_data_disk(void)
{
    struct node *data = co_mem_disk("data");

    g_free(data->filename);
    data->filename = g_strdup("data.raw");
    return data;
}

static void co_random_shape(const struct layout *shape, unsigned seed)
{
    struct node *file = co_mem_disk("disk"), *data = co_data_disk();
    g_autofree char *create =
        g_strdup_printf("'data-file': 'data', %s", shape->create);
    struct stress t;

    mem_disk_of(file)->pauses = mem_disk_of(data)->pauses = 3;
    mem_disk_of(file)->rng = mem_disk_of(data)->rng = seed;
    if (!shape->raw && !strstr(create, "preallocation")) {
        /* A file that is not empty: nothing of that may come into sight. */
        memset(mem_disk_of(data)->data, 0x5a, shape->size);
        data->length = shape->size;
    }
    co_make("disk", shape->size, create);
    stress_init(&t, co_open(OPEN), seed);
    for (unsigned round = 0; round < 4; round++) {
        t.small = round & 1;
        co_stress(&t, 300, 16);
        co_verify(&t, 0, t.size);
        co_node_unref(t.node);
        co_check_both(file, data);
        if (shape->raw) {
            assert_memory_equal(mem_disk_of(data)->data, t.model, t.size);
        }
        t.node = co_open(OPEN);
        co_verify(&t, 0, t.size);
    }
    co_node_unref(t.node);
    stress_free(&t);
    co_node_unref(data);
    co_node_unref(file);
}

static void co_every_shape(void *opaque)
{
    for (unsigned i = 0; i < G_N_ELEMENTS(shapes); i++) {
        co_random_shape(&shapes[i], i + 1);
    }
}

static void random_requests_match_the_model(void **state)
{
    in_fake_loop(co_every_shape);
}

/* ---- order --------------------------------------------------------------- */

/* The data are stable before the table refers to them. */
static void co_ordered(void *opaque)
{
    struct node *file = co_mem_disk("disk"), *data = co_data_disk();
    uint8_t bytes[4096];

    mem_disk_record(data);
    co_make("disk", 1 << 20, "'data-file': 'data'");
    assert_all_stable(data);
    struct node *node = co_open(OPEN);
    memset(bytes, 7, sizeof(bytes));
    mem_disk_record(file);
    unsigned flushes = mem_disk_of(data)->flushes;
    assert_int_equal(co_node_pwrite(node, 0, bytes, sizeof(bytes), 0), 0);
    /* A data file that cannot be flushed keeps the table from the disk. */
    mem_disk_of(data)->fail_at = 1;
    mem_disk_of(data)->fail_errno = EIO;
    assert_int_equal(co_node_flush(node), -EIO);
    for (unsigned i = 0; i < mem_disk_of(file)->log->len; i++) {
        const struct mem_event *e =
            &g_array_index(mem_disk_of(file)->log, struct mem_event, i);
        uint64_t entry = 0;
        if (!e->flush) {
            memcpy(&entry, e->data, sizeof(entry));
        }
        /* The first entry of a table, at cluster 0 with the COPIED flag. */
        assert_int_not_equal(entry, GUINT64_TO_BE(UINT64_C(1) << 63));
    }
    assert_int_equal(co_node_flush(node), 0);
    assert_true(mem_disk_of(data)->flushes > flushes);
    co_node_unref(node);
    co_node_unref(data);
    co_node_unref(file);
}

static void data_are_stable_before_the_table(void **state)
{
    in_fake_loop(co_ordered);
}

/* ---- refused ------------------------------------------------------------- */

static void co_assert_refused(const char *options, const char *message)
{
    GError *error = NULL;
    struct node *node = co_try_open(&error, "driver=qcow2,%s", options);

    assert_null(node);
    assert_string_equal(error->message, message);
    g_error_free(error);
}

static void co_refused(void *opaque)
{
    struct node *file = co_mem_disk("disk"), *data = co_data_disk();
    struct node *plain = co_mem_disk("plain");
    uint8_t *area = mem_disk_of(file)->data;

    co_make("plain", 1 << 20, "'cluster-size': 4096");
    co_make("disk", 1 << 20, "'data-file': 'data'");
    co_assert_refused("file=plain,data-file=data",
                      "'data-file' can only be set for images with an "
                      "external data file");
    co_assert_refused("file=disk,data-file=nothere",
                      "Cannot find device='nothere' nor node-name='nothere'");
    memcpy(area + 112, "\x77\x77\x77\x77", 4); /* no data file extension */
    co_assert_refused("file=disk", "'data-file' is required for this image");
    co_node_unref(plain);
    co_node_unref(data);
    co_node_unref(file);
}

static void a_data_file_in_the_wrong_place_is_refused(void **state)
{
    in_fake_loop(co_refused);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_requests_match_the_model),
        cmocka_unit_test(data_are_stable_before_the_table),
        cmocka_unit_test(a_data_file_in_the_wrong_place_is_refused),
    };

    return cmocka_run_group_tests(tests, enter_directory, leave_directory);
}
